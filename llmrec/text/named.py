"""Which items a request's words name: by facts (category, brand, decade, price) first, by words of titles second."""

from __future__ import annotations

import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz, process

from llmrec.text.relatedness import CJK, LEAST, MOST, item_words, telling
from llmrec.text.titles import MAX_CHARACTERS, decade, words_of
from llmrec.text.wishes import refused
from llmrec.types import BoolArray, FloatArray, Item

ALIKE = 85.0
"""Similarity (rapidfuzz ratio, 0 to 100) from which a word is taken for one of the catalogue's, misspelt. It is more
than relatedness asks for: what is taken here moves items."""
MANY = 1 / 3
"""A word that more than this share of the items have chooses none of them, unless it is a fact."""
_DECADE = re.compile(r"(?<!\d)(?:(1[89]|20)(\d)0(?:s\b|年代)|(?:['’]|\b)(\d)0(?:s\b|年代))")
_ALIKE = re.compile(
    r"^\s*(?:some\w*\s+)?like\b|\b(?:similar to|resembl\w+|in the style of|in the vein of)"
    r"|\b(?:more|things?|something|anything|others?|ones?|what(?:['’]s| is)|who(?:['’]s| is)|"
    r"films?|movies?|products?|items?|music|songs?|tracks?|books?|courses?|stories|articles?|people)\s+(?:\w+\s+)?like\b"
    r"|类似|相似|像[^，。！？]{1,80}(?:一样|这样|那样|的)",
    re.IGNORECASE,
)


def asks_alike(text: str) -> bool:
    """Whether a request asks outright for what is like something: "films like Fargo", but not "I like Fargo"."""
    return _ALIKE.search(text[:MAX_CHARACTERS]) is not None


@dataclass(frozen=True, slots=True)
class Named:
    """What a request names.

    Attributes:
        words: the decades of the catalogue that it says, then the words, both in its order.
        facts_N: for each item the rarity (log N / items that have it) of each of them that its categories, its brand
            or its decade say, summed, and of a price within the bound that is asked for.
        titles_N: the same of words of its title, and of being like an item that is named where that is asked for.
    """

    words: tuple[str, ...]
    facts_N: FloatArray
    titles_N: FloatArray

    def with_like(self, titles: Sequence[str], items: Sequence[int]) -> Named:
        """The same where it also asks for what is like `titles`, which `items` are; one of them tells as much as
        another."""
        near_N = np.zeros_like(self.titles_N)
        near_N[list(items)] = math.log(len(near_N) + 1)
        return Named((*self.words, *(f"like {title}" for title in titles)), self.facts_N, self.titles_N + near_N)

    def with_price(self, text: str, within_N: BoolArray) -> Named:
        """The same where `text` also bounds the price, which some items, but not all, are within: one more fact."""
        count = int(within_N.sum())
        if not 0 < count < len(within_N):
            return self
        rarity = math.log((len(within_N) + 1) / count)
        return Named((*self.words, text), self.facts_N + rarity * within_N, self.titles_N)


class NameWords:
    """The words in titles, brands and categories, and the decades of titles that end in a year.

    Args:
        items: the catalogue in item-index order.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.n_items = len(items)
        self._facts = _rows((n, word) for n, item in enumerate(items) for word in _facts(item))
        titles = _rows((n, word) for n, item in enumerate(items) for word in item_words(item.title))
        most = max(MANY * len(items), 1.0)
        self._titles = {word: rows for word, rows in titles.items() if len(rows) <= most}
        self._long = sorted(word for word in {*self._facts, *self._titles} if len(word) >= LEAST)

    def find(self, text: str) -> Named:
        """What `text` names; words that stand in any request name nothing, nor those behind "no" or "without"."""
        text = _asked(text[:MAX_CHARACTERS])
        said = dict.fromkeys([*_decades(text), *telling(text)])
        known = [known for word in list(said)[:MOST] if (known := self._known(word)) is not None]
        words = tuple(dict.fromkeys(known))
        return Named(words, self._rarity(words, self._facts), self._rarity(words, self._titles))

    def _known(self, word: str) -> str | None:
        if word in self._facts or word in self._titles:
            return word
        if len(word) < LEAST or CJK.search(word):
            return None
        found = process.extractOne(word, self._long, scorer=fuzz.ratio, score_cutoff=ALIKE)
        return None if found is None else str(found[0])

    def _rarity(self, words: Iterable[str], held: Mapping[str, array[int]]) -> FloatArray:
        sum_N = np.zeros(self.n_items)
        for word in words:
            rows = held.get(word)
            if rows:
                sum_N[np.asarray(rows)] += math.log((self.n_items + 1) / len(rows))
        return sum_N


def _asked(text: str) -> str:
    """The text without the words that it refuses."""
    words, kept = words_of(text), list(text)
    for place, word in enumerate(words):
        if refused(text, words, place):
            kept[word.start : word.end] = " " * (word.end - word.start)
    return "".join(kept)


def _facts(item: Item) -> Iterator[str]:
    yield from item_words(" . ".join((item.brand, *item.categories)))
    if found := decade(item.title):
        yield f"{found}s"


def _rows(pairs: Iterable[tuple[int, str]]) -> dict[str, array[int]]:
    """The rows of each word, rising; a catalogue of millions has no room for sets of them."""
    held: defaultdict[str, array[int]] = defaultdict(lambda: array("i"))
    for row, word in pairs:
        rows = held[word]
        if not rows or rows[-1] != row:
            rows.append(row)
    return dict(held)


def _decades(text: str) -> Iterator[str]:
    """ "1970s" of "films of the 1970s" and "the '70s"; from the 30s on those of the last century."""
    for found in _DECADE.finditer(text):
        century = found[1] or ("19" if found[3] >= "3" else "20")
        yield f"{century}{found[2] or found[3]}0s"
