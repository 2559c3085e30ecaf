"""Users of the tiny shop whose trust is won by lamps and lost by chairs, and what any way of serving them is worth.

Chairs are bait: clicked more often than anything else at any trust, and poor. Lamps are clicked less and good. Desks
are dull. Colours count for nothing.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from llmrec.config import ChoiceSettings, DynamicsSettings, PatienceSettings, TrustSettings
from llmrec.rewards import ClickReward, ConversionReward
from llmrec.simulator.dynamics import ItemTable
from llmrec.training.session_source import SessionReward, SessionUsers
from llmrec.types import State
from tests.training.conftest import COLOURS

GOOD, BAIT, DULL = 0, 1, 2
CLICK = {GOOD: 0.6, BAIT: 0.75, DULL: 0.3}
QUALITY = {GOOD: 1.0, BAIT: 0.0, DULL: 0.5}
TRUST = TrustSettings(enabled=True, initial=0.5, gain=0.3, loss=0.7, threshold=0.5, weight=6.0, conversion_weight=0.0)
GAMMA = 0.95


class ShopUsers:
    """A population of users alike; items 3 c + k are of colour c and kind k."""

    start = 100

    def __init__(self, users=24):
        kinds = np.arange(12) % 3
        self.items = ItemTable.of(kinds, quality_N=[QUALITY[int(k)] for k in kinds], categories=3)
        self.profile_UP = np.zeros((users, 1), np.float32)
        self.feature_NF = np.eye(12, dtype=np.float32)

    def begin(self, user_B):
        return None

    def home_BD(self, user_B):
        return None

    def respond(self, hidden, user_B, items_BK, time_B):
        kind_K = np.array([CLICK[GOOD], CLICK[BAIT], CLICK[DULL]])
        click = kind_K[items_BK % 3]
        return click, np.zeros_like(click)

    def observe(self, hidden, items_BK, click_BK, conversion_BK):
        return None

    def past(self, user_B):
        return np.zeros((len(user_B), 12), np.float32), np.zeros(len(user_B), np.float32)

    def state(self, user):
        return State(f"u{user}", f"likes {COLOURS[user % 4]}", time=100)


def meeting(users=24, *, sampled=False, trust=TRUST, patience=None, seen=None):
    return SessionUsers(
        ShopUsers(users),
        np.arange(users),
        [np.array([], dtype=np.int64)] * users if seen is None else seen,
        SessionReward((ClickReward(1.0), ConversionReward(3.0)), sampled),
        ChoiceSettings(),
        DynamicsSettings(trust=trust, patience=patience or PatienceSettings()),
    )


def click_at(kind, trust):
    """P(click) at this trust: the base's log-odds plus weight (trust - initial)."""
    odds = CLICK[kind] / (1 - CLICK[kind]) * np.exp(TRUST.weight * (trust - TRUST.initial))
    return odds / (1 + odds)


def trust_after(kind, trust):
    """Trust after a click: a good item wins gain (1 - t), bait loses loss t, a dull one is at the threshold."""
    if kind == GOOD:
        return trust + TRUST.gain * (1 - trust)
    return trust * (1 - TRUST.loss) if kind == BAIT else trust


def session_value(serve, turns, gamma=GAMMA):
    """Exact discounted clicks of a session in which `serve(trust, turns left)` says the kind that is shown.

    By enumeration of what may happen: a click or none at every turn.
    """

    @cache
    def value(trust, left):
        if left == 0:
            return 0.0
        kind = serve(trust, left)
        click = click_at(kind, trust)
        return click * (1 + gamma * value(trust_after(kind, trust), left - 1)) + (1 - click) * gamma * value(
            trust, left - 1
        )

    return value(TRUST.initial, turns)


def best_value(turns, gamma=GAMMA):
    """The optimum over all ways of serving, by backward induction over what may happen."""

    @cache
    def value(trust, left):
        if left == 0:
            return 0.0
        found = []
        for kind in (GOOD, BAIT, DULL):
            click = click_at(kind, trust)
            found.append(
                click * (1 + gamma * value(trust_after(kind, trust), left - 1))
                + (1 - click) * gamma * value(trust, left - 1)
            )
        return max(found)

    return value(TRUST.initial, turns)
