"""One metric of an experiment: the difference of two systems, its test, and the users that it takes to see one.

Numbers of users are closed forms of the normal test, two-sided at `alpha` and for a number that is fixed beforehand:
looking at the result again and again and stopping at the first significant one finds effects that are not there
(Johari et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from llmrec.errors import RequestError
from llmrec.evaluation.multiple import Tested
from llmrec.evaluation.significance import Interval, user_deviation
from llmrec.types import FloatArray


@dataclass(frozen=True, slots=True)
class Effect:
    """B less A in one metric.

    Attributes:
        metric: its name.
        mean_a: mean over users of A; `mean_b` of B.
        difference: B less A with its paired interval, not corrected for other metrics.
        corrected: the same at the level of Holm's correction, which decides.
        p_value: two-sided; `adjusted` after Holm's correction.
        deviation_a: standard deviation over users of A; `deviation_b` of B.
        deviation: that of the difference within a user.
        detectable: the smallest difference that these users show with the design's power.
        users_needed: users who must meet both systems for the design's effect; None where it is 0, or where no two
            users differ, from which nothing can be foreseen.
        users_unpaired: users of each group, were every user to meet one system only; None where the effect is 0.
        identical: whether no user differs at all.
        lower_is_better: whether a negative difference is a gain.
    """

    metric: str
    mean_a: float
    mean_b: float
    difference: Interval
    corrected: Interval
    p_value: float
    adjusted: float
    deviation_a: float
    deviation_b: float
    deviation: float
    detectable: float
    users_needed: int | None
    users_unpaired: int | None
    identical: bool
    lower_is_better: bool = False

    @classmethod
    def of(
        cls,
        metric: str,
        a_B: FloatArray,
        b_B: FloatArray,
        tested: Tested,
        users: Sequence[object],
        settled: dict[str, Any],
    ) -> Effect:
        """Measures one metric of both systems, rows (B,) of the same users.

        Args:
            metric: its name.
            a_B: the metric of each session with A.
            b_B: with B.
            tested: the test of the difference.
            users: the user of each row.
            settled: effect (share of A's mean), alpha, power and lower_is_better.
        """
        apart = [user_deviation(values_B, users) for values_B in (a_B, b_B)]
        # The spread of the difference within a user, which pairing leaves, decides how many users are needed; that of
        # the two means (`apart`) is what an unpaired experiment would face.
        within = user_deviation(b_B - a_B, users)
        needs = {"alpha": settled["alpha"], "power": settled["power"]}
        wanted = settled["effect"] * abs(float(a_B.mean()))
        return cls(
            metric,
            float(a_B.mean()),
            float(b_B.mean()),
            tested.difference,
            tested.corrected,
            tested.p_value,
            tested.adjusted,
            apart[0],
            apart[1],
            within,
            detectable(len(set(users)), within, **needs),
            users_for_pairs(wanted, within, **needs) if wanted and within else None,
            users_for_means(wanted, apart[0], apart[1], **needs) if wanted else None,
            bool(np.array_equal(a_B, b_B)),
            settled["lower_is_better"],
        )

    @property
    def outcome(self) -> str:
        """ "gain", "loss" or "none", after Holm's correction."""
        better, worse = ("▼", "▲") if self.lower_is_better else ("▲", "▼")
        return {better: "gain", worse: "loss"}.get(self.corrected.mark(self.mean_b), "none")

    @property
    def relative(self) -> float | None:
        """The difference as a share of A's mean; None where that is not above 0."""
        return self.difference.mean / self.mean_a if self.mean_a > 0 else None

    @property
    def variance_ratio(self) -> float | None:
        """How many times the variance of the difference would be without pairing; None where pairing leaves none.

        (s_a^2 + s_b^2) / s_d^2: two groups of n users each, met by one system each, against n users who meet both.
        """
        return (self.deviation_a**2 + self.deviation_b**2) / self.deviation**2 if self.deviation > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self) | {
            "outcome": self.outcome,
            "relative": self.relative,
            "variance_ratio": self.variance_ratio,
        }


def users_for_pairs(effect: float, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Users who must meet both systems for a mean difference of `effect` to be found with probability `power`.

        n = ((z_(1 - alpha/2) + z_power) * deviation / effect) ** 2, rounded up; at least 2

    Args:
        effect: the mean difference of interest, in the metric's unit; its sign does not matter.
        deviation: standard deviation over users of the difference within a user.
        alpha: chance of calling no difference one.
        power: chance of finding `effect`.

    Raises:
        RequestError: an effect of 0, a negative deviation, or a probability outside 0..1.
    """
    return _whole((_reach(effect, deviation, alpha, power) * deviation / effect) ** 2)


def users_for_means(
    effect: float, deviation_a: float, deviation_b: float, *, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Users of each of two groups that meet one system each: as `users_for_pairs` with variance s_a^2 + s_b^2."""
    return users_for_pairs(effect, math.hypot(deviation_a, deviation_b), alpha=alpha, power=power)


def detectable(users: int, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest mean difference that `users` who meet both systems show with probability `power`.

    Raises:
        RequestError: no user, a negative deviation, or a probability outside 0..1.
    """
    if users < 1:
        raise RequestError(f"{users} users are none; meet one or more.")
    return _reach(1.0, deviation, alpha, power) * deviation / math.sqrt(users)


def _reach(effect: float, deviation: float, alpha: float, power: float) -> float:
    """z_(1 - alpha/2) + z_power of checked arguments."""
    if not (0 < alpha < 1 and 0 < power < 1):
        raise RequestError(f"alpha and power lie between 0 and 1, but these are {alpha:g} and {power:g}.")
    if not math.isfinite(effect) or effect == 0:
        raise RequestError("No number of users shows a difference of 0; name the smallest one that would matter.")
    if not deviation >= 0 or math.isinf(deviation):
        raise RequestError(f"A standard deviation is a finite number of 0 or more, not {deviation:g}.")
    return _z(1 - alpha / 2) + _z(power)


def _z(probability: float) -> float:
    return float(stats.norm.ppf(probability))


def _whole(users: float) -> int:
    """Rounded up, with room for the rounding of the formula itself; two users are the fewest that vary."""
    return max(2, math.ceil(users - 1e-9))
