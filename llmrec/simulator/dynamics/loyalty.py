"""Transitions of the relation to the shop: trust, budget, patience and leaving, coming back.

See `tastes.py` for `apply` and `rest`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from llmrec.config import BudgetSettings, PatienceSettings, ReturnSettings, TrustSettings
from llmrec.simulator.dynamics.state import Float32Array, ItemTable, UserState
from llmrec.simulator.dynamics.turn import Turn
from llmrec.types import BoolArray


class Trust:
    """Trust is built by good slates and lost by bad ones (clickbait: clicked, then poor).

    With q the quality of each clicked item, theta the threshold, and means over the slate's clicks

        good = mean max(q - theta, 0) / (1 - theta),   bad = mean max(theta - q, 0) / theta
        t' = t + gain * good (1 - t) - loss * bad * t

    the linear operator of Bush & Mosteller 1955 with two rates: trust is lost faster than it is won (Slovic 1993,
    "Perceived risk, trust, and democracy"), so `loss` is above `gain` by default. A slate without a click changes
    nothing. t stays in [0, 1].
    """

    name = "trust"

    def __init__(self, settings: TrustSettings) -> None:
        self.settings = settings

    def apply(self, users: UserState, turn: Turn) -> None:
        """One turn of all `users`."""
        trust_B, threshold = users.trust_B, np.float32(self.settings.threshold)
        assert trust_B is not None
        over_P = turn.item_quality_P - threshold
        good_B = turn.mean_of(np.maximum(over_P, 0) / max(1.0 - threshold, 1e-9))
        bad_B = turn.mean_of(np.maximum(-over_P, 0) / max(threshold, 1e-9))
        # Proportional to what is left to win and to lose, so trust stays between 0 and 1.
        trust_B += self.settings.gain * good_B * (1 - trust_B) - self.settings.loss * bad_B * trust_B
        np.clip(trust_B, 0.0, 1.0, out=trust_B)  # rounding only

    def rest(self, users: UserState, turns_B: Float32Array) -> None:
        """Time away leaves trust as it is."""


class Budget:
    """Money left: purchases take their price, days away fill it up again.

        b' = max(b - sum of prices of conversions, 0),   after d days: min(b + income * d, max(b, initial))

    A hard budget constraint as in mental accounting (Thaler 1985). Which conversions a budget covers is decided
    before the turn by `afford`, so nothing is lost by the bound at 0.
    """

    name = "budget"

    def __init__(self, settings: BudgetSettings, turns_per_day: float) -> None:
        self.settings, self.turns_per_day = settings, turns_per_day

    def apply(self, users: UserState, turn: Turn) -> None:
        """One turn of all `users`."""
        assert users.budget_B is not None
        paid_P = turn.items.price_N.take(turn.item_P) * turn.converted_P
        users.budget_B -= np.bincount(turn.row_P, paid_P, minlength=len(users)).astype(np.float32)
        np.maximum(users.budget_B, 0.0, out=users.budget_B)

    def rest(self, users: UserState, turns_B: Float32Array) -> None:
        """Time away brings income, by the day."""
        assert users.budget_B is not None
        # Income fills a budget up to where it began and no further, but takes nothing from one that was larger.
        filled_B = users.budget_B + np.float32(self.settings.income / self.turns_per_day) * turns_B
        users.budget_B[:] = np.minimum(filled_B, np.maximum(users.budget_B, np.float32(self.settings.initial)))


def afford(
    users: UserState, items: ItemTable, item_BK: npt.NDArray[np.integer], conversion_BK: npt.NDArray[np.generic]
) -> BoolArray:
    """The conversions that each user's budget covers, taken rank by rank; all of them where budgets are off.

    Args:
        users: B users.
        items: The catalogue's prices.
        item_BK: Item indices shown; a place of -1 converts nothing.
        conversion_BK: Wished conversions, 0 or 1.
    """
    wished_BK = (np.asarray(conversion_BK) > 0) & (item_BK >= 0)
    if users.budget_B is None:
        return wished_BK
    left_B = users.budget_B.copy()
    # Rank by rank, as each purchase leaves less for those below; a loop over places and not over users.
    for place in np.flatnonzero(wished_BK.any(axis=0)):
        price_B = items.price_N[item_BK[:, place]]
        wished_BK[:, place] &= price_B <= left_B
        left_B -= price_B * wished_BK[:, place]
    return wished_BK


def between(low: float, high: float, share_B: Float32Array) -> Float32Array:
    """A probability from `low` (share 0) to `high` (share 1), straight on the scale of log-odds."""
    # A straight line in log-odds stays within (0, 1) and moves fast in the middle, where people are undecided.
    start, end = math.log(low / (1 - low)), math.log(high / (1 - high))
    return np.asarray(1 / (1 + np.exp(-(np.float32(start) + np.float32(end - start) * share_B))))


class Patience:
    """Patience is refilled by satisfying slates, spent on others, and rules who leaves.

        p' = p + gain * q (1 - p)   where something was clicked, q its mean quality;   p' = p - loss * p   else
        P(leave after the turn) = leave_empty at p' = 0, leave_full at p' = 1, its log-odds linear between

    The user's time budget of RecSim (Ie et al. 2019), which good recommendations prolong, and the leaving by
    "temper" of KuaiSim (Zhao et al. 2023), made a probability so that its parameters can be estimated.
    """

    name = "patience"

    def __init__(self, settings: PatienceSettings) -> None:
        self.settings = settings

    def apply(self, users: UserState, turn: Turn) -> None:
        """One turn of all `users`: their patience; who leaves is `leaves`."""
        patience_B = users.patience_B
        assert patience_B is not None
        won_B = self.settings.gain * turn.quality_B * (1 - patience_B)
        patience_B += np.where(turn.clicked_B > 0, won_B, -self.settings.loss * patience_B)
        np.clip(patience_B, 0.0, 1.0, out=patience_B)  # rounding only

    def leaves(self, users: UserState, turn: Turn) -> BoolArray:
        """Whether each user ends the visit: uniform 0 < P(leave)."""
        assert users.patience_B is not None
        chance_B = between(self.settings.leave_full, self.settings.leave_empty, 1 - users.patience_B)
        return np.asarray(turn.uniforms_B2[:, 0] < chance_B)

    def rest(self, users: UserState, turns_B: Float32Array) -> None:
        """Time away refills patience up to its start."""
        assert users.patience_B is not None
        # Refilled at once: a user who comes back begins a visit as fresh as the first.
        users.patience_B[turns_B > 0] = np.float32(self.settings.initial)


class ComingBack:
    """How satisfied users are, and after how many days they return.

        y' = y + rate (q - y),  q the mean quality of the slate's clicks, 0 without a click
        P(return on a day | not before) = h(y'), from hazard_unsatisfied to hazard_satisfied on log-odds
        days = 1 + floor(log(1 - u) / log(1 - h)), geometric;   over max_days: never

    A discrete-time (geometric) hazard of return as in Kapoor et al. 2014 ("A hazard based approach to user return
    time prediction") and the retention signal of KuaiSim (Zhao et al. 2023).
    """

    name = "comeback"

    def __init__(self, settings: ReturnSettings) -> None:
        self.settings = settings

    def apply(self, users: UserState, turn: Turn) -> None:
        """One turn of all `users`: their satisfaction."""
        assert users.satisfaction_B is not None
        # An exponential mean: the last slates count most, and no history needs to be kept.
        users.satisfaction_B += np.float32(self.settings.rate) * (turn.quality_B - users.satisfaction_B)

    def days_away(
        self, satisfaction_B: Float32Array, uniforms_B: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Whole days until each user would return, inf for never."""
        low, high = self.settings.hazard_unsatisfied, self.settings.hazard_satisfied
        hazard_B = between(low, high, satisfaction_B).astype(np.float64)
        # Inversion: P(days > d) = (1 - h)^d, so days = 1 + floor(log(1 - u) / log(1 - h)) for a uniform u.
        days_B = 1.0 + np.floor(np.log1p(-uniforms_B.astype(np.float64)) / np.log1p(-hazard_B))
        return np.where(days_B > self.settings.max_days, np.inf, days_B)

    def rest(self, users: UserState, turns_B: Float32Array) -> None:
        """Time away leaves satisfaction as it is."""
