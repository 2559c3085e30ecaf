"""Identifier schemes side by side: the same data, base model and rows, another way of writing items on each side.

Sides are chosen on the validation rows. The test rows are asked once, for sides whose settings are fixed by then; the
training period may then reach to their beginning.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from llmrec.baselines import Covisitation, Popularity
from llmrec.catalogue.identifiers import usage
from llmrec.config import RunConfig
from llmrec.dataset.examples import Examples
from llmrec.errors import ConfigError
from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.evaluation.offline import rank_systems
from llmrec.evaluation.table import Comparison
from llmrec.files import read_json, write_json
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.run import check_config
from llmrec.pipeline.sft import SFTStage, sft_policy, sft_stage, targets
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.screen import results
from llmrec.types import IntArray, Ranker, Slate, State

COVISITATION, POPULARITY = "covisitation", "popularity"
K = (5, 10)
METRICS = ("HR@5", "HR@10", "NDCG@5", "NDCG@10", "coverage@10")


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
        sft_seconds: the SFT stage, embeddings and quantisation counted.
        users_per_second: top 10 of whole states, decoded in batches.
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


@dataclass(frozen=True, slots=True)
class Kept:
    """A system whose lists are known already."""

    slates: list[Slate]

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The kept lists, whatever is asked."""
        del states, k, seen
        return self.slates


