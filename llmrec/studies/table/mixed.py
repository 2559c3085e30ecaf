"""Rankers of any kind mixed in one row of the table: policies of several recipes, baselines, the teacher.

The forms of the parts and their weights are chosen on the validation rows, with what was fitted before them under the
first seed; what answers the test rows is fitted anew.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.files import read_json, write_json
from llmrec.pipeline.work import Work
from llmrec.policy.ensemble import EnsemblePolicy
from llmrec.policy.fusion import Mixable, Scorer
from llmrec.policy.mixture import Items, MixturePolicy
from llmrec.policy.mixture_weights import EVEN, SHARES, UNITS, FittedMixture, fit_mixture
from llmrec.studies.table.entries import Answer, bench_key, keep, kept, width
from llmrec.studies.table.policies import DEPTH, FIRST, Trainings, recommended
from llmrec.studies.table.protocol import Moment, TableData
from llmrec.studies.table.scores import ScorePart
from llmrec.text.templates import ELAPSED_DAYS
from llmrec.text.wording import elapsed_band
from llmrec.types import FloatArray, State


@dataclass(frozen=True)
class MixedEntry:
    """One mixture of policies and scores; with a single part its ensemble, or the part itself.

    Attributes:
        out: the table's folder; weights are kept there.
        trainings: recipes of the policies among the parts.
        scores: the other parts.
        seeds: with some, each part that depends on chance is the ensemble of these seeds, and the row does not.
        banded: weights by how long the user was away; else the same for all states.
    """

    name: str
    description: str
    out: Path
    trainings: tuple[Trainings, ...] = ()
    scores: tuple[ScorePart, ...] = ()
    seeds: tuple[int, ...] = ()
    banded: bool = True

    @property
    def random(self) -> bool:
        """Whether it is measured under several seeds."""
        return not self.seeds and (bool(self.trainings) or any(part.random for part in self.scores))

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """Lists by the mixture."""
        key = {**self._key(bench, seed), "seed": seed, "seeds": self.seeds}

        def build(folder: Path, _: Path) -> None:
            start = time.process_time()
            weights = self._weights(bench)
            system = self._whole(bench, seed, weights)
            made = time.process_time()
            slates = recommended(system, bench)
            seconds = {"fit": made - start, "recommend": time.process_time() - made}
            settings = {"members": max(1, len(self.seeds)), **weights}
            keep(folder, slates, width(bench), {"settings": settings, "cpu_seconds": seconds})

        return kept(work.stage("ensemble" if self.seeds else f"seed-{seed}", key, build))

    def recommender(self, bench: TableData, seed: int, work: Work) -> MixturePolicy:
        """The mixture of a seed's parts, or of all of them."""
        del work
        return self._whole(bench, seed, self._weights(bench))

    def settled(self, facts: Mapping[str, Any]) -> MixedEntry:
        """The entry with as many members as a kept answer has."""
        members = facts["settings"]["members"]
        return dataclasses.replace(self, seeds=tuple(range(members)) if self.seeds else ())

    def scores_again(self, bench: TableData, mixture: MixturePolicy, seed: int = FIRST) -> MixturePolicy:
        """The mixture with its scores fitted anew to the texts of `bench`, by what was already chosen."""
        scorers = self._scorers(bench, "after", self._weights(bench)["form numbers"], self.seeds or (seed,))
        return self._mixture(bench, mixture.policies, scorers, mixture.weights_GP)

    def _whole(self, bench: TableData, seed: int, weights: Mapping[str, Any]) -> MixturePolicy:
        policies = [self._policy(bench, trainings, seed) for trainings in self.trainings]
        scorers = self._scorers(bench, "after", weights["form numbers"], self.seeds or (seed,))
        return self._mixture(bench, policies, scorers, weights["weights"])

    def _mixture(
        self, bench: TableData, policies: Sequence[Mixable], scorers: Sequence[Scorer], weights: Any
    ) -> MixturePolicy:
        group = elapsed_band if self.banded else None
        return MixturePolicy(policies, scorers, np.array(weights), group, depth=DEPTH, items=_items(bench))

    def _policy(self, bench: TableData, trainings: Trainings, seed: int) -> Mixable:
        if not self.seeds:
            return trainings.policy(bench, "after", seed)
        return EnsemblePolicy([trainings.policy(bench, "after", s) for s in self.seeds], depth=DEPTH)

    def _scorers(self, bench: TableData, moment: Moment, forms: Sequence[int], seeds: Sequence[int]) -> list[Scorer]:
        return [part.scorer(bench, moment, form, seeds) for part, form in zip(self.scores, forms, strict=True)]

    def _key(self, bench: TableData, seed: int) -> dict[str, Any]:
        """What decides the mixture."""
        parts = [trainings.key(bench, seed) for trainings in self.trainings]
        scores = [part.key(bench) for part in self.scores]
        grid = {"shares": SHARES, "units": UNITS, "even": [list(pair) for pair in EVEN.items()]}
        return {**bench_key(bench), "parts": parts, "scores": scores, "grid": grid, "banded": self.banded}

    def _weights(self, bench: TableData) -> dict[str, Any]:
        """Forms and weights with the best NDCG@10 on the validation rows, by the first seed's parts."""

        def build(folder: Path, _: Path) -> None:
            policies = [trainings.policy(bench, "before", FIRST) for trainings in self.trainings]
            scorers = [
                [remembered(part.scorer(bench, "before", form, (FIRST,))) for form in range(part.forms)]
                for part in self.scores
            ]
            every = list(itertools.product(*(range(part.forms) for part in self.scores)))
            fitted = [
                self._fit(bench, policies, [own[form] for own, form in zip(scorers, forms, strict=True)])
                for forms in every
            ]
            figures = [float(found.ndcg_G @ found.rows_G / found.rows_G.sum()) for found in fitted]
            best = int(np.argmax(figures))
            record = {
                "parts": self.parts,
                "form numbers": list(every[best]),
                "forms": [
                    getattr(part, "form", lambda _: {})(form)
                    for part, form in zip(self.scores, every[best], strict=True)
                ],
                "weights": fitted[best].weights_GP.tolist(),
                "valid_rows": fitted[best].rows_G.tolist(),
                "valid_ndcg": fitted[best].ndcg_G.tolist(),
                "tried forms": len(every),
            }
            write_json(folder / "weights.json", record)

        name = "-".join([*self.parts, *([] if self.banded else ["unbanded"])])
        work = bench.work(self.out / "mixtures" / name)
        return dict(read_json(work.stage("weights", self._key(bench, FIRST), build) / "weights.json"))

    @property
    def parts(self) -> list[str]:
        """The names of the parts, policies first."""
        return [*(trainings.name for trainings in self.trainings), *(part.name for part in self.scores)]

    def _fit(self, bench: TableData, policies: Sequence[Mixable], scorers: Sequence[Scorer]) -> FittedMixture:
        return fit_mixture(
            policies,
            scorers,
            [e.state for e in bench.valid],
            [e.target for e in bench.valid],
            elapsed_band if self.banded else None,
            len(ELAPSED_DAYS) + 1 if self.banded else 1,
            min(10, width(bench)),
            depth=DEPTH,
            seen=bench.valid.seen,
            items=_items(bench),
        )


def remembered(scorer: Scorer) -> Scorer:
    """The scorer with what it said of each batch of states, for several fits over the same ones."""
    said: dict[tuple[int, ...], FloatArray] = {}

    def score(states: Sequence[State]) -> FloatArray:
        place = tuple(id(state) for state in states)
        if place not in said:
            said[place] = scorer(states)
        return said[place]

    return score


def _items(bench: TableData) -> Items:
    return Items(bench.dataset.n_items, bench.dataset.manifest.repeat)
