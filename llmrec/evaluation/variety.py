"""How far a system's lists differ between users: whether everybody is shown the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.evaluation.ranking import coverage, slates_to_items
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray, Slate

ALL_ALIKE = 0.9
"""Share of the users with one list, or of two users' items in common, from which on all have one list."""
PAIRS = 10_000
"""Pairs of users whose lists are compared."""


@dataclass(frozen=True, slots=True)
class Variety:
    """The first K places of the lists of B users, each taken as a set.

    Attributes:
        k: K.
        users: B.
        n_items: N, the size of the catalogue.
        coverage: share of the catalogue that stands in at least one list.
        distinct: how many different lists there are.
        commonest: share of the users who have the most common list.
        overlap: share of their items that two users have in common, on average over pairs; 1 for a single user.
    """

    k: int
    users: int
    n_items: int
    coverage: float
    distinct: int
    commonest: float
    overlap: float

    @classmethod
    def of(cls, slates: Sequence[Slate], n_items: int, k: int, seed: int = 0) -> Variety:
        """Counts over one list for each user; pairs are drawn from the stream "variety"."""
        items_BK = np.sort(slates_to_items(slates, k), axis=1)
        _, count = np.unique(items_BK, axis=0, return_counts=True)
        shown = coverage(items_BK, n_items, k)
        return cls(
            k, len(slates), n_items, shown, len(count), float(count.max() / len(slates)), _overlap(items_BK, seed)
        )

    @property
    def one_for_all(self) -> bool:
        """Whether there is one list for everybody: 90% of the users have it, or two users share 90% of their items.

        What lists share by chance alone (K of N items) is taken off, so that a small catalogue is not blamed; with
        one user or one possible list nothing is said.
        """
        if self.users < 2 or self.n_items <= self.k:
            return False
        # Two random lists of K of N items share K / N of theirs; only what goes beyond that says that lists are
        # alike.
        chance = self.k / self.n_items
        return self.commonest >= ALL_ALIKE or (self.overlap - chance) / (1 - chance) >= ALL_ALIKE

    def __str__(self) -> str:
        lists = f"{self.distinct:,} different list{'s' if self.distinct != 1 else ''}"
        shown = f"coverage@{self.k} {self.coverage:.1%}"
        return f"{lists} for {self.users:,} users, {shown}, two users share {self.overlap:.0%} of their items"


@dataclass(frozen=True, slots=True)
class Change:
    """What people see of a change: the first K places of the lists of B users before and after it.

    Attributes:
        k: K.
        users: B.
        other_top: users whose first item is another one.
        stayed: items of a list that stayed in it, on average.
        popular: share of the places with an item of the most chosen tenth of the catalogue, before and after.
    """

    k: int
    users: int
    other_top: int
    stayed: float
    popular: tuple[float, float]

    @classmethod
    def of(cls, before: Sequence[Slate], after: Sequence[Slate], count_N: FloatArray, k: int) -> Change:
        """Compares the lists of the same users; `count_N` tells how often each item was chosen."""
        lists = [slates_to_items(slates, k) for slates in (before, after)]
        one_BK, two_BK = lists
        # whether an item of the first list stands anywhere in the second
        same_BK = ((one_BK[:, :, None] == two_BK[:, None, :]) & (one_BK >= 0)[:, :, None]).any(axis=2)
        tenth = max(1, len(count_N) // 10)
        popular_N = np.zeros(len(count_N), dtype=bool)
        popular_N[np.argsort(-count_N, kind="stable")[:tenth]] = True
        one, two = (
            float(popular_N[items_BK].mean(where=items_BK >= 0)) if (items_BK >= 0).any() else 0.0
            for items_BK in lists
        )
        other = int((one_BK[:, 0] != two_BK[:, 0]).sum())
        return cls(k, len(one_BK), other, float(same_BK.sum(axis=1).mean()), (one, two))

    def sentence(self, before: str, after: str) -> str:
        """What it means for people, with the names of both systems."""
        if not self.other_top and self.stayed >= self.k:
            return f"For people nothing changes from {before} to {after}: everybody is shown the same items."
        one, two = self.popular
        return (
            f"For people, from {before} to {after}: {self.other_top:,} of {self.users:,} see another item at the "
            "top, "
            f"{self.stayed:.1f} of the {self.k} items in their list stay, and the most chosen tenth of the catalogue "
            f"takes {two:.0%} of the places instead of {one:.0%}."
        )


def _overlap(items_BK: IntArray, seed: int) -> float:
    """Mean share of a pair's common items in the longer of its lists; two empty lists are the same."""
    count = len(items_BK)
    if count < 2:
        return 1.0
    stream = numpy_stream(seed, "variety")
    a_P = stream.integers(count, size=PAIRS)
    # Anybody but the first: a user shares all with themselves.
    b_P = (a_P + stream.integers(1, count, size=PAIRS)) % count
    one_PK, two_PK = items_BK[a_P], items_BK[b_P]
    same_P = ((one_PK[:, :, None] == two_PK[:, None, :]) & (one_PK >= 0)[:, :, None]).any(axis=2).sum(axis=1)
    longer_P = np.maximum((one_PK >= 0).sum(axis=1), (two_PK >= 0).sum(axis=1))
    return float(np.where(longer_P > 0, same_P / np.maximum(longer_P, 1), 1.0).mean())
