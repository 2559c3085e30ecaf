"""Several recipes' policies, co-visitation and the teacher as one row of the table."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines import Covisitation
from llmrec.baselines.interpolation import Interpolation
from llmrec.files import read_json, write_json
from llmrec.pipeline.leaderboard.entries import Answer, keep, kept, width
from llmrec.pipeline.leaderboard.mixtures import covisitation_of, interpolation_of
from llmrec.pipeline.leaderboard.policies import DEPTH, FIRST, Moment, Trainings, recommended
from llmrec.pipeline.leaderboard.protocol import Bench
from llmrec.pipeline.work import Work
from llmrec.policy.ensemble import EnsemblePolicy
from llmrec.policy.fusion import Mixable, Scorer
from llmrec.policy.mixture import MixturePolicy
from llmrec.policy.mixture_weights import SHARES, UNITS, fit_mixture
from llmrec.text.templates import ELAPSED_DAYS
from llmrec.text.wording import elapsed_band


@dataclass(frozen=True)
class MixedEntry:
    """Several recipes' policies and co-visitation in one mixture, weights by how long the user was away.

    Attributes:
        trainings: the recipes; each row has a policy of each.
        seeds: with some, each recipe's part is the ensemble of these seeds, and the row does not depend on chance.
        taught: the teacher of the warm start, `interpolation`, is a part too.
    """

    name: str
    description: str
    trainings: tuple[Trainings, ...]
    seeds: tuple[int, ...] = ()
    taught: bool = False

    @property
    def random(self) -> bool:
        """Whether it is measured under several seeds."""
        return not self.seeds

    def answer(self, bench: Bench, seed: int, work: Work) -> Answer:
        """Lists by the mixture."""
        keys = [trainings.key(bench, seed) for trainings in self.trainings]
        key = {"parts": keys, "seeds": self.seeds, "kind": "mixed", **self._kind()}

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

    def scores_again(self, bench: Bench, mixture: MixturePolicy) -> MixturePolicy:
        """The mixture with its scores fitted anew to the texts of `bench`, by the settings already chosen."""
        scorers = self._scorers(bench, "after")
        return MixturePolicy(mixture.policies, scorers, mixture.weights_GP, mixture.group, depth=mixture.depth)

    def _whole(self, bench: Bench, seed: int, weights: Mapping[str, Any]) -> MixturePolicy:
        parts = [self._part(bench, trainings, seed) for trainings in self.trainings]
        scorers = self._scorers(bench, "after")
        return MixturePolicy(parts, scorers, np.array(weights["weights"]), elapsed_band, depth=DEPTH)

    def _scorers(self, bench: Bench, moment: Moment) -> list[Scorer]:
        scorers: list[Scorer] = [covisitation_of(bench, moment, self.trainings[0]).score]
        if self.taught:
            scorers.append(interpolation_of(bench, moment, self.trainings[0]).score)
        return scorers

    def _kind(self) -> dict[str, Any]:
        """What decides the mixture beside its policies."""
        return {"grid": (SHARES, UNITS)} | ({"also": Interpolation.name} if self.taught else {})

    def _part(self, bench: Bench, trainings: Trainings, seed: int) -> Mixable:
        if not self.seeds:
            return trainings.policy(bench, "after", seed)
        return EnsemblePolicy([trainings.policy(bench, "after", s) for s in self.seeds], depth=DEPTH)

    def _weights(self, bench: Bench) -> dict[str, Any]:
        """By band of elapsed time, fitted on the validation rows with the first seed's policies."""

        def build(folder: Path, _: Path) -> None:
            policies = [trainings.policy(bench, "before", FIRST) for trainings in self.trainings]
            fitted = fit_mixture(
                policies,
                self._scorers(bench, "before"),
                [e.state for e in bench.valid],
                [e.target for e in bench.valid],
                elapsed_band,
                len(ELAPSED_DAYS) + 1,
                min(10, width(bench)),
                depth=DEPTH,
                seen=bench.valid.seen,
            )
            parts = [*(trainings.name for trainings in self.trainings), Covisitation.name]
            parts += [Interpolation.name] if self.taught else []
            found = {"parts": parts, "weights": fitted.weights_GP.tolist(), "valid_rows": fitted.rows_G.tolist()}
            write_json(folder / "weights.json", found | {"valid_ndcg": fitted.ndcg_G.tolist()})

        name = "-".join([*(t.name for t in self.trainings), *([Interpolation.name] if self.taught else [])])
        work = Work(self.trainings[0].out / "mixtures" / name)
        key = {"parts": [t.key(bench, FIRST) for t in self.trainings], **self._kind()}
        return dict(read_json(work.stage("weights", key, build) / "weights.json"))
