"""What the fits share: parameters by key as flat arrays, the prior, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.simulator.choice.slates import KeyedParameters, SlateLog
from llmrec.types import FloatArray, IntArray

EDGE = 1e-9  # fitted probabilities stay this far from 0 and 1, where EM could not leave again


@dataclass(frozen=True, slots=True)
class Prior:
    """Beta prior of a parameter by `yes` and `no` pseudo-observations (the Beta's a - 1 and b - 1)."""

    yes: float
    no: float

    @classmethod
    def at(cls, rate: float, strength: float) -> Prior:
        """`strength` pseudo-observations, `rate` of which are positive."""
        return cls(rate * strength, (1 - rate) * strength)

    @property
    def mean(self) -> float:
        """Its mode: what a parameter without data is."""
        total = self.yes + self.no
        return self.yes / total if total else 0.5

    def rate(self, yes_P: npt.ArrayLike, all_P: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The most probable rate after `yes_P` positives of `all_P` observations."""
        # The mode of Beta(yes + 1 + successes, no + 1 + failures).
        total_P = np.asarray(all_P, dtype=np.float64) + self.yes + self.no
        rate_P = (np.asarray(yes_P, dtype=np.float64) + self.yes) / np.where(total_P > 0, total_P, 1.0)
        return np.clip(np.where(total_P > 0, rate_P, self.mean), EDGE, 1 - EDGE)

    def log_density(self, value_P: FloatArray) -> float:
        """Sum of the log prior (without its constant) over parameters in (0, 1)."""
        return float((self.yes * np.log(value_P) + self.no * np.log1p(-value_P)).sum())


@dataclass(frozen=True, slots=True)
class Keyed:
    """The places of a log by parameter: `index_SK` points into the P distinct keys; empty places point at 0."""

    key_P: IntArray
    index_SK: IntArray
    shown_SK: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, log: SlateLog) -> Keyed:
        """Reads the items of a log."""
        shown = log.shown_SK
        found, place = np.unique(log.item_SK[shown], return_inverse=True)
        index = np.zeros(shown.shape, dtype=np.int64)
        index[shown] = place
        return cls(found, index, shown)

    def total(self, weight_SK: FloatArray) -> npt.NDArray[np.float64]:
        """Sum of `weight_SK` over the shown places of each key: shape (P,)."""
        weights = np.where(self.shown_SK, weight_SK, 0.0).ravel()
        return np.asarray(np.bincount(self.index_SK.ravel(), weights, len(self.key_P)), dtype=np.float64)

    def spread(self, value_P: FloatArray) -> npt.NDArray[np.float64]:
        """The value of each place's key, 0 where empty: shape (S, K)."""
        return np.where(self.shown_SK, value_P[self.index_SK], 0.0)

    def parameters(self, value_P: FloatArray, default: float) -> KeyedParameters:
        """The values by key."""
        return KeyedParameters(self.key_P, np.asarray(value_P, dtype=np.float64), float(default))


@dataclass(frozen=True, slots=True)
class Stop:
    """EM ends when the objective gains less than `tolerance` an impression, or after `max_steps`."""

    tolerance: float
    max_steps: int
    impressions: int

    def done(self, curve: list[float]) -> bool:
        """Whether the last step of `curve` was small enough."""
        return len(curve) > 1 and curve[-1] - curve[-2] < self.tolerance * self.impressions


def last_click(click_SK: npt.NDArray[np.bool_]) -> IntArray:
    """The rank of each slate's last click, -1 without one: shape (S,)."""
    places = click_SK.shape[1]
    last = places - 1 - np.argmax(click_SK[:, ::-1], axis=1)
    return np.where(click_SK.any(axis=1), last, -1).astype(np.int64)
