"""Content-based filtering: items whose texts resemble those of the user's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp

from llmrec.baselines.base import POPULARITY, ScoreRecommender, item_counts
from llmrec.baselines.likeness import TextLikeness, text_vectors
from llmrec.baselines.memory import Memory
from llmrec.dataset.store import Dataset
from llmrec.types import FloatArray, State


@dataclass(frozen=True, kw_only=True)
class ContentSettings:
    """`history_decay`: weight of an item of the history relative to the one after it."""

    history_decay: float = 0.8


class ContentProfile(ScoreRecommender):
    """Scores an item by its text's likeness to the user's profile, the decayed mean of TF-IDF vectors (Rocchio).

    With w_i proportional to history_decay^k (k = 0 for the latest) and summing to one,
    score(j) = sum_i w_i cos(text_i, text_j) + 0.001 log(1 + count of j); an item's likeness to itself counts as 0.

    Args:
        settings: the decay.
        seed: run seed, for the order of items of equal score.
    """

    name = "content"
    scoring = frozenset({"history_decay"})

    def __init__(self, settings: ContentSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or ContentSettings()

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self.count_N = item_counts(events, dataset.n_items)
        self.memory = Memory(events, dataset.n_items, dataset.manifest.click)
        self.text = TextLikeness(text_vectors(dataset))

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores by the formula, shape (B, N)."""
        weights_BN = self.memory.weights(states, self.settings.history_decay)
        total_B = np.asarray(weights_BN.sum(axis=1)).ravel()
        mean_BN = sp.diags(1.0 / np.where(total_B > 0, total_B, 1.0)) @ weights_BN
        return self.text.sum(sp.csr_matrix(mean_BN)) + POPULARITY * np.log1p(self.count_N)
