"""Logged slates as the choice models read them, and what was learnt of each item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class SlateLog:
    """S slates of up to K places, in rank order; checked when made.

    Attributes:
        item_SK: Item index shown at each place, -1 where the place is empty.
        click_SK: Whether it was clicked.
        user_S: User of each slate, if known.
        attraction_SK: Known attraction of each place (a behaviour model's) for models that hold none per item.
        satisfaction_SK: Known P(satisfied | click), likewise.
        ranked: Whether column k really is rank k; false for logs that carry no positions.

    Raises:
        DataError: Shapes that differ, a click on an empty place, or an attraction that is no probability.
    """

    item_SK: IntArray
    click_SK: BoolArray
    user_S: npt.NDArray[Any] | None = None
    attraction_SK: FloatArray | None = None
    satisfaction_SK: FloatArray | None = None
    ranked: bool = True

    def __post_init__(self) -> None:
        if self.item_SK.ndim != 2:
            raise DataError(f"Items of shape {self.item_SK.shape} are no slates; give one row a slate.")
        for name in ("click_SK", "attraction_SK", "satisfaction_SK"):
            values = getattr(self, name)
            if values is not None and values.shape != self.item_SK.shape:
                raise DataError(f"Items have shape {self.item_SK.shape} but {name} {values.shape}; align them.")
        if self.user_S is not None and len(self.user_S) != len(self.item_SK):
            raise DataError(f"There are {len(self.item_SK)} slates but {len(self.user_S)} users; align them.")
        if self.click_SK.dtype != np.bool_:
            raise DataError(
                f"Clicks of a slate log are true or false, not {self.click_SK.dtype}; compare them with 0."
            )
        if self.item_SK.size and self.item_SK.min() < -1:
            raise DataError(f"Item index {self.item_SK.min()} is below -1, which stands for an empty place.")
        if (self.click_SK & (self.item_SK < 0)).any():
            row = int(np.argmax((self.click_SK & (self.item_SK < 0)).any(axis=1)))
            raise DataError(f"Slate {row} has a click on an empty place; drop the click or name the item.")
        for name in ("attraction_SK", "satisfaction_SK"):
            if getattr(self, name) is not None:
                require_probabilities(getattr(self, name), name.removesuffix("_SK"))

    def __len__(self) -> int:
        return len(self.item_SK)

    @property
    def shown_SK(self) -> BoolArray:
        """Places that hold an item."""
        return np.asarray(self.item_SK >= 0)

    @classmethod
    def of_impressions(
        cls,
        slate_M: npt.ArrayLike,
        item_M: npt.ArrayLike,
        click_M: npt.ArrayLike,
        position_M: npt.ArrayLike | None = None,
        *,
        user_M: npt.ArrayLike | None = None,
    ) -> SlateLog:
        """Slates from M logged impressions.

        Args:
            slate_M: Any key that is equal for the impressions of one slate.
            item_M: Item indices.
            click_M: 0 or 1.
            position_M: 0-based ranks; without them the slates are not `ranked` and keep the log's order.
            user_M: User of each impression, equal within a slate.

        Raises:
            DataError: A click that is neither 0 nor 1, a negative rank, or two items at one rank of a slate.
        """
        item, click = np.asarray(item_M, dtype=np.int64), np.asarray(click_M, dtype=np.float64)
        if not np.isin(click, (0.0, 1.0)).all():
            row = int(np.argmin(np.isin(click, (0.0, 1.0))))
            raise DataError(f"Impression {row} has click = {click[row]}; it must be 0 or 1.")
        _, first_S, slate = np.unique(np.asarray(slate_M), return_index=True, return_inverse=True)
        position = _order_within(slate) if position_M is None else _ranks(position_M, slate)
        shape = (len(first_S), int(position.max(initial=-1)) + 1)
        items_SK, clicks_SK = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
        items_SK[slate, position], clicks_SK[slate, position] = item, click > 0
        user = None if user_M is None else np.asarray(user_M)[first_S]
        return cls(items_SK, clicks_SK, user, ranked=position_M is not None)


def _order_within(slate_M: IntArray) -> IntArray:
    order = np.argsort(slate_M, kind="stable")
    count_S = np.bincount(slate_M)
    place_M = np.empty(len(slate_M), dtype=np.int64)
    place_M[order] = np.arange(len(slate_M)) - np.repeat(np.cumsum(count_S) - count_S, count_S)
    return place_M


def _ranks(position_M: npt.ArrayLike, slate_M: IntArray) -> IntArray:
    given = np.asarray(position_M, dtype=np.float64)
    bad = ~np.isfinite(given) | (given < 0) | (given != np.floor(given))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"Impression {row} has position = {given[row]}; ranks are whole numbers from 0.")
    position = given.astype(np.int64)
    # Two items at one rank would overwrite one another in the matrix without a word.
    pairs, count = np.unique(np.stack([slate_M, position]), axis=1, return_counts=True)
    if (count > 1).any():
        _, rank = pairs[:, int(np.argmax(count > 1))]
        row = int(np.flatnonzero((slate_M == pairs[0, int(np.argmax(count > 1))]) & (position == rank))[1])
        raise DataError(f"Impression {row} is a second item at rank {rank} of its slate; a rank holds one item.")
    return position


def require_probabilities(values: npt.NDArray[Any], name: str) -> None:
    """Raises `DataError` where one of `values` is not a finite number in [0, 1]; cheap where all is well."""
    if not values.size or (values.min() >= 0 and values.max() <= 1):  # false for NaN
        return
    bad = ~((values >= 0) & (values <= 1))
    at = tuple(int(k) for k in np.argwhere(bad)[0])
    raise DataError(f"The {name} at {list(at)} is {values[at]}, but a probability is a finite number in 0..1.")


@dataclass(frozen=True, slots=True)
class KeyedParameters:
    """A number for each item, and one for items that the fit never met.

    Attributes:
        key_P: Sorted item indices.
        value_P: Their values, in [0, 1].
        default: The value of any other item.
    """

    key_P: IntArray
    value_P: FloatArray
    default: float

    def of(self, keys: IntArray) -> FloatArray:
        """The values of items (any shape); 0 for -1."""
        if not len(self.key_P):
            return np.where(keys < 0, 0.0, self.default)
        at = np.searchsorted(self.key_P, keys).clip(max=len(self.key_P) - 1)
        found = np.where(self.key_P[at] == keys, self.value_P[at], self.default)
        return np.where(keys < 0, 0.0, found)
