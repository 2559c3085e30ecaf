"""Recommenders that score the whole catalogue as parts of the table's mixtures and ensembles.

Each part may take several forms (settings, a power of its scores): which one is best is found on the validation rows
together with the weights of the mixture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llmrec.baselines.base import ScoreRecommender
from llmrec.baselines.registry import baseline
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError
from llmrec.pipeline.work import Work
from llmrec.policy.fusion import Scorer
from llmrec.policy.mixture import mean_scorer
from llmrec.studies.table.entries import BaselineEntry, plain
from llmrec.studies.table.protocol import Moment, TableData
from llmrec.types import FloatArray, State


class ScorePart(Protocol):
    """A score among the parts of a mixture."""

    @property
    def name(self) -> str:
        """By which the mixture calls it."""
        ...

    @property
    def random(self) -> bool:
        """Whether seeds differ."""
        ...

    @property
    def forms(self) -> int:
        """How many forms it may take."""
        ...

    def key(self, bench: TableData) -> dict[str, Any]:
        """What decides its scores beside data, seed and form."""
        ...

    def scorer(self, bench: TableData, moment: Moment, form: int, seeds: Sequence[int]) -> Scorer:
        """Its scores in one form; the mean of the distributions of several seeds."""
        ...


@dataclass(frozen=True)
class FittedScores:
    """Scores as `fit` makes them, in one form and without a seed."""

    name: str
    fit: Callable[[TableData, Moment], ScoreRecommender]
    random: bool = False
    forms: int = 1

    def key(self, bench: TableData) -> dict[str, Any]:
        """The name."""
        del bench
        return {"also": self.name}

    def scorer(self, bench: TableData, moment: Moment, form: int, seeds: Sequence[int]) -> Scorer:
        """The scores as they are."""
        del form, seeds
        return self.fit(bench, moment).score


@dataclass(frozen=True)
class BaselineScores:
    """A baseline of the registry with the settings of its own row.

    Attributes:
        baseline: its name in the registry.
        out: where the table is kept; the settings are chosen (and kept) as for the baseline's own row.
        budget: as for that row.
        powers: of the scores, see `ScoreRecommender.distribution`.
        options: values of settings in place of the chosen ones, each with every power.
    """

    baseline: str
    out: Path
    budget: float = 1.0
    powers: tuple[float, ...] = (1.0,)
    options: tuple[dict[str, Any], ...] = ({},)
    _kept: dict[tuple[Any, ...], tuple[Dataset, ScoreRecommender]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        """As in the registry."""
        return self.baseline

    @property
    def random(self) -> bool:
        """Whether seeds differ."""
        return baseline(self.baseline).random

    @property
    def forms(self) -> int:
        """Options times powers."""
        return len(self.options) * len(self.powers)

    def key(self, bench: TableData) -> dict[str, Any]:
        """The chosen settings and what may take their place."""
        chosen = self._entry().chosen(bench, self._work(bench))["settings"]
        return {"baseline": self.baseline, "chosen": chosen, "powers": self.powers, "options": self.options}

    def form(self, form: int) -> dict[str, Any]:
        """What a form is, for the record."""
        option, power = divmod(form, len(self.powers))
        return {**self.options[option], "power": self.powers[power]}

    def scorer(self, bench: TableData, moment: Moment, form: int, seeds: Sequence[int]) -> Scorer:
        """The distributions of the fitted models to the form's power."""
        option, power = divmod(form, len(self.powers))
        fitted = [
            self._fitted(bench, moment, seed, self.options[option]) for seed in (seeds if self.random else seeds[:1])
        ]
        return mean_scorer([_distribution(model, self.powers[power]) for model in fitted])

    def _entry(self) -> BaselineEntry:
        return BaselineEntry(baseline(self.baseline), self.budget)

    def _work(self, bench: TableData) -> Work:
        return bench.work(self.out / "rows" / self.baseline)

    def _fitted(self, bench: TableData, moment: Moment, seed: int, option: dict[str, Any]) -> ScoreRecommender:
        """Fitted once for all rows that ask for it."""
        entry = self._entry()
        settings = entry.settings_of(entry.chosen(bench, self._work(bench)))
        settings = dataclasses.replace(settings, **option) if option else settings
        place = (moment, seed, repr(plain(settings)))
        found = self._kept.get(place)
        if found is None or found[0] is not bench.dataset:
            model = entry.fitted(bench, moment, seed, settings)
            if not isinstance(model, ScoreRecommender):
                raise RequestError(f"Baseline {self.baseline!r} has no scores of all items, so it cannot be mixed.")
            found = self._kept[place] = (bench.dataset, model)
        return found[1]


def _distribution(model: ScoreRecommender, power: float) -> Scorer:
    def score(states: Sequence[State]) -> FloatArray:
        return model.distribution(states, power)

    return score
