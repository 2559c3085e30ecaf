"""The value of a ranking policy from logged slates: by whole slates, and place by place.

Slate s showed K items, item k with probability mu_k (at place k, given the state), and place k earned r_k. With
w_k = pi_k(a_k) / mu_k(a_k), the probabilities at each place alone,

    slate IPS           mean over slates of W sum_k r_k, W = pi(slate) / mu(slate)
    item-position IPS   mean over slates of sum_k w_k r_k      (Li, Abbasi-Yadkori, Kveton, Muthukrishnan et al. 2018)

Slate IPS is unbiased whatever users do, but W is a product and soon has no overlap. Item-position IPS is unbiased
where what place k earns depends on its item and place only (the item-position click model), and not on the other
places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import DataError
from llmrec.evaluation.off_policy.intervals import Method, Ratio, ratio_interval
from llmrec.evaluation.off_policy.weights import effective_samples
from llmrec.evaluation.significance import Interval
from llmrec.types import FloatArray


@dataclass(frozen=True, slots=True)
class SlateValue:
    """Estimates of what a slate earns (the sum over its places).

    Attributes:
        slate_ips: slate IPS.
        slate_snips: the same, divided by the mean weight.
        item_position_ips: item-position IPS.
        slate_effective: n_eff of the slates' weights.
        place_effective: the least n_eff of any place's weights.
        slates: S.
    """

    slate_ips: Interval
    slate_snips: Interval
    item_position_ips: Interval
    slate_effective: float
    place_effective: float
    slates: int


def evaluate_slates(
    weight_SK: FloatArray,
    reward_SK: FloatArray,
    *,
    slate_weight_S: FloatArray | None = None,
    users: Sequence[object] | None = None,
    method: Method = "student",
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> SlateValue:
    """All three estimates; a place that a short slate lacks has weight 1 and reward 0.

    Args:
        weight_SK: w of each place, of the probabilities at that place alone.
        reward_SK: what each place earned.
        slate_weight_S: W of each slate; by default the product of its places' weights, which is right where the
            places are filled independently of each other.
        users: user of each slate.
        method: of the intervals, see `intervals`.
        level: two-sided confidence.
        samples: bootstrap samples.
        seed: run seed.

    Raises:
        DataError: shapes that do not fit, or a weight that is negative or not finite, with its slate.
        RequestError: a policy that shows nothing of what was logged, or fewer than two slates or users.
    """
    weight_SK, reward_SK = np.asarray(weight_SK, dtype=np.float64), np.asarray(reward_SK, dtype=np.float64)
    # Independent places multiply; a ranking without replacement does not fill them so, and then W has to be given.
    whole_S = weight_SK.prod(axis=1) if slate_weight_S is None else np.asarray(slate_weight_S, dtype=np.float64)
    _check(weight_SK, reward_SK, whole_S)
    earned_S = reward_SK.sum(axis=1)

    def interval(ratio: Ratio) -> Interval:
        return ratio_interval(ratio, users=users, method=method, level=level, samples=samples, seed=seed)

    return SlateValue(
        interval(Ratio.mean(whole_S * earned_S)),
        interval(Ratio(whole_S * earned_S, whole_S)),
        # Each place by its own weight: variances add up over places where those of the slate's weight multiply.
        interval(Ratio.mean((weight_SK * reward_SK).sum(axis=1))),
        effective_samples(whole_S),
        min(effective_samples(weight_S) for weight_S in weight_SK.T),
        len(whole_S),
    )


def _check(weight_SK: FloatArray, reward_SK: FloatArray, whole_S: FloatArray) -> None:
    if (
        weight_SK.ndim != 2
        or not weight_SK.size
        or weight_SK.shape != reward_SK.shape
        or len(whole_S) != len(weight_SK)
    ):
        raise DataError(
            f"Weights {weight_SK.shape}, rewards {reward_SK.shape} and {whole_S.shape} slate weights do not fit; "
            "give one weight and reward for each place of each slate."
        )
    table = np.column_stack([weight_SK, whole_S])
    bad_S = ~((np.isfinite(table) & (table >= 0)).all(axis=1) & np.isfinite(reward_SK).all(axis=1))
    if bad_S.any():
        raise DataError(
            f"Slate {int(bad_S.argmax())} has a weight that is negative or not finite, or a reward that is not; "
            "mend its propensities or rewards, or leave it out."
        )
