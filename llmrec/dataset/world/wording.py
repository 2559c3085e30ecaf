"""How hidden topics, styles and qualities are put into words.

A `Wording` is one domain in one language: for each topic a name and nouns, for each style a name and adjectives.
A title is an adjective and a noun, so that it tells topic and style; descriptions add the names in full, the maker
and, for some items, a clue on quality. Profiles name some true favourites among plain facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.dataset.world.truth import Truth
from llmrec.types import BoolArray, FloatArray, IntArray

_CLUE_SHARE = 0.7
_CLUE_LEVEL = 0.4  # standard deviations of quality above (below) which a clue is good (bad)
_HINTS, _HINT_CHANCES = 3, (0.2, 0.4, 0.4)  # number of favourite topics that a profile names, and its chances
_WRONG_HINT = 0.1
_STYLE_HINT = 0.5
_FLUFF_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Words and patterns of one domain. `topics` and `styles`: one "name: word, word, ..." a line.

    `title` has {style} {noun} {name}; `description` {style} {noun} {topic} {style_name} {maker}; `plain`, `good` and
    `bad` are closing sentences by quality; `likes` has {topics}, `prefers` {styles}. `price` is the typical lowest
    and highest price, or None where nothing is sold.
    """

    topics: str
    styles: str
    title: str
    description: str
    makers: str
    good: tuple[str, ...]
    bad: tuple[str, ...]
    plain: tuple[str, ...]
    likes: str
    prefers: str
    price: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class People:
    """Words of a language that profiles and people's names are made of. `facts` has {age} {job} {place}.

    `separator` joins favourites, `join` sentences; `edition` numbers titles beyond the first of a kind.
    """

    facts: str
    jobs: str
    places: str
    names: str
    fluff: tuple[str, ...]
    separator: str
    join: str
    edition: str
    capitals: bool
    currency: str


def entries(table: str) -> list[tuple[str, tuple[str, ...]]]:
    """Parses "name: word, word" lines into (name, words)."""
    rows = (line.partition(":") for line in table.strip().splitlines())
    return [(name.strip(), words(right)) for name, _, right in rows]


def words(line: str) -> tuple[str, ...]:
    """Parses "word, word" (line breaks are spaces)."""
    return tuple(word.strip() for word in line.replace("\n", " ").split(",") if word.strip())


def items_table(truth: Truth, wording: Wording, people: People, stream: np.random.Generator) -> pl.DataFrame:
    """The items' texts and prices; titles are distinct for any number of items."""
    topics, styles = entries(wording.topics), entries(wording.styles)
    n = truth.topic_N.size
    noun_N, style_N, edition_N = _combinations(truth, topics, styles, stream)
    makers, names = words(wording.makers), words(people.names)
    maker_N, name_N = stream.integers(0, len(makers), n), stream.integers(0, len(names), n)
    clue_N = _clues(truth.quality_N, wording, stream)
    titles, descriptions, categories = [], [], []
    for i in range(n):
        (topic, nouns), (style, adjectives) = topics[truth.topic_N[i]], styles[truth.style_N[i]]
        text = {
            "style": adjectives[style_N[i]],
            "noun": nouns[noun_N[i]],
            "name": names[name_N[i]],
            "topic": topic,
            "style_name": style,
            "maker": makers[maker_N[i]],
        }
        title = wording.title.format(**text) + (people.edition.format(edition_N[i] + 1) if edition_N[i] else "")
        titles.append(_capitals(title) if people.capitals else title)
        sentence = wording.description.format(**text)
        descriptions.append(people.join.join((sentence[0].upper() + sentence[1:], clue_N[i])))
        categories.append([topic, style])
    return pl.DataFrame(
        {
            "item_id": [f"i{i:05d}" for i in range(n)],
            "title": titles,
            "description": descriptions,
            "categories": categories,
            "brand": [makers[m] for m in maker_N],
            "price": pl.Series(_prices(n, wording.price, stream), dtype=pl.Float64),
        }
    )


