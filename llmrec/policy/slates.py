"""Slates that obey bounds on the whole: caps, floors, and a maximum per category.

Which item a bound takes away depends on the items above it, so no filter of single items can do it. What is returned
is, among all slates of at most k allowed items that no cap forbids, by this order:

1. the one that lacks the fewest items of its floors (a floor that there are not enough items or places for is met as
   far as it goes),
2. of these one with the most items,
3. of these the one with the greatest sum of scores; log pi for a policy.

With caps on groups that do not overlap this is a walk down the exact order that takes what still fits (such slates
are the independent sets of a partition matroid, so greed is optimal). In general it is dynamic programming over kinds
of items: items of the same groups differ by their scores alone, so of each kind the best are taken, and all that
decides is how many. Group by group the count is kept while kinds of it are still to come.

Items are read from lists in exact order, as far as it takes to prove that none further down would do better: those
that were not read stand as *promises*, which are as good as the last item read, are of any floor group that an item
could be of, and meet no cap. Where the best slate holds no promise it is the best slate of all; where it does, the
list that the promise stands for is read on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.types import BoolArray, FloatArray, IntArray, Slate

Found: TypeAlias = list[tuple[int, float]]
"""Items with their scores, best first."""
LEAST = -1e6
"""Stands for a score of -inf, which no sum could be told from."""
_TIE = 1e-12
"""By how much a promise is worth less than the item it is judged by: of equals what was read is taken."""
_AHEAD = 2
"""How many times the places of a slate are read at once."""


class Source(Protocol):
    """The items of B states in exact order, as far as they are asked for."""

    def following(self, states: Sequence[int], count: int) -> list[Found]:
        """The next `count` items of some states; fewer where no more are left."""
        ...


@dataclass(frozen=True)
class Group:
    """A bound on the items of a pool. `member_C`: whether each is of the group."""

    member_C: BoolArray
    low: int = 0
    high: int | None = None


def groups_of(filters: Filters, attributes: Attributes, items_C: IntArray, k: int) -> list[Group]:
    """The bounds that `filters` lay on a slate of k of these items; those that cannot matter are left out."""
    found = []
    for bound in filters.bounds:
        member_C = attributes.group(bound.group)[items_C]
        if bound.low:
            found.append(Group(member_C, low=bound.low))
        if bound.high is not None and bound.high < min(k, int(member_C.sum())):
            found.append(Group(member_C, high=bound.high))
    most = filters.max_per_category
    if most is not None and most < k:
        category_C = attributes.main_category_N[items_C]
        names, count = np.unique(category_C[category_C >= 0], return_counts=True)
        found += [Group(category_C == name, high=most) for name in names[count > most]]
    return found


def choose(score_C: FloatArray, groups: Sequence[Group], k: int) -> IntArray:
    """Places of the best slate of at most k, best first; see the module for what is best.

    Of equally good slates one with items that stand further ahead is taken, kind by kind.

    Args:
        score_C: scores in falling order.
        groups: bounds.
        k: places.
    """
    caps, floors = ([group for group in groups if bool(group.low) == low] for low in (False, True))
    first_K = np.arange(min(k, len(score_C)))
    apart = len(caps) < 2 or (np.sum([group.member_C for group in caps], axis=0) <= 1).all()
    # without the floors the walk is the best there is; where it meets them, it is so with them
    walked_K = _walked(caps, len(score_C), k) if apart else first_K
    meets = all(group.member_C[walked_K].sum() >= group.low for group in floors)
    if meets and (apart or all(group.member_C[first_K].sum() <= (group.high or 0) for group in caps)):
        return walked_K
    return _by_kinds(np.maximum(score_C, LEAST), groups, k)


def _walked(caps: Sequence[Group], size: int, k: int) -> IntArray:
    """Every item that still fits, from the first on."""
    kept_C = np.ones(size, dtype=np.bool_)
    for cap in caps:
        kept_C &= ~cap.member_C | (np.cumsum(cap.member_C) <= (cap.high or 0))
    return np.flatnonzero(kept_C)[:k]


_State: TypeAlias = tuple[int, tuple[int, ...]]
"""Items so far, and the counts of the groups that are open."""


def _by_kinds(score_C: FloatArray, groups: Sequence[Group], k: int) -> IntArray:
    """By dynamic programming over the items' kinds."""
    member_CG = np.stack([group.member_C for group in groups], axis=1)
    kinds, kind_C = np.unique(member_CG, axis=0, return_inverse=True)
    places = [np.flatnonzero(kind_C.ravel() == n)[:k] for n in range(len(kinds))]
    last_G = [max(n for n, kind in enumerate(kinds) if kind[g]) if kinds[:, g].any() else -1
              for g in range(len(groups))]  # fmt: skip
    # By items and open counts: what floors lack that are closed, less the sum, and how many of each kind were taken.
    best: dict[_State, tuple[int, float, tuple[int, ...]]] = {(0, (0,) * len(groups)): (0, 0.0, ())}
    for n, kind in enumerate(kinds):
        of_kind = [g for g in range(len(groups)) if kind[g]]
        sums = np.concatenate([[0.0], np.cumsum(score_C[places[n]])]).tolist()
        further: dict[_State, tuple[int, float, tuple[int, ...]]] = {}
        for (taken, counts), (lacking, less, before) in best.items():
            room = min(k - taken, len(sums) - 1)
            for g in of_kind:
                if (high := groups[g].high) is not None:
                    room = min(room, high - counts[g])
            for more in range(room + 1):
                now = list(counts)
                for g in of_kind:
                    # beyond a floor all counts are alike
                    now[g] = now[g] + more if groups[g].high is not None else min(now[g] + more, groups[g].low)
                lacks = lacking
                for g, last in enumerate(last_G):
                    if last == n:
                        lacks += max(groups[g].low - now[g], 0)
                        now[g] = 0
                key, value = (taken + more, tuple(now)), (lacks, less - sums[more], (*before, more))
                if key not in further or value[:2] < further[key][:2]:
                    further[key] = value
        best = further
    _, _, _, counts_S = min((lacks, -taken, less, chosen) for (taken, _), (lacks, less, chosen) in best.items())
    return np.sort(np.concatenate([places[n][:count] for n, count in enumerate(counts_S)]).astype(np.int64))


