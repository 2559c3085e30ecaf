"""Transitions of taste: interest drift, satiation, novelty seeking.

Each has `apply`, one turn in place, and `rest`, what the time away does: shape (B,) of turns' worth of rest, where
rest over n turns equals n turns without a click.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from llmrec.config import DriftSettings, NoveltySettings, SatiationSettings
from llmrec.simulator.dynamics.state import Float32Array, UserState
from llmrec.simulator.dynamics.turn import Turn


class InterestDrift:
    """Interest moves toward what is consumed, and decays back home.

    With the mean vector m of the clicked items (a conversion counts 1 + `conversion` times):

        x' = x + decay (home - x),   then   x'' = x' + rate (m - x') where something was clicked

    The move toward consumed content is that of RecSim's interest evolution (Ie et al. 2019, "RecSim: a configurable
    simulation platform"), in its linear, deterministic form, which keeps x in the convex hull of home and items;
    RecSim draws the direction and slows down near the poles.
    """

    name = "drift"

    def __init__(self, settings: DriftSettings) -> None:
        self.settings = settings

    def apply(self, users: UserState, turn: Turn) -> None:
        """One turn of all `users`."""
        interest_BD, home_BD = users.interest_BD, users.home_BD
        assert interest_BD is not None
        assert home_BD is not None
        if self.settings.decay:
            step_BD = home_BD - interest_BD
            step_BD *= np.float32(self.settings.decay)
            interest_BD += step_BD
        if not len(turn.row_P):
            return
        weight_P = 1.0 + self.settings.conversion * turn.converted_P.astype(np.float32)
        total_B = np.bincount(turn.row_P, weight_P, minlength=len(users))
        # rate * weight / sum of weights: the sparse product below is then rate * m at once.
        share_P = (self.settings.rate * weight_P / total_B[turn.row_P]).astype(np.float32)
        shape = (len(users), len(turn.items))
        pull_BD = sparse.csr_array((share_P, turn.item_P, turn.start_B1), shape=shape) @ turn.items.vector_ND
        # x'' = (1 - rate) x' + rate m where something was clicked.
        interest_BD *= np.where(turn.clicked_B > 0, 1.0 - self.settings.rate, 1.0).astype(np.float32)[:, None]
        interest_BD += pull_BD

    def rest(self, users: UserState, turns_B: Float32Array) -> None:
        """Time away: x' = home + (1 - decay) ** turns (x - home)."""
        assert users.interest_BD is not None
        assert users.home_BD is not None
        # The closed form of `turns` steps of decay without a click.
        kept_B1 = np.power(np.float32(1.0 - self.settings.decay), turns_B)[:, None]
        users.interest_BD += (1 - kept_B1) * (users.home_BD - users.interest_BD)


class Satiation:
    """Boredom by category: it grows with what is consumed and shown, and recovers with time.

        s'_c = (1 - recovery) (s_c + clicked * clicks in c + shown * impressions in c)

    The rebounding bandit of Leqi et al. 2021 ("Rebounding Bandits for Modeling Satiation Effects"), whose retention
    factor is 1 - recovery and whose reward falls linearly in s; here the click's logit does (`modulate`).
    """

    name = "satiation"

    def __init__(self, settings: SatiationSettings) -> None:
        self.settings = settings

    def apply(self, users: UserState, turn: Turn) -> None:
        """One turn of all `users`."""
        satiation_BC = users.satiation_BC
        assert satiation_BC is not None
        flat = satiation_BC.reshape(-1)
        categories = satiation_BC.shape[1]
        at_P = turn.row_P * categories + turn.category_P
        # A user may click two items of one category: `add.at` counts both.
        np.add.at(flat, at_P, np.float32(self.settings.clicked))
        if self.settings.shown:
            row_Q, place_Q = np.nonzero(turn.item_BK >= 0)
            category_Q = turn.items.category_N[turn.item_BK[row_Q, place_Q]]
            np.add.at(flat, row_Q * categories + category_Q, np.float32(self.settings.shown))
        # Recovery last, so that what this turn added has rested for one turn already, as the closed form of `rest`
        # assumes.
        satiation_BC *= np.float32(1.0 - self.settings.recovery)

    def rest(self, users: UserState, turns_B: Float32Array) -> None:
        """Time away: s' = (1 - recovery) ** turns * s."""
        assert users.satiation_BC is not None
        users.satiation_BC *= np.power(np.float32(1.0 - self.settings.recovery), turns_B)[:, None]


class NoveltySeeking:
    """Familiarity with categories, and an appetite for unfamiliar ones that boredom feeds.

        f'_c = 1 - (1 - (1 - forgetting) f_c) (1 - learning) ** clicks in c
        a'   = a + rate (mean over clicked items of f_c before the turn - a)    where something was clicked

    so whoever consumes the familiar grows hungry for the new, and the new stills the hunger: dynamic novelty
    preference after Kapoor et al. 2015 ("I like to explore sometimes: adapting to dynamic user novelty preferences")
    and the variety seeking of McAlister & Pessemier 1982. `modulate` adds weight * a (1 - 2 f_c) to the logit.
    """

    name = "novelty"

    def __init__(self, settings: NoveltySettings) -> None:
        self.settings = settings

    def apply(self, users: UserState, turn: Turn) -> None:
        """One turn of all `users`."""
        familiarity_BC, appetite_B = users.familiarity_BC, users.appetite_B
        assert familiarity_BC is not None
        assert appetite_B is not None
        flat = familiarity_BC.reshape(-1)
        at_P = turn.row_P * familiarity_BC.shape[1] + turn.category_P
        # Before this turn's clicks are learnt: appetite feeds on how familiar the chosen was when it was chosen.
        known_B = turn.mean_of(flat.take(at_P))
        rate_B = np.where(turn.clicked_B > 0, np.float32(self.settings.rate), np.float32(0))
        appetite_B += rate_B * (known_B - appetite_B)
        # In place: -(1 - forgetting) f + 1 is the unfamiliarity 1 - (1 - forgetting) f.
        familiarity_BC *= np.float32(self.settings.forgetting - 1.0)
        familiarity_BC += 1  # unfamiliarity, which every click multiplies
        np.multiply.at(flat, at_P, np.float32(1.0 - self.settings.learning))
        np.subtract(1, familiarity_BC, out=familiarity_BC)

    def rest(self, users: UserState, turns_B: Float32Array) -> None:
        """Time away: f' = (1 - forgetting) ** turns * f; the appetite stays."""
        assert users.familiarity_BC is not None
        users.familiarity_BC *= np.power(np.float32(1.0 - self.settings.forgetting), turns_B)[:, None]
