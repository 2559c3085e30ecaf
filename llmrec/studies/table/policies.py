"""The language-model policy in the table: warm-started, and improved by RL.

What is decided on the validation rows (how long RL goes on, the weight of a mixture) is decided once, with the policy
of the first seed that was trained before them; the policies that answer the test rows are trained anew on everything
before the test period.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.errors import ConfigError
from llmrec.files import read_json, write_json
from llmrec.pipeline.base_model import Base, base_model
from llmrec.pipeline.before import before_sft
from llmrec.pipeline.data import RunData
from llmrec.pipeline.improve import ImprovedStage, improve_stage
from llmrec.pipeline.sft import SFTStage, improved_policy, sft_policy, sft_stage
from llmrec.pipeline.simulation import Simulators, simulator_stage
from llmrec.pipeline.systems import Policy
from llmrec.pipeline.wording import text_key
from llmrec.pipeline.work import Work, stage_key
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.likelihood_ranker import LikelihoodRanker
from llmrec.policy.remembering import Readings, RememberedPolicy
from llmrec.rewards.custom import custom_digest
from llmrec.studies.table.entries import Answer, BySeed, answered, bench_key, found_or_made, width
from llmrec.studies.table.protocol import Moment, TableData
from llmrec.types import Ranker

BEAMS, DEPTH = 40, 40
READINGS = 1
"""Of how a policy is read; a higher one reads all states anew."""
FIRST = 0
"""The seed that settings are chosen with."""


@dataclass(frozen=True)
class Trainings:
    """Trained policies of one recipe: stages in OUT/NAME, shared by all rows that build on them.

    Attributes:
        name: of the folder.
        overrides: of the recipe.
        recipe: its file; the protocol's by default.
    """

    name: str
    out: Path
    overrides: Overrides = field(default_factory=dict)
    recipe: Path | None = None

    def config(self, bench: TableData, seed: int, more: Overrides | None = None) -> RunConfig:
        """The run's configuration, with `more` overrides."""
        return bench.config({**self.overrides, **(more or {})}, seed, self.recipe)

    def base(self, bench: TableData, seed: int) -> Base:
        """The model before any training on choices."""
        return base_model(self.config(bench, seed), bench.before, bench.work(self.out / self.name / f"base-{seed}"))

    def stage(self, bench: TableData, moment: Moment, seed: int) -> tuple[RunConfig, RunData, SFTStage]:
        """The warm start, trained if it is not there."""
        config, (data, _) = self.config(bench, seed), bench.rows(moment)
        work = bench.work(self.out / self.name / f"{bench.fitting(moment)}-{seed}")
        return config, data, sft_stage(config, data, self.base(bench, seed), work)

    def policy(self, bench: TableData, moment: Moment, seed: int) -> LanguagePolicy:
        """The warm-started policy."""
        return sft_policy(*self.stage(bench, moment, seed))

    def remembered(self, bench: TableData, moment: Moment, seed: int) -> RememberedPolicy:
        """The same with what it says kept in OUT/NAME: the model is read for what no row has asked of it yet."""
        config, data, stage = self.stage(bench, moment, seed)
        place = self.out / self.name / f"readings-{bench.fitting(moment)}-{seed}"
        key = {"trained": stage_key(stage.folder), "text": text_key(config, data.dataset), "version": READINGS}
        return RememberedPolicy(sft_policy(config, data, stage), Readings(place, key))

    def simulators(self, bench: TableData) -> Simulators:
        """Reward and judge, fitted on the training part and calibrated on the validation part in every case."""
        return simulator_stage(self.config(bench, FIRST), bench.before, bench.work(self.out / "simulators"))

    def improved(self, bench: TableData, moment: Moment, seed: int, steps: int | None = None) -> ImprovedStage:
        """RL on top; with `steps` it is judged at its end alone."""
        config, data, stage = self.stage(bench, moment, seed)
        if steps is not None:
            shorter = {f"{config.algorithm}.{key}": steps for key in ("steps", "save_every")}
            config = self.config(bench, seed, shorter)
        work = bench.work(self.out / self.name / f"{moment}-{seed}")
        return improve_stage(config, data, stage, self.simulators(bench), work)

    def key(self, bench: TableData, seed: int) -> dict[str, Any]:
        """What decides the policies of a seed."""
        config = self.config(bench, seed)
        tree = config.tree() | {"text": text_key(config)}
        sections = [
            "text",
            "identifiers",
            "model",
            "sft",
            "simulator",
            "reward",
            "algorithm",
            config.algorithm,
            "gate",
        ]
        if not config.session.plain:
            sections += ["session", "choice", "dynamics"]
        own = {"custom": custom_digest(config.reward)} if config.reward.custom else {}
        return {**bench_key(bench), "seed": seed, "beams": BEAMS, **{name: tree[name] for name in sections}, **own}


