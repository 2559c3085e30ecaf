"""Search as one types: items whose words begin with the words typed, and near misses where none does."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz import fuzz, process

from llmrec.text.titles import words_of
from llmrec.types import Item

LEAST = 70.0
"""Similarity (rapidfuzz, 0 to 100) from which a misspelt title is offered."""
LONGEST = 100
"""Characters of a query that are read."""


class Search:
    """The catalogue by titles, brands and categories.

    Args:
        items: in item-index order.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._titles = [" " + _plain(item.title) for item in items]
        more = (" ".join((item.brand, *item.categories)) for item in items)
        self._all = [f"{title} {_plain(text)}" for title, text in zip(self._titles, more, strict=True)]

    def find(self, query: str, limit: int = 8) -> list[int]:
        """Item indices: titles that begin with the query, then titles that hold it, then other fields, then misspelt.

        Every word typed must begin a word of the item.
        """
        words = [" " + word.text for word in words_of(query[:LONGEST])]
        if not words:
            return []
        whole = "".join(words)
        ranks: list[list[int]] = [[], [], [], []]
        for item, text in enumerate(self._all):
            if all(word in text for word in words):
                title = self._titles[item]
                rank = 0 if title.startswith(whole) else 1 if whole in title else 2
                ranks[rank if rank < 2 or all(word in title for word in words) else 3].append(item)
        found = [item for rank in ranks for item in rank][:limit]
        if found:
            return found
        near = process.extract(whole, self._titles, scorer=fuzz.ratio, limit=limit, score_cutoff=LEAST)
        return [int(row) for _, _, row in near]


def _plain(text: str) -> str:
    return " ".join(word.text for word in words_of(text))
