"""Whether a free prompt has any word to do with a catalogue: lexically, over all that is written of the items."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rapidfuzz import fuzz, process

from llmrec.text.titles import MAX_CHARACTERS, STOP_WORDS, words_of
from llmrec.text.wishes import singular
from llmrec.types import Item

ALIKE = 80.0
"""Similarity (rapidfuzz ratio, 0 to 100) from which a word counts as one of the catalogue's, misspelt; measured on
worlds (docs/retrieval.md)."""
EVERYWHERE = 0.25
"""A word that more than this share of the items' texts have, such as "with", tells of none of them."""
_FEW = 20
"""Of so few items no word counts as one that all have."""
LEAST = 4
"""Letters of a word that may be misspelt, or stand for longer ones that begin with it."""
MOST = 40
"""Words of a prompt that are looked at."""
CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
_EMPTY_WORDS = """look looking need needs find get give show want wants would could can please recommend suggest
something anything thing things item items product products good best nice great new old some any other another
there here have has had use using used buy bought under over below above cheap cheaper than about around between
very really also too just now today my our your his her their me us with without into onto from for the and that
this what which got made makes film films movie movies"""
_EMPTY = STOP_WORDS | frozenset(_EMPTY_WORDS.split())
_ZH_EMPTY = re.compile(
    "我们|我|你|您|想要|想|需要|要|找|请|推荐|给|一些|一个|一件|一款|东西|商品|的|了|吗|呢|吧|有没有|有|买|便宜|好|新"
)


class KnownWords:
    """The words of a catalogue: titles, categories, brands and descriptions.

    Chinese and Japanese are written without spaces; there a pair of neighbouring characters counts as a word.

    Args:
        items: the catalogue.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        count: Counter[str] = Counter()
        names: set[str] = set()
        for item in items:
            named = " . ".join((item.title, item.brand, *item.categories))
            names |= set(item_words(named))
            count.update(set(item_words(f"{named} . {item.description}")))
        most = EVERYWHERE * len(items) if len(items) > _FEW else len(items)
        self._words = {word for word, texts in count.items() if texts <= most or word in names}
        self._long = sorted(word for word in self._words if len(word) >= LEAST)

    def related(self, text: str, alike: float = ALIKE) -> bool:
        """Whether any word of `text` that means something is one of the catalogue's, also misspelt.

        A text without such words asks for nothing in particular and is related to everything.
        """
        words = list(dict.fromkeys(telling(text[:MAX_CHARACTERS])))[:MOST]
        return not words or any(self._has(word, alike) for word in words)

    def _has(self, word: str, alike: float) -> bool:
        if word in self._words:
            return True
        if len(word) < LEAST or CJK.search(word):
            return False
        if any(known.startswith(word) or (word.startswith(known) and len(known) >= LEAST) for known in self._long):
            return True
        return process.extractOne(word, self._long, scorer=fuzz.ratio, score_cutoff=alike) is not None


def item_words(text: str) -> Iterator[str]:
    """Words in the singular, and pairs of characters of scripts without spaces."""
    for run in CJK.findall(text):
        yield from (run[n : n + 2] for n in range(len(run) - 1)) if len(run) > 1 else [run]
    for word in words_of(text):
        if not CJK.search(word.text):
            yield singular(word.text)


def telling(text: str) -> Iterator[str]:
    """The words of a prompt but those that stand in any."""
    for word in item_words(_ZH_EMPTY.sub(" ", text)):
        if word not in _EMPTY and not word.isdecimal() and (len(word) > 1 or CJK.search(word)):
            yield word
