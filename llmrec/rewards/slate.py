"""List-level terms: what a slate is worth as a whole, shared out over its places.

A place is credited with what it adds to the slate's value when the slate is filled in order. The credits of a slate
sum to its value, and the credit of a place does not depend on the items that come after it, so that a return summed
from a place on holds all that the choice there brought about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from llmrec.errors import DataError
from llmrec.rewards.past import Categories, past_items
from llmrec.types import Feedback, FloatArray, IntArray, State


class Likeness(Protocol):
    """Cosine similarity of the items of a slate, pair by pair."""

    def __call__(self, items_BK: IntArray) -> FloatArray: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class CategoryLikeness:
    """Cosine of the indicators of categories: |A and B| / sqrt(|A| |B|).

    Example: drama against drama and war gives 1 / sqrt(2) = 0.71; items of one category each give 1 or 0.
    """

    categories: Categories

    def __call__(self, items_BK: IntArray) -> FloatArray:
        """Similarities of shape (B, K, K); those of a missing item (-1) mean nothing."""
        codes_BKJ = self.categories.codes_NJ[items_BK]
        other_BKJ = np.where(codes_BKJ < 0, -2, codes_BKJ)  # padding equals nothing
        shared_BKK = np.zeros((*items_BK.shape, items_BK.shape[1]), dtype=np.int64)
        # over pairs of category places, of which there are few, so that no (B, K, K, J, J) array is made
        for i, j in np.ndindex(codes_BKJ.shape[2], codes_BKJ.shape[2]):
            shared_BKK += codes_BKJ[:, :, None, i] == other_BKJ[:, None, :, j]
        root_BK = np.sqrt(self.categories.count_N[items_BK])
        return np.asarray(shared_BKK / (root_BK[:, :, None] * root_BK[:, None, :]))


class VectorLikeness:
    """Cosine of item vectors; a vector of zeros is like nothing, not even itself."""

    def __init__(self, vector_ND: FloatArray) -> None:
        vector_ND = np.asarray(vector_ND, dtype=np.float32)
        if vector_ND.ndim != 2 or not np.isfinite(vector_ND).all():
            raise DataError("Item vectors must be a table of finite numbers, one row an item; mend them.")
        length_N = np.linalg.norm(vector_ND, axis=1)
        self.unit_ND = vector_ND / np.where(length_N > 0, length_N, 1.0)[:, None]

    def __call__(self, items_BK: IntArray) -> FloatArray:
        """Similarities of shape (B, K, K); those of a missing item (-1) mean nothing."""
        unit_BKD = self.unit_ND[items_BK]
        return np.asarray((unit_BKD @ unit_BKD.swapaxes(1, 2)).astype(np.float64))


@dataclass(frozen=True, eq=False)
class DiversityReward:
    """Mean distance of the slate's pairs (intra-list diversity, Ziegler et al. 2005), with distance 1 - cosine.

    value = 2 / (K (K - 1)) * sum over j < k of d(j, k); place k is credited with 2 / (K (K - 1)) * sum over j < k of
    d(j, k). K counts the items that are there; one item alone is worth 0.

    Example: categories (a, a, b). Of the three pairs one is alike: 2/3. Credits 0, 0, 2/3.
    """

    likeness: Likeness
    weight: float = 1.0
    name: str = "diversity"
    list_level: ClassVar[bool] = True
    causal: ClassVar[bool] = True

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Credits of the places, (B, K); a slate's sum lies in 0..1, in 0..2 where vectors point apart."""
        return _mean_over_pairs(items_BK, 1.0 - self.likeness(items_BK))


