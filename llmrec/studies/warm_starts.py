"""The sides of an ablation: how each warm start is trained once, ranks the rows that all share, and what it costs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmrec.catalogue.identifiers import usage
from llmrec.config import RunConfig
from llmrec.dataset.examples import Examples
from llmrec.errors import ConfigError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.files import read_json, sha256_of, write_json
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.sft import SFTStage, sft_policy, sft_stage, targets
from llmrec.pipeline.wording import text_key
from llmrec.pipeline.work import DONE, Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.types import IntArray

MEMBER = 1000
"""Members of an ensemble have the seeds s, s + 1000, s + 2000, ..."""


@dataclass(frozen=True, kw_only=True)
class SideSettings:
    """One side: the base with `set` on top, a tree of configuration keys."""

    set: dict[str, Any] = field(default_factory=dict)
    ensemble: int = 1
    """So many warm starts that differ in the seed of their SFT, ranked by their mean probability."""


@dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """What eval/ablations.py reads."""

    recipe: str | None = None
    """Name of a shipped recipe, or a YAML file beside this one; null: the recipe made for the data set, if any."""
    set: dict[str, Any] = field(default_factory=dict)
    """Configuration keys of all sides, on top of the recipe."""
    sides: dict[str, SideSettings] = field(default_factory=dict)
    base: str | None = None
    """The side that the others are compared with; null: the first."""
    seeds: tuple[int, ...] = (0,)
    """Each side is trained once for each. On generated worlds each seed has a world of its own."""
    part: Literal["valid", "test"] = "valid"
    """The rows that are ranked. Choose by valid; ask test once."""
    until_part: bool = False
    """With part: test, train on the validation period too."""
    limit: int | None = None
    """Rank a uniform sample of this many rows, the same for all sides and seeds."""
    k: tuple[int, ...] = (5, 10)


@dataclass(frozen=True)
class Side:
    """One side of the comparison; its configuration still has the first seed."""

    config: RunConfig
    ensemble: int = 1

    def member(self, seed: int, number: int = 0) -> RunConfig:
        """The configuration of one member for one seed."""
        return dataclasses.replace(self.config, seed=seed + MEMBER * number)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a side costs and how it writes items. Seconds are of CPU time, in this process.

    Attributes:
        scheme: title, semantic or atomic.
        tokens_per_item: mean length, the end token not counted.
        words_added: tokens that the tokenizer did not have.
        parameters: of the model, the new rows counted.
        colliding: items that share their codes before the tie word; None without codes.
        shared: items whose whole sequence another item has too.
        perplexity: of each level's codes, exp(entropy).
        prompt_tokens: mean length of the prompts.
        sft_seconds: the SFT stages of all members, embeddings and quantisation counted.
        users_per_second: top k of whole states, decoded in batches.
        members: policies of the ensemble; the other facts are of the first.
    """

    scheme: str
    tokens_per_item: float
    words_added: int
    parameters: int
    colliding: int | None
    shared: int
    perplexity: tuple[float, ...]
    prompt_tokens: float
    sft_seconds: float
    users_per_second: float
    members: int = 1

    @classmethod
    def of(
        cls, policy: LanguagePolicy, stage: SFTStage, rows: Examples, *, sft_seconds: float, members: int
    ) -> Facts:
        """Those of a trained policy that has ranked nothing yet."""
        catalogue, identifiers = policy.catalogue, stage.identifiers
        use = None if identifiers is None else usage(identifiers)
        prompts = [len(policy.renderer.token_ids(example.state)) for example in rows[:500]]
        return cls(
            scheme=catalogue.scheme,
            tokens_per_item=float(catalogue.lengths_N.mean()) - 1,
            words_added=0 if identifiers is None else len(identifiers.words),
            parameters=sum(p.numel() for p in policy.model.parameters()),
            colliding=None if use is None else use.colliding,
            shared=0 if use is None else use.shared,
            perplexity=() if use is None else tuple(level.perplexity for level in use.levels),
            prompt_tokens=sum(prompts) / len(prompts),
            sft_seconds=sft_seconds,
            users_per_second=0.0,
            members=members,
        )


