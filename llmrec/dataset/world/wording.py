"""How hidden topics, styles and qualities are put into words.

A `DomainWords` is one domain in one language: for each topic a name and nouns, for each style a name and adjectives.
A title is an adjective and a noun, so that it tells topic and style; descriptions add the names in full, the maker
and, for some items, a clue on quality. Profiles name some true favourites among plain facts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.dataset.world.truth import WorldTruth
from llmrec.types import FloatArray, IntArray

_CLUE_SHARE = 0.7
_CLUE_LEVEL = 0.4  # standard deviations of quality above (below) which a clue is good (bad)
_HINT_CHANCES = (0.8, 0.4)  # that a profile names at least one, at least two favourite topics
_WRONG_HINT = 0.1
_STYLE_HINT = 0.5
_FLUFF_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class DomainWords:
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


def items_table(truth: WorldTruth, wording: DomainWords, people: People, stream: np.random.Generator) -> pl.DataFrame:
    """The items' texts and prices; titles are distinct for any number of items."""
    topics, styles = entries(wording.topics), entries(wording.styles)
    n = truth.topic_N.size
    noun_N, style_N, edition_N = _combinations(truth, topics, styles, stream)
    makers, names = words(wording.makers), words(people.names)
    maker_N, name_N = stream.integers(0, len(makers), n), stream.integers(0, len(names), n)
    clue_N = _clues(truth.quality_N, wording, stream)
    rows = []
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
        sentence = wording.description.format(**text)
        description = people.join.join((sentence[0].upper() + sentence[1:], clue_N[i]))
        rows.append((f"i{i:05d}", _capitals(title) if people.capitals else title, description, [topic, style]))
    table = pl.DataFrame(rows, schema=["item_id", "title", "description", "categories"], orient="row")
    prices = pl.Series(_prices(n, wording.price, stream), dtype=pl.Float64)
    return table.with_columns(brand=pl.Series([makers[m] for m in maker_N]), price=prices)


def _combinations(
    truth: WorldTruth,
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
            # All pairs of noun and adjective once before any is used again, so titles repeat as late as they can.
            order = stream.permutation(len(nouns) * len(adjectives))
            edition_N[members], pair = np.divmod(np.arange(members.size), order.size)
            noun_N[members], style_N[members] = np.divmod(order[pair], len(adjectives))
    return noun_N, style_N, edition_N


def _capitals(text: str) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in text.split())


def _clues(quality_N: FloatArray, wording: DomainWords, stream: np.random.Generator) -> list[str]:
    level_N = quality_N / max(float(quality_N.std()), 1e-9)
    told_N, pick_N = stream.random(quality_N.size) < _CLUE_SHARE, stream.integers(0, 1 << 30, quality_N.size)
    clues = []
    for level, told, pick in zip(level_N.tolist(), told_N.tolist(), pick_N.tolist(), strict=True):
        # A clue in most clear cases only: text tells of quality, but not all, so that clicks and conversions still
        # have something to teach.
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
    return [round(max(1, round(2 * p)) / 2 - 0.01, 2) for p in draws_N.tolist()]


def users_table(truth: WorldTruth, wording: DomainWords, people: People, stream: np.random.Generator) -> pl.DataFrame:
    """The users' profiles: plain facts, usually one or two favourite topics, often a favourite style."""
    topics = [name for name, _ in entries(wording.topics)]
    styles = [name for name, _ in entries(wording.styles)]
    users = len(truth.topic_interest_UT)
    favourite_U = np.argmax(truth.style_interest_UY, axis=1)
    told_U = stream.random(users) < _STYLE_HINT
    fluff_U = np.where(stream.random(users) < _FLUFF_SHARE, stream.integers(0, len(people.fluff), users), -1)
    profiles = []
    for fact, hints, style, told, fluff in zip(
        _facts(users, people, stream), _hints(truth, stream), favourite_U, told_U, fluff_U, strict=True
    ):
        parts = [fact]
        if hints:
            parts.append(wording.likes.format(topics=people.separator.join(topics[t] for t in hints)))
        if hints and told:
            parts.append(wording.prefers.format(styles=styles[style]))
        if fluff >= 0:
            parts.append(people.fluff[fluff])
        profiles.append(people.join.join(parts))
    return pl.DataFrame({"user_id": [f"u{u:05d}" for u in range(users)], "profile": profiles})


