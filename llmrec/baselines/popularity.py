"""The same ranking for everybody: random, or by the number of training clicks, all of them or the recent ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.baselines.base import ScoreRecommender, item_counts
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.types import FloatArray, State

DAY = 86400.0


class Random(ScoreRecommender):
    """Scores all items alike, so that the fair order of ties decides (and tie-aware metrics are exact)."""

    name = "random"

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        """Nothing to learn."""

    def score(self, states: Sequence[State]) -> FloatArray:
        """Zeros, shape (B, N)."""
        return np.zeros((len(states), self.n_items))


class Popularity(ScoreRecommender):
    """Scores an item by how often it was clicked in training."""

    name = "popularity"

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self.count_N = item_counts(events, dataset.n_items)

    def score(self, states: Sequence[State]) -> FloatArray:
        """The items' click counts for every state, shape (B, N)."""
        return np.tile(self.count_N, (len(states), 1))


@dataclass(frozen=True, kw_only=True)
class RecentPopularitySettings:
    """`half_life` in days: a click of that age counts half."""

    half_life: float = 30.0

    def __post_init__(self) -> None:
        if not self.half_life > 0:
            raise ConfigError(f"half_life is {self.half_life}; give a number of days above 0.")


class RecentPopularity(ScoreRecommender):
    """Popularity with exponential forgetting: score(i | t) = sum of 2^(-(t - t_e) / half-life) over clicks e of i.

    t is the state's time, and only clicks before it count; a state without a time, or after training, is scored as
    of the last training click (a later t would scale all scores alike).

    Args:
        settings: the half-life.
        seed: run seed, for the order of items of equal score.
    """

    name = "recent-popularity"

    def __init__(self, settings: RecentPopularitySettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or RecentPopularitySettings()

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        ordered = events.sort("time")
        self._items, self._times = ordered["item"].to_numpy(), ordered["time"].to_numpy()

    def score(self, states: Sequence[State]) -> FloatArray:
        """Decayed click counts before each state, shape (B, N)."""
        ends = [self._before(state.time) for state in states]
        rows = {end: self._counts(end) for end in set(ends)}
        return np.stack([rows[end] for end in ends]) if ends else np.empty((0, self.n_items))

    def _before(self, time: int | None) -> int:
        """How many training clicks came before `time`."""
        return len(self._times) if time is None else int(np.searchsorted(self._times, time, side="left"))

    def _counts(self, end: int) -> FloatArray:
        if not end:
            return np.zeros(self.n_items)
        # Relative to the last click before the state: decaying further would scale all counts alike.
        age = (self._times[end - 1] - self._times[:end]) / (DAY * self.settings.half_life)
        counts: FloatArray = np.bincount(self._items[:end], np.exp2(-age), self.n_items).astype(np.float64)
        return counts