@dataclass
class _List:
    """What was read of one list of one state."""

    found: Found = field(default_factory=list)
    ended: bool = False

    @property
    def last(self) -> float:
        """The most that an item which was not read can have."""
        return self.found[-1][1] if self.found else np.inf


class _Pool:
    """What was read for one state: the list of all that is allowed, and one of each floor's group."""

    def __init__(self, filters: Filters, attributes: Attributes, k: int) -> None:
        self.filters, self.attributes, self.k = filters, attributes, k
        self.floors = [bound.group for bound in filters.bounds if bound.low]
        self.lists: dict[str | None, _List] = {name: _List() for name in (None, *self.floors)}
        # which floors' groups an item may be of: the ways that there are in the catalogue
        self.patterns = np.zeros((1, 0), dtype=np.bool_)
        if self.floors:
            self.patterns = np.unique(np.stack([attributes.group(name) for name in self.floors], 1), axis=0)

    def _named(self, pattern: BoolArray) -> list[str]:
        return [name for name, there in zip(self.floors, pattern, strict=True) if there]

    def read(self, name: str | None, found: Found, count: int) -> None:
        """Adds what follows in a list when `count` items were asked for."""
        self.lists[name].found += found
        self.lists[name].ended = len(found) < count

    def slate(self) -> tuple[Slate, set[str | None]]:
        """The best slate of what was read, and the lists that have to be read on before it is the best of all."""
        scores: dict[int, float] = {}
        for one in self.lists.values():
            for item, score in one.found:
                scores.setdefault(item, score)
        promised: list[tuple[float, BoolArray]] = []
        if not self.lists[None].ended:
            for pattern in self.patterns:
                own = [self.lists[name] for name in self._named(pattern)]
                if not any(one.ended for one in own):  # whoever is of an ended list was read
                    last = min(one.last for one in (self.lists[None], *own))
                    promised.append((last - _TIE * max(1.0, abs(last)), pattern))
        items_C = np.array(list(scores), dtype=np.int64)
        score_C = np.array([*scores.values(), *np.repeat([p for p, _ in promised], self.k)], dtype=np.float64)
        real = len(items_C)
        order_C = np.argsort(-score_C, kind="stable")
        groups, floor = [], 0
        for group in groups_of(self.filters, self.attributes, items_C, self.k):
            promise = np.zeros(len(score_C) - real, dtype=np.bool_)
            if group.low:
                promise = np.repeat([bool(pattern[floor]) for _, pattern in promised], self.k).astype(np.bool_)
                floor += 1
            groups.append(Group(np.concatenate([group.member_C, promise])[order_C], group.low, group.high))
        chosen = order_C[choose(score_C[order_C], groups, self.k)]
        wanting: set[str | None] = set()
        for place in chosen[chosen >= real]:
            pattern = promised[(place - real) // self.k][1]
            # the list of a floor gets there sooner; an item of no floor is in the list of all alone
            wanting |= set(self._named(pattern)) or {None}
        kept = chosen[chosen < real]
        return Slate(tuple(items_C[kept].tolist()), tuple(score_C[kept].tolist())), wanting


def bounded_slates(
    main: Source,
    floor: Callable[[str], Source],
    filters_B: Sequence[Filters],
    attributes: Attributes,
    k: int,
) -> list[Slate]:
    """The best slate of each state that obeys the bounds of its filters.

    Args:
        main: lists of all items that are allowed, bounds apart.
        floor: the same lists of the items of one group, which find what a floor asks for far down.
        filters_B: what is asked of each state.
        attributes: names the groups.
        k: places.
    """
    pools = [_Pool(filters, attributes, k) for filters in filters_B]
    sources: dict[str | None, Source] = {None: main}
    wanting: list[set[str | None]] = [set(pool.lists) for pool in pools]
    slates: list[Slate] = [Slate((), ())] * len(pools)
    depth = _AHEAD * k
    while any(wanting):
        # floors first: they are short, and what they read need not be read again
        for name in sorted({name for own in wanting for name in own}, key=lambda name: (name is None, name or "")):
            asked = [b for b, own in enumerate(wanting) if name in own and not pools[b].lists[name].ended]
            if not asked:
                continue
            if name not in sources:
                sources[name] = floor(name or "")
            count = depth if name is None else depth // _AHEAD
            for b, found in zip(asked, sources[name].following(asked, count), strict=True):
                pools[b].read(name, found, count)
        for b, pool in enumerate(pools):
            if wanting[b]:
                slates[b], wanting[b] = pool.slate()
        depth *= 2
    return slates


class Again:
    """Lists of a ranker that gives no more than it is asked for: asked again for twice as many.

    Args:
        ask: the first so many items of some states in exact order, with their scores.
        states: how many there are.
        n_items: of the catalogue.
        passes_BN: items of the list that count; None: all of them.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[int], int], Sequence[Slate]],
        states: int,
        n_items: int,
        passes_BN: BoolArray | None = None,
    ) -> None:
        self._ask, self._n_items, self._passes_BN = ask, n_items, passes_BN
        self._given, self._asked = [0] * states, [0] * states
        self._lists: list[Found] = [[] for _ in range(states)]
        self._ended = [False] * states

    def following(self, states: Sequence[int], count: int) -> list[Found]:
        """See `Source`."""
        while short := [b for b in states if not self._ended[b] and len(self._lists[b]) < self._given[b] + count]:
            depth = min(max(2 * max(self._asked[b] for b in short), count), self._n_items)
            for b, slate in zip(short, self._ask(short, depth), strict=True):
                pairs = zip(slate.items_K, slate.log_probs_K, strict=True)
                kept = None if self._passes_BN is None else self._passes_BN[b]
                self._lists[b] = [(i, p) for i, p in pairs if kept is None or kept[i]]
                self._asked[b] = depth
                self._ended[b] = len(slate.items_K) < depth or depth == self._n_items
        out = []
        for b in states:
            out.append(self._lists[b][self._given[b] : self._given[b] + count])
            self._given[b] += len(out[-1])
        return out
