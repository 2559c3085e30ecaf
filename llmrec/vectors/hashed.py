"""Short texts as dense vectors: hashed TF-IDF of words and word pairs, then a truncated SVD.

Hashing needs no stored vocabulary, so a saved model is arrays only, and an item or a profile that was never met
still gets a vector. Chinese is read character by character (pairs of characters act as words).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from llmrec.types import FloatArray

BUCKETS = 2**14
_TOKEN = r"(?u)[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+"


def _counts(texts: Sequence[str]) -> Any:
    hashing = HashingVectorizer(
        # No signs: sublinear term frequency takes logarithms, which need counts of 0 and up. Collisions of 2^14
        # buckets only blur.
        n_features=BUCKETS,
        ngram_range=(1, 2),
        token_pattern=_TOKEN,
        alternate_sign=False,
        norm=None,
    )
    return hashing.transform(texts)


class TextSpace:
    """A fitted text encoder: `encode(texts) -> (n, dimension)` float32, rows of length at most 1.

    Args:
        idf_V: Inverse document frequency of each hash bucket, shape (V,).
        components_DV: Right singular vectors of the fitted texts, shape (D, V).
    """

    def __init__(self, idf_V: FloatArray, components_DV: FloatArray) -> None:
        self.idf_V, self.components_DV = idf_V, components_DV
        self._cache: dict[str, FloatArray] = {}

    @classmethod
    def fit(cls, texts: Sequence[str], dimension: int, seed: int) -> TextSpace:
        """Fits on the distinct non-empty `texts`; unused dimensions (too few texts) are zero."""
        distinct = sorted({text for text in texts if text.strip()})
        components_DV = np.zeros((dimension, BUCKETS), dtype=np.float32)
        if not distinct:
            return cls(np.ones(BUCKETS, dtype=np.float32), components_DV)
        counts = _counts(distinct)
        frequency_V = np.bincount(counts.indices, minlength=BUCKETS)
        idf_V = (np.log((1 + len(distinct)) / (1 + frequency_V)) + 1).astype(np.float32)
        # The decomposition needs more texts than dimensions.
        rank = min(dimension, len(distinct) - 1)
        if rank >= 1:
            # Latent semantic analysis (Deerwester et al. 1990): words that share texts fall together, so an item is
            # near others without sharing a word.
            svd = TruncatedSVD(rank, algorithm="randomized", n_iter=4, random_state=seed % 2**32)
            svd.fit(_weighted(counts, idf_V))
            components_DV[:rank] = svd.components_
        return cls(idf_V, components_DV)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.components_DV.shape[0])

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of `texts`, shape (n, dimension); texts met before are looked up."""
        fresh = list({text for text in texts if text not in self._cache})
        if fresh:
            if len(self._cache) > 200_000:
                self._cache.clear()
                # Nothing that was cached counts any more, so all texts of this call are encoded anew.
                fresh = list(dict.fromkeys(texts))
            vectors = _weighted(_counts(fresh), self.idf_V) @ self.components_DV.T
            self._cache.update(zip(fresh, np.asarray(vectors, dtype=np.float32), strict=True))
        return np.stack([self._cache[text] for text in texts]) if texts else np.zeros((0, self.dimension), np.float32)


def _weighted(counts: Any, idf_V: FloatArray) -> csr_matrix:
    weighted = counts.astype(np.float32)
    weighted.data = 1 + np.log(weighted.data)  # sublinear term frequency
    return cast(csr_matrix, normalize(weighted @ diags(idf_V)))
