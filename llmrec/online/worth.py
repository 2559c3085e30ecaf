"""What items earn beside what the served policy says of them, from logged slates.

reward = m + b log pi(item | state) + a_item + noise, with a_item ~ N(0, tau^2): a random intercept for each item
(Laird and Ware 1982, "Random-effects models for longitudinal data"). What the policy knows of persons comes in by
log pi and counts for as much as the log bears out (b); what has changed for everybody by a. Log pi also takes out
most of what it is that the policy itself has chosen whom an item was shown to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from llmrec.types import FloatArray, IntArray, State

_RATIOS = (-16.0, 6.0)
"""Bounds of log(tau^2 / sigma^2)."""


@dataclass(frozen=True)
class ItemWorth:
    """The regression.

    Attributes:
        slope: b, reward a nat of log pi.
        item_N: a of each item, 0 for one that was not shown.
        level: m.
        ratio: tau^2 / sigma^2, by which a mean of n rewards is drawn to the others' by 1 / (1 + n ratio).
    """

    slope: float
    item_N: FloatArray
    level: float
    ratio: float

    @classmethod
    def fit(cls, item_M: IntArray, log_prob_M: FloatArray, reward_M: FloatArray, n_items: int) -> ItemWorth:
        """Maximum likelihood for m, b, tau and sigma, and the means of a given the rewards (best linear predictions).

        Args:
            item_M: the item of each of M impressions, 0..N-1.
            log_prob_M: log pi of it, in nats.
            reward_M: what it earned.
            n_items: N.
        """
        # centred: the sums below lose no digits, and `level` is then that of a mean log pi
        middle = float(log_prob_M.mean())
        x_MP = np.column_stack([np.ones(len(item_M)), log_prob_M - middle])
        count_N = np.bincount(item_M, minlength=n_items).astype(np.float64)
        sum_NP = np.column_stack([np.bincount(item_M, x_M, minlength=n_items) for x_M in x_MP.T])
        earned_N = np.bincount(item_M, reward_M, minlength=n_items)
        plain_PP, plain_P, square = x_MP.T @ x_MP, x_MP.T @ reward_M, float(reward_M @ reward_M)

        def solved(ratio: float) -> tuple[FloatArray, float]:
            """m and b by generalised least squares, and the squared residuals, at a ratio."""
            # within an item V = sigma^2 (I + ratio 1 1'), whose inverse is (I - w 1 1') / sigma^2
            w_N = ratio / (1.0 + ratio * count_N)
            left_PP = plain_PP - (sum_NP * w_N[:, None]).T @ sum_NP
            right_P = plain_P - (sum_NP * w_N[:, None]).T @ earned_N
            found_P = np.linalg.lstsq(left_PP, right_P)[0]
            return found_P, square - float(w_N @ earned_N**2) - float(found_P @ right_P)

        def cost(log_ratio: float) -> float:
            """-2 log likelihood, but for a constant."""
            ratio = float(np.exp(log_ratio))
            rest = max(solved(ratio)[1], 1e-12)
            return float(len(item_M) * np.log(rest) + np.log1p(ratio * count_N).sum())

        ratio = float(np.exp(minimize_scalar(cost, bounds=_RATIOS, method="bounded").x))
        (level, slope), _ = solved(ratio)
        left_N = earned_N - sum_NP @ np.array([level, slope])
        return cls(float(slope), ratio * left_N / (1.0 + ratio * count_N), float(level - slope * middle), ratio)

    def __call__(self, states: Sequence[State], items_BK: IntArray) -> FloatArray:
        """a of each item, (B, K); of -1 as well, which nothing reads."""
        del states
        found_BK: FloatArray = self.item_N[items_BK]
        return found_BK
