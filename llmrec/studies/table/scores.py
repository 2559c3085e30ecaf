"""Baselines as parts of the table's mixtures: they score the whole catalogue.

A part may take several forms (settings, a power of its scores): which one is best is found on the validation rows
together with the weights of the mixture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrec.baselines.base import ScoreRecommender
from llmrec.baselines.registry import baseline
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError
from llmrec.pipeline.work import Work
from llmrec.policy.mixture import Scorer, Scores
from llmrec.studies.table.entries import BaselineEntry, plain
from llmrec.studies.table.policies import FIRST
from llmrec.studies.table.protocol import Moment, TableData
from llmrec.studies.views import RefittedScores


@dataclass(frozen=True)
class ScorePart:
    """A baseline of the registry with the settings of its own row.

    Attributes:
        name: as in the registry.
        out: where the table is kept; the settings are chosen (and kept) as for the baseline's own row.
        budget: as for that row.
        powers: of the scores, see `ScoreRecommender.distribution`.
        options: values of settings in place of the chosen ones, each with every power.
        chosen: settings as a kept row names them, where nothing is to be chosen any more.
    """

    name: str
    out: Path
    budget: float = 1.0
    powers: tuple[float, ...] = (1.0,)
    options: tuple[dict[str, Any], ...] = ({},)
    chosen: Any = None
    _kept: dict[Any, tuple[Dataset, ScoreRecommender]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def random(self) -> bool:
        """Whether seeds differ."""
        return baseline(self.name).random

    @property
    def forms(self) -> list[dict[str, Any]]:
        """Values of settings, and the power, in every form."""
        return [{**option, "power": power} for option in self.options for power in self.powers]

    def settings(self, bench: TableData) -> Any:
        """The settings of the baseline's own row, as plain values."""
        if self.chosen is not None:
            return self.chosen
        return self._entry.chosen(bench, self._work(bench))["settings"]

    def key(self, bench: TableData) -> dict[str, Any]:
        """What decides its scores beside data, seed and form."""
        chosen = self.settings(bench)
        forms = {"powers": self.powers, "options": self.options}
        return {"baseline": self.name, "chosen": chosen, **forms, **baseline(self.name).named}

    def made(self, bench: TableData, moment: Moment, form: int, seeds: Sequence[int]) -> Scorer:
        """Its distribution in one form; the mean of those of several seeds."""
        option = {**self.forms[form]}
        power = option.pop("power")
        settings = self._entry.settings_of({"settings": self.settings(bench)})
        settings = dataclasses.replace(settings, **option) if option else settings
        models = [self._fitted(bench, moment, seed, settings) for seed in (seeds if self.random else (FIRST,))]
        if not self._entry.reads_text:
            return Scores(tuple(models), power)
        again = [self._entry.refitting(bench, moment, model, settings) for model in models]
        return RefittedScores(lambda dataset: Scores(tuple(fit(dataset) for fit in again), power), bench.dataset)

    def _work(self, bench: TableData) -> Work:
        """That of the baseline's own row."""
        return bench.work(self.out / "rows" / self.name)

    @property
    def _entry(self) -> BaselineEntry:
        return BaselineEntry(baseline(self.name), self.budget)

    def _fitted(self, bench: TableData, moment: Moment, seed: int, settings: Any) -> ScoreRecommender:
        """Fitted once for all rows that ask for it; networks once for all commands."""
        place = (bench.fitting(moment), seed, repr(plain(settings)))
        found = self._kept.get(place)
        if found is None or found[0] is not bench.dataset:
            model = self._entry.fitted(bench, moment, seed, settings, self._work(bench))
            if not isinstance(model, ScoreRecommender):
                raise RequestError(f"Baseline {self.name!r} has no scores of all items, so it cannot be mixed.")
            found = self._kept[place] = (bench.dataset, model)
        return found[1]
