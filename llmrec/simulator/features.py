"""States and items as arrays: what every behaviour model reads.

A state becomes one dense row (profile text, recency-weighted means of the texts, categories and prices of its
history, by kind of feedback) and one short padded list of (item, weight) pairs for embedding bags. Only the walk
over the histories is Python; everything else is array work, some 20,000 states a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from llmrec.errors import DataError
from llmrec.simulator.text_space import TextSpace
from llmrec.types import FloatArray, IntArray, Interaction, Item, State

CHANNELS = ("liked", "converted", "skipped")
HISTORY = 30
DECAY = 0.95
CATEGORIES = 64


@dataclass(frozen=True)
class UserArrays:
    """S encoded states: dense rows (S, F) and the last H interactions as items (S, H) and weights (S, H, C).

    Padding is item N (one past the last) with weight 0; `C` runs over `CHANNELS`.
    """

    dense_SF: FloatArray
    item_SH: IntArray
    weight_SHC: FloatArray

    def __len__(self) -> int:
        return len(self.dense_SF)

    def rows(self, index: Any) -> UserArrays:
        """The states at `index`."""
        return UserArrays(self.dense_SF[index], self.item_SH[index], self.weight_SHC[index])


class FeatureSpace:
    """Fitted encoders of states and items, fixed for the life of a behaviour model.

    Attributes:
        known: `item_id` of each item met in fitting, in order; `known_N` maps an item index to its place there, or
            to `len(known)` for an item that came later.
        item_NF: Item rows: text vector, category indicators (unit length), standardised log price, price missing.
    """

    def __init__(
        self,
        items: Sequence[Item],
        known: Sequence[str],
        categories: Sequence[str],
        numbers: Mapping[str, float],
        item_text: TextSpace,
        profile_text: TextSpace,
    ) -> None:
        self.known, self.categories, self.numbers = tuple(known), tuple(categories), dict(numbers)
        self.item_text, self.profile_text = item_text, profile_text
        place = {item_id: k for k, item_id in enumerate(self.known)}
        self.known_N = np.array([place.get(item.item_id, len(place)) for item in items], dtype=np.int64)
        self.text_ND = unit(item_text.encode([item_words(item) for item in items]))
        self.category_NC = unit(self._category_rows(items))
        self.price_N2 = self._price_rows(items)
        self.item_NF = np.concatenate([self.text_ND, self.category_NC, self.price_N2], axis=1)
        _require_finite(self.item_NF, items)

    @classmethod
    def fit(cls, items: Sequence[Item], states: Sequence[State], *, dimension: int, seed: int) -> FeatureSpace:
        """Fits the encoders on the catalogue's text and the training states; raises `DataError`."""
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
        counts = Counter(category for item in items for category in set(item.categories))
        categories = [name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:CATEGORIES]]
        item_text = TextSpace.fit([item_words(item) for item in items], dimension, seed)
        profile_text = TextSpace.fit([_profile_words(state) for state in states], dimension, seed)
        return cls(items, [item.item_id for item in items], categories, numbers, item_text, profile_text)

    @property
    def n_items(self) -> int:
        """Number of items of the catalogue at hand."""
        return len(self.known_N)

    @property
    def user_width(self) -> int:
        """F, the length of a state's dense row."""
        pair = self.item_text.dimension + self.profile_text.dimension
        return int(pair + len(CHANNELS) * self.item_NF.shape[1] + len(CHANNELS) + 1)

    def crossings(self) -> list[tuple[slice, slice]]:
        """Columns of a state and columns of an item that live in one space, so that their products mean likeness."""
        start, text, width = self.profile_text.dimension, self.item_text.dimension, self.item_NF.shape[1]
        profile = (slice(start, start + text), slice(0, text))
        starts = [start + text + channel * width for channel in range(len(CHANNELS))]
        return [profile, *((slice(first, first + width), slice(0, width)) for first in starts)]

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

    def encode(self, states: Sequence[State]) -> UserArrays:
        """Encodes `states`; unknown items of a history are an error that names the user."""
        item_SH, weight_SHC = self._bags(states)
        words = [_profile_words(state) for state in states]
        blocks = [self.profile_text.encode(words), unit(self.item_text.encode(words))]
        weight_SC = weight_SHC.sum(axis=1)
        for channel in range(len(CHANNELS)):
            means = self._bag_matrix(item_SH, weight_SHC[:, :, channel]) @ self.item_NF
            blocks.append(means / (1 + weight_SC[:, channel, None]))  # 1: shrinks short histories to nothing
        blocks.append(np.log1p(weight_SC))
        blocks.append(np.array([[not word] for word in words], dtype=np.float32))
        dense_SF = np.concatenate(blocks, axis=1).astype(np.float32)
        return UserArrays(dense_SF, item_SH, weight_SHC / (1 + weight_SC[:, None, :]))

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
            recent = (*state.history, *state.session)[: -HISTORY - 1 : -1]
            for h, interaction in enumerate(recent):
                item_SH[s, h] = interaction.item
                weight_SHC[s, h] = _feedback_weights(interaction, mean)
        weight_SHC *= decay_H[None, :, None].astype(np.float32)
        outside = (item_SH < 0) | (item_SH > self.n_items) | ~np.isfinite(weight_SHC).all(axis=2)
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
        return arrays, {"known": list(self.known), "categories": list(self.categories), "numbers": self.numbers}

    @classmethod
    def restore(cls, items: Sequence[Item], arrays: Mapping[str, FloatArray], values: dict[str, Any]) -> FeatureSpace:
        """The inverse of `state`, for the same catalogue or one with other items."""
        spaces = {
            name: TextSpace(arrays[f"features.{name}.idf_V"], arrays[f"features.{name}.components_DV"])
            for name in ("item_text", "profile_text")
        }
        return cls(items, values["known"], values["categories"], values["numbers"], **spaces)


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


def unit(rows: FloatArray) -> FloatArray:
    """Rows scaled to length 1; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)


def _require_finite(rows_NF: FloatArray, items: Sequence[Item]) -> None:
    bad = ~np.isfinite(rows_NF).all(axis=1)
    if bad.any():
        item = items[int(np.argmax(bad))]
        raise DataError(f"Item {item.item_id!r} has a feature that is not a finite number; check its price.")
