"""Which items are like an item, by what is written of them: what a request that names a title asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from llmrec.types import BoolArray, IntArray, Item
from llmrec.vectors import WordSpace, item_text, unspaced

NEAREST = 10
"""So many items at most count as like an item,"""
ENOUGH = 0.5
"""and only those at least half as like it as the nearest one: a small category does not reach into others."""
CATEGORIES_SHARE = 0.75
"""Of the likeness of items that have categories; the rest is that of their words."""
FIRST = 2.0
"""How much more an item's first category counts than its others: catalogues name the kind of an item first."""


class Likeness:
    """The nearest items of each item: cosine of their categories (weighed by rarity) and of their words.

    Categories come first, since two items that share a maker or a turn of phrase are not alike by that; words decide
    among those of a category, and alone where there are no categories.

    Args:
        items: the catalogue in item-index order.
        nearest: how many items are like an item.
    """

    def __init__(self, items: Sequence[Item], nearest: int = NEAREST) -> None:
        self.nearest = nearest
        texts = [item_text(item) for item in items]
        words_NV = normalize(WordSpace.fit(texts, characters=unspaced(texts)).rows_NV)
        categories_NC = _categories(items)
        share = CATEGORIES_SHARE if categories_NC.nnz else 0.0
        # one product of rows is the weighted sum of both cosines
        rows = [np.sqrt(share) * categories_NC, np.sqrt(1 - share) * words_NV]
        self._rows_NV = sp.csr_matrix(sp.hstack(rows))
        self._columns_VN = self._rows_NV.T.tocsr()
        self._known: dict[int, IntArray] = {}

    def of(self, item: int, among_N: BoolArray | None = None) -> IntArray:
        """The items most like `item`, best first, without itself; fewer where others share nothing with it.

        Args:
            item: by index.
            among_N: the items that are looked among, (N,) bool; by default all.
        """
        if among_N is not None:
            return self._nearest(item, among_N)
        if item not in self._known:
            # only for items that are asked about: all pairs of a large catalogue would take hours
            self._known[item] = self._nearest(item, None)
        return self._known[item]

    def _nearest(self, item: int, among_N: BoolArray | None) -> IntArray:
        found = (self._rows_NV[item] @ self._columns_VN).tocoo()
        other = (found.col != item) & (found.data > 0)
        if among_N is not None:
            other &= among_N[found.col]
        items, likeness = found.col[other].astype(np.int64), found.data[other]
        # ties by index, so that no order of summation decides
        order = np.lexsort((items, -likeness.round(9)))[: self.nearest]
        nearest: IntArray = items[order[likeness[order] >= ENOUGH * likeness.max(initial=0.0)]]
        return nearest


def _categories(items: Sequence[Item]) -> sp.csr_matrix:
    """Unit rows of categories (N, C), each weighed by how rare it is, the first of an item `FIRST` times."""
    column: dict[str, int] = {}
    entries = [
        (row, column.setdefault(name, len(column)), FIRST if place == 0 else 1.0)
        for row, item in enumerate(items)
        for place, name in enumerate(dict.fromkeys(item.categories))
    ]
    if not entries:
        return sp.csr_matrix((len(items), 1))
    rows, columns, weights = (np.array(part) for part in zip(*entries, strict=True))
    held_C = np.bincount(columns, minlength=len(column))
    rarity_C = np.log((1 + len(items)) / (1 + held_C)) + 1e-9
    return normalize(sp.csr_matrix((weights * rarity_C[columns], (rows, columns)), shape=(len(items), len(column))))
