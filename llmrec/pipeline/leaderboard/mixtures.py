"""Mixtures in the table: the policy with co-visitation, and several trainings of the policy together."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines import Covisitation
from llmrec.baselines.covisitation import CovisitationSettings
from llmrec.files import read_json, write_json
from llmrec.pipeline.leaderboard.entries import Answer, bench_key, keep, kept, width
from llmrec.pipeline.leaderboard.policies import DEPTH, FIRST, Moment, Trainings, recommended
from llmrec.pipeline.leaderboard.protocol import Bench
from llmrec.pipeline.work import Work
from llmrec.policy.ensemble import EnsemblePolicy
from llmrec.policy.fusion import FusedPolicy, Mixable, Scorer, fit_weight
from llmrec.policy.mixture import MixturePolicy
from llmrec.policy.mixture_weights import SHARES, UNITS, fit_mixture
from llmrec.text.templates import ELAPSED_DAYS
from llmrec.text.wording import elapsed_band
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

    def answer(self, bench: Bench, seed: int, work: Work) -> Answer:
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

    def recommender(self, bench: Bench, seed: int, work: Work) -> EnsemblePolicy | FusedPolicy:
        """All seeds' policies as one, mixed with co-visitation where `fused`."""
        del seed, work
        return self._whole(bench, _weight(bench, self.trainings) if self.fused else {})

    def settled(self, facts: Mapping[str, Any]) -> EnsembleEntry:
        """The entry with as many members as a kept answer has."""
        return dataclasses.replace(self, seeds=tuple(range(facts["settings"]["members"])))

    def _whole(self, bench: Bench, chosen: Mapping[str, Any]) -> EnsemblePolicy | FusedPolicy:
        members = EnsemblePolicy([self.trainings.policy(bench, "after", s) for s in self.seeds], depth=DEPTH)
        return _fused(bench, members, self.trainings, chosen) if chosen else members


@dataclass(frozen=True)
class FusedEntry:
    """The policy mixed with co-visitation, the weight fitted on the validation rows."""

    name: str
    description: str
    trainings: Trainings
    random: bool = True

    def answer(self, bench: Bench, seed: int, work: Work) -> Answer:
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

    def recommender(self, bench: Bench, seed: int, work: Work) -> FusedPolicy:
        """The mixture of a seed's policy."""
        del work
        policy = self.trainings.policy(bench, "after", seed)
        return _fused(bench, policy, self.trainings, _weight(bench, self.trainings))


