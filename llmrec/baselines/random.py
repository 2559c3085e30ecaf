"""Random: every order of the catalogue equally likely; the floor of every table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from llmrec.baselines.base import ScoreRecommender
from llmrec.dataset.store import Dataset
from llmrec.types import FloatArray, State


class Random(ScoreRecommender):
    """Scores all items alike, so that the fair order of ties decides (and tie-aware metrics are exact)."""

    name = "random"

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        """Nothing to learn."""

    def score(self, states: Sequence[State]) -> FloatArray:
        """Zeros, shape (B, N)."""
        return np.zeros((len(states), self.n_items))
