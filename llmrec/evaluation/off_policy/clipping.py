"""The clip of importance weights, chosen by the data: no clip (infinite) is always among the candidates.

A smaller clip has less variance and more bias towards what is logged. `mse_clip` estimates both (the bias directly,
as the mean of what is cut off, which errs on the safe side by its own noise) and takes the least mean squared error
(Su, Dimakopoulou, Krishnamurthy and Dudik 2020). `slope_clip` is SLOPE (Su, Srinath and Krishnamurthy 2020), which
needs no estimate of the bias, only that it grows: its guarantee is up to a constant, and where rewards are rare it
clips far too much (docs/off-policy.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from llmrec.evaluation.off_policy.estimators import ips
from llmrec.evaluation.off_policy.intervals import ratio_interval
from llmrec.types import FloatArray

CLIPS = 20
"""Candidates, spaced evenly in logarithms from the median weight to the largest."""


def mse_clip(weight_M: FloatArray, reward_M: FloatArray, users: Sequence[object] | None = None) -> float:
    """The clip of CIPS with the least estimated mean squared error."""
    clips, mean_C, error_C = _candidates(weight_M, reward_M, users)
    return float(clips[np.argmin((mean_C[0] - mean_C) ** 2 + error_C**2)])


def slope_clip(weight_M: FloatArray, reward_M: FloatArray, users: Sequence[object] | None = None) -> float:
    """The clip of CIPS by SLOPE.

    From no clip down, taken is the smallest whose interval (twice the 95% half-width, which may not grow) still meets
    those of all larger clips.
    """
    clips, mean_C, error_C = _candidates(weight_M, reward_M, users)
    half_C = 2 * float(stats.norm.ppf(0.975)) * np.minimum.accumulate(error_C)
    floor_C = np.maximum.accumulate(mean_C - half_C)
    ceiling_C = np.minimum.accumulate(mean_C + half_C)
    return float(clips[np.flatnonzero(floor_C <= ceiling_C)[-1]])


def _candidates(
    weight_M: FloatArray, reward_M: FloatArray, users: Sequence[object] | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Clips from infinite down, and CIPS and its standard error at each."""
    middle = float(np.median(weight_M[weight_M > 0]))
    clips = np.concatenate([[np.inf], np.geomspace(float(weight_M.max()), middle, CLIPS)[1:]])
    found = [ratio_interval(ips(weight_M, reward_M, clip), users=users, level=_ONE_ERROR) for clip in clips]
    means = np.array([part.mean for part in found])
    return clips, means, np.array([part.high for part in found]) - means


_ONE_ERROR = float(2 * stats.norm.cdf(1.0) - 1)
"""The level whose half-width is the standard error (of many rows)."""