@dataclass(frozen=True)
class MixedEntry:
    """Several recipes' policies and co-visitation in one mixture, weights by how long the user was away.

    Attributes:
        trainings: the recipes; each row has a policy of each.
        seeds: with some, each recipe's part is the ensemble of these seeds, and the row does not depend on chance.
    """

    name: str
    description: str
    trainings: tuple[Trainings, ...]
    seeds: tuple[int, ...] = ()

    @property
    def random(self) -> bool:
        """Whether it is measured under several seeds."""
        return not self.seeds

    def answer(self, bench: Bench, seed: int, work: Work) -> Answer:
        """Lists by the mixture."""
        keys = [trainings.key(bench, seed) for trainings in self.trainings]
        key = {"parts": keys, "seeds": self.seeds, "kind": "mixed", "grid": (SHARES, UNITS)}

        def build(folder: Path, _: Path) -> None:
            start = time.process_time()
            weights = self._weights(bench)
            slates = recommended(self._whole(bench, seed, weights), bench)
            seconds = {"recommend": time.process_time() - start}
            settings = {"members": max(1, len(self.seeds)), **weights}
            keep(folder, slates, width(bench), {"settings": settings, "cpu_seconds": seconds})

        return kept(work.stage("ensemble" if self.seeds else f"seed-{seed}", key, build))

    def recommender(self, bench: Bench, seed: int, work: Work) -> MixturePolicy:
        """The mixture of a seed's policies, or of all of them."""
        del work
        return self._whole(bench, seed, self._weights(bench))

    def settled(self, facts: Mapping[str, Any]) -> MixedEntry:
        """The entry with as many members as a kept answer has."""
        members = facts["settings"]["members"]
        return dataclasses.replace(self, seeds=tuple(range(members)) if self.seeds else ())

    def second_again(self, bench: Bench, mixture: MixturePolicy) -> MixturePolicy:
        """The mixture with its second score fitted anew to the texts of `bench`, by the settings already chosen."""
        second = _covisitation(bench, "after", self.trainings[0]).score
        return MixturePolicy(mixture.policies, second, mixture.weights_GP, mixture.group, depth=mixture.depth)

    def _whole(self, bench: Bench, seed: int, weights: Mapping[str, Any]) -> MixturePolicy:
        second = _covisitation(bench, "after", self.trainings[0]).score
        parts = [self._part(bench, trainings, seed) for trainings in self.trainings]
        return MixturePolicy(parts, second, np.array(weights["weights"]), elapsed_band, depth=DEPTH)

    def _part(self, bench: Bench, trainings: Trainings, seed: int) -> Mixable:
        if not self.seeds:
            return trainings.policy(bench, "after", seed)
        return EnsemblePolicy([trainings.policy(bench, "after", s) for s in self.seeds], depth=DEPTH)

    def _weights(self, bench: Bench) -> dict[str, Any]:
        """By band of elapsed time, fitted on the validation rows with the first seed's policies."""

        def build(folder: Path, _: Path) -> None:
            second = _covisitation(bench, "before", self.trainings[0]).score
            policies = [trainings.policy(bench, "before", FIRST) for trainings in self.trainings]
            fitted = fit_mixture(
                policies,
                second,
                [e.state for e in bench.valid],
                [e.target for e in bench.valid],
                elapsed_band,
                len(ELAPSED_DAYS) + 1,
                min(10, width(bench)),
                depth=DEPTH,
                seen=bench.valid.seen,
            )
            parts = [*(trainings.name for trainings in self.trainings), "covisitation"]
            found = {"parts": parts, "weights": fitted.weights_GP.tolist(), "valid_rows": fitted.rows_G.tolist()}
            write_json(folder / "weights.json", found | {"valid_ndcg": fitted.ndcg_G.tolist()})

        name = "-".join(trainings.name for trainings in self.trainings)
        work = Work(self.trainings[0].out / "mixtures" / name)
        key = {"parts": [t.key(bench, FIRST) for t in self.trainings], "grid": (SHARES, UNITS)}
        return dict(read_json(work.stage("weights", key, build) / "weights.json"))


def _shared(trainings: Trainings) -> Work:
    """Where what all mixtures of a policy are decided by is kept, so that it is decided once."""
    return Work(trainings.out / trainings.name / "mixture")


def _fused(bench: Bench, policy: Mixable, trainings: Trainings, chosen: Mapping[str, Any]) -> FusedPolicy:
    second = sharpened(_covisitation(bench, "after", trainings), chosen["power"])
    return FusedPolicy(policy, second, chosen["weight"], depth=DEPTH)


def second_again(bench: Bench, fused: FusedPolicy, trainings: Trainings) -> FusedPolicy:
    """The mixture with its second score fitted anew to the texts of `bench`, by the settings already chosen."""
    return _fused(bench, fused.policy, trainings, _weight(bench, trainings))


def _covisitation(bench: Bench, moment: Moment, trainings: Trainings) -> Covisitation:
    """Co-visitation with the settings that are best on the validation rows."""

    def build(folder: Path, _: Path) -> None:
        chosen = Covisitation().fit_selected(
            bench.dataset, bench.before.split.train, bench.valid.rows, seen=bench.valid.seen
        )
        write_json(folder / "settings.json", dataclasses.asdict(chosen.settings))

    place = _shared(trainings).stage("covisitation", bench_key(bench), build)
    settings = CovisitationSettings(**read_json(place / "settings.json"))
    return Covisitation(settings).fit(bench.dataset, bench.rows(moment)[0].split.train)


def _weight(bench: Bench, trainings: Trainings) -> dict[str, Any]:
    """The policy's weight, and the power of co-visitation's scores, with the best NDCG@10 on the validation rows."""

    def build(folder: Path, _: Path) -> None:
        second, policy = _covisitation(bench, "before", trainings), trainings.policy(bench, "before", FIRST)
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
    return dict(read_json(_shared(trainings).stage("weight", key, build) / "weight.json"))


def sharpened(model: Covisitation, power: float) -> Scorer:
    """The model's scores to a power: as they are they spread their mass over thousands of items."""

    def score(states: Sequence[State]) -> FloatArray:
        sharp_BN: FloatArray = model.score(states) ** power
        return sharp_BN

    return score
