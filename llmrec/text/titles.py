"""Titles as people write them: an index that finds catalogue titles, also misspelt or shortened, in a free text."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from rapidfuzz import fuzz, process

from llmrec.types import Item

MAX_CHARACTERS = 4000
"""A free text is read up to here."""
MIN_SCORE = 86.0
"""Least similarity (rapidfuzz ratio, 0 to 100) of a misspelt title; shorter keys must match exactly."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+(?:['’][^\\W_{_CJK}]+)*")
_IS_CJK = re.compile(f"[{_CJK}]")
_YEAR = re.compile(r"\s*[(（]\s*((?:19|20)\d)\d\s*[)）]\s*$")
_BRACKETED = re.compile(r"\s*[(（]([^()（）]*)[)）]")
_ALSO = re.compile(r"^\s*a\.?\s?k\.?\s?a\.?[\s:]+", re.IGNORECASE)
_OPEN, _CLOSE = "\"“”„'‘’«‹《「『〈", "\"“”'’»›》」』〉"
_ARTICLE_WORDS = "the a an il la le les lo el los las der die das un une"
_STOP_WORDS = """i it its you he she we they me my us him her this that these those is are was be been am do did go so
no not and or but if in on at up of for to by with from as out all one big more what who when where how why too very
like liked love loved watch watched want please something nothing anything"""
_ARTICLES = frozenset(_ARTICLE_WORDS.split())
STOP_WORDS = _ARTICLES | frozenset(_STOP_WORDS.split())
_MAX_WORDS, _MAX_POSTINGS, _MAX_UNKNOWN, _MAX_QUOTES = 24, 400, 24, 200