@dataclass(frozen=True)
class Shared:
    """What all sides share under one seed.

    Attributes:
        settings: of the ablation.
        seed: of data, where they are generated, and of training.
        data: as they were split.
        rows: that are ranked.
        folder: where stages are kept.
    """

    settings: AblationSettings
    seed: int
    data: RunData
    rows: Examples
    folder: Path

    @classmethod
    def of(cls, settings: AblationSettings, base: Side, seed: int, folder: Path) -> Shared:
        """Opens the data; the rows are those of the base side, and the same sample for all seeds.

        Raises:
            ConfigError: a cut-off above the catalogue's size.
        """
        config, k = base.member(seed), max(settings.k)
        data = open_data(config, Work(folder / (f"data-{seed}" if config.data.dataset == "world" else "data")))
        if k > data.dataset.n_items:
            raise ConfigError(f"Key 'k' goes up to {k}, but the catalogue has {data.dataset.n_items}.")
        return cls(settings, seed, data, _rows(settings, config, data), folder)

    @property
    def period(self) -> RunData:
        """The data with the training period that all learn from."""
        return extended(self.data) if self.settings.until_part else self.data

    def ranked(self, name: str, side: Side) -> tuple[IntArray, dict[str, Any]]:
        """The side's lists (B, K) and what it costs, from its finished stages if there are any.

        Raises:
            ConfigError: other rows than the base side's.
        """
        own = _rows(self.settings, side.member(self.seed), self.data)  # the same events, read as the side reads them
        if _identity(own) != _identity(self.rows):
            raise ConfigError(f"Side {name!r} has other rows than the base; leave data and target alone.")
        names = [self._stage_name(side.member(self.seed, m)) for m in range(side.ensemble)]
        place = self.folder / "stages" / (names[0] if len(names) == 1 else f"ensemble-{sha256_of(*names)[:16]}")
        k, beams, part = max(self.settings.k), max(side.config.evaluation.beams, *self.settings.k), self.settings.part
        key = [names, [_hash(own), part, k, beams], self.data.dataset.manifest.content_hash]

        def build(out: Path, _: Path) -> None:
            policies, facts = self._trained(side, names, own)
            system, start = policies[0] if len(policies) == 1 else Mixture.ensemble(policies), time.process_time()
            slates = system.recommend([e.state for e in own], k, beams=beams, seen=own.seen)
            speed = len(own) / (time.process_time() - start)
            np.save(out / "lists.npy", slates_to_items(slates, k))
            write_json(out / "facts.json", asdict(dataclasses.replace(facts, users_per_second=speed)))

        stage = Work(place).stage(f"lists-{part}", key, build)
        return np.load(stage / "lists.npy"), read_json(stage / "facts.json")

    def _trained(self, side: Side, names: Sequence[str], rows: Examples) -> tuple[list[LanguagePolicy], Facts]:
        """The members' policies; the facts are those of the first, with the seconds of all."""
        base = base_model(side.member(self.seed), self.data, Work(self.folder / "base"))  # one for all members
        policies, stages, seconds = [], [], 0.0
        for number, name in enumerate(names):
            config, work = side.member(self.seed, number), Work(self.folder / "stages" / name)
            place, start = work.folder / "cpu_seconds.json", time.process_time()
            stages.append(sft_stage(config, self.period, base, work))
            # A finished stage takes no CPU time to find, so its seconds are those of the call that made it.
            made = (stages[-1].folder / DONE).stat().st_mtime_ns
            if not (place.is_file() and read_json(place)["made"] == made):  # kept beside the stage for a later call
                write_json(place, {"made": made, "seconds": time.process_time() - start})
            seconds += float(read_json(place)["seconds"])
            policies.append(sft_policy(config, self.period, stages[-1]))
        return policies, Facts.of(policies[0], stages[0], rows, sft_seconds=seconds, members=len(policies))

    def _stage_name(self, config: RunConfig) -> str:
        """A folder for each warm start; sides of equal settings share it."""
        tree = config.tree()
        decides = {key: tree[key] for key in ("seed", "data", "world", "identifiers", "model", "sft")}
        decides["text"] = text_key(config)
        period = self.settings.part if self.settings.until_part else "train"
        return sha256_of(json.dumps([decides, self.seed, period], sort_keys=True))[:16]


def extended(data: RunData) -> RunData:
    """The data with the validation period counted into the training period."""
    split = data.split
    return dataclasses.replace(data, split=dataclasses.replace(split, train=split.until("valid")))


def _rows(settings: AblationSettings, config: RunConfig, data: RunData) -> Examples:
    return targets(dataclasses.replace(config, seed=settings.seeds[0]), data, settings.part, settings.limit)


def _identity(rows: Examples) -> list[tuple[object, ...]]:
    return [(row.state.user_id, row.state.time, row.target) for row in rows]


def _hash(rows: Examples) -> str:
    return sha256_of(json.dumps(_identity(rows)), *(json.dumps(seen.tolist()) for seen in rows.seen))
