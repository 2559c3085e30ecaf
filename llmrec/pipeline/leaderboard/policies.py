"""The language-model policy in the table: warm-started, mixed with co-visitation, as an ensemble, and improved by RL.

What is decided on the validation rows (the weight of a mixture, how long RL goes on) is decided once, with the policy
of the first seed that was trained before them; the policies that answer the test rows are trained anew on everything
before the test period.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmrec.baselines import Covisitation
from llmrec.config import RunConfig
from llmrec.files import read_json, write_json
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData
from llmrec.pipeline.improve import ImprovedStage, improve_stage
from llmrec.pipeline.leaderboard.entries import Answer, bench_key, keep, kept, width
from llmrec.pipeline.leaderboard.protocol import Bench
from llmrec.pipeline.policies import SFTStage, improved_policy, sft_policy, sft_stage
from llmrec.pipeline.simulation import Simulators, simulator_stage
from llmrec.pipeline.work import Work
from llmrec.policy.ensemble import EnsemblePolicy
from llmrec.policy.fusion import FusedPolicy, fit_weight
from llmrec.policy.language_policy import LanguagePolicy

Moment = Literal["before", "after"]
BEAMS, DEPTH = 40, 40
FIRST = 0
"""The seed that settings are chosen with."""


@dataclass(frozen=True)
class Trainings:
    """Trained policies of one recipe: stages in OUT/NAME, shared by all rows that build on them.

    Attributes:
        name: of the folder.
        overrides: of the protocol's recipe.
    """

    name: str
    out: Path
    overrides: tuple[str, ...] = ()

    def config(self, bench: Bench, seed: int) -> RunConfig:
        """The run's configuration."""
        return bench.config(self.overrides, seed)

    def stage(self, bench: Bench, moment: Moment, seed: int) -> tuple[RunConfig, RunData, SFTStage]:
        """The warm start, trained if it is not there."""
        config, (data, _) = self.config(bench, seed), bench.rows(moment)
        base = base_model(config, bench.before, Work(self.out / self.name / f"base-{seed}"))
        return config, data, sft_stage(config, data, base, Work(self.out / self.name / f"{moment}-{seed}"))

    def policy(self, bench: Bench, moment: Moment, seed: int) -> LanguagePolicy:
        """The warm-started policy."""
        return sft_policy(*self.stage(bench, moment, seed))

    def simulators(self, bench: Bench) -> Simulators:
        """Reward and judge, fitted on the training part and calibrated on the validation part in every case."""
        return simulator_stage(self.config(bench, FIRST), bench.before, Work(self.out / "simulators"))

    def improved(self, bench: Bench, moment: Moment, seed: int, steps: int | None = None) -> ImprovedStage:
        """RL on top; with `steps` it is judged at its end alone."""
        config, data, stage = self.stage(bench, moment, seed)
        if steps is not None:
            shorter = (f"{config.algorithm}.steps={steps}", f"{config.algorithm}.save_every={steps}")
            config = bench.config((*self.overrides, *shorter), seed)
        work = Work(self.out / self.name / f"{moment}-{seed}")
        return improve_stage(config, data, stage, self.simulators(bench), work)

    def key(self, bench: Bench, seed: int) -> dict[str, Any]:
        """What decides the policies of a seed."""
        tree = self.config(bench, seed).tree()
        sections = ("text", "identifiers", "model", "sft", "simulator", "reward", "algorithm", "ppo", "gate")
        return {**bench_key(bench), "seed": seed, "beams": BEAMS, **{name: tree[name] for name in sections}}


@dataclass(frozen=True)
class PolicyEntry:
    """The warm-started policy alone."""

    name: str
    description: str
    trainings: Trainings
    random: bool = True

    def answer(self, bench: Bench, seed: int, work: Work) -> Answer:
        """Beam search over the catalogue."""

        def build(folder: Path, _: Path) -> None:
            start = time.process_time()
            config, data, stage = self.trainings.stage(bench, "after", seed)
            trained = time.process_time()
            policy = sft_policy(config, data, stage)
            slates = _recommend(policy, bench)
            facts = {"settings": list(self.trainings.overrides), "curve_end": stage.curve[-1]}
            facts |= {"parameters": sum(p.numel() for p in policy.model.parameters())}
            seconds = {"fit": trained - start, "recommend": time.process_time() - trained}
            keep(folder, slates, width(bench), facts | {"cpu_seconds": seconds})

        return kept(work.stage(f"seed-{seed}", {**self.trainings.key(bench, seed), "kind": "policy"}, build))


@dataclass(frozen=True)
class EnsembleEntry:
    """The mean of the probabilities of several seeds' policies."""

    name: str
    description: str
    trainings: Trainings
    seeds: tuple[int, ...]
    fused: bool = False
    random: bool = False

    def answer(self, bench: Bench, seed: int, work: Work) -> Answer:
        """The ensemble's lists, mixed with co-visitation where `fused`."""
        del seed

        def policy(moment: Moment) -> EnsemblePolicy:
            return EnsemblePolicy([self.trainings.policy(bench, moment, s) for s in self.seeds], depth=DEPTH)

        key = {**self.trainings.key(bench, FIRST), "seeds": self.seeds, "kind": "ensemble", "fused": self.fused}

        def build(folder: Path, _: Path) -> None:
            start = time.process_time()
            members = policy("after")
            whole: Any = members
            facts: dict[str, Any] = {"settings": {"members": len(self.seeds)}}
            if self.fused:
                chosen = _weight(bench, work, key, self.trainings.policy(bench, "before", FIRST))
                whole = FusedPolicy(members, _covisitation(bench, "after", work).score, chosen["weight"], depth=DEPTH)
                facts["settings"] |= chosen
            slates = _recommend(whole, bench)
            seconds = {"recommend": time.process_time() - start}
            keep(folder, slates, width(bench), facts | {"cpu_seconds": seconds})

        return kept(work.stage("ensemble", key, build))