@dataclass(frozen=True, slots=True)
class Word:
    """A word (or one Chinese character) of a text: normalised form and place in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hit:
    """An item found at characters [start, end) of a text; `weight` decides between overlapping hits."""

    item: int
    start: int
    end: int
    score: float
    weight: float


def words_of(text: str) -> list[Word]:
    """Words in their order: case, accents and apostrophes removed; each Chinese character is one word."""
    return [Word(_plain(m[0]), m.start(), m.end()) for m in _WORD.finditer(text)]


def _plain(word: str) -> str:
    if word.isascii():
        return word.lower().replace("'", "")
    # Compatibility forms and accents go: full-width letters and "é" are typed as plain ones.
    split = unicodedata.normalize("NFKD", word.casefold())
    kept = "".join(c for c in split if not unicodedata.combining(c) and c not in "'’")
    return unicodedata.normalize("NFC", kept)


def without_year(title: str) -> str:
    """A title without the year in brackets that ends it."""
    return _YEAR.sub("", title)


def decade(title: str) -> str:
    """The decade of the year that ends a title, "1990" of "Fargo (1996)"; empty where none does."""
    found = _YEAR.search(title)
    return f"{found[1]}0" if found else ""


def title_variants(title: str) -> list[str]:
    """How a title may be written, the full one first.

    "Seven (a.k.a. Se7en) (1995)" is also "Seven" and "Se7en"; "Usual Suspects, The (1995)" is also "The Usual
    Suspects"; "Star Wars: Episode IV" is also "Star Wars", as that leaves two words or more. Other bracketed text
    counts as a name of its own only in titles with a year, the manner of film catalogues.
    """
    bare = without_year(title)
    names = [title, bare, _BRACKETED.sub("", bare)]
    for inside in _BRACKETED.findall(bare):
        if _ALSO.match(inside) or bare != title:
            names.append(_ALSO.sub("", inside))
    short = re.split(r"\s*(?::\s|：)|\s+[-–—]\s+", names[2])[0]
    # One word before a colon ("Dune", "It") stands in too many sentences that mean something else.
    names += [short] if len(words_of(short)) >= 2 else []
    names += [turned for name in names if (turned := _article_first(name)) != name]
    return [name for name in dict.fromkeys(map(str.strip, names)) if name]


def _article_first(name: str) -> str:
    head, comma, tail = name.rpartition(",")
    return f"{tail.strip()} {head}" if comma and tail.strip().casefold() in _ARTICLES else name


class TitleIndex:
    """Finds the titles of a catalogue in texts.

    Args:
        items: the catalogue in item-index order. Of items with equal names the first is found.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self._raw: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._key_words: list[tuple[str, ...]] = []
        self._postings: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for row, item in enumerate(items):
            self._raw.setdefault(_verbatim(item.title), row)
        # Full titles first: a short form never hides another item's full title
        for names in zip_longest(*(title_variants(item.title) for item in items)):
            for row, name in enumerate(names):
                if name is not None:
                    self._add(tuple(word.text for word in words_of(name)), row)
        self._vocabulary: defaultdict[int, list[str]] = defaultdict(list)
        for word in self._postings:
            if not _IS_CJK.match(word):
                self._vocabulary[len(word)].append(word)
        self._near = lru_cache(maxsize=4096)(self._similar_words)
        self._longest = max((len(item.title) for item in items), default=0)
        self._most_words = min(max(map(len, self._key_words), default=0), _MAX_WORDS) + 1

    def _add(self, words: tuple[str, ...], row: int) -> None:
        for form in (words, words[1:] if words and words[0] in _ARTICLES else ()):
            # Without the spaces: "spider man", "spiderman" and "Spider-Man" are one key.
            key = "".join(form)
            if key and key not in self._keys:
                self._keys[key] = row
                self._key_words.append(form)
                for place, word in enumerate(form):
                    self._postings[word].append((len(self._key_words) - 1, place))

    def find(self, text: str) -> list[Hit]:
        """Non-overlapping hits in the order of the text; long and exact ones win over short and misspelt ones."""
        text = text[:MAX_CHARACTERS]
        words = words_of(text)
        hits = [*self._quoted(text), *self._exact(text, words), *self._misspelt(text, words)]
        hits.sort(key=lambda hit: (-hit.weight, hit.start))
        taken: list[Hit] = []
        for hit in hits:
            if all(hit.end <= other.start or other.end <= hit.start for other in taken):
                taken.append(hit)
        return sorted(taken, key=lambda hit: hit.start)

    def _quoted(self, text: str) -> Iterator[Hit]:
        """Titles in quotation marks, letter by letter, whatever they are made of; or the whole text."""
        if (row := self._raw.get(_verbatim(text))) is not None:
            yield Hit(row, 0, len(text), 100.0, 2e6)
        # Bounded: a text of quotation marks alone would make pairs by the square.
        opens = [i for i, c in enumerate(text) if c in _OPEN][:_MAX_QUOTES]
        closes = [i for i, c in enumerate(text) if c in _CLOSE]
        for start in opens:
            for end in closes:
                if start < end <= start + self._longest + 40:
                    row = self._raw.get(_verbatim(text[start + 1 : end]))
                    if row is not None:
                        yield Hit(row, start, end + 1, 100.0, 1e6 + end - start)

    def _exact(self, text: str, words: list[Word]) -> Iterator[Hit]:
        for first in range(len(words)):
            key = ""
            for last in range(first, min(first + self._most_words, len(words))):
                key += words[last].text
                row = self._keys.get(key)
                if row is not None and _counts(text, words[first : last + 1]):
                    yield _hit(text, row, words, first, last, 100.0)

    def _misspelt(self, text: str, words: list[Word]) -> Iterator[Hit]:
        tried: set[tuple[int, int, int]] = set()
        for place, known in self._anchors(words):
            postings = self._postings[known]
            for key_row, offset in postings if len(postings) <= _MAX_POSTINGS else ():
                length = len(self._key_words[key_row])
                # A word more or less: people split words and join them.
                for size in (length, length - 1, length + 1):
                    first, last = max(place - offset, 0), place - offset + size - 1
                    if size > 0 and first <= last < len(words) and (key_row, first, last) not in tried:
                        tried.add((key_row, first, last))
                        score = self._score(words[first : last + 1], self._key_words[key_row])
                        if score and _counts(text, words[first : last + 1]):
                            row = self._keys["".join(self._key_words[key_row])]
                            yield _hit(text, row, words, first, last, score)

    def _anchors(self, words: list[Word]) -> Iterator[tuple[int, str]]:
        """Words of the text that are, or are nearly, a word of some title."""
        unknown: set[str] = set()
        for place, word in enumerate(words):
            if word.text in self._postings:
                yield place, word.text
            elif len(word.text) >= 4 and word.text not in STOP_WORDS:
                unknown.add(word.text)
                if len(unknown) <= _MAX_UNKNOWN:
                    yield from ((place, near) for near in self._near(word.text))

    def _similar_words(self, word: str) -> list[str]:
        pool = [other for length in range(len(word) - 1, len(word) + 2) for other in self._vocabulary[length]]
        # Words of nearly the same length only: a misspelling adds or drops a letter or two, and the pool stays small.
        near = process.extract(word, pool, scorer=fuzz.ratio, processor=None, score_cutoff=75, limit=3)
        return [str(match[0]) for match in near]

    def _score(self, words: list[Word], key: tuple[str, ...]) -> float:
        """Similarity of a stretch of text and a title, 0 where they must not be taken for each other."""
        texts = [word.text for word in words]
        found, wanted = "".join(texts), "".join(key)
        # Among short words nearly everything is similar to something.
        if len(wanted) < 5 or abs(len(found) - len(wanted)) > 2:
            return 0.0
        if sorted(filter(str.isdigit, texts)) != sorted(filter(str.isdigit, key)):
            return 0.0  # "Toy Story 2" is not "Toy Story 3"
        lenient = bool(_IS_CJK.match(wanted)) or (any(map(str.isdigit, found)) and not found.isdigit())
        return fuzz.ratio(found, wanted, score_cutoff=80.0 if lenient else MIN_SCORE)


def _hit(text: str, row: int, words: list[Word], first: int, last: int, score: float) -> Hit:
    length = sum(len(word.text) for word in words[first : last + 1])
    start, end = words[first].start, words[last].end
    opened = text.count("(", start, end) - text.count(")", start, end)
    end += opened == 1 and text[end : end + 1] == ")"  # "Fargo (1996)": its last word is the year
    # Length counts most, so that "Toy Story 2" goes before "Toy Story"; a misspelt match has to be clearly longer to
    # go before an exact one.
    return Hit(row, start, end, score, length * (score / 100) ** 4)


def _counts(text: str, words: list[Word]) -> bool:
    """Whether a stretch is meant as a title: ordinary words count only capitalised or in quotation marks."""
    start, end = words[0].start, words[-1].end
    if text[max(start - 1, 0) : start] in tuple(_OPEN) and text[end : end + 1] in tuple(_CLOSE):
        return True
    content = [word for word in words if word.text not in STOP_WORDS]
    if _IS_CJK.match(words[0].text):
        return len(words) > 1
    if len(content) > 1 or not text[:start].strip() + text[end:].strip():
        return True
    main = content[0] if content else words[-1]
    # At the start of a sentence a capital says nothing.
    begins = not text[:start].strip() or text[:start].rstrip()[-1] in ".!?。！？"
    if not content and (begins or len(main.text) < 2):
        return False
    letter = text[main.start]
    return not letter.islower() or any(map(str.isdigit, main.text))


def _verbatim(text: str) -> str:
    return " ".join(text.split())
