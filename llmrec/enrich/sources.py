"""Sources: what is known of users, items and reviews, as facts. Only the training part of a split is read.

All text of strangers is cleaned here, so no title closes a turn of a prompt or holds a control character.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from llmrec.dataset.history import History
from llmrec.dataset.manifest import Signal
from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset
from llmrec.enrich.reviews import Review
from llmrec.enrich.types import Fact, Opinion, Source
from llmrec.text.escape import clean_text
from llmrec.types import Interaction, Item

TITLE, PROFILE, DESCRIPTION, REVIEW, CATEGORY = 120, 400, 600, 1200, 40
"""Characters of each that a fact holds at most."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """How much a source holds.

    Attributes:
        recent: of a user's choices, how many of the last ones are recent interests; all before are long-term ones.
        titles: how many titles a source names, at most.
        categories: how many categories.
        reviews: of an item, how many reviews.
        least: users with fewer choices than this get no text of long-term interests.
    """

    recent: int = 10
    titles: int = 8
    categories: int = 5
    reviews: int = 4
    least: int = 2


@dataclass(frozen=True)
class Gathered:
    """All sources of a data set, and what they were drawn from."""

    users: list[Source]
    items: list[Source]


def user_sources(
    dataset: Dataset,
    split: Split,
    settings: SourceSettings,
    *,
    users: Sequence[str] | None = None,
    unnamed: frozenset[str] = frozenset(),
    opinions: Mapping[tuple[str, str], Opinion] | None = None,
) -> list[Source]:
    """Long-term and recent interests of each user with at least one choice in the training part.

    Args:
        dataset: The data set.
        split: Its split; only `split.train` is read.
        settings: how much is told.
        users: ids to write of; by default all of the data set's.
        unnamed: item ids that no text may name.
        opinions: what a user's reviews of the training part say, by (user id, item id).

    Returns:
        Sources in the order of the users, long-term interests before recent ones.
    """
    history = History(dataset, 0, events=split.train)
    told = _Told(dataset, settings, unnamed, opinions or {})
    found: list[Source] = []
    for user_id in dataset.users["user_id"].to_list() if users is None else users:
        past = history.whole(user_id)
        if not past:
            continue
        known = clean_text(history.profile(user_id), PROFILE)
        early, late = past[: -settings.recent], past[-settings.recent :]
        if len(early) >= settings.least:
            found.append(Source("user", "long_term", user_id, tuple(told.long_term(user_id, known, early))))
        found.append(Source("user", "recent", user_id, tuple(told.recent(user_id, late))))
    return found


class _Told:
    """Facts of a user's choices."""

    def __init__(
        self,
        dataset: Dataset,
        settings: SourceSettings,
        unnamed: frozenset[str],
        opinions: Mapping[tuple[str, str], Opinion],
    ) -> None:
        self.items, self.settings, self.opinions = dataset.item_list, settings, opinions
        self.named = [item.item_id not in unnamed for item in self.items]
        # "Liked" is what the data set itself calls a conversion, where that is a rating or rarer than a click.
        self.liked = Signal.parse(dataset.manifest.conversion)

    def long_term(self, user_id: str, known: str, past: Sequence[Interaction]) -> Iterable[Fact]:
        yield from self._categories(past)
        liked = [i for i in past if self._is_liked(i)]
        best = sorted(liked, key=lambda i: (-(i.value or 0.0), -i.time, i.item))
        yield from self._titles("liked", best, self.settings.titles)
        if self.liked.at_least is not None:
            least = min((i.value for i in past if i.value is not None), default=None)
            worst = [i for i in past if i.value == least and not self._is_liked(i)]
            yield from self._titles("disliked", worst[::-1], self.settings.titles // 3)
        yield from self._aspects(user_id, past)
        if known:
            yield Fact("profile", known)

    def recent(self, user_id: str, past: Sequence[Interaction]) -> Iterable[Fact]:
        yield from self._categories(past)
        yield from self._titles("chosen", past[::-1], self.settings.titles)
        yield from self._aspects(user_id, past)

    def _is_liked(self, one: Interaction) -> bool:
        if self.liked.at_least is None:
            return one.feedback == self.liked.kind
        return one.value is not None and one.value >= self.liked.at_least

    def _categories(self, past: Sequence[Interaction]) -> Iterable[Fact]:
        count = Counter(c for i in past for c in self.items[i.item].categories if self.named[i.item])
        for name, number in sorted(count.items(), key=lambda pair: (-pair[1], pair[0]))[: self.settings.categories]:
            if text := clean_text(name, CATEGORY):
                yield Fact("category", text, str(number))

    def _titles(self, name: str, past: Iterable[Interaction], most: int) -> Iterable[Fact]:
        seen: dict[str, Interaction] = {}
        for one in past:
            title = clean_text(self.items[one.item].title, TITLE)
            if title and self.named[one.item]:
                seen.setdefault(title, one)
            if len(seen) >= most:
                break
        for title, one in seen.items():
            yield Fact(name, title, "" if one.value is None else f"{one.value:g}")

    def _aspects(self, user_id: str, past: Sequence[Interaction]) -> Iterable[Fact]:
        said = [self.opinions.get((user_id, self.items[i.item].item_id)) for i in past]
        yield from aspect_facts([opinion for opinion in said if opinion is not None])


def aspect_facts(opinions: Sequence[Opinion], most: int = 3) -> Iterable[Fact]:
    """What opinions praise and blame most often, as facts with their counts."""
    for name, side in (("praised", "positive"), ("blamed", "negative")):
        count = Counter(aspect for opinion in opinions for aspect, polarity in opinion.aspects if polarity == side)
        for aspect, number in sorted(count.items(), key=lambda pair: (-pair[1], pair[0]))[:most]:
            yield Fact(name, aspect, str(number))


def item_sources(
    dataset: Dataset,
    settings: SourceSettings,
    *,
    reviews: Mapping[str, Sequence[tuple[Review, Opinion]]] | None = None,
    unnamed: frozenset[str] = frozenset(),
) -> list[Source]:
    """A description of each item from its attributes and what reviews of the training part say of it."""
    known = reviews or {}
    return [
        Source("item", "description", item.item_id, tuple(_item_facts(item, settings, known.get(item.item_id, ()))))
        for item in dataset.item_list
        if item.item_id not in unnamed
    ]


def _item_facts(item: Item, settings: SourceSettings, said: Sequence[tuple[Review, Opinion]]) -> Iterable[Fact]:
    yield Fact("title", clean_text(item.title, TITLE))
    for name in item.categories[: settings.categories]:
        if text := clean_text(name, CATEGORY):
            yield Fact("category", text)
    if brand := clean_text(item.brand, CATEGORY):
        yield Fact("brand", brand)
    if item.price is not None:
        yield Fact("price", f"{item.price:.2f}".removesuffix(".00"))
    if said:
        yield Fact("reviews", str(len(said)))
        yield from aspect_facts([opinion for _, opinion in said])
    if description := clean_text(item.description, DESCRIPTION):
        yield Fact("description", description)
    for review, _ in said[: settings.reviews]:
        yield Fact("review", clean_text(review.text, DESCRIPTION // 2))


def review_sources(reviews: Sequence[Review], title_of: Callable[[str], str]) -> list[Source]:
    """One source a review; its subject is its place in `reviews`."""
    return [
        Source(
            "review",
            "opinion",
            str(place),
            (
                Fact("title", clean_text(title_of(review.item_id), TITLE)),
                Fact("review", clean_text(review.text, REVIEW)),
            ),
        )
        for place, review in enumerate(reviews)
    ]


def training_reviews(reviews: Sequence[Review], split: Split) -> list[Review]:
    """The reviews of training events: of (user, item, time) or, without a time, of the user's only event with it.

    A review of a later event tells the future, and one of no event cannot be placed in time; both are left out.
    """
    pairs = split.train.select("user_id", "item_id", "time").unique()
    known = set(pairs.iter_rows())
    once = set(pairs.group_by("user_id", "item_id").agg(pl.len()).filter(pl.col("len") == 1).select(
        "user_id", "item_id").iter_rows())  # fmt: skip
    later = pl.concat([split.valid, split.test]).select("user_id", "item_id").unique()
    once -= set(later.iter_rows())
    return [
        review
        for review in reviews
        if (
            (review.user_id, review.item_id, review.time) in known
            if review.time is not None
            else (review.user_id, review.item_id) in once
        )
    ]
