"""What both questions of cold starts stand on: data with withheld items, and the language models that are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.baselines.neural.settings import SASRecSettings
from llmrec.baselines.registry import BaselineSpec, baseline
from llmrec.config import ModelConfig, RunConfig
from llmrec.config_tree import Overrides, flat
from llmrec.dataset.examples import Examples
from llmrec.errors import ConfigError
from llmrec.pipeline.base_model import Base, base_model, check_base
from llmrec.pipeline.before import TOKENS, base_policy
from llmrec.pipeline.data import RunData, check_source, open_data
from llmrec.pipeline.item_tokens import check_naming
from llmrec.pipeline.opening import open_run
from llmrec.pipeline.recipes import with_defaults
from llmrec.pipeline.sft import SFTStage, check_warm_start, sft_policy, sft_stage
from llmrec.pipeline.wording import text_key
from llmrec.pipeline.work import Work, stage_key
from llmrec.storage import work_folder
from llmrec.studies.cold.parts import Part, baseline_part, likelihood_part, policy_part, popularity_part

SHARE = 0.1
"""Of the items that are withheld for the test, unless settings say otherwise."""
NANO = "LM nano"
POPULARITY, COUNTS, WORDS, SENTENCES = "popularity", "covisitation-fixed", "content", "embeddings"
SASREC = "sasrec-only-text"
CHEAP = (POPULARITY, COUNTS, WORDS, SENTENCES, SASREC)
"""Everything without a language model that is trained."""


def _sasrec(settings: Any, seed: int) -> Any:
    from llmrec.baselines.neural.recommenders import SASRec  # torch takes seconds to import

    return SASRec(settings, seed=seed)


def sasrec_spec() -> BaselineSpec:
    """SASRec whose items are their texts: sentence embeddings where a model of them is named, else words."""
    common: dict[str, Any] = {"text_dims": 128, "ids": False, "layers": 1, "batch_size": 1024, "dropout": 0.2}
    common |= {"epochs": 5, "patience": 2, "refit": False}
    found = SASRecSettings(**common, vectors="sentences" if baseline(SENTENCES).available else "words")
    return BaselineSpec(
        name=SASREC,
        description="SASRec whose items are the vectors of their texts, mapped",
        make=_sasrec,
        settings=found,
        random=True,
    )


@dataclass(frozen=True)
class Rows:
    """How many rows are taken, at most.

    Attributes:
        valid: of the validation period, of each kind.
        test: that are reported, of new items or of cold users.
        known: that are reported of known items.
    """

    valid: int
    test: int
    known: int


@dataclass(frozen=True)
class Setting:
    """One seed's data, and language models by name; `work` keeps what they say."""

    config: RunConfig
    data: RunData
    models: Sequence[Part]
    work: Work
    facts: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        seed: int,
        out: Path,
        *,
        dataset: str = "world",
        source: str | Path | None = None,
        overrides: Overrides | None = None,
        run: Path | None = None,
        config_file: Path | None = None,
        nano: bool = True,
        before: str | None = None,
        listed: int | None = None,
    ) -> Setting:
        """Trains the nano model, unless that is done, and opens the run, if one is given.

        Args:
            seed: of the nano model and the data; a run has its own.
            out: stages are kept here.
            dataset: an importer's name, folder, or world; not read where a run is given.
            source: of the data set.
            overrides: values by key.
            run: folder of a finished run, or with `config_file` of one whose SFT alone is finished.
            config_file: that run's configuration; `overrides` then belong to it.
            nano: whether the nano model is trained and asked.
            before: a pretrained model that is asked without any training, worded as the run or `overrides` say.
            listed: how many items the run's model reads at a state, its best; all by default.

        Raises:
            ConfigError: settings that cannot be used, or a run that withholds nothing.
            Unfinished: the run's SFT is not there.
        """
        given = None if run is None else _opened(run, config_file, overrides or {}, source)
        own = {} if config_file is not None else overrides or {}
        config = _config(seed, dataset, source, own, given)
        work = Work(out / f"{config.data.dataset}-{config.seed}")
        data = open_data(config, work) if given is None else given.data
        assert data.withheld is not None  # _config
        facts: dict[str, Any] = {"withheld": data.withheld.facts()}
        models: list[Part] = []
        if nano:
            stage = sft_stage(config, data, base_model(config, data, work), work)
            models.append(policy_part(NANO, sft_policy(config, data, stage), stage_key(stage.folder)))
            facts[NANO] = {"sft": config.tree()["sft"], "seconds": round(work.seconds["sft"])}
        if given is not None:
            name = f"LM {Path(given.base.name).name}"
            policy = sft_policy(given.config, data, given.sft)
            models.append(policy_part(name, policy, stage_key(given.sft.folder), listed=listed))
            facts[name] = {"sft": given.config.tree()["sft"], "listed": listed}
        if before is not None:
            base = dataclasses.replace(config if given is None else given.config, model=ModelConfig(name=before))
            check_base(base)
            policy = base_policy(base, data, Base(before, None, nano=False))
            key = [before, text_key(base, data.dataset), base.tree()["data"], data.dataset.manifest.content_hash]
            models.append(likelihood_part(f"LM {Path(before).name} before SFT", policy, TOKENS, key))
        return cls(config, data, models, work, facts)

    @property
    def seed(self) -> int:
        """Of data and training."""
        return self.config.seed

    def cheap_parts(self, valid: Examples, *, budget: float = 1.0) -> list[Part]:
        """Everything without a language model; sentence embeddings only where a model of them is named."""
        specs = [baseline(COUNTS), baseline(WORDS), baseline(SENTENCES), sasrec_spec()]
        found = [popularity_part(self.data, self.seed)]
        return found + [
            baseline_part(spec, self.data, valid, self.seed, budget=budget) for spec in specs if spec.available
        ]


