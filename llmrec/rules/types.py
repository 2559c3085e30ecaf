"""The types of rules: what a person writes down once and every slate then obeys.

A rule names items (`ItemSet`) and, where it is about some people alone, people (`People`). Three kinds take single
items away (`Never`, `MinimumAge`, `ForbiddenWords`), two bound a slate as a whole (`AtMost`, `AtLeast`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Unknown = Literal["forbid", "allow"]
"""What a rule does where a profile does not say what it asks: forbid the items, or allow them."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """Least and greatest price; an item without a price is in no range."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class ItemSet:
    """Which items a rule is about: those that are all that is given here.

    Attributes:
        ids: any of these.
        categories: in any of these, wherever it stands among an item's categories.
        brands: of any of these.
        price: in this range.
        words: title, description, brand or a category hold any of these words or phrases, whatever their case.
    """

    ids: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    price: Price | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class People:
    """Whom a rule is about: people whose profile gives every field one of its values; no field is everybody.

    Attributes:
        fields: gender, or what a profile says as "key: value", with the values that count.
        unknown: whether somebody whose profile does not name a field counts ("forbid") or not ("allow").
    """

    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()
    unknown: Unknown = "allow"


@dataclass(frozen=True, kw_only=True)
class Never:
    """These items are never recommended to these people."""

    name: str
    items: ItemSet
    to: People = field(default_factory=People)


@dataclass(frozen=True, kw_only=True)
class MinimumAge:
    """These items are for people of at least `age` years; an unknown age is below it unless `unknown` says
    "allow"."""

    name: str
    items: ItemSet
    age: int
    unknown: Unknown = "forbid"


@dataclass(frozen=True, kw_only=True)
class ForbiddenWords:
    """Items whose own texts hold any of these words or phrases are never recommended."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AtMost:
    """At most so many of a slate; with `items` None of every main category for itself."""

    name: str
    most: int
    items: ItemSet | None
    to: People = field(default_factory=People)


@dataclass(frozen=True, kw_only=True)
class AtLeast:
    """At least so many of a slate, or a share of its places, as far as there are items.

    Attributes:
        name: of the rule.
        least: a number of places; None where a share is given.
        share: of the places, above 0 and at most 1.
        over: of each slate, or of all places that were shown in a day (UTC), counted after every slate.
        items: what must be shown.
        to: in whose slates.
    """

    name: str
    items: ItemSet
    least: int | None = None
    share: float | None = None
    over: Literal["slate", "day"] = "slate"
    to: People = field(default_factory=People)


Rule: TypeAlias = Never | MinimumAge | ForbiddenWords | AtMost | AtLeast
