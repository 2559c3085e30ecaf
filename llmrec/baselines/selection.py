"""Settings chosen on the validation part: the same rule and a stated budget for every baseline.

Each setting of a grid is fitted on the training events and ranked by NDCG@k on the validation examples, ties counted
as their expectation. The caller then fits the chosen settings again on training and validation events together.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import polars as pl

from llmrec.baselines.base import BATCH, FittableRanker, exclude
from llmrec.baselines.ties import expected_gain, ndcg_gain, target_places
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.progress import track
from llmrec.types import Example, IntArray

S = TypeVar("S")


@dataclass(frozen=True)
class TriedSettings(Generic[S]):
    """One setting: its NDCG@k on the validation examples, or None where it was not tried."""

    settings: S
    ndcg: float | None
    seconds: float = 0.0


@dataclass(frozen=True)
class Selection(Generic[S]):
    """What was chosen, and the figures of all settings in the order of the grid."""

    settings: S
    ndcg: float
    k: int
    trials: tuple[TriedSettings[S], ...]

    @property
    def untried(self) -> tuple[S, ...]:
        """Settings that the budget, or a search that does not try all, left out."""
        return tuple(trial.settings for trial in self.trials if trial.ndcg is None)


@runtime_checkable
class GridScorer(Protocol):
    """A recommender that ranks a whole grid faster than setting by setting."""

    def grid_ndcg(
        self,
        dataset: Dataset,
        events: pl.DataFrame,
        valid: Sequence[Example],
        excluded: Sequence[Sequence[int] | IntArray],
        options: Sequence[Any],
        k: int,
    ) -> dict[Any, float]:
        """NDCG@k on `valid` of each option that was tried, when fitted on `events`."""
        ...


def select(
    make: Callable[[S], FittableRanker],
    grid: Iterable[S],
    dataset: Dataset,
    events: pl.DataFrame,
    valid: Sequence[Example],
    *,
    seen: Sequence[IntArray] | None = None,
    k: int = 10,
    budget_seconds: float | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Selection[S]:
    """Fits every setting of `grid` on `events` and picks the best NDCG@k on `valid`; the first of equals wins.

    Settings are tried in their order. The first is always tried; a later one only while the time spent plus the
    longest trial so far fits the budget, so that the budget is kept wherever trials take alike. Settings that differ
    only in what scoring reads share one fit. A grid that a recommender ranks in one pass (`GridScorer`) is one trial.

    Args:
        make: an unfitted recommender from settings.
        grid: settings to choose from.
        dataset: items, texts and the manifest's rules.
        events: training events only.
        valid: examples of the validation part.
        seen: item indices excluded for each example where the manifest excludes repeats; by default those in its
            state.
        k: the cut-off, at most the catalogue's size.
        budget_seconds: for all trials together, by `clock`; None sets no limit.
        clock: seconds, only differences matter; by default CPU seconds of this process, so that a busy machine tries
            the same settings as a quiet one.

    Raises:
        DataError: no validation example or an empty grid.
    """
    options = list(grid)
    if not valid or not options:
        raise DataError("Selecting settings needs a validation example and a grid of settings.")
    excluded = excluded_items(dataset, valid, seen)
    k = min(k, dataset.n_items)
    model = make(options[0])
    start = clock()
    if isinstance(model, GridScorer):
        figures = model.grid_ndcg(dataset, events, valid, excluded, options, k)
        share = (clock() - start) / max(1, len(figures))
        return _best([TriedSettings(o, figures.get(o), share if o in figures else 0.0) for o in options], k)
    fitted: tuple[S, FittableRanker] | None = None
    trials: list[TriedSettings[S]] = []
    for option in track(options, f"Selecting settings of {model.name}"):
        longest = max((trial.seconds for trial in trials), default=0.0)
        begin = clock()
        if trials and budget_seconds is not None and begin - start + longest > budget_seconds:
            trials.append(TriedSettings(option, None))
            continue
        fitted = (option, _fitted(make, option, fitted, dataset, events))
        figure = validation_ndcg(fitted[1], valid, excluded, k)
        trials.append(TriedSettings(option, figure, clock() - begin))
    return _best(trials, k)


def excluded_items(
    dataset: Dataset, valid: Sequence[Example], seen: Sequence[IntArray] | None
) -> Sequence[Sequence[int] | IntArray]:
    """Items that may not be recommended for each example: none where the manifest allows repeats.

    Raises:
        DataError: `seen` does not have one entry an example.
    """
    if dataset.manifest.repeat != "exclude":
        return [()] * len(valid)
    if seen is not None and len(seen) != len(valid):
        raise DataError(f"{len(valid)} validation examples need {len(valid)} lists of seen items, not {len(seen)}.")
    return seen if seen is not None else [e.state.seen() for e in valid]


def validation_ndcg(
    model: FittableRanker, valid: Sequence[Example], excluded: Sequence[Sequence[int] | IntArray], k: int
) -> float:
    """Mean NDCG@k of the targets of `valid`, as the expectation over the orders of equal scores."""
    total = 0.0
    for start in range(0, len(valid), BATCH):
        batch = valid[start : start + BATCH]
        scores_BN = exclude(model.score([e.state for e in batch]), excluded[start : start + BATCH])
        places = target_places(scores_BN, np.array([e.target for e in batch], dtype=np.int64))
        total += float(expected_gain(*places, ndcg_gain(k)).sum())
    return total / len(valid)


def _fitted(
    make: Callable[[S], FittableRanker],
    option: S,
    last: tuple[S, FittableRanker] | None,
    dataset: Dataset,
    events: pl.DataFrame,
) -> FittableRanker:
    """The last fitted recommender where only its scoring changes, otherwise a newly fitted one."""
    if last is not None and _differ_in(last[0], option) <= getattr(last[1], "scoring", frozenset()):
        last[1].settings = option  # type: ignore[attr-defined]
        return last[1]
    return make(option).fit(dataset, events)


def _differ_in(one: Any, other: Any) -> set[str]:
    if not dataclasses.is_dataclass(one) or type(one) is not type(other):
        return {"everything"}
    return {f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(other, f.name)}


def _best(trials: Sequence[TriedSettings[S]], k: int) -> Selection[S]:
    best = max((trial for trial in trials if trial.ndcg is not None), key=lambda trial: trial.ndcg or 0.0)
    assert best.ndcg is not None
    return Selection(best.settings, best.ndcg, k, tuple(trials))