def _hints(truth: WorldTruth, stream: np.random.Generator) -> list[list[int]]:
    """Topics that each profile names, best first: none, one or two, now and then a wrong one."""
    interest_UT = truth.topic_interest_UT
    users, most = len(interest_UT), len(_HINT_CHANCES)
    best_UH = np.argsort(-interest_UT, axis=1, kind="stable")[:, :most]
    # People say what they like to be seen with; a profile that is always right would make history needless.
    wrong_UH = stream.random((users, most)) < _WRONG_HINT
    named_UH = np.where(wrong_UH, stream.integers(0, interest_UT.shape[1], (users, most)), best_UH)
    count_U = (stream.random((users, 1)) < np.array(_HINT_CHANCES)).sum(axis=1)
    rows = zip(named_UH.tolist(), count_U.tolist(), strict=True)
    return [list(dict.fromkeys(named[:count])) for named, count in rows]


@dataclass(frozen=True, slots=True)
class Told:
    """What a profile says of its user's interests: topics in the order of their naming, and a style or None."""

    topics: tuple[int, ...] = ()
    style: int | None = None


class ProfileReader:
    """Reads from profiles what `users_table` has put into them, and knows how likely it was to put it there."""

    def __init__(self, wording: DomainWords, people: People) -> None:
        topics = [name for name, _ in entries(wording.topics)]
        orders = [order for n in (1, 2) for order in itertools.permutations(range(len(topics)), n)]
        self._likes = {wording.likes.format(topics=people.separator.join(topics[t] for t in o)): o for o in orders}
        styles = [name for name, _ in entries(wording.styles)]
        self._prefers = {wording.prefers.format(styles=name): style for style, name in enumerate(styles)}

    def told(self, profile: str) -> Told:
        """The topics and the style that a profile names."""
        topics = next((order for sentence, order in self._likes.items() if sentence in profile), ())
        style = next((style for sentence, style in self._prefers.items() if sentence in profile), None)
        return Told(topics, style)

    @staticmethod
    def chance_U(told: Told, topic_interest_UT: FloatArray, style_interest_UY: FloatArray) -> FloatArray:
        """P(a user of these interests names these topics and this style), up to a factor that is the same for all."""
        users, kinds = topic_interest_UT.shape
        chance_U: FloatArray = np.ones(users)
        if told.topics:
            best_UH = np.argsort(-topic_interest_UT, axis=1, kind="stable")[:, : len(_HINT_CHANCES)]

            def named_U(place: int, topic: int) -> FloatArray:
                chance: FloatArray = (1 - _WRONG_HINT) * (best_UH[:, place] == topic) + _WRONG_HINT / kinds
                return chance

            one, two = _HINT_CHANCES
            chance_U = named_U(0, told.topics[0])
            if len(told.topics) == 1:  # asked for one, or for two that came out the same
                chance_U = chance_U * (one - two + two * named_U(1, told.topics[0]))
            else:
                chance_U = chance_U * two * named_U(1, told.topics[1])
        return chance_U if told.style is None else chance_U * (np.argmax(style_interest_UY, axis=1) == told.style)


def _facts(users: int, people: People, stream: np.random.Generator) -> list[str]:
    jobs, places = words(people.jobs), words(people.places)
    age_U, job_U = stream.integers(16, 76, users), stream.integers(0, len(jobs), users)
    place_U = stream.integers(0, len(places), users)
    rows = zip(age_U.tolist(), job_U.tolist(), place_U.tolist(), strict=True)
    return [people.facts.format(age=age, job=jobs[job], place=places[place]) for age, job, place in rows]
