"""Estimators of a policy's value as rows to sum up, so that one interval serves them all.

With w = pi(a | s) / mu(a | s), q the outcome model, Q = sum over items of pi q, and the mean over rows:

    IPS     mean of w r                                         Horvitz and Thompson 1952
    CIPS    mean of min(w, clip) r                              Ionides 2008; biased towards what is logged
    SNIPS   sum of w r / sum of w                               Swaminathan and Joachims 2015
    DM      mean of Q                                           trusts the model
    DR      mean of Q + w (r - q(a))                            Dudik, Langford and Li 2011
    switch  mean of Q + w (r - q(a)) where w is at most clip    Wang, Agarwal and Dudik 2017; elsewhere the model

IPS and DR (with a model that was not fitted on the row) are unbiased where the log can show all that pi shows.

The clip is chosen by the data; none (infinite) is always among the candidates. A smaller clip has less variance and
more bias towards what is logged. `mse_clip` estimates both (the bias directly, as the mean of what is cut off, which
errs on the safe side by its own noise) and takes the least mean squared error (Su, Dimakopoulou, Krishnamurthy and
Dudik 2020). `slope_clip` is SLOPE (Su, Srinath and Krishnamurthy 2020), which needs no estimate of the bias, only
that it grows: its guarantee is up to a constant, and where rewards are rare it clips far too much
(docs/off-policy.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from llmrec.evaluation.off_policy.intervals import CELLS, Ratio, ratio_interval
from llmrec.evaluation.off_policy.log import BanditLog, Policy, policy_rows
from llmrec.evaluation.off_policy.outcome import CrossFitted
from llmrec.types import FloatArray, IntArray

_ONE_ERROR = float(2 * stats.norm.cdf(1.0) - 1)
"""The level whose half-width is the standard error (of many rows)."""
CLIPS = 20
"""Candidates, spaced evenly in logarithms from the median weight to the largest."""


@dataclass(frozen=True, slots=True)
class ModelTerms:
    """What an outcome model says of each row: q of the item shown, and Q, pi's expectation of q; both (M,)."""

    shown_M: FloatArray
    policy_M: FloatArray


def model_terms(log: BanditLog, policy: Policy, fitted: CrossFitted) -> ModelTerms:
    """q and Q of each row by the model that did not see its user; some rows at a time."""
    shown_M, policy_M = np.empty(len(log)), np.empty(len(log))
    for fold, model in enumerate(fitted.models):
        # Each fold by the model that did not see its users: with q fitted on the row itself, r - q(a) would be too
        # small and DR biased towards the model.
        for rows in chunks(np.flatnonzero(fitted.fold_M == fold), log.n_items):
            # All items of the row, for the expectation over what pi would have shown.
            q_RN = model.predict(log, rows)
            shown_M[rows] = q_RN[np.arange(len(rows)), log.item_M[rows]]
            policy_M[rows] = (policy_rows(policy, log, rows) * q_RN).sum(axis=1)
    return ModelTerms(shown_M, policy_M)


def chunks(rows: IntArray, n_items: int) -> list[IntArray]:
    """`rows` in parts that keep a table of all items within `CELLS` numbers."""
    size = max(1, CELLS // n_items)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def ips(weight_M: FloatArray, reward_M: FloatArray, clip: float = np.inf) -> Ratio:
    """IPS, or CIPS with a finite clip."""
    return Ratio.mean(np.minimum(weight_M, clip) * reward_M)


def snips(weight_M: FloatArray, reward_M: FloatArray) -> Ratio:
    """SNIPS."""
    return Ratio(weight_M * reward_M, weight_M)


def direct(terms: ModelTerms) -> Ratio:
    """The direct method."""
    return Ratio.mean(terms.policy_M)


def doubly_robust(weight_M: FloatArray, reward_M: FloatArray, terms: ModelTerms, switch: float = np.inf) -> Ratio:
    """DR, or switch-DR where only weights up to `switch` correct the model."""
    # Where the weight is large the model alone speaks: its bias there is the price for bounded variance.
    kept_M = np.where(weight_M <= switch, weight_M, 0.0)
    return Ratio.mean(terms.policy_M + kept_M * (reward_M - terms.shown_M))


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
    # Less clipping has less bias, so all larger clips bound the truth; the smallest clip that agrees with them all
    # has the least variance among the honest (Su, Srinath and Krishnamurthy 2020).
    half_C = 2 * float(stats.norm.ppf(0.975)) * np.minimum.accumulate(error_C)
    floor_C = np.maximum.accumulate(mean_C - half_C)
    ceiling_C = np.minimum.accumulate(mean_C + half_C)
    return float(clips[np.flatnonzero(floor_C <= ceiling_C)[-1]])


def _candidates(
    weight_M: FloatArray, reward_M: FloatArray, users: Sequence[object] | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Clips from infinite down, and CIPS and its standard error at each."""
    # Below the median weight clipping would turn the estimate into the plain mean of the log.
    middle = float(np.median(weight_M[weight_M > 0]))
    clips = np.concatenate([[np.inf], np.geomspace(float(weight_M.max()), middle, CLIPS)[1:]])
    found = [ratio_interval(ips(weight_M, reward_M, clip), users=users, level=_ONE_ERROR) for clip in clips]
    means = np.array([part.mean for part in found])
    return clips, means, np.array([part.high for part in found]) - means
