"""What measures beyond accuracy know about items: how often training chose them, their texts and their categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import scipy.sparse as sp
from scipy import stats

from llmrec.baselines.base import history_weights, item_counts, positives
from llmrec.baselines.likeness import DENSE_ITEMS, text_vectors
from llmrec.dataset.store import Dataset
from llmrec.types import FloatArray, State


@dataclass(frozen=True)
class ItemFacts:
    """Facts of the N items of a catalogue, from training events only.

    Attributes:
        count_N: training clicks (by the manifest's rule).
        users_N: training users who clicked it at least once.
        users: training users with a click.
        text_NV: TF-IDF rows of unit length, or of zeros for an item without a known term.
        category_NC: an item's weight in each of C categories, rows sum to 1 (0 without a category).
    """

    count_N: FloatArray
    users_N: FloatArray
    users: int
    text_NV: sp.csr_matrix
    category_NC: sp.csr_matrix

    @classmethod
    def of(cls, dataset: Dataset, train: pl.DataFrame) -> ItemFacts:
        """The facts by the events that a system was trained on."""
        clicks = positives(dataset, train)
        return cls(
            item_counts(clicks, dataset.n_items),
            item_counts(clicks.unique(["user", "item"]), dataset.n_items),
            clicks["user"].n_unique(),
            text_vectors(dataset),
            categories(dataset.items["categories"].to_list()),
        )

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.count_N)

    @cached_property
    def share_N(self) -> FloatArray:
        """Share of the training users who clicked an item."""
        return np.asarray(self.users_N / max(1, self.users))

    @cached_property
    def percentile_N(self) -> FloatArray:
        """(items clicked less often + half of the equally often clicked ones) / N."""
        return np.asarray((stats.rankdata(self.count_N) - 0.5) / self.n_items)

    @cached_property
    def surprisal_N(self) -> FloatArray:
        """-log2 of the smoothed share of users, log2((users + 1) / (users of the item + 1)), in bits."""
        return np.asarray(np.log2((self.users + 1.0) / (self.users_N + 1.0)))

    @cached_property
    def cosine_NN(self) -> FloatArray | None:
        """Cosines of all texts, where the catalogue is small enough to keep them."""
        if self.n_items > DENSE_ITEMS:
            return None
        text_NV = self.text_NV.astype(np.float32)
        return np.asarray((text_NV @ text_NV.T).toarray())

    def past(self, states: Sequence[State]) -> sp.csr_matrix:
        """How often each item stands in each state's history and session, sparse (B, N)."""
        return history_weights(states, self.n_items, 1.0)


def categories(names: Sequence[Sequence[str]]) -> sp.csr_matrix:
    """Items by categories, sparse (N, C): each of an item's distinct categories weighs the same."""
    distinct = [list(dict.fromkeys(n for n in row if n)) for row in names]
    column = {name: c for c, name in enumerate(dict.fromkeys(n for row in distinct for n in row))}
    rows = [r for r, row in enumerate(distinct) for _ in row]
    weights = [1.0 / len(row) for row in distinct for _ in row]
    columns = [column[name] for row in distinct for name in row]
    return sp.csr_matrix((weights, (rows, columns)), shape=(len(distinct), len(column)), dtype=np.float64)
