"""One metric of an experiment: the difference of two systems, its test, and the users that it takes to see one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmrec.evaluation.multiple import Tested
from llmrec.evaluation.power import detectable, users_for_means, users_for_pairs
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
