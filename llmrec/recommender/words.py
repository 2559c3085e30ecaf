"""Items that a prompt's words name come before the others; within both the policy decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from llmrec.catalogue.filters import Filters
from llmrec.errors import RequestError
from llmrec.policy.language_policy import Certified
from llmrec.text.free_prompt import Resolved
from llmrec.text.named import Named, NameWords, asks_alike
from llmrec.training.likeness import Likeness
from llmrec.types import BoolArray, FloatArray, Item, Slate

Tiers = tuple[tuple[str, ...], ...]
Decode = Callable[[Sequence[int], int, Sequence[Filters]], Sequence[Certified]]


class Lookup:
    """Looks up in a catalogue what a prompt names.

    Args:
        items: the catalogue in item-index order.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items, self.names = items, NameWords(items)
        self.item_ids = [item.item_id for item in items]
        self.price_N = np.array([np.nan if item.price is None else item.price for item in items], dtype=np.float64)

    @cached_property
    def likeness(self) -> Likeness:
        """Which items are like an item, by what is written of them; most prompts do not ask."""
        return Likeness(self.items)

    def find(self, prompt: str, read: Resolved, may_N: BoolArray) -> tuple[tuple[str, ...], Tiers]:
        """The words of a prompt that counted, and the items that come first for them; neither where they choose none.

        Args:
            prompt: whose words without titles are looked up, and titles, where it asks for what is like them.
            read: the same prompt as it was read, bounds of price among its wishes.
            may_N: which items may be shown.
        """
        named = self.names.find(read.rest)
        bounds = [(wish.text, self.price_N <= wish.most) for wish in read.wishes if wish.most is not None]
        for text, within_N in bounds:  # NaN, no price, is within no bound
            named = named.with_price(text, within_N)
        if read.matches and asks_alike(prompt):
            # "like X but cheaper" means the like of X among what is cheaper
            among_N = np.logical_and.reduce([within_N for _, within_N in bounds]) if bounds else None
            near = {int(row) for match in read.matches for row in self.likeness.of(match.item, among_N)}
            named = named.with_like([match.title for match in read.matches], sorted(near))
        tiers = tiers_of(named, may_N, self.item_ids)
        return (named.words, tiers) if tiers else ((), ())


def tiers_of(named: Named, may_N: BoolArray, item_ids: Sequence[str]) -> Tiers:
    """Ids of the items that a prompt names, those that it names best first.

    The first tier has most of the facts that are named and, among its items, most of the words of titles; the second
    the others with as many facts; the third those with fewer, or with words of the title alone.

    Args:
        named: what a prompt names.
        may_N: which items may be shown; the others are in no tier.
        item_ids: of the catalogue, in item-index order.

    Returns:
        Up to three tiers, never with all that may be shown; none where nothing is named, or everything alike.
    """
    named_N = may_N & ((named.facts_N > 0) | (named.titles_N > 0))
    if not named_N.any():
        return ()
    most_N = named_N & _highest(named.facts_N, named_N)
    best_N = most_N & _highest(named.titles_N, most_N)
    parts = [part_N for part_N in (best_N, most_N & ~best_N, named_N & ~most_N) if part_N.any()]
    if (named_N == may_N).all():  # where every item is named, those that are named least are the others
        parts.pop()
    return tuple(tuple(item_ids[int(row)] for row in np.flatnonzero(part_N)) for part_N in parts)


def _highest(score_N: FloatArray, among_N: BoolArray) -> BoolArray:
    # sums of the same words in another order differ in their last digit
    high_N: BoolArray = score_N >= score_N[among_N].max() * (1 - 1e-9)
    return high_N


def in_tiers(
    decode: Decode, k: int, filters_B: Sequence[Filters | None], tiers_B: Sequence[Tiers]
) -> list[Certified]:
    """Lists of k items: those of the first tier, best first, then those of the next, at last all others.

    Args:
        decode: the lists of some of the requests (their rows, items wanted, what must hold).
        k: items wanted.
        filters_B: what each request asks for; bounds on the slate cannot be met tier by tier.
        tiers_B: of each request; their items pass its filter.

    Returns:
        A list for each request. It is proven where each of its parts is; nothing is said of what stands outside.

    Raises:
        RequestError: what is asked first of a request, its first tier or, without tiers, all of it, holds no item.
    """
    found_B: list[Certified | None] = [None] * len(tiers_B)

    def fill(rows: Sequence[int], wishes: Sequence[Filters]) -> None:
        short = [row for row in rows if len(_items(found_B[row])) < k]
        if not short:
            return
        asked = dict(zip(rows, wishes, strict=True))
        most = k - min(len(_items(found_B[row])) for row in short)
        try:
            found = decode(short, most, [asked[row] for row in short])
        except RequestError:
            # one of them is left nothing; what it has already is its list
            if len(short) > 1:
                for row in short:
                    fill([row], [asked[row]])
            elif found_B[short[0]] is None:
                raise
            return
        for row, more in zip(short, found, strict=True):
            found_B[row] = _joined(found_B[row], more, k)

    plain = [filters or Filters() for filters in filters_B]
    for turn in range(max(map(len, tiers_B), default=0)):
        rows = [row for row, tiers in enumerate(tiers_B) if len(tiers) > turn]
        fill(rows, [replace(plain[row], candidates=tiers_B[row][turn]) for row in rows])
    named_B = [[item_id for tier in tiers for item_id in tier] for tiers in tiers_B]
    others = [
        replace(wish, exclude=tuple(dict.fromkeys((*wish.exclude, *named))))
        for wish, named in zip(plain, named_B, strict=True)
    ]
    fill(range(len(tiers_B)), others)
    return [one for one in found_B if one is not None]


def _items(one: Certified | None) -> tuple[int, ...]:
    return () if one is None else tuple(one.slate.items_K)


def _joined(first: Certified | None, more: Certified, k: int) -> Certified:
    if first is None:
        first = replace(more, slate=Slate((), ()), proven=True)
    items = (*first.slate.items_K, *more.slate.items_K)[:k]
    log_probs = (*first.slate.log_probs_K, *more.slate.log_probs_K)[:k]
    return replace(first, slate=Slate(items, log_probs), proven=first.proven and more.proven, bound=None)
