"""Importance weights, what they say of the overlap of two policies, and when it is too small for an estimate.

n_eff = (sum w)^2 / sum w^2 (Kish 1965) says how many rows really speak. The expectation of a weight is 1 where the
logging policy can show whatever the target policy would (full support) and the propensities are right, so a mean
weight away from 1 accuses one of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import DataError, RequestError
from llmrec.evaluation.off_policy.intervals import Ratio, ratio_interval
from llmrec.evaluation.off_policy.log import check_propensities
from llmrec.evaluation.significance import Interval
from llmrec.types import FloatArray

QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class OverlapLimits:
    """When the overlap is too small; docs/off-policy.md has the measured coverage behind the defaults.

    Attributes:
        effective_samples: least n_eff.
        max_share: largest share that a single row may have of the sum of all weights.
        unsupported: largest share of the policy that may lie on what the log never shows.
        mean_weight: the mean weight is off where its 99% interval lies beyond 1 by more than this.
    """

    effective_samples: float = 200.0
    max_share: float = 0.05
    unsupported: float = 0.01
    mean_weight: float = 0.02


@dataclass(frozen=True, slots=True)
class WeightDiagnostics:
    """What the weights say of the overlap.

    Attributes:
        rows: logged rows.
        clusters: independent units (users) among them.
        effective_samples: n_eff of the rows.
        max_share: the largest weight over the sum of all.
        mean: mean weight with its 99% interval; it should hold 1.
        quantiles: weight at the `QUANTILES`.
        zero: share of the rows that the policy would never show.
        clipped: share of the rows above the clip.
        clip: the clip of the clipped estimate, or None.
        unsupported: share of the policy on items that the log cannot show, or None where that is not known.
    """

    rows: int
    clusters: int
    effective_samples: float
    max_share: float
    mean: Interval
    quantiles: tuple[float, ...]
    zero: float
    clipped: float = 0.0
    clip: float | None = None
    unsupported: float | None = None


def importance_weights(log_prob_M: FloatArray, propensity_M: FloatArray) -> FloatArray:
    """pi / mu of each impression, (M,), not capped yet; -inf (an item that pi leaves out) weighs 0.

    Raises:
        DataError: a propensity that is missing or outside (0, 1], or a log-probability above 0 or missing.
    """
    log_prob_M = np.asarray(log_prob_M, dtype=np.float64)
    propensity_M = np.asarray(propensity_M, dtype=np.float64)
    if log_prob_M.shape != propensity_M.shape or log_prob_M.ndim != 1:
        raise DataError(f"{log_prob_M.shape} log-probabilities do not fit {propensity_M.shape} propensities.")
    check_propensities(propensity_M)
    bad_M = ~(log_prob_M <= 1e-4)  # rounding may put a certain item a little above 0
    if bad_M.any():
        row = int(bad_M.argmax())
        raise DataError(f"Impression {row} has the log-probability {log_prob_M[row]}; give log pi, at most 0.")
    # Rounding above 0 would make a certain item count more than once.
    weight_M: FloatArray = np.exp(np.minimum(log_prob_M, 0.0)) / propensity_M
    return weight_M


def effective_samples(weight_M: FloatArray) -> float:
    """n_eff of weights (M,), between 1 and M; 0 where all are 0."""
    top = float(np.max(weight_M, initial=0.0))
    if top == 0.0:
        return 0.0
    scaled_M = weight_M / top  # squares of very large weights would overflow
    return float(scaled_M.sum() ** 2 / (scaled_M @ scaled_M))


def diagnose(
    weight_M: FloatArray,
    *,
    users: Sequence[object] | None = None,
    clip: float | None = None,
    unsupported: float | None = None,
) -> WeightDiagnostics:
    """The diagnostics of weights (M,) that have been checked; see `WeightDiagnostics`.

    Raises:
        RequestError: fewer than two rows or users, or a policy that shows nothing of what was logged.
    """
    if not weight_M.any():
        raise RequestError("The policy shows nothing of what was logged, so the log cannot value it.")
    # E_mu[pi / mu] = 1 where mu covers pi: a free check of propensities and support. At 99%, as it refuses.
    mean = ratio_interval(Ratio.mean(weight_M), users=users, level=0.99)
    return WeightDiagnostics(
        rows=len(weight_M),
        clusters=len(weight_M) if users is None else len(set(users)),
        effective_samples=effective_samples(weight_M),
        max_share=float(weight_M.max() / weight_M.sum()),
        mean=mean,
        quantiles=tuple(float(q) for q in np.quantile(weight_M, QUANTILES)),
        zero=float((weight_M == 0).mean()),
        clipped=0.0 if clip is None else float((weight_M > clip).mean()),
        clip=clip,
        unsupported=unsupported,
    )


def overlap_refusal(found: WeightDiagnostics, limits: OverlapLimits) -> str | None:
    """One sentence that says why the log cannot value the policy, or None where it can."""
    mend = "choose a policy nearer to the logging policy, or log more"
    # From what no estimate survives to what makes it vague: support, then effective samples, then one row that bears
    # all, then weights that do not average to 1.
    if found.unsupported is not None and found.unsupported > limits.unsupported:
        return (
            f"The policy gives {found.unsupported:.1%} of its probability to items that the log never shows "
            f"(at most {limits.unsupported:.1%} is allowed), and those it cannot value: leave them out of the policy."
        )
    if found.effective_samples < limits.effective_samples:
        return (
            f"The overlap is too small: {found.rows} rows are worth {found.effective_samples:.0f} effective samples, "
            f"fewer than {limits.effective_samples:g}; {mend}."
        )
    if found.max_share > limits.max_share:
        return (
            f"The overlap is too small: one row bears {found.max_share:.1%} of all weight, more than "
            f"{limits.max_share:.1%}; {mend}, or look whether its propensity is right."
        )
    if found.mean.high < 1 - limits.mean_weight or found.mean.low > 1 + limits.mean_weight:
        mean = f"{found.mean.mean:.3f} ({found.mean.low:.3f} to {found.mean.high:.3f})"
        return (
            f"The mean weight is {mean} and should be 1: "
            "propensities are wrong, or the policy shows items that the log never does; mend the one or the other."
        )
    return None
