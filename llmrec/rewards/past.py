"""What users did before, as flat arrays, and the items' categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrec.errors import DataError
from llmrec.types import FloatArray, IntArray, Item, State


def past_items(states: Sequence[State], *, chosen: bool = False) -> tuple[IntArray, IntArray]:
    """Rows of `states` and items of all interactions of history and session, oldest first: shapes (M,), (M,).

    With `chosen` those that were only shown are left out.
    """
    if chosen:
        found = [[i.item for i in (*s.history, *s.session) if i.feedback != "impression"] for s in states]
    else:
        found = [[i.item for i in (*s.history, *s.session)] for s in states]
    row_M = np.repeat(np.arange(len(found)), [len(items) for items in found])
    return row_M, np.array([item for items in found for item in items], dtype=np.int64)


def latest_items(states: Sequence[State], window: int) -> IntArray:
    """The last `window` items of history and session, oldest first, padded with -1 on the left: (B, W)."""
    table_BW = np.full((len(states), window), -1, dtype=np.int64)
    for line, state in zip(table_BW, states, strict=True):
        last = (*state.history, *state.session)[-window:]
        if last:
            line[-len(last) :] = [i.item for i in last]
    return table_BW


@dataclass(frozen=True, eq=False)
class Categories:
    """The categories of N items; an item without any is in the category "".

    Attributes:
        names: Category names; `codes_NJ` indexes them, padded with -1.
        count_N: Number of categories of each item, 1 or more.
    """

    names: tuple[str, ...]
    codes_NJ: IntArray
    count_N: IntArray

    @classmethod
    def of(cls, items: Sequence[Item], name: str, by: Literal["category", "brand"] = "category") -> Categories:
        """From the items' categories or brands; `DataError`, naming the reward `name`, where all are of one."""
        own = [(item.brand,) if by == "brand" else tuple(dict.fromkeys(item.categories)) or ("",) for item in items]
        names = sorted({category for categories in own for category in categories})
        if len(names) < 2:
            raise DataError(
                f"Reward {name!r} needs items of different {by}, but all have the same one or none; set "
                "reward.group_by to the other of category and brand or remove the term."
            )
        code = {category: k for k, category in enumerate(names)}
        count_N = np.array([len(categories) for categories in own], dtype=np.int64)
        codes_NJ = np.full((len(own), int(count_N.max())), -1, dtype=np.int64)
        for line, categories in zip(codes_NJ, own, strict=True):
            line[: len(categories)] = [code[category] for category in categories]
        return cls(tuple(names), codes_NJ, count_N)

    def distribution(self, row_M: IntArray, item_M: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """p(category | row): the mean over a row's items of 1/n for each of an item's n categories.

        Args:
            row_M: Row of each item, ascending.
            item_M: Item indices.

        Returns:
            Row, category and probability of every pair above 0, ascending: shapes (P,).
        """
        codes_MJ = self.codes_NJ[item_M]
        m_Q, _ = np.nonzero(codes_MJ >= 0)
        # one number for (row, category), so that one count does for all rows
        key_Q = row_M[m_Q] * len(self.names) + codes_MJ[codes_MJ >= 0]
        sum_X = np.bincount(key_Q, 1.0 / self.count_N[item_M][m_Q])
        key_P = np.flatnonzero(sum_X)
        row_P, code_P = np.divmod(key_P, len(self.names))
        return row_P, code_P, sum_X[key_P] / np.bincount(row_M)[row_P]
