"""States and items as arrays: what every behaviour model reads.

A state becomes one dense row (profile text, recency-weighted means of the texts, categories and prices of its
history, by kind of feedback, the categories that its profile names) and one short padded list of (item, weight) pairs
for embedding bags. Only the walk over the histories is Python; everything else is array work, some 20,000 states a
second.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from llmrec.errors import DataError
from llmrec.simulator.sequence import Histories
from llmrec.types import FloatArray, IntArray, Interaction, Item, State
from llmrec.vectors.hashed import TextSpace

CHANNELS = ("liked", "converted", "skipped")
HISTORY = 30
DECAY = 0.95
CATEGORIES = 64
TEXT = 32
"""Length of the text vectors that states and items are compared in."""
WORDS = 128
"""Length of the longer text vector of an item, which tells what sets it apart from its like (a clue on quality)."""


@dataclass(frozen=True)
class UserArrays:
    """S encoded states: dense rows (S, F) and the last H interactions as items (S, H) and weights (S, H, C).

    Padding is item N (one past the last) with weight 0; `C` runs over `CHANNELS`. `histories` are the events in
    their order, for the networks that read them so.
    """

    dense_SF: FloatArray
    item_SH: IntArray
    weight_SHC: FloatArray
    histories: Histories | None = None

    def __len__(self) -> int:
        return len(self.dense_SF)


class FeatureSpace:
    """Fitted encoders of states and items, fixed for the life of a behaviour model.

    Attributes:
        known: `item_id` of each item met in fitting, in order; `known_N` maps an item index to its place there, or
            to `len(known)` for an item that came later.
        texts: What there is to read about each item.
        words_NW: The longer text vector of each item.
        item_NF: Item rows: text vector, category indicators (unit length), standardised log price, price missing,
            number of impressions (log, as a spline: what the log's policy believed in tells something of an item;
            0, the average, for one that came after fitting).
    """

    def __init__(
        self,
        items: Sequence[Item],
        known: Sequence[str],
        categories: Sequence[str],
        numbers: Mapping[str, float],
        item_text: TextSpace,
        profile_text: TextSpace,
        shown_K: FloatArray,
        named: bool = False,
    ) -> None:
        self.named = NamedCategories(categories, items) if named else None
        self.known, self.categories, self.numbers = tuple(known), tuple(categories), dict(numbers)
        self.item_text, self.profile_text, self.shown_K = item_text, profile_text, shown_K
        place = {item_id: k for k, item_id in enumerate(self.known)}
        self.known_N = np.array([place.get(item.item_id, len(place)) for item in items], dtype=np.int64)
        self.texts = [item_words(item) for item in items]
        self.words_NW = item_text.encode(self.texts)
        self.text_ND = unit(self.words_NW[:, :TEXT])
        self.category_NC = unit(self._category_rows(items))
        self.price_N2 = self._price_rows(items)
        popular_N4 = np.concatenate([_spline(np.log1p(shown_K)), np.zeros((1, 4))])[self.known_N]
        self.item_NF = np.concatenate([self.text_ND, self.category_NC, self.price_N2, popular_N4], axis=1)
        self.item_NF = self.item_NF.astype(np.float32)
        _require_finite(self.item_NF, items)

    @classmethod
    def fit(cls, items: Sequence[Item], states: Sequence[State], shown_N: FloatArray, *, seed: int) -> FeatureSpace:
        """Fits the encoders on the catalogue's text and the training states; raises `DataError`.

        Args:
            items: The catalogue.
            states: The states of the training part.
            shown_N: Number of impressions of each item in the training part.
            seed: Seed of the truncated decompositions.
        """
        prices = [item.price for item in items if item.price is not None]
        for item in items:
            if item.price is not None and not (np.isfinite(item.price) and item.price >= 0):
                raise DataError(f"Item {item.item_id!r} has the price {item.price}; give a number from 0 up or none.")
        logs = np.log1p(np.array(prices)) if prices else np.zeros(1)
        values = [i.value for state in states for i in state.history if i.value is not None and np.isfinite(i.value)]
        numbers = {
            "price_mean": float(logs.mean()),
            "price_std": float(logs.std()) or 1.0,
            "value_mean": float(np.mean(values)) if values else 0.0,
        }
        # The most frequent categories, ties by name: the columns must not depend on the order of the catalogue.
        counts = Counter(category for item in items for category in set(item.categories))
        categories = [name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:CATEGORIES]]
        item_text = TextSpace.fit([item_words(item) for item in items], WORDS, seed)
        profile_text = TextSpace.fit([_profile_words(state) for state in states], TEXT, seed)
        known = [item.item_id for item in items]
        named = NamedCategories(categories, items)
        # Columns that are 0 in all states would teach nothing, so only where profiles speak of categories they exist.
        told = any(named.found(text) for text in {_profile_words(state) for state in states})
        shown_K = np.asarray(shown_N, dtype=np.float64)
        return cls(items, known, categories, numbers, item_text, profile_text, shown_K, told)

    @property
    def n_items(self) -> int:
        """Number of items of the catalogue at hand."""
        return len(self.known_N)

    @property
    def user_width(self) -> int:
        """F, the length of a state's dense row."""
        pair = TEXT + self.profile_text.dimension
        channels = len(CHANNELS) * (self.item_NF.shape[1] + len(self.categories) + 1)
        return int(pair + channels + (0 if self.named is None else self.named.width) + 1)

    def crossings(self) -> list[tuple[slice, slice]]:
        """Columns of a state and columns of an item that live in one space, so that their products mean likeness.

        They are profile x text, and for each channel of the history: text x text, categories x categories (shares),
        the rest of the item row x the same, and categories x categories (sums). Then, where profiles name
        categories, named x categories, once for those that items name first and once for the others.
        """
        text, categories, width = TEXT, len(self.categories), self.item_NF.shape[1]
        start = self.profile_text.dimension
        pairs = [(slice(start, start + text), slice(0, text))]
        start += text
        for _ in CHANNELS:
            for low, high in ((0, text), (text, text + categories), (text + categories, width)):
                pairs.append((slice(start + low, start + high), slice(low, high)))
            start += width
            pairs.append((slice(start, start + categories), slice(text, text + categories)))
            start += categories
        for _ in range(0 if self.named is None else NamedCategories.LEVELS):
            pairs.append((slice(start, start + categories), slice(text, text + categories)))
            start += categories
        return [pair for pair in pairs if pair[0].stop > pair[0].start]

    def _category_rows(self, items: Sequence[Item]) -> FloatArray:
        column = {name: k for k, name in enumerate(self.categories)}
        rows_NC = np.zeros((len(items), len(column)), dtype=np.float32)
        for n, item in enumerate(items):
            for name in item.categories:
                if name in column:
                    rows_NC[n, column[name]] = 1
        return rows_NC

    def _price_rows(self, items: Sequence[Item]) -> FloatArray:
        logs = np.log1p(np.array([np.nan if item.price is None else item.price for item in items], dtype=np.float64))
        scaled = (logs - self.numbers["price_mean"]) / self.numbers["price_std"]
        missing = np.array([item.price is None for item in items])
        return np.stack([np.where(missing, 0.0, scaled), missing], axis=1).astype(np.float32)

    def encode(self, states: Sequence[State], *, histories: bool = False, window: int | None = None) -> UserArrays:
        """Encodes `states`; unknown items of a history are an error that names the user.

        Args:
            states: The states.
            histories: Also keep the events in their order.
            window: How many of the latest events those hold; None keeps all.
        """
        item_SH, weight_SHC = self._bags(states)
        words = [_profile_words(state) for state in states]
        blocks = [self.profile_text.encode(words), unit(self.item_text.encode(words)[:, :TEXT])]
        weight_SC = weight_SHC.sum(axis=1)
        for channel in range(len(CHANNELS)):
            means = self._bag_matrix(item_SH, weight_SHC[:, :, channel]) @ self.item_NF
            blocks.append(means / (1 + weight_SC[:, channel, None]))  # 1: shrinks short histories to nothing
            sums = self._bag_matrix(item_SH, weight_SHC[:, :, channel]) @ self.category_NC
            blocks.append(np.asarray(sums) / 4)  # how much, where the mean says only which share
        if self.named is not None:
            blocks.append(self.named.encode(words))
        blocks.append(np.log1p(weight_SC))
        blocks.append(np.array([not word for word in words], dtype=np.float32)[:, None])
        dense_SF = np.concatenate(blocks, axis=1).astype(np.float32)
        past = Histories.of(states, self.n_items, self.numbers["value_mean"], window) if histories else None
        if past is not None and window is not None:
            past = past.last(window)
        return UserArrays(dense_SF, item_SH, weight_SHC / (1 + weight_SC[:, None, :]), past)

    def _bag_matrix(self, item_SH: IntArray, weight_SH: FloatArray) -> csr_matrix:
        row_S1, column_SH = np.nonzero(weight_SH)
        shape = (len(item_SH), self.n_items)
        return csr_matrix((weight_SH[row_S1, column_SH], (row_S1, item_SH[row_S1, column_SH])), shape=shape)

    def _bags(self, states: Sequence[State]) -> tuple[IntArray, FloatArray]:
        item_SH = np.full((len(states), HISTORY), self.n_items, dtype=np.int64)
        weight_SHC = np.zeros((len(states), HISTORY, len(CHANNELS)), dtype=np.float32)
        mean = self.numbers["value_mean"]
        decay_H = DECAY ** np.arange(HISTORY)
        for s, state in enumerate(states):
            # The latest event first, so that place h is h events ago, which is what the decay counts by.
            recent = (*state.history, *state.session)[: -HISTORY - 1 : -1]
            for h, interaction in enumerate(recent):
                item_SH[s, h] = interaction.item
                weight_SHC[s, h] = _feedback_weights(interaction, mean)
        weight_SHC *= decay_H[None, :, None].astype(np.float32)
        # Index N is padding, whose weights are all 0; an event of the user's has a weight in some channel.
        real_SH = (weight_SHC != 0).any(axis=2)
        outside = (item_SH < 0) | (real_SH & (item_SH >= self.n_items)) | ~np.isfinite(weight_SHC).all(axis=2)
        if outside.any():
            s, h = (int(k) for k in np.argwhere(outside)[0])
            raise DataError(
                f"The state of user {states[s].user_id!r} holds item index {item_SH[s, h]} or a value that is not a "
                f"finite number; use indices below {self.n_items} and finite values."
            )
        return item_SH, weight_SHC

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Arrays and plain values from which `restore` builds the same encoders."""
        arrays = {
            f"features.{name}.{part}": getattr(space, part)
            for name, space in (("item_text", self.item_text), ("profile_text", self.profile_text))
            for part in ("idf_V", "components_DV")
        }
        arrays["features.shown"] = self.shown_K
        return arrays, {"known": list(self.known), "categories": list(self.categories), "numbers": self.numbers} | (
            {} if self.named is None else {"named": True}
        )

    @classmethod
    def restore(cls, items: Sequence[Item], arrays: Mapping[str, FloatArray], values: dict[str, Any]) -> FeatureSpace:
        """The inverse of `state`, for the same catalogue or one with other items."""
        spaces = {
            name: TextSpace(arrays[f"features.{name}.idf_V"], arrays[f"features.{name}.components_DV"])
            for name in ("item_text", "profile_text")
        }
        return cls(
            items,
            values["known"],
            values["categories"],
            values["numbers"],
            **spaces,
            shown_K=arrays["features.shown"],
            named=values.get("named", False),
        )


class NamedCategories:
    """Which categories a profile names: "Likes coffee and yoga" names two, whatever its other words are.

    Hashed words find this only where many people use the same few words; a name says it of itself, for a category
    that few profiles name, too. Kinds and manners of an item (its first category, and the others) are columns apart,
    since they need not matter alike.

    Args:
        categories: their names, C of them.
        items: the catalogue, which tells what stands first.
    """

    LEVELS = 2

    def __init__(self, categories: Sequence[str], items: Sequence[Item]) -> None:
        self.categories = tuple(categories)
        self._column = {_plain(name): column for column, name in enumerate(categories) if _plain(name)}
        # The longest name first: "music drama" is not "music". Letters and digits beside it would be another word.
        names = "|".join(re.escape(name) for name in sorted(self._column, key=len, reverse=True))
        self._names = re.compile(f"(?<![a-z0-9])(?:{names})(?![a-z0-9])") if names else None
        first, held = np.zeros(len(categories)), np.zeros(len(categories))
        for item in items:
            for place, name in enumerate(dict.fromkeys(item.categories)):
                column = self._column.get(_plain(name))
                if column is not None:
                    held[column] += 1
                    first[column] += place == 0
        self._level_C = (2 * first < held).astype(np.int64)
        self._known: dict[str, tuple[int, ...]] = {}

    @property
    def width(self) -> int:
        """Columns of `encode`."""
        return self.LEVELS * len(self.categories)

    def found(self, text: str) -> tuple[int, ...]:
        """The columns of the categories that `text` names."""
        known = self._known.get(text)
        if known is None:
            hits = () if self._names is None else self._names.findall(_plain(text))
            known = self._known[text] = tuple(dict.fromkeys(self._column[name] for name in hits))
        return known

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """1 for each category named, those of each level in columns of their own: (S, LEVELS * C)."""
        rows_SC = np.zeros((len(texts), self.width), dtype=np.float32)
        for row, text in enumerate(texts):
            for column in self.found(text):
                rows_SC[row, self._level_C[column] * len(self.categories) + column] = 1
        return rows_SC


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def item_words(item: Item) -> str:
    """The text of an item that is encoded: title twice, then categories, brand, description."""
    return " ".join([item.title, item.title, *item.categories, item.brand, item.description[:2000]])


def _profile_words(state: State) -> str:
    return f"{state.profile} {state.context}".strip()[:2000]


def _feedback_weights(interaction: Interaction, value_mean: float) -> tuple[float, float, float]:
    """Weights in the channels liked, converted, skipped; a rating counts as converted from the mean rating up."""
    kind = interaction.feedback
    if kind == "impression":
        return 0.0, 0.0, 1.0
    if kind == "rating" and interaction.value is not None:
        good = float(interaction.value >= value_mean) if np.isfinite(interaction.value) else np.nan
        return good + 0.5, good, 1.0 - good
    return 1.0, float(kind == "conversion"), 0.0


def _spline(values_K: FloatArray) -> FloatArray:
    """Standardised values and their excess over each quartile, each column of mean 0: shape (K, 4)."""
    # A linear spline with knots at the quartiles: popularity may count differently among the rare and the popular.
    # Columns of mean 0 make zeros, the row of an item that came after fitting, the average item.
    z_K = (values_K - values_K.mean()) / (values_K.std() or 1.0)
    columns = [z_K, *(np.maximum(z_K - knot, 0.0) for knot in np.quantile(z_K, [0.25, 0.5, 0.75]))]
    return np.stack([column - column.mean() for column in columns], axis=1)


def unit(rows: FloatArray) -> FloatArray:
    """Rows scaled to length 1; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)


def _require_finite(rows_NF: FloatArray, items: Sequence[Item]) -> None:
    # One price that is no number would make every loss nan, without saying where.
    bad = ~np.isfinite(rows_NF).all(axis=1)
    if bad.any():
        item = items[int(np.argmax(bad))]
        raise DataError(f"Item {item.item_id!r} has a feature that is not a finite number; check its price.")
