"""Which of the languages that prompts are worded in a catalogue's titles are written in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

TITLES = 5000
"""Titles that are looked at, at most."""
HAN = 0.2
"""Least share of Chinese characters among the letters of a Chinese title; brands and sizes are often Latin."""


def written_in(titles: Iterable[str]) -> str | None:
    """The language of more than half of `titles` by their letters: "zh", "en" for Latin ones, None for others."""
    found = Counter(_one(title[:200]) for title in islice(titles, TITLES) if any(map(str.isalpha, title[:200])))
    language, count = max(found.items(), key=lambda pair: pair[1], default=(None, 0))
    return language if count > found.total() / 2 else None


def _one(title: str) -> str | None:
    letters = [c for c in title if c.isalpha()]
    if any("\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7a3" for c in letters):  # kana, Hangul
        return None
    if sum("\u4e00" <= c <= "\u9fff" or "\u3400" <= c <= "\u4dbf" for c in letters) >= HAN * len(letters):
        return "zh"
    return "en" if sum(c < "\u0250" for c in letters) > len(letters) / 2 else None
