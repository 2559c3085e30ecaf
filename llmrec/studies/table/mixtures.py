"""Mixtures in the table: the policy with co-visitation, and several trainings of the policy together."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.baselines import Covisitation
from llmrec.baselines.covisitation import CovisitationSettings
from llmrec.baselines.interpolation import Interpolation
from llmrec.baselines.registry import baseline
from llmrec.files import read_json, write_json
from llmrec.pipeline.work import Work
from llmrec.policy.ensemble import EnsemblePolicy
from llmrec.policy.fusion import FusedPolicy, Mixable, Scorer, fit_weight
from llmrec.studies.table.entries import Answer, bench_key, keep, kept, width
from llmrec.studies.table.policies import DEPTH, FIRST, Trainings, recommended
from llmrec.studies.table.protocol import Moment, TableData
from llmrec.types import FloatArray, State

POWERS = (1.0, 2.0, 3.0)
"""Of co-visitation's scores."""


@dataclass(frozen=True)
class EnsembleEntry:
    """The mean of the probabilities of several seeds' policies."""

    name: str
    description: str
    trainings: Trainings
    seeds: tuple[int, ...]
    fused: bool = False
    random: bool = False

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """The ensemble's lists, mixed with co-visitation where `fused`."""
        del seed
        key = {**self.trainings.key(bench, FIRST), "seeds": self.seeds, "kind": "ensemble", "fused": self.fused}
        key |= {"powers": POWERS} if self.fused else {}

        def build(folder: Path, _: Path) -> None:
            start = time.process_time()
            chosen = _weight(bench, self.trainings) if self.fused else {}
            slates = recommended(self._whole(bench, chosen), bench)
            seconds = {"recommend": time.process_time() - start}
            settings = {"members": len(self.seeds), **chosen}
            keep(folder, slates, width(bench), {"settings": settings, "cpu_seconds": seconds})

        return kept(work.stage("ensemble", key, build))

    def recommender(self, bench: TableData, seed: int, work: Work) -> EnsemblePolicy | FusedPolicy:
        """All seeds' policies as one, mixed with co-visitation where `fused`."""
        del seed, work
        return self._whole(bench, _weight(bench, self.trainings) if self.fused else {})

    def settled(self, facts: Mapping[str, Any]) -> EnsembleEntry:
        """The entry with as many members as a kept answer has."""
        return dataclasses.replace(self, seeds=tuple(range(facts["settings"]["members"])))

    def _whole(self, bench: TableData, chosen: Mapping[str, Any]) -> EnsemblePolicy | FusedPolicy:
        members = EnsemblePolicy([self.trainings.policy(bench, "after", s) for s in self.seeds], depth=DEPTH)
        return _fused(bench, members, self.trainings, chosen) if chosen else members


@dataclass(frozen=True)
class FusedEntry:
    """The policy mixed with co-visitation, the weight fitted on the validation rows."""

    name: str
    description: str
    trainings: Trainings
    random: bool = True

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """Lists by w pi + (1 - w) s, s being a power of co-visitation's scores over its sum."""
        key = {**self.trainings.key(bench, seed), "kind": "fused", "powers": POWERS}

        def build(folder: Path, _: Path) -> None:
            chosen = _weight(bench, self.trainings)
            start = time.process_time()
            policy = self.trainings.policy(bench, "after", seed)
            slates = recommended(_fused(bench, policy, self.trainings, chosen), bench)
            seconds = {"recommend": time.process_time() - start}
            keep(folder, slates, width(bench), {"settings": chosen, "cpu_seconds": seconds})

        return kept(work.stage(f"seed-{seed}", key, build))

    def recommender(self, bench: TableData, seed: int, work: Work) -> FusedPolicy:
        """The mixture of a seed's policy."""
        del work
        policy = self.trainings.policy(bench, "after", seed)
        return _fused(bench, policy, self.trainings, _weight(bench, self.trainings))


def _shared(bench: TableData, trainings: Trainings) -> Work:
    """Where what all mixtures of a policy are decided by is kept, so that it is decided once."""
    return bench.work(trainings.out / trainings.name / "mixture")


def _fused(bench: TableData, policy: Mixable, trainings: Trainings, chosen: Mapping[str, Any]) -> FusedPolicy:
    second = sharpened(covisitation_of(bench, "after", trainings), chosen["power"])
    return FusedPolicy(policy, second, chosen["weight"], depth=DEPTH)


def second_again(bench: TableData, fused: FusedPolicy, trainings: Trainings) -> FusedPolicy:
    """The mixture with its second score fitted anew to the texts of `bench`, by the settings already chosen."""
    return _fused(bench, fused.policy, trainings, _weight(bench, trainings))


def covisitation_of(bench: TableData, moment: Moment, trainings: Trainings) -> Covisitation:
    """Co-visitation with the settings that are best on the validation rows; its popularity only breaks ties."""

    def build(folder: Path, _: Path) -> None:
        spec = baseline("covisitation-fixed")
        chosen = spec.chosen(bench.dataset, bench.before.split.train, bench.valid)
        settings = spec.settings if chosen is None else chosen.settings
        write_json(folder / "settings.json", dataclasses.asdict(settings))

    place = _shared(bench, trainings).stage("covisitation", bench_key(bench), build)
    settings = CovisitationSettings(**read_json(place / "settings.json"))
    return Covisitation(settings).fit(bench.dataset, bench.rows(moment)[0].split.train)


def interpolation_of(bench: TableData, moment: Moment, trainings: Trainings) -> Interpolation:
    """The baseline that the policy was taught by; what it chose is kept, so that changed texts choose nothing."""
    events = bench.rows(moment)[0].split.train

    def build(folder: Path, _: Path) -> None:
        chosen = Interpolation().fit(bench.dataset, events).covisitation.settings
        write_json(folder / "settings.json", dataclasses.asdict(chosen))

    key = {**bench_key(bench), "moment": moment}
    place = _shared(bench, trainings).stage(f"interpolation-{moment}", key, build)
    return Interpolation(CovisitationSettings(**read_json(place / "settings.json"))).fit(bench.dataset, events)


def _weight(bench: TableData, trainings: Trainings) -> dict[str, Any]:
    """The policy's weight, and the power of co-visitation's scores, with the best NDCG@10 on the validation rows."""

    def build(folder: Path, _: Path) -> None:
        second, policy = covisitation_of(bench, "before", trainings), trainings.policy(bench, "before", FIRST)
        states: Sequence[Any] = [e.state for e in bench.valid]
        chosen = [e.target for e in bench.valid]
        top = min(10, width(bench))
        fitted = {
            power: fit_weight(
                policy, sharpened(second, power), states, chosen, k=top, depth=DEPTH, seen=bench.valid.seen
            )
            for power in POWERS
        }
        power = max(POWERS, key=lambda p: fitted[p].curve[fitted[p].weight])
        curves = {f"power {p:g}": {str(w): v for w, v in found.curve.items()} for p, found in fitted.items()}
        write_json(folder / "weight.json", {"weight": fitted[power].weight, "power": power, "valid_curve": curves})

    key = {"weight of": trainings.key(bench, FIRST), "powers": POWERS}
    return dict(read_json(_shared(bench, trainings).stage("weight", key, build) / "weight.json"))


def sharpened(model: Covisitation, power: float) -> Scorer:
    """The model's scores to a power: as they are they spread their mass over thousands of items."""

    def score(states: Sequence[State]) -> FloatArray:
        sharp_BN: FloatArray = model.score(states) ** power
        return sharp_BN

    return score
