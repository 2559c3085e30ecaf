"""Filters of requests turned into what decoding understands, and slates that obey a maximum per category.

Requests that ask for the same attributes share one dense filter, which is counted once and kept; what differs by
user (seen items, candidates) is added for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed, ItemFilter
from llmrec.catalogue.filters import Attributes, Filters
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError
from llmrec.policy.best_first import BestFirst
from llmrec.types import BoolArray, IntArray, State

_KEPT = 64
_AHEAD = 2
"""How many times the places still open are asked for at once when a slate is filled under a maximum."""


@dataclass
class FilterBook:
    """Turns `Filters` into `Allowed` for one index.

    Attributes:
        index: the catalogue's prefix index.
        attributes: what filters look at.
    """

    index: PrefixIndex
    attributes: Attributes
    _dense: dict[Filters, ItemFilter] = field(default_factory=dict)

    def set_attributes(self, attributes: Attributes) -> None:
        """Takes other attributes (new stock, new prices) and forgets what was counted for the old ones."""
        self.attributes = attributes
        self._dense.clear()

    def group(self, filters: Filters) -> tuple[Any, ...]:
        """Requests with equal groups can be decoded in one batch."""
        return (filters.attributes, filters.candidates is not None, filters.max_per_category is not None)

    def left_out(self, filters: Filters) -> IntArray:
        """Item indices that the filter takes away one by one."""
        return self.attributes.indices(filters.exclude, "exclude")

    def allowed(self, filters_B: Sequence[Filters], exclude_BE: Tensor | None) -> Allowed | None:
        """What is left for each request of one group.

        Args:
            filters_B: filters of one group.
            exclude_BE: item indices to leave out, those of `left_out` among them, padded with -1.

        Raises:
            RequestError: a filter that cannot be read, or that leaves a request nothing; it names both.
        """
        for filters in filters_B:
            self.attributes.check(filters)
        candidates = None
        if filters_B[0].candidates is not None:
            rows = [self.attributes.indices(filters.candidates or (), "candidates") for filters in filters_B]
            candidates = torch.from_numpy(padded(rows))
        allowed = self.index.allowed(exclude_BE, dense=self._filter(filters_B[0]), candidates_BC=candidates)
        self._require_items(filters_B, allowed)
        return allowed

    def _filter(self, filters: Filters) -> ItemFilter | None:
        kept = filters.attributes
        if kept is None:
            return None
        if kept not in self._dense:
            if len(self._dense) >= _KEPT:
                self._dense.pop(next(iter(self._dense)))
            self._dense[kept] = self.index.item_filter(torch.from_numpy(self.attributes.passes(kept)))
        return self._dense[kept]

    def _require_items(self, filters_B: Sequence[Filters], allowed: Allowed | None) -> None:
        users = torch.arange(len(filters_B), device=self.index.device)
        open_B = self.index.is_allowed(torch.zeros_like(users), users, allowed)
        if not bool(open_B.all()):
            raise nothing_left(filters_B[int(open_B.long().argmin())])


@dataclass(frozen=True)
class FilteredCatalogue:
    """What the requests of B states leave of the catalogue, batch by batch.

    Attributes:
        book: reads filters.
        wishes_B: each state's filter; empty where none was asked for.
        exclude_BE: item indices to leave out, padded with -1; None where there are none.
    """

    book: FilterBook
    wishes_B: list[Filters]
    exclude_BE: Tensor | None

    @classmethod
    def of(cls, book: FilterBook, wishes_B: list[Filters], exclude_BE: Tensor | None) -> FilteredCatalogue:
        """Adds what the filters leave out one by one to what is left out as seen."""
        if not wishes_B:
            return cls(book, wishes_B, exclude_BE)
        rows = [book.left_out(wish) for wish in wishes_B]
        if exclude_BE is not None:
            rows = [np.union1d(row, more[more >= 0]) for row, more in zip(rows, exclude_BE.numpy(), strict=True)]
        return cls(book, wishes_B, torch.from_numpy(padded(rows)))

    @property
    def groups_B(self) -> list[Any]:
        """States with equal groups can be decoded in one batch; empty where all can."""
        return [self.book.group(wish) for wish in self.wishes_B]

    def filters(self, part: Sequence[int]) -> list[Filters]:
        """The filters of some states."""
        return [self.wishes_B[b] for b in part] if self.wishes_B else []

    def allowed(self, part: Sequence[int]) -> Allowed | None:
        """What is left for some states of one group."""
        left_out = None if self.exclude_BE is None else self.exclude_BE[list(part)]
        wishes = self.filters(part)
        return self.book.allowed(wishes, left_out) if wishes else self.book.index.allowed(left_out)

    def require_no_maximum(self) -> None:
        """Raises `RequestError` for a maximum per category, which only a whole slate can obey."""
        if any(wish.max_per_category is not None for wish in self.wishes_B):
            raise RequestError("max_per_category bounds a recommended slate; leave it out to draw or to score items.")


def one_each(filters: Filters | Sequence[Filters] | None, states: int) -> list[Filters]:
    """A filter for each state; empty where none was asked for.

    Raises:
        RequestError: another number of filters.
    """
    wishes = [filters] * states if isinstance(filters, Filters) else list(filters or ())
    if len(wishes) not in (0, states):
        raise RequestError(f"{len(wishes)} filters were given for {states} states; give one, or one for each.")
    return wishes


def nothing_left(wish: Filters) -> RequestError:
    """Says that a filter leaves nothing."""
    return RequestError(f"The filter ({wish}) leaves no item after what is left out as seen; ask for less.")


def passing(attributes: Attributes, wishes_B: Sequence[Filters]) -> BoolArray:
    """The items that pass each filter, (B, N).

    Raises:
        RequestError: a filter that cannot be read.
    """
    passes_BN = np.stack([attributes.passes(wish) for wish in wishes_B])
    for passes_N, wish in zip(passes_BN, wishes_B, strict=True):
        if wish.candidates is not None:
            passes_N &= np.isin(np.arange(len(passes_N)), attributes.indices(wish.candidates, "candidates"))
        passes_N[attributes.indices(wish.exclude, "exclude")] = False
    return passes_BN


def bounded(category_C: IntArray, most: int) -> IntArray:
    """Places of items in order that stand when no category may come more than `most` times; -1 is no category."""
    counts: dict[int, int] = {}
    kept = []
    for place, category in enumerate(category_C.tolist()):
        counts[category] = counts.get(category, 0) + 1
        if category < 0 or counts[category] <= most:
            kept.append(place)
    return np.array(kept, dtype=np.int64)


def padded(rows: Sequence[IntArray]) -> IntArray:
    """Item indices of each row, padded with -1 on the right."""
    out = np.full((len(rows), max(map(len, rows), default=0)), -1, dtype=np.int64)
    for b, row in enumerate(rows):
        out[b, : len(row)] = row
    return out


def hidden_items(states: Sequence[State], seen: Sequence[IntArray] | None = None) -> list[IntArray]:
    """Items of each state, and of `seen` beside it."""
    rows = [np.asarray(state.seen(), dtype=np.int64) for state in states]
    if seen is None:
        return rows
    return [np.union1d(row, np.asarray(more, dtype=np.int64)) for row, more in zip(rows, seen, strict=True)]


def bounded_slates(search: BestFirst, k: int, main_category_N: IntArray, most_B: Sequence[int]) -> list[Any]:
    """Slates of at most k items with at most `most_B[b]` of one main category: (items, log pi) for each state.

    Items are taken in their exact order while they fit, which gives the greatest sum of log pi that the bound allows
    (the slates with few enough items of each category are a matroid). Items without a category are not counted.
    """
    found: list[list[tuple[int, float]]] = [[] for _ in most_B]
    slates: list[list[tuple[int, float]]] = [[] for _ in most_B]
    wanted_B = torch.ones(len(most_B), dtype=torch.bool)
    while bool(wanted_B.any()):
        asked = torch.nonzero(wanted_B).view(-1).tolist()
        missing = max(k - len(slates[b]) for b in asked)
        items_BC, log_prob_BC = search.next_items(min(_AHEAD * missing, search.index.n_items), wanted_B)
        for b in asked:
            pairs = zip(items_BC[b].tolist(), log_prob_BC[b].tolist(), strict=True)
            found[b] += [(item, log_prob) for item, log_prob in pairs if item >= 0]
            categories = main_category_N[np.array([item for item, _ in found[b]], dtype=np.int64)]
            slates[b] = [found[b][place] for place in bounded(categories, most_B[b])[:k]]
            wanted_B[b] = len(slates[b]) < k and bool((items_BC[b] >= 0).all())
    return [([i for i, _ in slate], [p for _, p in slate]) for slate in slates]
