"""How alike two items' texts are (TF-IDF cosine, without the item itself), and filtering by that alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from llmrec.baselines.base import POPULARITY, ScoreRecommender, item_counts
from llmrec.baselines.memory import Memory
from llmrec.dataset.store import Dataset
from llmrec.types import FloatArray, State

DENSE_ITEMS = 5000
"""Up to this catalogue size all likenesses are kept (100 MB); above, they are computed for each batch."""

_VECTORS: WeakKeyDictionary[Dataset, sp.csr_matrix] = WeakKeyDictionary()


class TextLikeness:
    """T[i, j]: cosine of the TF-IDF vectors of items i and j, 0 on the diagonal.

    Args:
        text_NV: rows of unit length (or of zeros), sparse (N, V).
    """

    def __init__(self, text_NV: sp.csr_matrix) -> None:
        self.text_NV = text_NV
        self._own_N = np.asarray(text_NV.multiply(text_NV).sum(axis=1)).ravel()
        self._dense_NN: FloatArray | None = None
        if text_NV.shape[0] <= DENSE_ITEMS:
            dense_NN = (text_NV.astype(np.float32) @ text_NV.T.astype(np.float32)).toarray()
            np.fill_diagonal(dense_NN, 0.0)
            self._dense_NN = dense_NN

    def sum(self, weights_BN: sp.csr_matrix) -> FloatArray:
        """The weighted sum of T's rows, dense (B, N)."""
        if self._dense_NN is not None:
            return np.asarray(weights_BN.astype(np.float32) @ self._dense_NN)
        sum_BN = ((weights_BN @ self.text_NV) @ self.text_NV.T).toarray()
        own_BN = weights_BN.multiply(self._own_N).tocoo()  # what the diagonal of T would add
        sum_BN[own_BN.row, own_BN.col] -= own_BN.data
        return np.asarray(sum_BN)


def text_vectors(dataset: Dataset) -> sp.csr_matrix:
    """TF-IDF rows of unit length (N, V) of "title title brand description"; a row of zeros where no term is left.

    Chinese is not written with spaces between words, so there the terms are characters and pairs of them. The rows
    are computed once for each data set object; do not change them.
    """
    if dataset not in _VECTORS:
        _VECTORS[dataset] = _text_vectors(dataset)
    return _VECTORS[dataset]


def _text_vectors(dataset: Dataset) -> sp.csr_matrix:
    columns = dataset.items.select(pl.col("title", "brand", "description").fill_null(""))
    texts = [f"{title} {title} {brand} {description}" for title, brand, description in columns.iter_rows()]
    analyzer = "char" if dataset.manifest.language == "zh" else "word"
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, analyzer=analyzer)
    try:
        return sp.csr_matrix(vectorizer.fit_transform(texts))
    except ValueError:  # a handful of items may share no term at all
        return sp.csr_matrix((len(texts), 1), dtype=np.float64)


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
        # A mean and not a sum: a long history is no stronger taste.
        mean_BN = sp.diags(1.0 / np.where(total_B > 0, total_B, 1.0)) @ weights_BN
        return self.text.sum(sp.csr_matrix(mean_BN)) + POPULARITY * np.log1p(self.count_N)
