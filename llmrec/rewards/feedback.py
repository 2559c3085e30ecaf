"""Terms of what users do with an item: click, conversion, rating, satisfaction, seconds watched, money.

Each is an expectation over the feedback it is given, so that drawn feedback (0 or 1) gives drawn rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmrec.errors import ConfigError, DataError
from llmrec.rewards.term import lookup
from llmrec.simulator.ensemble import member_deviation
from llmrec.types import Feedback, FloatArray, IntArray, Item, State


class Valued(Protocol):
    """Expects a value of an item: `simulator.values.ValueModel`, or a behaviour model that has learnt values."""

    def expected_value(self, states: Sequence[State], items_BK: IntArray) -> FloatArray: ...  # noqa: D102


@dataclass(frozen=True)
class ValueEnsemble:
    """The mean of several models' expected values, less `pessimism` standard deviations over the models: (B, K).

    Example: members that expect 4 and 3 stars and a pessimism of 1 give 3.5 - 1 * 0.707 = 2.79.
    """

    members: tuple[Valued, ...]
    pessimism: float = 0.0

    def expected_value(self, states: Sequence[State], items_BK: IntArray) -> FloatArray:
        """Expected values, (B, K); nan for no item (-1)."""
        value_EBK = np.stack([member.expected_value(states, items_BK) for member in self.members])
        return np.asarray(value_EBK.mean(axis=0) - self.pessimism * member_deviation(value_EBK))


@dataclass(frozen=True)
class ClickReward:
    """P(click), or 1 for a drawn click.

    Example: P(click) = 0.2 is worth 0.2.
    """

    weight: float = 1.0
    name: str = "click"

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Clicks of shape (B, K)."""
        return feedback.click_BK


@dataclass(frozen=True)
class ConversionReward:
    """P(click and conversion) of an impression, or 1 for a drawn conversion.

    Example: P(click) = 0.2 and P(conversion | click) = 0.5 are worth 0.1.
    """

    weight: float = 3.0
    name: str = "conversion"

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Conversions per impression of shape (B, K)."""
        return feedback.conversion_BK


@dataclass(frozen=True, eq=False)
class RatingReward:
    """E[rating | state, item], in the units of the ratings, whether or not the item is picked.

    Example: an expected 3.5 stars are worth 3.5. Alone it favours what few would pick but those would praise; see
    `SatisfactionReward` for the product with the click.
    """

    ratings: Valued
    weight: float = 1.0
    name: str = "rating"

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Expected ratings of shape (B, K)."""
        return self.ratings.expected_value(states, items_BK)


@dataclass(frozen=True, eq=False)
class SatisfactionReward:
    """P(click) * (E[rating] - low) / (high - low), in 0..1: an item is picked, and liked.

    Where there are no ratings (`ratings` None) a click that led to a conversion counts as satisfied, one that did not
    as unsatisfied: P(click) * P(conversion | click).

    Example: P(click) = 0.2 and an expected 4 of 1 to 5 stars are worth 0.2 * 3 / 4 = 0.15.
    """

    ratings: Valued | None = None
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    name: str = "satisfaction"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(f"The ratings of {self.name!r} lie in {self.low}..{self.high}; give a range above 0.")

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Satisfied clicks per impression of shape (B, K)."""
        if self.ratings is None:
            return feedback.conversion_BK
        share_BK = (self.ratings.expected_value(states, items_BK) - self.low) / (self.high - self.low)
        return np.asarray(feedback.click_BK * np.clip(share_BK, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class WatchTimeReward:
    """P(click) * E[seconds | click]: seconds watched, read or listened to per impression.

    Example: P(click) = 0.2 and an expected 600 s once clicked are worth 120 s; a weight of 1/600 makes ten minutes as
    good as a click.
    """

    seconds: Valued
    weight: float = 1.0
    name: str = "watch_time"

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Seconds per impression of shape (B, K), never below 0."""
        # a regression may expect less than nothing where little was watched, or less a pessimism
        seconds_BK = np.maximum(self.seconds.expected_value(states, items_BK), 0.0)
        return np.asarray(feedback.click_BK * seconds_BK)


@dataclass(frozen=True, eq=False)
class RevenueReward:
    """price * P(click and conversion), in the data set's currency; an item without a price is worth 0.

    Example: a price of 30 and P(click and conversion) = 0.1 are worth 3.
    """

    price_N: FloatArray
    weight: float = 1.0
    name: str = "revenue"

    @classmethod
    def of(cls, items: Sequence[Item], weight: float = 1.0) -> RevenueReward:
        """From the items' prices; raises `DataError` where none has one, or one is below 0."""
        if not any(item.price for item in items):
            raise DataError("Reward 'revenue' needs prices, but no item has one; add the column price to the items.")
        for row, item in enumerate(items):
            if item.price is not None and not item.price >= 0:
                raise DataError(f"Item {row} has the price {item.price}, but reward 'revenue' needs 0 or more.")
        return cls(np.array([item.price or 0.0 for item in items]), weight)

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Expected takings per impression of shape (B, K)."""
        return lookup(self.price_N, items_BK, self.name) * feedback.conversion_BK
