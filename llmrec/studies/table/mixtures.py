"""Mixtures and ensembles in the table: policies of several recipes, baselines, the teacher.

The forms of the parts and their weights are chosen on the validation rows, with what was fitted before them under the
first seed; what answers the test rows is fitted anew. What is decided by the same parts is decided once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.files import read_json, write_json
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Items, Mixture, Part
from llmrec.policy.mixture_weights import EVEN, ONE_OF_EACH, SHARES, UNITS, FittedMixture, fit_forms, weight_grid
from llmrec.studies.table.entries import Answer, answered, bench_key, width
from llmrec.studies.table.policies import DEPTH, FIRST, Trainings
from llmrec.studies.table.protocol import Moment, TableData
from llmrec.studies.table.scores import ScorePart
from llmrec.text.templates import ELAPSED_DAYS
from llmrec.text.wording import elapsed_band


@dataclass(frozen=True)
class MixtureEntry:
    """One mixture of policies and scores; with a single part its ensemble, or the part itself.

    Attributes:
        out: the table's folder; weights are kept there.
        policies: recipes of the policies among the parts.
        scores: the other parts.
        seeds: with some, each part that depends on chance is the ensemble of these seeds, and the row does not.
        banded: weights by how long the user was away; else the same for all states.
    """

    name: str
    description: str
    out: Path
    policies: tuple[Trainings, ...] = ()
    scores: tuple[ScorePart, ...] = ()
    seeds: tuple[int, ...] = ()
    banded: bool = False

    @property
    def random(self) -> bool:
        """Whether it is measured under several seeds."""
        return not self.seeds and (bool(self.policies) or any(part.random for part in self.scores))

    def stage(self, seed: int) -> str:
        """Where a seed's answer is kept."""
        return "ensemble" if self.seeds else f"seed-{seed}"

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """Lists by the mixture."""
        key = {**self._key(bench, seed), "seed": seed, "seeds": self.seeds}

        def fit_all() -> tuple[Mixture, dict[str, Any]]:
            settings = {"members": max(1, len(self.seeds)), **self._weights(bench)}
            return self._made(bench, seed, kept=True), {"settings": settings}

        return answered(bench, work, self.stage(seed), key, fit_all)

    def recommender(self, bench: TableData, seed: int, work: Work) -> Mixture:
        """The mixture of a seed's parts, or of all of them."""
        del work
        return self._made(bench, seed)

    def _made(self, bench: TableData, seed: int, *, kept: bool = False) -> Mixture:
        weights = self._weights(bench)
        forms, seeds = weights["form numbers"], self.seeds or (seed,)
        return self._mixture(bench, "after", forms, seeds, weights["weights"], kept=kept)

    def settled(self, facts: Mapping[str, Any]) -> MixtureEntry:
        """The entry with the members and the baselines' settings of a kept answer."""
        chosen = zip(self.scores, facts["settings"]["chosen"], strict=True)
        scores = tuple(dataclasses.replace(part, chosen=settings) for part, settings in chosen)
        seeds = tuple(range(facts["settings"]["members"])) if self.seeds else ()
        return dataclasses.replace(self, seeds=seeds, scores=scores)

    @property
    def parts(self) -> list[str]:
        """The names of the parts, policies first."""
        return [*(trainings.name for trainings in self.policies), *(part.name for part in self.scores)]

    @property
    def _bands(self) -> int:
        return len(ELAPSED_DAYS) + 1 if self.banded else 1

    def _key(self, bench: TableData, seed: int) -> dict[str, Any]:
        """What decides the mixture."""
        parts = [trainings.key(bench, seed) for trainings in self.policies]
        parts += [part.key(bench) for part in self.scores]
        grid = {"one": ONE_OF_EACH, "shares": SHARES, "units": UNITS, "even": [list(pair) for pair in EVEN.items()]}
        fine = {"fine": True} if self.policies and len(self.scores) > 1 and not self.banded else {}
        return {**bench_key(bench), "parts": parts, "grid": grid, "banded": self.banded, **fine}

    def _mixture(
        self,
        bench: TableData,
        moment: Moment,
        forms: Sequence[int],
        seeds: Sequence[int],
        weights: Any = None,
        *,
        kept: bool = False,
    ) -> Mixture:
        """With `kept` policies answer from what their folder holds of them, and what they are asked is kept there."""
        policies: list[Part] = [_ensemble(trainings, bench, moment, seeds, kept) for trainings in self.policies]
        scores = [part.made(bench, moment, form, seeds) for part, form in zip(self.scores, forms, strict=True)]
        group = elapsed_band if self.banded else None
        items = Items(bench.dataset.n_items, bench.dataset.manifest.repeat)
        alone = len(self.parts) == 1  # its order is the same, and no seen item needs to be asked for
        return Mixture([*policies, *scores], weights, group, items=items, depth=DEPTH, conditioned=not alone)

    def _weights(self, bench: TableData) -> dict[str, Any]:
        """Forms and weights with the best NDCG@10 on the validation rows, by the first seed's parts."""

        def build(folder: Path, _: Path) -> None:
            every = list(itertools.product(*(range(len(part.forms)) for part in self.scores)))
            grid = weight_grid(len(self.policies), len(self.scores), fine=not self.banded)
            record: dict[str, Any] = {"weights": [grid[0].tolist()] * self._bands}
            best = every[0]
            if len(every) * len(grid) > 1:
                fitted = self._fitted(bench, every)
                best = max(every, key=lambda forms: fitted[forms].ndcg)
                found = fitted[best]
                record = {
                    "weights": found.mixture.weights_GP.tolist(),
                    "valid_rows": found.rows_G.tolist(),
                    "valid_ndcg": found.ndcg_G.tolist(),
                    "tried forms": len(every),
                }
            parts = list(zip(self.scores, best, strict=True))
            record |= {"parts": self.parts, "form numbers": list(best)}
            record |= {"forms": [part.forms[form] for part, form in parts]}
            record |= {"chosen": [part.settings(bench) for part, _ in parts]}
            write_json(folder / "weights.json", record)

        name = "-".join([*self.parts, *([] if self.banded else ["unbanded"])])
        work = bench.work(self.out / "mixtures" / name)
        return dict(read_json(work.stage("weights", self._key(bench, FIRST), build) / "weights.json"))

    def _fitted(self, bench: TableData, every: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], FittedMixture]:
        """The fit of every form."""
        # Weights are chosen with parts that were fitted before the validation rows; parts that know them would be
        # trusted too much. They then weigh parts that were fitted on more.
        first = self._mixture(bench, "before", every[0], (FIRST,), kept=True)
        policies = first.parts[: len(self.policies)]
        scores = [
            [part.made(bench, "before", form, (FIRST,)) for form in range(len(part.forms))] for part in self.scores
        ]
        forms = [[*policies, *(own[form] for own, form in zip(scores, one, strict=True))] for one in every]
        states, targets = [e.state for e in bench.valid], [e.target for e in bench.valid]
        options: dict[str, Any] = {"groups": self._bands, "k": min(10, width(bench)), "seen": bench.valid.seen}
        return dict(zip(every, fit_forms(first, forms, states, targets, **options), strict=True))


def _ensemble(
    trainings: Trainings, bench: TableData, moment: Moment, seeds: Sequence[int], kept: bool
) -> LanguagePolicy | Mixture:
    """The policy of a seed, or the mean of those of several."""
    made = trainings.remembered if kept else trainings.policy
    members = [made(bench, moment, seed) for seed in seeds]
    return members[0] if len(members) == 1 else Mixture.ensemble(members)