def run_trial(
    sides: Mapping[str, RunConfig],
    folder: Path,
    *,
    part: Literal["valid", "test"] = "valid",
    until_part: bool = False,
    limit: int | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains every side that is not trained yet, ranks all on `part`, prints the tables and returns their figures.

    Args:
        sides: configurations by name; they must agree on data, seed and base model.
        folder: trained sides are kept here.
        part: the rows that are ranked.
        until_part: train on everything before the rows (for test: the training and the validation part).
        limit: rank a uniform sample of this many rows.
        json_file: also written here.

    Raises:
        ConfigError: no side, sides that do not agree, or settings that cannot be used.
    """
    first = _agreed(sides)
    given = open_data(first, Work(folder / "data"))
    base = base_model(first, given, Work(folder / "base"))
    data = extended(given) if until_part else given
    rows = targets(first, given, part, limit)
    results().print(f"{len(rows)} rows of {part}; trained on {data.split.train.height} events")
    lists: dict[str, Ranker] = {name: Kept(slates) for name, slates in _baselines(first, data, rows).items()}
    facts: dict[str, Facts] = {}
    for name, config in sides.items():
        work = Work(folder / (f"{name}-until-{part}" if until_part else name))
        stage, seconds = trained(config, data, base, work)
        policy = sft_policy(config, data, stage)
        slates, users_per_second = decoded(policy, rows, max(K), max(config.evaluation.beams, *K))
        lists[name] = Kept(slates)
        facts[name] = facts_of(policy, stage, rows, seconds, users_per_second)
    tables = [
        rank_systems(lists, rows, data.dataset, k=K, reference=reference, seed=first.seed)
        for reference in (next(iter(sides)), COVISITATION)
    ]
    results().print(facts_table(facts))
    for table in tables:
        results().print(table.select(METRICS).to_rich())
    figures = _figures(part, until_part, sides, facts, tables)
    if json_file is not None:
        write_json(json_file, figures)
    return figures


def extended(data: RunData) -> RunData:
    """The data with the validation period counted into the training period."""
    split = data.split
    return dataclasses.replace(data, split=dataclasses.replace(split, train=split.until("valid")))


def facts_of(
    policy: LanguagePolicy, stage: SFTStage, rows: Examples, seconds: float, users_per_second: float
) -> Facts:
    """What a trained side costs."""
    catalogue, identifiers = policy.catalogue, stage.identifiers
    use = None if identifiers is None else usage(identifiers)
    states = [example.state for example in rows[:500]]
    prompts = [len(policy.renderer.token_ids(state)) for state in states]
    return Facts(
        scheme=catalogue.scheme,
        tokens_per_item=float(catalogue.lengths_N.mean()) - 1,
        words_added=0 if identifiers is None else len(identifiers.words),
        parameters=sum(p.numel() for p in policy.model.parameters()),
        colliding=None if use is None else use.colliding,
        shared=0 if use is None else use.shared,
        perplexity=() if use is None else tuple(level.perplexity for level in use.levels),
        prompt_tokens=sum(prompts) / len(prompts),
        sft_seconds=seconds,
        users_per_second=users_per_second,
    )


def facts_table(facts: Mapping[str, Facts]) -> Table:
    """The facts for the terminal."""
    table = Table(title="How items are written, and what it costs (CPU seconds of one process)", title_justify="left")
    heads = ("side", "tokens/item", "words added", "parameters", "colliding", "shared", "perplexity a level")
    for head in (*heads, "prompt tokens", "SFT s", "decoded users/s"):
        table.add_column(head, justify="left" if head == "side" else "right")
    for name, fact in facts.items():
        table.add_row(
            name,
            f"{fact.tokens_per_item:.2f}",
            str(fact.words_added),
            f"{fact.parameters / 1e6:.2f} M",
            "–" if fact.colliding is None else str(fact.colliding),
            str(fact.shared),
            " ".join(f"{value:.0f}" for value in fact.perplexity) or "–",
            f"{fact.prompt_tokens:.0f}",
            f"{fact.sft_seconds:.0f}",
            f"{fact.users_per_second:.1f}",
        )
    return table


def _agreed(sides: Mapping[str, RunConfig]) -> RunConfig:
    if not sides:
        raise ConfigError("There is no side to compare; name at least one.")
    first = next(iter(sides.values()))
    for name, config in sides.items():
        check_config(config)
        same = (config.data, config.world, config.seed, config.model, config.sft.target)
        if same != (first.data, first.world, first.seed, first.model, first.sft.target):
            raise ConfigError(
                f"Side {name!r} has other data, seed, model or target than the first; set them for all."
            )
    return first


def trained(config: RunConfig, data: RunData, base: Any, work: Work) -> tuple[SFTStage, float]:
    """The SFT stage and its CPU seconds, which are kept beside it for a later call."""
    place, start = work.folder / "cpu_seconds.json", time.process_time()
    stage = sft_stage(config, data, base, work)
    made = (stage.folder / "stage.json").stat().st_mtime_ns
    if place.is_file() and (known := read_json(place))["made"] == made:
        return stage, float(known["seconds"])
    seconds = time.process_time() - start
    write_json(place, {"made": made, "seconds": seconds})
    return stage, seconds


def _baselines(config: RunConfig, data: RunData, rows: Examples) -> dict[str, list[Slate]]:
    systems: dict[str, Ranker] = {
        POPULARITY: Popularity(seed=config.seed).fit(data.dataset, data.split.train),
        COVISITATION: Covisitation(seed=config.seed).fit(data.dataset, data.split.train),
    }
    states = [example.state for example in rows]
    return {name: system.recommend(states, max(K), seen=rows.seen) for name, system in systems.items()}


def decoded(policy: LanguagePolicy | Mixture, rows: Examples, k: int, beams: int) -> tuple[list[Slate], float]:
    """The lists of all rows, and how many of them a CPU second yields."""
    start = time.process_time()
    slates = policy.recommend([e.state for e in rows], k, beams=beams, seen=rows.seen)
    return slates, len(rows) / (time.process_time() - start)


def _figures(
    part: str,
    until_part: bool,
    sides: Mapping[str, RunConfig],
    facts: Mapping[str, Facts],
    tables: Sequence[Comparison],
) -> dict[str, Any]:
    return {
        "part": part,
        "trained_until_part": until_part,
        "facts": {name: asdict(fact) for name, fact in facts.items()},
        "tables": [table.to_json() for table in tables],
        "configurations": {name: config.tree() for name, config in sides.items()},
        "machine": machine_facts(),
        "versions": package_versions(),
    }