@dataclass(frozen=True)
class FusedEntry:
    """The policy mixed with co-visitation, the weight fitted on the validation rows."""

    name: str
    description: str
    trainings: Trainings
    random: bool = True

    def answer(self, bench: Bench, seed: int, work: Work) -> Answer:
        """Lists by w pi + (1 - w) s, s being co-visitation's scores over their sum."""
        key = {**self.trainings.key(bench, seed), "kind": "fused"}

        def build(folder: Path, _: Path) -> None:
            chosen = _weight(
                bench, work, self.trainings.key(bench, FIRST), self.trainings.policy(bench, "before", FIRST)
            )
            start = time.process_time()
            second = _covisitation(bench, "after", work)
            fused = FusedPolicy(
                self.trainings.policy(bench, "after", seed), second.score, chosen["weight"], depth=DEPTH
            )
            slates = _recommend(fused, bench)
            seconds = {"recommend": time.process_time() - start}
            keep(folder, slates, width(bench), {"settings": chosen, "cpu_seconds": seconds})

        return kept(work.stage(f"seed-{seed}", key, build))


@dataclass(frozen=True)
class ImprovedEntry:
    """RL on top of the warm start, as long as the gate found best on the validation rows."""

    name: str
    description: str
    trainings: Trainings
    random: bool = True

    def answer(self, bench: Bench, seed: int, work: Work) -> Answer:
        """The improved policy's lists; the warm-started policy's where the gate promoted nothing."""
        chosen = self._chosen(bench, work)
        key = {**self.trainings.key(bench, seed), "kind": "improved", "steps": chosen["steps"]}

        def build(folder: Path, _: Path) -> None:
            start = time.process_time()
            config, data, stage = self.trainings.stage(bench, "after", seed)
            if chosen["steps"]:
                improved = self.trainings.improved(bench, "after", seed, int(chosen["steps"]))
                policy = improved_policy(config, data, stage, improved.last)
            else:
                policy = sft_policy(config, data, stage)
            trained = time.process_time()
            slates = _recommend(policy, bench)
            seconds = {"fit": trained - start, "recommend": time.process_time() - trained}
            keep(folder, slates, width(bench), {"settings": chosen, "cpu_seconds": seconds})

        return kept(work.stage(f"seed-{seed}", key, build))

    def _chosen(self, bench: Bench, work: Work) -> dict[str, Any]:
        """After how many steps the gate promoted a checkpoint of the first seed, on rows it had not trained on."""

        def build(folder: Path, _: Path) -> None:
            improved = self.trainings.improved(bench, "before", FIRST)
            steps = 0 if improved.promoted is None else int(improved.promoted.name.removeprefix("step-"))
            record = {"steps": steps, "verdict": improved.verdict, "checkpoints": improved.checkpoints}
            write_json(folder / "chosen.json", record)

        place = work.stage("chosen", {**self.trainings.key(bench, FIRST), "kind": "length"}, build)
        return {name: read_json(place / "chosen.json")[name] for name in ("steps", "verdict")}


def _recommend(policy: Any, bench: Bench) -> list[Any]:
    states = [example.state for example in bench.test]
    more = {"beams": max(BEAMS, width(bench))} if isinstance(policy, LanguagePolicy) else {}
    return list(policy.recommend(states, width(bench), seen=bench.test.seen, **more))


def _covisitation(bench: Bench, moment: Moment, work: Work) -> Covisitation:
    """Co-visitation with the settings that are best on the validation rows."""
    from llmrec.baselines.covisitation import CovisitationSettings

    def build(folder: Path, _: Path) -> None:
        chosen = Covisitation().fit_selected(
            bench.dataset, bench.before.split.train, bench.valid.rows, seen=bench.valid.seen
        )
        write_json(folder / "settings.json", dataclasses.asdict(chosen.settings))

    place = work.stage("covisitation", bench_key(bench), build)
    settings = CovisitationSettings(**read_json(place / "settings.json"))
    return Covisitation(settings).fit(bench.dataset, bench.rows(moment)[0].split.train)


def _weight(bench: Bench, work: Work, key: object, policy: LanguagePolicy) -> dict[str, Any]:
    """The policy's weight with the best NDCG@10 on the validation rows, and the whole curve."""

    def build(folder: Path, _: Path) -> None:
        second = _covisitation(bench, "before", work)
        states: Sequence[Any] = [e.state for e in bench.valid]
        chosen = [e.target for e in bench.valid]
        top = min(10, width(bench))
        fitted = fit_weight(policy, second.score, states, chosen, k=top, depth=DEPTH, seen=bench.valid.seen)
        write_json(
            folder / "weight.json",
            {"weight": fitted.weight, "valid_curve": {str(w): value for w, value in fitted.curve.items()}},
        )

    return dict(read_json(work.stage("weight", {"weight of": key}, build) / "weight.json"))
