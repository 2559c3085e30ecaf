"""Nearest neighbours: items like those of the history, and users like the one asking.

Items are compared as documents whose terms are the users who clicked them (Sarwar et al. 2001; Deshpande and
Karypis 2004), so the weight of a term says how much one user's click tells:

    cosine  1
    tfidf   idf_u = log(N) - log(1 + clicks of u), at least 0: who clicks everything says little
    bm25    idf_u (K1 + 1) / (K1 (1 - B + B n_i / mean n) + 1) with K1 = 1.2, B = 0.75, n_i the clicks of item i
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl
import scipy.sparse as sp

from llmrec.baselines.base import POPULARITY, ScoreRecommender, item_counts
from llmrec.baselines.memory import Memory
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.types import FloatArray, State

Weighting = Literal["cosine", "tfidf", "bm25"]
UserWeighting = Literal["cosine", "tfidf"]
BLOCK = 1024
"""Items whose likenesses are computed at a time."""
K1, B = 1.2, 0.75


@dataclass(frozen=True, kw_only=True)
class ItemKNNSettings:
    """Parameters of `ItemKNN`.

    Attributes:
        k: neighbours kept of each item.
        shrink: added to the product of norms, so that likenesses seen on few users count less; bm25 has no norms.
        weighting: how much a click tells (see above).
        history_decay: weight of an item of the history relative to the one after it.
    """

    k: int = 100
    shrink: float = 0.0
    weighting: Weighting = "cosine"
    history_decay: float = 0.8

    def __post_init__(self) -> None:
        _check(self.k, self.shrink)
        if self.weighting not in get_args(Weighting):
            options = ", ".join(get_args(Weighting))
            raise ConfigError(f"weighting of item-knn is {self.weighting!r}; choose one of {options}.")


@dataclass(frozen=True, kw_only=True)
class UserKNNSettings:
    """Parameters of `UserKNN`.

    Attributes:
        k: neighbours that vote.
        shrink: added to the product of norms.
        weighting: "cosine", or "tfidf" to compare users mostly by their rare items.
        history_decay: weight of an item of the history relative to the one after it.
    """

    k: int = 100
    shrink: float = 10.0
    weighting: UserWeighting = "cosine"
    history_decay: float = 1.0

    def __post_init__(self) -> None:
        _check(self.k, self.shrink)
        if self.weighting not in get_args(UserWeighting):
            raise ConfigError(f"weighting of user-knn is {self.weighting!r}; choose cosine or tfidf.")


class ItemKNN(ScoreRecommender):
    """score(j) = sum over the history's items i of history_decay^k S[i, j], plus 0.001 log(1 + count of j).

    S holds the likenesses of each item i to its k most similar items, 0 on the diagonal: the inner product of the
    weighted columns of the interaction matrix, divided by (the product of their norms + shrink) for cosine and
    tfidf. Of equally similar items at the border the one with the lower index is kept.

    Args:
        settings: parameters.
        seed: run seed, for the order of items of equal score.
    """

    name = "item-knn"
    scoring = frozenset({"history_decay"})

    def __init__(self, settings: ItemKNNSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or ItemKNNSettings()

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self.count_N = item_counts(events, dataset.n_items)
        self.memory = Memory(events, dataset.n_items, dataset.manifest.click)
        self.likeness_NN = item_likeness(self.memory.matrix_UN, self.settings)

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores by the formula, shape (B, N)."""
        weights_BN = self.memory.weights(states, self.settings.history_decay)
        return np.asarray((weights_BN @ self.likeness_NN).toarray() + POPULARITY * np.log1p(self.count_N))


