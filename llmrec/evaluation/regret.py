"""What was given away at each turn of a simulated session: the best slate in the user's present state is known."""

from __future__ import annotations

import numpy as np

from llmrec.simulator.environments.play import Play
from llmrec.types import FloatArray, IntArray

_CELLS = 1_000_000
"""(user, item) values held at a time."""


def best_values(play: Play) -> FloatArray:
    """Expected value of the best slate that each user who is there could be shown now, shape (A,).

    The value is that of `simulate_sessions`, click * clicks + conversion * conversions, by the population's own
    probabilities in the user's present state; nothing is played. It looks at this turn alone: in a population that
    satiates or loses trust, another slate may be worth more in the long run. Items are ranked by their value when
    looked at, which is the best order for independent and position-based clicks (rearrangement inequality, as
    examination falls with rank); under the other choice models the answer is the value of that slate, a lower bound.
    """
    sizes, engine = play.settings, play.env.engine
    actions_NK = np.full((play.env.num_envs, sizes.slate_size), -1, dtype=np.int64)
    actions_NK[play.row_A] = _best_slates(play)
    expected = engine.expected(actions_NK)
    value_NK = sizes.click * expected.click_BK + sizes.conversion * expected.conversion_BK
    values_A: FloatArray = value_NK[play.row_A].sum(axis=1)
    return values_A


def _best_slates(play: Play) -> IntArray:
    """The K items of highest value of each user who is there, best first: (A, K)."""
    sizes, engine = play.settings, play.env.engine
    assert engine.people is not None
    population, items = engine.population, len(engine.population.items)
    size, parts = max(1, _CELLS // items), []
    for low in range(0, len(play.row_A), size):
        rows = play.row_A[low : low + size]
        items_BN = np.tile(np.arange(items), (len(rows), 1))
        hidden = None if engine.hidden is None else engine.hidden.take(rows)
        click_BN, buy_BN = population.respond(hidden, engine.user_N[rows], items_BN, engine.time_N(rows))
        click_BN, buy_BN = engine.dynamics.modulate(engine.people.take(rows), items_BN, click_BN, buy_BN)
        value_BN = sizes.click * click_BN + sizes.conversion * click_BN * buy_BN
        parts.append(np.argsort(-value_BN, axis=1, kind="stable")[:, : sizes.slate_size])
    return np.concatenate(parts).astype(np.int64)