@dataclass(frozen=True, eq=False)
class CoherenceReward:
    """Mean similarity of the slate's pairs: lists that belong together; what `DiversityReward` takes from 1.

    value = 2 / (K (K - 1)) * sum over j < k of cosine(j, k), credited to places as there.

    Example: categories (a, a, b). Of the three pairs one is alike: 1/3. Credits 0, 1/3, 0.
    """

    likeness: Likeness
    weight: float = 1.0
    name: str = "coherence"
    list_level: ClassVar[bool] = True
    causal: ClassVar[bool] = True

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Credits of the places, (B, K); a slate's sum lies in 0..1, in -1..1 where vectors point apart."""
        return _mean_over_pairs(items_BK, self.likeness(items_BK))


def _mean_over_pairs(items_BK: IntArray, value_BKK: FloatArray) -> FloatArray:
    """The mean of a value of pairs, each pair's share credited to the later of its places: (B, K)."""
    real_BK = items_BK >= 0
    # to the later one, which is what makes the credit causal
    earlier_KK = np.tri(items_BK.shape[1], k=-1, dtype=bool)
    pair_BKK = real_BK[:, :, None] & real_BK[:, None, :] & earlier_KK
    pairs_B = pair_BKK.sum(axis=(1, 2))
    return np.asarray(np.where(pair_BKK, value_BKK, 0.0).sum(axis=2) / np.maximum(pairs_B, 1)[:, None])


@dataclass(frozen=True, eq=False)
class CalibrationReward:
    """How far the slate's categories follow the history's (Steck 2018, "Calibrated Recommendations").

    p is the distribution of categories over what the user chose before (an item of n categories gives 1/n to each), q
    the slate's, and KL = sum over c of p(c) log(p(c) / ((1 - alpha) q(c) + alpha p(c))), which is log(1 / alpha) for
    a slate that shares no category with the history. value = 1 - KL / log(1 / alpha): 1 where q = p, 0 where they
    share nothing; 0 for a user without history. A place is credited with the change of the value, below 0 where it
    leads away from p.

    Example: history half a and half b, alpha = 0.01. The slate (a): q = (1, 0), KL = 0.5 log(0.5 / 0.995) + 0.5
    log(0.5 / 0.005) = 1.9585, value 1 - 1.9585 / 4.6052 = 0.5747; the slate (a, b): KL = 0, value 1. Credits 0.5747
    and 0.4253.
    """

    categories: Categories
    alpha: float = 0.01
    weight: float = 1.0
    name: str = "calibration"
    list_level: ClassVar[bool] = True
    causal: ClassVar[bool] = True

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Credits of the places, (B, K)."""
        row_P, code_P, p_P = self.categories.distribution(*past_items(states, chosen=True))
        q_PK = self._prefix_shares(items_BK, row_P, code_P)
        # p log(p / ((1 - alpha) q + alpha p)) with p drawn out of the logarithm: no q is ever divided by
        part_PK = p_P[:, None] * -np.log((1 - self.alpha) * q_PK / p_P[:, None] + self.alpha)
        kl_BK = np.full(items_BK.shape, math.log(1 / self.alpha))
        if len(row_P):
            row_R, first_R = np.unique(row_P, return_index=True)
            kl_BK[row_R] = np.add.reduceat(part_PK, first_R, axis=0)
        value_BK = 1.0 - kl_BK / math.log(1 / self.alpha)
        # telescopes: the credits of a slate add up to its value
        return np.diff(value_BK, axis=1, prepend=0.0)

    def _prefix_shares(self, items_BK: IntArray, row_P: IntArray, code_P: IntArray) -> FloatArray:
        """q(category) of the first k items that are there, for each pair of row and category: (P, K)."""
        real_BK = items_BK >= 0
        items_PK = items_BK[row_P]
        has_PK = np.zeros(items_PK.shape, dtype=bool)
        for codes_N in self.categories.codes_NJ.T:
            has_PK |= codes_N[items_PK] == code_P[:, None]
        has_PK &= items_PK >= 0
        # an item of n categories gives 1/n to each, and place k sees the items up to k
        sum_PK = np.cumsum(has_PK / self.categories.count_N[items_PK], axis=1)
        return np.asarray(sum_PK / np.maximum(np.cumsum(real_BK, axis=1), 1)[row_P])
