"""What a request may ask of its items: attributes, stock, candidates, named groups, and bounds on the slate.

    attributes = Attributes.of(items)
    passes_N = attributes.passes(Filters(categories=("yoga",), price=(None, 20.0)))

A filter takes items away and changes no score: the slate is ranked by log pi over the whole catalogue. Groups of
items that no attribute tells are named beforehand (`Attributes.with_groups`); `llmrec.rules` names those of its
rules.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llmrec.errors import RequestError
from llmrec.types import BoolArray, FloatArray, IntArray, Item


@dataclass(frozen=True, slots=True)
class Bound:
    """How many items of a slate may be of a named group.

    Attributes:
        group: its name in `Attributes.groups`.
        low: at least so many, as far as there are items and places. What the caps forbid is not made up for.
        high: at most so many; None for no bound.
    """

    group: str
    low: int = 0
    high: int | None = None

    def __str__(self) -> str:
        parts = [f"at least {self.low}"] if self.low else []
        parts += [f"at most {self.high}"] if self.high is not None else []
        return f"{' and '.join(parts) or 'any number'} of {self.group!r}"


@dataclass(frozen=True, slots=True)
class Filters:
    """A request's filters; all of them hold together.

    Attributes:
        categories: items in any of these categories; empty takes all.
        brands: items of any of these brands; empty takes all.
        price: least and greatest price, None for no bound; an item without a price passes no bound.
        in_stock: only items that are in stock.
        candidates: ids of the items to choose from, for example a retriever's; None takes all.
        exclude: ids of items to leave out, beside those that the user has seen.
        max_per_category: items of the slate with the same first category, at most. Items without one are not
            counted. This bounds the slate as a whole and is no property of an item.
        without: named groups whose items are left out.
        within: named groups that an item must be in, in all of them.
        bounds: on the number of the slate's items that are of a named group; of the slate as a whole, too.
    """

    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    price: tuple[float | None, float | None] = (None, None)
    in_stock: bool = False
    candidates: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    max_per_category: int | None = None
    without: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    bounds: tuple[Bound, ...] = ()

    @property
    def attributes(self) -> Filters | None:
        """The part that asks for attributes and groups alone, which many users share; None where there is none."""
        kept = Filters(
            self.categories, self.brands, self.price, self.in_stock, without=self.without, within=self.within
        )
        return None if kept == Filters() else kept

    @property
    def bounds_slate(self) -> bool:
        """Whether the slate as a whole is bounded, which no filter of single items can do."""
        return self.max_per_category is not None or bool(self.bounds)

    @property
    def unbounded(self) -> Filters:
        """The same without what bounds the slate as a whole."""
        return replace(self, max_per_category=None, bounds=())

    def __str__(self) -> str:
        parts = [f"category {' or '.join(self.categories)}"] if self.categories else []
        parts += [f"brand {' or '.join(self.brands)}"] if self.brands else []
        low, high = self.price
        parts += [f"price from {low:g}"] if low is not None else []
        parts += [f"price to {high:g}"] if high is not None else []
        parts += ["in stock"] if self.in_stock else []
        parts += [f"{len(self.candidates)} candidates"] if self.candidates is not None else []
        parts += [f"without {len(self.exclude)} items"] if self.exclude else []
        parts += [f"at most {self.max_per_category} per category"] if self.max_per_category is not None else []
        parts += [f"none of {name!r}" for name in self.without] + [f"only of {name!r}" for name in self.within]
        parts += [str(bound) for bound in self.bounds]
        return ", ".join(parts) or "no filter"


@dataclass(frozen=True)
class Attributes:
    """What filters look at, for N items in item-index order. Make it by `of`.

    Attributes:
        item_index: item id to item index.
        members: category to the indices of its items.
        brands: brand to the indices of its items.
        price_N: NaN where an item has none.
        main_category_N: number of the first category, -1 where an item has none.
        stock_N: whether an item is in stock; None where nothing is known.
        groups: named groups, whether an item is of each: (N,).
    """

    item_index: Mapping[str, int]
    members: Mapping[str, IntArray]
    brands: Mapping[str, IntArray]
    price_N: FloatArray
    main_category_N: IntArray
    stock_N: BoolArray | None = None
    groups: Mapping[str, BoolArray] = field(default_factory=dict)
    _passes: dict[Filters, BoolArray] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, items: Sequence[Item], in_stock: Collection[str] | None = None) -> Attributes:
        """The attributes of `items`; `in_stock` holds the ids of those that are in stock."""
        members, brands = _groups(i.categories for i in items), _groups((i.brand,) for i in items)
        number = {category: n for n, category in enumerate(members)}
        attributes = cls(
            {item.item_id: n for n, item in enumerate(items)},
            members,
            brands,
            np.array([math.nan if item.price is None else item.price for item in items], dtype=np.float64),
            np.array([number[c[0]] if (c := _named(i.categories)) else -1 for i in items], dtype=np.int64),
        )
        return attributes if in_stock is None else attributes.with_stock(in_stock)

    def with_stock(self, in_stock: Iterable[str]) -> Attributes:
        """The same attributes with other stock. Raises `RequestError` for an unknown id."""
        stock_N = np.zeros(len(self.price_N), dtype=np.bool_)
        stock_N[self.indices(in_stock, "in_stock")] = True
        return replace(self, stock_N=stock_N, _passes={})

    def with_groups(self, groups: Mapping[str, BoolArray]) -> Attributes:
        """The same attributes with these named groups, each (N,), in place of those before."""
        for name, group_N in groups.items():
            if group_N.shape != self.price_N.shape:
                raise ValueError(f"Group {name!r} has the shape {group_N.shape}, not {self.price_N.shape}.")
        return replace(self, groups=dict(groups), _passes={})

    def group(self, name: str) -> BoolArray:
        """Which items are of a named group, (N,). Raises `RequestError` for an unknown name."""
        if name not in self.groups:
            raise RequestError(f"The filter names the group {name!r}, {_unknown(name, self.groups, 'group')}")
        return self.groups[name]

    def indices(self, item_ids: Iterable[str], what: str) -> IntArray:
        """Item indices of ids, each once, in order; `what` names the filter in the error for an unknown id."""
        ids = list(dict.fromkeys(item_ids))
        for item_id in ids:
            if item_id not in self.item_index:
                raise RequestError(
                    f"The filter {what} names {item_id!r}, {_unknown(item_id, self.item_index, 'item')}"
                )
        return np.array([self.item_index[item_id] for item_id in ids], dtype=np.int64)

    def check(self, filters: Filters) -> None:
        """Raises `RequestError` for a bound that is no number, an empty range, or a maximum below 1."""
        low, high = filters.price
        for bound in (low, high):
            if bound is not None and not math.isfinite(bound):
                raise RequestError(f"The filter price has the bound {bound}; give a finite number or leave it out.")
        if low is not None and high is not None and low > high:
            raise RequestError(f"The filter price goes from {low:g} down to {high:g}; give the lower bound first.")
        if filters.max_per_category is not None and filters.max_per_category < 1:
            raise RequestError(f"max_per_category is {filters.max_per_category}; allow at least 1 item a category.")
        if filters.in_stock and self.stock_N is None:
            raise RequestError("The filter in_stock needs to know the stock; give the ids of the items in stock.")
        for one in filters.bounds:
            self.group(one.group)
            if one.low < 0 or (one.high is not None and one.high < max(one.low, 0)):
                raise RequestError(f"The bound {one} cannot be met; give a maximum that is at least the minimum.")

    def passes(self, filters: Filters) -> BoolArray:
        """Which items have the attributes that `filters` asks for: (N,), kept for the next request.

        Raises:
            RequestError: an unknown category, brand or group, or a range that `check` refuses.
        """
        self.check(filters)
        kept = filters.attributes or Filters()
        if kept not in self._passes:
            # The oldest goes: requests repeat within minutes, and a predicate is N bytes.
            if len(self._passes) >= _KEPT:
                self._passes.pop(next(iter(self._passes)))
            self._passes[kept] = self._computed(kept)
        return self._passes[kept]

    def _computed(self, filters: Filters) -> BoolArray:
        passes_N = np.ones(len(self.price_N), dtype=np.bool_)
        for names, groups, what in (
            (filters.categories, self.members, "category"),
            (filters.brands, self.brands, "brand"),
        ):
            if names:
                any_N = np.zeros_like(passes_N)
                for name in names:
                    any_N[_members(groups, name, what)] = True
                passes_N &= any_N
        low, high = filters.price
        with np.errstate(invalid="ignore"):  # NaN, no price, is on neither side of a bound
            passes_N &= (self.price_N >= low) if low is not None else True
            passes_N &= (self.price_N <= high) if high is not None else True
        if filters.in_stock and self.stock_N is not None:
            passes_N &= self.stock_N
        for name in filters.within:
            passes_N &= self.group(name)
        for name in filters.without:
            passes_N &= ~self.group(name)
        return passes_N


_KEPT = 256


def _named(categories: Iterable[str]) -> list[str]:
    return [category for category in categories if category]


def _groups(names_N: Iterable[Iterable[str]]) -> dict[str, IntArray]:
    groups: dict[str, list[int]] = {}
    for n, names in enumerate(names_N):
        for name in _named(names):
            groups.setdefault(name, []).append(n)
    return {name: np.array(rows, dtype=np.int64) for name, rows in groups.items()}


def _members(groups: Mapping[str, IntArray], name: str, what: str) -> IntArray:
    if name not in groups:
        raise RequestError(f"The filter {what} names {name!r}, {_unknown(name, groups, what)}")
    return groups[name]


def _unknown(name: str, known: Mapping[str, Any], what: str) -> str:
    near = difflib.get_close_matches(name, list(known)[:100_000], n=1)
    return f"which no item has; did you mean {near[0]!r}?" if near else f"which is no {what} of the catalogue."