class UserKNN(ScoreRecommender):
    """score(j) = sum over the k training users u most like the state of sim(state, u) [u clicked j].

    sim is the inner product of the (decayed, weighted) profiles divided by (the product of their norms + shrink).
    Neighbours are found from the state's items, so users that training never saw are served too; a training user is
    no neighbour of their own. Items that no neighbour clicked are ordered by 0.001 log(1 + count).

    Args:
        settings: parameters.
        seed: run seed, for the order of items of equal score.
    """

    name = "user-knn"
    scoring = frozenset({"k", "shrink", "history_decay"})

    def __init__(self, settings: UserKNNSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or UserKNNSettings()

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self.count_N = item_counts(events, dataset.n_items)
        self.memory = Memory(events, dataset.n_items, dataset.manifest.click)
        matrix_UN = self.memory.matrix_UN
        self.weight_N: FloatArray = np.ones(dataset.n_items)
        if self.settings.weighting == "tfidf":
            users_N = np.asarray(matrix_UN.sum(axis=0)).ravel()
            self.weight_N = _idf(matrix_UN.shape[0], users_N)
        self.weighted_UN = sp.csr_matrix(matrix_UN @ sp.diags(self.weight_N))
        self.norm_U = _norms(self.weighted_UN)

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores by the formula, shape (B, N)."""
        votes_BN = (self._neighbours(states) @ self.memory.matrix_UN).toarray()
        return np.asarray(votes_BN + POPULARITY * np.log1p(self.count_N))

    def _neighbours(self, states: Sequence[State]) -> sp.csr_matrix:
        """Similarities to the k nearest training users, sparse (B, U)."""
        profile_BN = self.memory.weights(states, self.settings.history_decay) @ sp.diags(self.weight_N)
        product_BU = sp.csr_matrix(profile_BN @ self.weighted_UN.T)
        similar_BU = _cosine(product_BU, _norms(sp.csr_matrix(profile_BN)), self.norm_U, self.settings.shrink)
        for row, state in enumerate(states):
            low, high = similar_BU.indptr[row : row + 2]
            # A training user's own row is the nearest of all and would only repeat what they chose.
            similar_BU.data[low:high][similar_BU.indices[low:high] == self.memory.row(state)] = 0.0
        return strongest_columns(similar_BU, self.settings.k)


def item_likeness(matrix_UN: sp.csr_matrix, settings: ItemKNNSettings) -> sp.csr_matrix:
    """S of `ItemKNN`, sparse (N, N), from the binary interactions (U, N)."""
    weighted_NU = weighted_items(sp.csr_matrix(matrix_UN.T), settings.weighting)
    norm_N, turned_UN = _norms(weighted_NU), sp.csr_matrix(weighted_NU.T)
    blocks = []
    # The product of all items with all would be dense in popular ones; k neighbours of a block at a time are kept.
    for start in range(0, weighted_NU.shape[0], BLOCK):
        block_CN = sp.csr_matrix(weighted_NU[start : start + BLOCK] @ turned_UN)
        if settings.weighting != "bm25":
            block_CN = _cosine(block_CN, norm_N[start : start + BLOCK], norm_N, settings.shrink)
        row_C = np.repeat(np.arange(block_CN.shape[0]), np.diff(block_CN.indptr))
        block_CN.data[block_CN.indices == row_C + start] = 0.0
        blocks.append(strongest_columns(block_CN, settings.k))
    return sp.csr_matrix(sp.vstack(blocks))


def weighted_items(matrix_NU: sp.csr_matrix, weighting: Weighting) -> sp.csr_matrix:
    """Binary rows of items with each click weighted by the table above, (N, U)."""
    if weighting == "cosine":
        return matrix_NU
    n_items = matrix_NU.shape[0]
    weighted_NU = sp.csr_matrix(matrix_NU @ sp.diags(_idf(n_items, np.asarray(matrix_NU.sum(axis=0)).ravel())))
    if weighting == "tfidf":
        return weighted_NU
    clicks_N = np.asarray(matrix_NU.sum(axis=1)).ravel()
    # An item that everybody clicked is a long document: a click on it says less.
    length_N = 1.0 - B + B * clicks_N / max(float(clicks_N.mean()), 1e-12)
    return sp.csr_matrix(sp.diags((K1 + 1.0) / (K1 * length_N + 1.0)) @ weighted_NU)


def strongest_columns(matrix: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """The k largest positive entries of each row; of equal ones those in the lower columns."""
    matrix.eliminate_zeros()
    matrix.sort_indices()
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, row))  # stable: equal entries keep the order of their columns
    place = np.arange(len(order)) - matrix.indptr[row[order]]
    kept = order[(place < k) & (matrix.data[order] > 0)]
    return sp.csr_matrix((matrix.data[kept], (row[kept], matrix.indices[kept])), shape=matrix.shape)


def _cosine(product: sp.csr_matrix, norm_rows: FloatArray, norm_columns: FloatArray, shrink: float) -> sp.csr_matrix:
    found = product.tocoo()
    norms = norm_rows[found.row] * norm_columns[found.col] + shrink
    data = np.divide(found.data, norms, out=np.zeros_like(found.data), where=norms > 0)
    return sp.csr_matrix((data, (found.row, found.col)), shape=product.shape)


def _norms(matrix: sp.csr_matrix) -> FloatArray:
    norms: FloatArray = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return norms


def _idf(documents: int, count: FloatArray) -> FloatArray:
    idf: FloatArray = np.maximum(np.log(max(documents, 1)) - np.log1p(count), 0.0)
    return idf


def _check(k: int, shrink: float) -> None:
    if k < 1 or shrink < 0:
        raise ConfigError(f"k is {k} and shrink {shrink}; give at least one neighbour and a shrink of 0 or more.")
