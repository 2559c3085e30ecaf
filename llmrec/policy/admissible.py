"""Which items may stand at the next place of a slate whose whole is bounded, so that its end is as good as any.

A slate that is drawn place by place obeys caps and floors where each place is drawn among the items with which the
rest can still be filled as well as it could be: with as little lacking of the floors as can be, and of these slates
as many items as can be (`slates` has the order). What is closed once stays closed, since whatever goes on from more
items goes on from fewer as well; and where anything is open at all there is a best slate that begins like this one,
so every draw ends in one.

Items of the same groups differ in nothing here, so the question is asked of kinds of items, and by counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.policy.slates import Group, choose, groups_of
from llmrec.types import BoolArray, IntArray

_Counts = tuple[int, ...]


@dataclass(frozen=True)
class Admissible:
    """What bounds on a slate leave for its next place. Make it by `of`.

    Attributes:
        kind_N: the kind of each item.
        member_TG: of which groups each of the T kinds is.
        low_G: floors, 0 where a group has none.
        high_G: caps, the slate's places where a group has none.
        places: of the slate.
    """

    kind_N: IntArray
    member_TG: BoolArray
    low_G: IntArray
    high_G: IntArray
    places: int

    @classmethod
    def of(cls, filters: Filters, attributes: Attributes, places: int) -> Admissible:
        """For slates of so many places under the bounds of `filters`; its other parts are not looked at.

        Raises:
            RequestError: a bound on an unknown group, or one that cannot be.
        """
        attributes.check(filters)
        items = len(attributes.price_N)
        groups = groups_of(filters, attributes, np.arange(items), places)
        if not groups:
            none = np.zeros(0, dtype=np.int64)
            return cls(np.zeros(items, dtype=np.int64), np.zeros((1, 0), dtype=np.bool_), none, none, places)
        member_NG = np.stack([group.member_C for group in groups], axis=1)
        kinds, kind_N = np.unique(member_NG, axis=0, return_inverse=True)
        low_G = np.array([group.low for group in groups], dtype=np.int64)
        high_G = np.array([places if group.high is None else group.high for group in groups], dtype=np.int64)
        return cls(kind_N.ravel().astype(np.int64), kinds, low_G, high_G, places)

    @classmethod
    def of_each(cls, filters: Sequence[Filters], attributes: Attributes, places: int) -> list[Admissible]:
        """One for each filter; equal bounds share it. Raises as `of` does."""
        made: dict[Filters, Admissible] = {}
        found = []
        for wish in filters:
            bounds = Filters(max_per_category=wish.max_per_category, bounds=wish.bounds)
            if bounds not in made:
                made[bounds] = cls.of(bounds, attributes, places)
            found.append(made[bounds])
        return found

    def next_N(self, above: Sequence[int], allowed_N: BoolArray) -> BoolArray:
        """Which items may stand below those `above`: bool (N,), all false where the slate is complete.

        Args:
            above: the items of the places that are filled, drawn by this same rule.
            allowed_N: items that may be shown at all.
        """
        open_N = allowed_N.copy()
        open_N[list(above)] = False
        left = self.places - len(above)
        if left < 1:
            return np.zeros_like(open_N)
        used_G = self.member_TG[self.kind_N[list(above)]].sum(axis=0)
        low_G, high_G = np.maximum(self.low_G - used_G, 0), self.high_G - used_G
        count_T = np.bincount(self.kind_N[open_N], minlength=len(self.member_TG))
        fits_T = (count_T > 0) & ~(self.member_TG & (high_G < 1)).any(axis=1)
        if low_G.any() or not self._apart:
            fits_T = self._reaching(fits_T, count_T, low_G, high_G, left)
        next_N: BoolArray = open_N & fits_T[self.kind_N]
        return next_N

    @property
    def _apart(self) -> bool:
        """Whether no item is under two caps: then whatever fits may be taken, and slates end equally long."""
        capped_G = self.high_G < self.places
        return bool((self.member_TG[:, capped_G].sum(axis=1) <= 1).all())

    def _reaching(
        self, fits_T: BoolArray, count_T: IntArray, low_G: IntArray, high_G: IntArray, left: int
    ) -> BoolArray:
        """Of the kinds that fit those after which the rest can be as good as it could have been."""
        member = tuple(map(tuple, self.member_TG.tolist()))

        def best(taken: int | None) -> tuple[int, int]:
            own_T, own_G, places = count_T, np.zeros_like(low_G), left
            if taken is not None:
                own_T, own_G, places = count_T.copy(), self.member_TG[taken].astype(np.int64), left - 1
                own_T[taken] -= 1
            counts = tuple(np.minimum(own_T, places).tolist())
            lows, highs = np.maximum(low_G - own_G, 0), np.clip(high_G - own_G, 0, places)
            lacks, more = _best(member, counts, tuple(lows.tolist()), tuple(highs.tolist()), places)
            return lacks, more + (taken is not None)

        aim, found_T = best(None), fits_T.copy()
        for kind in np.flatnonzero(fits_T).tolist():
            found_T[kind] = best(kind) == aim
        return found_T


@lru_cache(maxsize=20_000)
def _best(
    member: tuple[tuple[bool, ...], ...], counts: _Counts, lows: _Counts, highs: _Counts, places: int
) -> tuple[int, int]:
    """What the best slate of so many places lacks of its floors, and how many items it has.

    Args:
        member: of which groups each kind is.
        counts: items of each kind, at most `places`.
        lows: floors of the groups.
        highs: caps, `places` where there is none.
        places: of the slate.
    """
    if not places:
        return sum(lows), 0
    kind_C = np.repeat(np.arange(len(counts)), counts)
    member_CG = np.array(member, dtype=np.bool_)[kind_C]
    groups = [Group(member_CG[:, g], low=low) for g, low in enumerate(lows) if low]
    groups += [Group(member_CG[:, g], high=high) for g, high in enumerate(highs) if high < places]
    # without floors or caps nothing is to be chosen
    chosen = choose(np.zeros(len(kind_C)), groups, places) if groups and len(kind_C) else np.arange(len(kind_C))
    chosen = chosen[:places]
    has_G = member_CG[chosen].sum(axis=0)
    return int(np.maximum(np.array(lows) - has_G, 0).sum()), len(chosen)
