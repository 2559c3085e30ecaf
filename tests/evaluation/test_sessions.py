"""Simulated sessions of fixed systems: by enumeration, under common luck, whatever the batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmrec.config import DynamicsSettings, EnvironmentSettings, PatienceSettings
from llmrec.errors import RequestError
from llmrec.evaluation.sessions import simulate_sessions
from llmrec.types import Slate
from tests.training import shop_users as world
from tests.training.conftest import COLOURS

TRUST = DynamicsSettings(trust=world.TRUST)
FOUR = EnvironmentSettings(slate_size=1, turns=4)


class Always:
    """Shows an item of one kind in the colour that the profile names, and remembers what it was told."""

    def __init__(self, *kinds):
        self.kinds, self.seen = kinds, []

    def recommend(self, states, k, *, seen=None):
        self.seen.append([sorted(row.tolist()) for row in seen])
        colour = [COLOURS.index(state.profile.split()[-1]) for state in states]
        return [Slate(tuple(3 * c + kind for kind in self.kinds[:k]), (0.0,) * len(self.kinds[:k])) for c in colour]


def played(system, users=400, sizes=FOUR, dynamics=TRUST, **more):
    return simulate_sessions(system, world.ShopUsers(users), np.arange(users), sizes, dynamics=dynamics, **more)


@pytest.mark.parametrize("kind", [world.GOOD, world.BAIT])
def test_the_value_is_the_enumerated_one(kind):
    exact = world.session_value(lambda trust, left: kind, turns=4)
    figures = played(Always(kind), 1500, gamma=world.GAMMA)
    assert figures.value_B.mean() == pytest.approx(exact, abs=3 * figures.value_B.std() / np.sqrt(1500))
    drawn = played(Always(kind), 1500, gamma=world.GAMMA, sampled=True)
    assert drawn.value_B.mean() == pytest.approx(exact, abs=3 * drawn.value_B.std() / np.sqrt(1500))
    assert figures.value_B.std() < drawn.value_B.std()  # what is expected varies less than what happens


def test_bait_wins_the_first_turn_and_loses_the_session():
    bait, good = played(Always(world.BAIT)), played(Always(world.GOOD))
    difference = good.minus(bait)
    assert difference["first_turn"].mean == pytest.approx(world.CLICK[world.GOOD] - world.CLICK[world.BAIT], abs=1e-6)
    assert difference["first_turn"].below_zero
    assert difference["value"].above_zero
    assert good.means["turns"] == 4
    assert set(good.intervals()) == set(good.per_user)


def test_equal_systems_get_equal_luck_in_any_batch():
    leaves = dataclasses.replace(TRUST, patience=PatienceSettings(enabled=True, leave_full=0.2))
    whole, parts = (played(Always(world.GOOD), 60, dynamics=leaves, batch=batch) for batch in (60, 7))
    for name, values in whole.per_user.items():
        assert np.array_equal(values, parts.per_user[name]), name
    assert 0 < whole.means["left"] < 1
    assert np.array_equal(whole.left_B == 1, whole.turns_B < 4) or whole.turns_B[whole.left_B == 1].max() == 4
    other = played(Always(world.GOOD), 60, dynamics=leaves, seed=1)
    assert not np.array_equal(whole.turns_B, other.turns_B)


def test_a_system_is_told_what_its_users_have_seen():
    system = Always(world.GOOD, world.DULL)
    sizes = EnvironmentSettings(slate_size=2, turns=2)
    played(system, 2, sizes, seen=[np.array([11]), np.array([], dtype=np.int64)])
    assert system.seen == [[[11], []], [[0, 2, 11], [3, 5]]]


def test_short_slates_leave_places_empty():
    sizes = EnvironmentSettings(slate_size=3, turns=1)
    three, one = played(Always(world.GOOD), 8, sizes), played(Always(world.GOOD), 8)
    assert np.allclose(three.value_B, one.first_B)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(RequestError, match="same users"):
        played(Always(world.GOOD), 3).minus(played(Always(world.GOOD), 4))
    with pytest.raises(RequestError, match="seen"):
        played(Always(world.GOOD), 3, seen=[])