@dataclass(frozen=True)
class Given:
    """A run whose warm start is asked."""

    config: RunConfig
    data: RunData
    base: Base
    sft: SFTStage


def _opened(run: Path, config_file: Path | None, overrides: Overrides, source: str | Path | None) -> Given:
    """A finished run, or the finished stages of one that was ended after SFT by its configuration, told once more."""
    if config_file is None:
        found = open_run(run)
        given = Given(found.config, found.data, found.base, found.sft)
    else:
        told = overrides if source is None else {"data.source": source, **overrides}
        config, work = RunConfig.read(config_file, told), Work(work_folder(run), finished_only=True)
        check_source(config)
        data = open_data(config, work)
        base = base_model(config, data, work)
        given = Given(config, data, base, sft_stage(config, data, base, work))
    if given.data.withheld is None:
        raise ConfigError(f"{run} withholds no items; make a run with --set data.withheld.test={SHARE}.")
    return given


def _config(
    seed: int, dataset: str, source: str | Path | None, overrides: Overrides, given: Given | None
) -> RunConfig:
    """The nano model's run: the recipe of the data set, on the data of the run that was opened, if one was."""
    if given is not None:
        tree = given.config.tree()
        own: dict[str, Any] = flat({"data": tree["data"], "world": tree["world"], "seed": given.config.seed})
    else:
        own = {"data.dataset": dataset, "data.withheld.test": SHARE, "seed": seed}
        own |= {} if source is None else {"data.source": source}
    config = with_defaults(None, {**own, **overrides})
    check_naming(config)
    check_warm_start(config)
    check_source(config)
    if config.identifiers.scheme != "title":
        raise ConfigError(
            "Key 'identifiers.scheme' must be title: an identifier says nothing of an item that is new."
        )
    if not config.data.withheld.test:
        raise ConfigError(f"Key 'data.withheld.test' is 0, so no item is new; set it to {SHARE}, for example.")
    return config
