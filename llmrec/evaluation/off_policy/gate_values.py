"""One steady figure of a policy on logged feedback, and its gain over another: what the gate asks for.

Impression m showed item a_m, which the logging policy chose with probability mu_m (the propensity), and earned r_m.
With weights w_m = min(pi(a_m | state) / mu_m, cap)

    IPS   = mean of w_m r_m                      (Horvitz and Thompson 1952)
    SNIPS = sum of w_m r_m / sum of w_m          (Swaminathan and Joachims 2015)

estimate the value of a draw of pi where the log was made. IPS is unbiased without a cap if what an item earns does
not depend on its place; SNIPS is slightly biased and far steadier, because a constant added to the rewards moves it
by that constant. Weights say nothing of what was never shown, and n_eff = (sum w)^2 / sum w^2 (Kish 1965) says how
many impressions really speak.

Places of a slate below the first were drawn from what was left: items shown above them cannot appear, and their share
of pi is missing there. With w = pi / mu alone IPS falls short by that share; pi for each place below, added to the
weight, makes up for it. And lower places are looked at less: no weight corrects that, so r_m must be what was earned
over P(place looked at), or of the first place alone. `pipeline.logged.Logged` makes both such weights and rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import RequestError
from llmrec.evaluation.significance import Interval, resampled_means
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray


@dataclass(frozen=True, slots=True)
class OffPolicyValue:
    """An off-policy estimate, in the unit of the rewards.

    Attributes:
        value: SNIPS with its bootstrap interval over users.
        ips: IPS.
        effective_samples: n_eff.
        rows: impressions used.
        capped: share of the impressions whose weight was cut.
    """

    value: Interval
    ips: float
    effective_samples: float
    rows: int
    capped: float


def off_policy_value(
    weight_M: FloatArray,
    reward_M: FloatArray,
    *,
    cap: float = np.inf,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> OffPolicyValue:
    """SNIPS and IPS of one policy.

    Args:
        weight_M: `importance_weights`.
        reward_M: what each impression earned.
        cap: largest weight; a finite one trades variance for bias towards the logging policy.
        users: user of each impression, for an interval over users.
        samples: bootstrap samples.
        seed: run seed.

    Raises:
        RequestError: no impressions, rows that do not fit, or a policy that shows nothing of what was logged.
    """
    cut_M, reward_M = _checked(weight_M, reward_M, cap)
    draws_S = _ratios((cut_M,), reward_M, users, samples, seed)[:, 0]
    # Numerator and denominator of SNIPS vary together, so both come from the same resample.
    low, high = np.quantile(draws_S, [0.025, 0.975])
    mean = float(cut_M @ reward_M / cut_M.sum())
    return OffPolicyValue(
        Interval(mean, float(low), float(high)),
        float((cut_M * reward_M).mean()),
        float(cut_M.sum() ** 2 / (cut_M @ cut_M)),
        len(cut_M),
        float((np.asarray(weight_M) > cap).mean()),
    )


def off_policy_gain(
    weight_M: FloatArray,
    base_weight_M: FloatArray,
    reward_M: FloatArray,
    *,
    cap: float = np.inf,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """SNIPS of one policy minus that of another, with a paired interval; arguments as above."""
    cut_M, reward_M = _checked(weight_M, reward_M, cap)
    base_M, _ = _checked(base_weight_M, reward_M, cap)
    # Common resamples: both policies are valued on the same impressions.
    draws_S2 = _ratios((cut_M, base_M), reward_M, users, samples, seed)
    low, high = np.quantile(draws_S2[:, 0] - draws_S2[:, 1], [0.025, 0.975])
    mean = cut_M @ reward_M / cut_M.sum() - base_M @ reward_M / base_M.sum()
    return Interval(float(mean), float(low), float(high))


def _checked(weight_M: FloatArray, reward_M: FloatArray, cap: float) -> tuple[FloatArray, FloatArray]:
    weight_M, reward_M = np.asarray(weight_M, dtype=np.float64), np.asarray(reward_M, dtype=np.float64)
    if weight_M.ndim != 1 or not weight_M.size or weight_M.shape != reward_M.shape:
        raise RequestError(f"Weights of shape {weight_M.shape} and rewards of {reward_M.shape} do not fit (or none).")
    if cap <= 0:
        raise RequestError(f"The cap of importance weights is {cap}; it must be above 0.")
    if not (np.isfinite(weight_M).all() and (weight_M >= 0).all() and np.isfinite(reward_M).all()):
        raise RequestError("Importance weights must be numbers from 0 up, and rewards finite.")
    if not weight_M.any():
        raise RequestError("The policy shows nothing of what was logged, so the log cannot value it.")
    return np.minimum(weight_M, cap), reward_M


def _ratios(
    weights: Sequence[FloatArray], reward_M: FloatArray, users: Sequence[object] | None, samples: int, seed: int
) -> FloatArray:
    """SNIPS of C weightings over common bootstrap samples, (samples, C); samples without any weight are left out."""
    columns = [column for weight_M in weights for column in (weight_M * reward_M, weight_M)]
    means = resampled_means(columns, users, samples, numpy_stream(seed, "bootstrap", "off-policy"))
    over_SC, under_SC = means[:, ::2], means[:, 1::2]
    # A sample of users in which pi shows nothing has no self-normalised value.
    kept_S = (under_SC > 0).all(axis=1)
    found: FloatArray = over_SC[kept_S] / under_SC[kept_S]
    return found
