"""What a free prompt asks of its items outright: a category, a brand, a price."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llmrec.text.titles import MAX_CHARACTERS, Hit, Word, words_of
from llmrec.types import Item

WishKind = Literal["category", "brand", "price below", "price at most"]

_CHEAPER = re.compile(
    r"\bcheaper\b|\bless expensive\b|\bless pricey\b|\bmore affordable\b|\bcosts? less\b|\blower price\b"
    r"|更便宜|便宜一点|便宜一些|便宜点|便宜些",
    re.IGNORECASE,
)
_NUMBER = r"[$€£¥￥]?\s?(\d{1,7}(?:[.,]\d{1,2})?)"
_BOUND = re.compile(
    rf"\b(?:under|below|less than|cheaper than|at most|up to|no more than)\s+{_NUMBER}(?![\d.,]*\d)"
    rf"|不超过\s?{_NUMBER}\s?[元块]|{_NUMBER}\s?[元块](?:以下|以内)",
    re.IGNORECASE,
)
_INCLUDED = re.compile(r"at most|up to|no more than|不超过|.*[元块](?:以下|以内)$", re.IGNORECASE)
_NOT_WORDS = "no not without except never avoid dont isnt nor neither hate hated dislike"
_NOT = frozenset(_NOT_WORDS.split())
_NOT_ZH = re.compile("(?:不要|不想|不是|别|除了|没有|讨厌)[^，。！？；,.!?;]{0,4}$")
_REACH = 3
"""Words before a name in which a "no" is looked for."""
_MOST_WORDS = 6


@dataclass(frozen=True, slots=True)
class Wish:
    """Something that the items must be.

    Attributes:
        kind: of what.
        value: the category's or brand's own name, or the price that all must be below, or at most.
        text: the words that said so.
        like: for "price below" the item whose price it is, by index; None where a number was given.
    """

    kind: WishKind
    value: str | float
    text: str
    like: int | None = None

    @property
    def most(self) -> float | None:
        """The greatest price that it lets through; None where it is not about prices."""
        if self.kind == "price at most":
            return float(self.value)
        return math.nextafter(float(self.value), -math.inf) if self.kind == "price below" else None


class WishIndex:
    """Finds categories, brands and bounds of price in texts.

    Names are found without regard to case and to a plural's ending, where no "no" or "without" stands shortly before
    them. Of a name that is a category and a brand the category is meant.

    Args:
        items: the catalogue in item-index order.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self._names: dict[str, tuple[WishKind, str]] = {}
        self._add("category", (name for item in items for name in item.categories))
        self._add("brand", (item.brand for item in items))
        self._priced = any(item.price is not None for item in items)

    def _add(self, kind: WishKind, names: Iterable[str]) -> None:
        for name in dict.fromkeys(names):
            self._names.setdefault(_key(words_of(name)), (kind, name))
        self._names.pop("", None)

    def find(self, text: str, hits: Sequence[Hit] = ()) -> list[Wish]:
        """The wishes in `text`, in its order; a title among `hits` is a name and no wish, unless it says a category.

        "Cheaper" asks for less than the price of the titles that are named; without one that has a price it says
        nothing.
        """
        text = text[:MAX_CHARACTERS]
        titles = [hit for hit in hits if not self.is_category(text, hit)]
        found = [(start, wish) for start, wish in self._named(text, titles)]
        if self._priced:
            found += self._bounds(text, titles)
        return [wish for _, wish in sorted(found, key=lambda pair: pair[0])]

    def is_category(self, text: str, hit: Hit) -> bool:
        """Whether what named a title is rather a category's name: "War", but not "the War" or "War" in quotes."""
        said = text[hit.start : hit.end]
        kind, _ = self._names.get(_key(words_of(said)), ("", ""))
        return kind == "category" and said.strip(" ").isalnum()

    def _named(self, text: str, titles: Sequence[Hit]) -> Iterable[tuple[int, Wish]]:
        words, first = words_of(text), 0
        while first < len(words):
            for size in range(min(_MOST_WORDS, len(words) - first), 0, -1):
                part = words[first : first + size]
                start, end = part[0].start, part[-1].end
                known = self._names.get(_key(part))
                inside = any(start < hit.end and hit.start < end for hit in titles)
                if known and not inside and not refused(text, words, first):
                    yield start, Wish(known[0], known[1], text[start:end])
                    first += size - 1
                    break
            first += 1

    def _bounds(self, text: str, titles: Sequence[Hit]) -> Iterable[tuple[int, Wish]]:
        bounds = list(_BOUND.finditer(text))
        for match in bounds:
            number = next(group for group in match.groups() if group)
            kind: WishKind = "price at most" if _INCLUDED.match(match[0]) else "price below"
            yield match.start(), Wish(kind, float(number.replace(",", ".")), match[0].strip())
        priced = [(price, hit.item) for hit in titles if (price := self.items[hit.item].price) is not None]
        said = _CHEAPER.search(text)
        if said and not bounds and priced:
            # cheaper than what was named: than the cheapest of several, or some would not be
            price, item = min(priced)
            yield said.start(), Wish("price below", price, said[0], item)


def _key(words: Sequence[Word]) -> str:
    return "".join(singular(word.text) for word in words)


def singular(word: str) -> str:
    """An English word without a plural's ending, as far as its letters tell."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def refused(text: str, words: Sequence[Word], first: int) -> bool:
    """Whether a "no" or "without" stands shortly before the word at place `first` of the words of `text`."""
    before = words[max(0, first - _REACH) : first]
    # a refusal does not reach over the end of a clause
    clause = max((text.rfind(mark, 0, words[first].start) for mark in ".;!?,，。；！？"), default=-1)
    return any(word.text in _NOT and word.start > clause for word in before) or bool(
        _NOT_ZH.search(text[: words[first].start])
    )
