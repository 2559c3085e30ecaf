"""Texts as TF-IDF rows over the terms of given texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

_CHARACTERS = 0.3
"""Share of letters of scripts without spaces above which terms are characters."""
_LOOKED_AT = 200


class WordSpace:
    """TF-IDF with sublinear term frequencies over single terms and pairs of neighbours.

    Chinese and Japanese are not written with spaces between words; there the terms are characters and their pairs.

    Attributes:
        rows_NV: the fitted texts, sparse; rows of unit length, or of zeros where no term is left.
    """

    def __init__(self, rows_NV: sp.csr_matrix, vectorizer: Any | None) -> None:
        self.rows_NV, self._vectorizer = rows_NV, vectorizer

    @classmethod
    def fit(cls, texts: Sequence[str], *, characters: bool, least: Sequence[int] = (2,)) -> Self:
        """Learns the terms of `texts`.

        Args:
            texts: those whose rows are kept.
            characters: whether terms are characters rather than words.
            least: texts that must share a term for it to count; the next of them where it leaves no term at all.
        """
        for min_df in least:
            vectorizer = TfidfVectorizer(
                sublinear_tf=True, ngram_range=(1, 2), min_df=min_df, analyzer="char" if characters else "word"
            )
            try:
                return cls(sp.csr_matrix(vectorizer.fit_transform(texts)), vectorizer)
            except ValueError:  # a handful of texts may share no term, or have none
                continue
        return cls(sp.csr_matrix((len(texts), 1), dtype=np.float64), None)

    def encode(self, texts: Sequence[str]) -> sp.csr_matrix:
        """Other texts in the same space, (n, V): what they say in unknown terms is not heard."""
        if self._vectorizer is None or not len(texts):
            return sp.csr_matrix((len(texts), self.rows_NV.shape[1]), dtype=np.float64)
        return sp.csr_matrix(self._vectorizer.transform(texts))


def unspaced(texts: Sequence[str]) -> bool:
    """Whether the texts are mostly in a script that puts no spaces between words."""
    letters = [c for c in "".join(texts[:_LOOKED_AT]) if c.isalpha()]
    return sum("\u3040" <= c <= "\u9fff" for c in letters) > _CHARACTERS * len(letters)
