"""Popularity: the same ranking for everybody, by the number of training clicks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from llmrec.baselines.base import ScoreRecommender, item_counts
from llmrec.dataset.store import Dataset
from llmrec.types import FloatArray, State


class Popularity(ScoreRecommender):
    """Scores an item by how often it was clicked in training."""

    name = "popularity"

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self.count_N = item_counts(events, dataset.n_items)

    def score(self, states: Sequence[State]) -> FloatArray:
        """The items' click counts for every state, shape (B, N)."""
        return np.tile(self.count_N, (len(states), 1))