def _combinations(
    truth: Truth,
    topics: Sequence[tuple[str, tuple[str, ...]]],
    styles: Sequence[tuple[str, tuple[str, ...]]],
    stream: np.random.Generator,
) -> tuple[IntArray, IntArray, IntArray]:
    """Noun, adjective and edition of each item: a cell (topic, style) uses all its pairs before a second edition."""
    n = truth.topic_N.size
    noun_N, style_N, edition_N = (np.zeros(n, dtype=np.int64) for _ in range(3))
    for topic, (_, nouns) in enumerate(topics):
        for style, (_, adjectives) in enumerate(styles):
            members = np.flatnonzero((truth.topic_N == topic) & (truth.style_N == style))
            order = stream.permutation(len(nouns) * len(adjectives))
            edition_N[members], pair = np.divmod(np.arange(members.size), order.size)
            noun_N[members], style_N[members] = np.divmod(order[pair], len(adjectives))
    return noun_N, style_N, edition_N


def _capitals(text: str) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in text.split())


def _clues(quality_N: FloatArray, wording: Wording, stream: np.random.Generator) -> list[str]:
    level_N = quality_N / max(float(quality_N.std()), 1e-9)
    told_N, pick_N = stream.random(quality_N.size) < _CLUE_SHARE, stream.integers(0, 1 << 30, quality_N.size)
    clues = []
    for level, told, pick in zip(level_N.tolist(), told_N.tolist(), pick_N.tolist(), strict=True):
        clear = told and abs(level) > _CLUE_LEVEL
        pool = (wording.good if level > 0 else wording.bad) if clear else wording.plain
        clues.append(pool[pick % len(pool)])
    return clues


def _prices(n: int, price: tuple[float, float] | None, stream: np.random.Generator) -> list[float | None]:
    """Log-normal prices of which about two thirds lie in the range, in steps of 0.01 (0.99 and 0.49 endings)."""
    if price is None:
        return [None] * n
    low, high = np.log(price)
    draws_N = np.exp((low + high) / 2 + (high - low) / 2 * stream.standard_normal(n))
    return [float(max(1, round(2 * p)) / 2 - 0.01) for p in draws_N.tolist()]


def users_table(truth: Truth, wording: Wording, people: People, stream: np.random.Generator) -> pl.DataFrame:
    """The users' profiles: plain facts, usually one or two favourite topics, often a favourite style."""
    topics = [name for name, _ in entries(wording.topics)]
    styles = [name for name, _ in entries(wording.styles)]
    users = truth.topic_interest_UT.shape[0]
    best_UT = np.argsort(-truth.topic_interest_UT, axis=1, kind="stable")
    best_UY = np.argsort(-truth.style_interest_UY, axis=1, kind="stable")
    hints_U = stream.random((users, 1)) >= np.cumsum(_HINT_CHANCES[:-1])
    wrong_UH: BoolArray = stream.random((users, _HINTS)) < _WRONG_HINT
    false_UH = stream.integers(0, len(topics), (users, _HINTS))
    chance_UF = stream.random((users, 2))
    facts = _facts(users, people, stream)
    fluff_U = stream.integers(0, len(people.fluff), users)
    profiles = []
    for u in range(users):
        named = [false_UH[u, h] if wrong_UH[u, h] else best_UT[u, h] for h in range(hints_U[u].sum())]
        parts = [facts[u]]
        if named:
            liked = people.separator.join(dict.fromkeys(topics[t] for t in named))
            parts.append(wording.likes.format(topics=liked))
        if named and chance_UF[u, 0] < _STYLE_HINT:
            parts.append(wording.prefers.format(styles=styles[best_UY[u, 0]]))
        if chance_UF[u, 1] < _FLUFF_SHARE:
            parts.append(people.fluff[fluff_U[u]])
        profiles.append(people.join.join(parts))
    return pl.DataFrame({"user_id": [f"u{u:05d}" for u in range(users)], "profile": profiles})


def _facts(users: int, people: People, stream: np.random.Generator) -> list[str]:
    jobs, places = words(people.jobs), words(people.places)
    age_U, job_U = stream.integers(16, 76, users), stream.integers(0, len(jobs), users)
    place_U = stream.integers(0, len(places), users)
    rows = zip(age_U.tolist(), job_U.tolist(), place_U.tolist(), strict=True)
    return [people.facts.format(age=age, job=jobs[job], place=places[place]) for age, job, place in rows]
