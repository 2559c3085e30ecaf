"""Filters of requests turned into what decoding understands; what bounds a whole slate is `slates`' business.

Requests that ask for the same attributes share one dense filter, which is counted once and kept; what differs by
user (seen items, candidates) is added for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed, ItemFilter
from llmrec.catalogue.filters import Attributes, Filters
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError
from llmrec.types import BoolArray, IntArray, State

_KEPT = 64


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
        floors = tuple(sorted({bound.group for bound in filters.bounds if bound.low}))
        return (filters.attributes, filters.candidates is not None, filters.bounds_slate, floors)

    def left_out(self, filters: Filters) -> IntArray:
        """Item indices that the filter takes away one by one."""
        return self.attributes.indices(filters.exclude, "exclude")

    def allowed(
        self, filters_B: Sequence[Filters], exclude_BE: Tensor | None, *, may_be_empty: bool = False
    ) -> Allowed | None:
        """What is left for each request of one group.

        Args:
            filters_B: filters of one group.
            exclude_BE: item indices to leave out, those of `left_out` among them, padded with -1.
            may_be_empty: whether a request may be left nothing.

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
        if not may_be_empty:
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

    def allowed(self, part: Sequence[int], within: tuple[str, ...] = ()) -> Allowed | None:
        """What is left for some states of one group; with `within` of the items of these groups, which may be
        nothing.

        Raises:
            RequestError: a filter that cannot be read, or that leaves a state nothing by itself.
        """
        left_out = None if self.exclude_BE is None else self.exclude_BE[list(part)]
        wishes = self.filters(part)
        if not wishes:
            return self.book.index.allowed(left_out)
        if within:
            wishes = [replace(wish, within=(*wish.within, *within)) for wish in wishes]
        return self.book.allowed(wishes, left_out, may_be_empty=bool(within))

    def require_single_items(self) -> None:
        """Raises `RequestError` for a maximum per category or another bound, which only a whole slate can obey."""
        if any(wish.bounds_slate for wish in self.wishes_B):
            raise RequestError(
                "max_per_category and other bounds are on whole slates; leave them out to draw or to score items."
            )


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