@dataclass(frozen=True)
class PolicyEntry(BySeed):
    """The warm-started policy alone."""

    name: str
    description: str
    trainings: Trainings
    random: bool = True

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """Beam search over the catalogue."""

        def fit() -> tuple[Policy, dict[str, Any]]:
            stage, system = self._trained(bench, seed)
            facts = {"settings": dict(self.trainings.overrides), "curve_end": stage.curve[-1]}
            return system, facts | {"parameters": sum(p.numel() for p in system.policy.model.parameters())}

        key = {**self.trainings.key(bench, seed), "kind": "policy"}
        return answered(bench, work, self.stage(seed), key, fit)

    def recommender(self, bench: TableData, seed: int, work: Work) -> Policy:
        """The policy of everything before the test period."""
        del work
        return self._trained(bench, seed)[1]

    def _trained(self, bench: TableData, seed: int) -> tuple[SFTStage, Policy]:
        config, data, stage = self.trainings.stage(bench, "after", seed)
        return stage, searched(sft_policy(config, data, stage), bench)


@dataclass(frozen=True)
class UntrainedEntry(BySeed):
    """The model as it was pretrained, which ranks by the likelihood of items (`pipeline.before`)."""

    name: str
    description: str
    trainings: Trainings
    random: bool = False

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """The lists by likelihood, its shares chosen on validation rows."""
        key = {**self.trainings.key(bench, seed), "kind": "untrained"}

        def fit() -> tuple[Ranker, dict[str, Any]]:
            system = self.recommender(bench, seed, work)
            return system, {"settings": dataclasses.asdict(system.shares)}

        return answered(bench, work, self.stage(seed), key, fit)

    def recommender(self, bench: TableData, seed: int, work: Work) -> LikelihoodRanker:
        """The ranker by likelihood.

        Raises:
            ConfigError: its recipe leaves no row "before SFT".
        """
        del work
        config = self.trainings.config(bench, seed)
        system = before_sft(config, bench.before, self.trainings.base(bench, seed))
        if system is None:
            raise ConfigError(
                f"{self.name}: items need their titles as names (identifiers.scheme: title) and "
                "evaluation.before_sft some validation events."
            )
        return system


@dataclass(frozen=True)
class ImprovedEntry(BySeed):
    """RL on top of the warm start, as long as the gate found best on the validation rows.

    Attributes:
        start: the row of the warm start.
    """

    name: str
    description: str
    start: PolicyEntry

    @property
    def random(self) -> bool:
        """Whether its warm start is measured under several seeds."""
        return self.start.random

    @property
    def trainings(self) -> Trainings:
        """Those of the warm start."""
        return self.start.trainings

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """The improved policy's lists; those of the warm start's row where the gate promoted nothing."""
        chosen = self._chosen(bench, work)
        key = {**self.trainings.key(bench, seed), "kind": "improved", "steps": chosen["steps"]}
        if not chosen["steps"]:
            return found_or_made(work, self.stage(seed), key, lambda: self._as_started(bench, seed, chosen))

        def fit() -> tuple[Ranker, dict[str, Any]]:
            return self._trained(bench, seed, chosen), {"settings": chosen}

        return answered(bench, work, self.stage(seed), key, fit)

    def _as_started(self, bench: TableData, seed: int, chosen: dict[str, Any]) -> Answer:
        own = bench.work(self.trainings.out / "rows" / self.start.name)
        warm = self.start.answer(bench, seed, own)
        return Answer(warm.items_BK, {"settings": chosen, "cpu_seconds": warm.facts["cpu_seconds"]})

    def recommender(self, bench: TableData, seed: int, work: Work) -> Policy:
        """The policy after as many steps as were chosen."""
        return self._trained(bench, seed, self._chosen(bench, work))

    def _trained(self, bench: TableData, seed: int, chosen: dict[str, Any]) -> Policy:
        config, data, stage = self.trainings.stage(bench, "after", seed)
        if not chosen["steps"]:
            return searched(sft_policy(config, data, stage), bench)
        improved = self.trainings.improved(bench, "after", seed, int(chosen["steps"]))
        return searched(improved_policy(config, data, stage, improved.last), bench)

    def _chosen(self, bench: TableData, work: Work) -> dict[str, Any]:
        """After how many steps the gate promoted a checkpoint of the first seed, on rows it had not trained on."""

        def build(folder: Path, _: Path) -> None:
            improved = self.trainings.improved(bench, "before", FIRST)
            steps = 0 if improved.promoted is None else int(improved.promoted.name.removeprefix("step-"))
            record = {"steps": steps, "verdict": improved.verdict, "checkpoints": improved.checkpoints}
            write_json(folder / "chosen.json", record)

        place = work.stage("chosen", {**self.trainings.key(bench, FIRST), "kind": "length"}, build)
        return {name: read_json(place / "chosen.json")[name] for name in ("steps", "verdict")}


def searched(policy: LanguagePolicy, bench: TableData) -> Policy:
    """The policy with the table's beams."""
    return Policy(policy, max(BEAMS, width(bench)))
