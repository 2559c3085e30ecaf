"""Sessions played turn by turn: who is still there, what they were shown, and that expectations are those of draws."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings, PatienceSettings
from llmrec.simulator.environments.play import Play
from tests.training import shop_users as world

LEAVING = DynamicsSettings(trust=world.TRUST, patience=PatienceSettings(enabled=True, initial=0.2, leave_full=0.3))


def play(users, slate=1, turns=4, seed=0, rows=None, **more):
    made = Play(world.ShopUsers(users), len(rows) if rows is not None else users, sizes(slate, turns), **more)
    made.begin(seed, np.arange(users) if rows is None else rows)
    return made


def sizes(slate, turns):
    return EnvironmentSettings(slate_size=slate, turns=turns, remembered_turns=2)


@pytest.mark.parametrize("model", ["independent", "position", "cascade", "dynamic-bayesian"])
def test_what_is_expected_is_the_mean_of_what_is_drawn(model):
    """6,000 users alike, three places, second turn: trust has moved by then."""
    users = 6000
    made = play(users, 3, 2, choice=ChoiceSettings(model=model), dynamics=DynamicsSettings(trust=world.TRUST))
    colour = 3 * (np.arange(users) % 4)
    items = np.stack([colour + world.BAIT, colour + world.GOOD, colour + world.DULL], axis=1)
    for _ in range(2):
        done = made.turn(items)
        bound = 4 * np.sqrt(0.25 / users)
        assert np.abs(done.expected.click_BK.mean(0) - done.drawn.click_BK.mean(0)).max() < bound
    assert not done.expected.conversion_BK.any()


def test_how_far_places_are_looked_at_by_hand():
    """Bait, good, dull: click chances a of the shop's users at full trust, then what each choice model makes of them."""
    items = np.array([[world.BAIT, world.GOOD, world.DULL]] * 2)
    shown = {}
    for model in ("independent", "position", "cascade", "logit"):
        made = play(2, 3, 1, choice=ChoiceSettings(model=model, position_bias=0.5))
        shown[model] = made.turn(items)
    a_AK = shown["independent"].expected.click_BK
    np.testing.assert_array_equal(shown["independent"].look_AK, 1.0)
    np.testing.assert_allclose(shown["position"].look_AK, [[1.0, 2**-0.5, 3**-0.5]] * 2)
    onward = np.stack([np.ones(2), 1 - a_AK[:, 0], (1 - a_AK[:, 0]) * (1 - a_AK[:, 1])], axis=1)
    np.testing.assert_allclose(shown["cascade"].look_AK, onward)  # goes on where nothing was clicked
    odds = a_AK / (1 - a_AK)
    np.testing.assert_allclose(shown["logit"].look_AK, odds / (1 + odds.sum(1, keepdims=True)) / a_AK)


def test_an_empty_place_is_not_looked_at():
    done = play(1, 2, 1, rows=[0]).turn(np.array([[world.GOOD, -1]]))
    assert done.look_AK.tolist() == [[1.0, 0.0]]


def test_who_left_is_met_no_more_and_the_rest_are_cut_off():
    made, there, turns = play(200, dynamics=LEAVING), 200, 0
    while made.goes_on:
        assert len(made.states()) == len(made.shown()) == there
        done = made.turn(np.zeros((there, 1), dtype=np.int64))
        assert not (done.left_A & done.cut_A).any()
        there -= int((done.left_A | done.cut_A).sum())
        turns += 1
    assert there == 0
    assert turns == 4
    assert len(done.after) == int(done.cut_A.sum()) > 0
    assert all(len(state.session) == 2 for state in done.after)  # of two remembered turns


def test_all_that_was_shown_is_known_though_the_state_forgets():
    made = play(1, 2, 4, dynamics=DynamicsSettings())
    for turn in range(4):
        assert made.shown()[0].tolist() == list(range(2 * turn))
        made.turn(np.array([[2 * turn, 2 * turn + 1]]))


def test_a_user_s_luck_is_the_same_in_any_company():
    whole, some = play(40, dynamics=LEAVING), play(40, rows=np.array([31, 7]), dynamics=LEAVING)
    other = play(40, seed=1, dynamics=LEAVING)
    clicks = [p.turn(np.full((len(p.row_A), 1), 3)).drawn.click_BK[:, 0] for p in (whole, some, other)]
    assert clicks[1].tolist() == clicks[0][[31, 7]].tolist()
    assert clicks[2].tolist() != clicks[0].tolist()
