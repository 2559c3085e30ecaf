"""Rewards that are dealt out wrongly: their size stays, and what they tell of items or of persons does not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmrec.rewards.shuffled import Shuffled
from llmrec.types import Reward, State

MANY, DRAWS, ITEMS = 400, 6, 4
STATES = [State(f"u{n}") for n in range(MANY)]


def liked(states):
    """Everybody likes one item; item 0 is liked by half of all."""
    return np.array([0 if int(s.user_id[1:]) % 2 else int(s.user_id[1:]) // 2 % ITEMS for s in states])


def reward(states, items_BK):
    hit = (items_BK == liked(states)[:, None]).astype(float)
    return Reward(2.0 * hit, {"hit": hit})


@pytest.fixture(scope="module")
def drawn():
    return np.random.default_rng(0).integers(ITEMS, size=(MANY, DRAWS))


def test_the_rewards_of_another_state_by_hand():
    states, items = [State("u0"), State("u1")], np.array([[0, 1], [0, 3]])
    given = Shuffled(reward, "rewards", 0)(states, items)
    np.testing.assert_array_equal(given.total_BK, [[2.0, 0.0], [2.0, 0.0]])
    items = np.array([[0, 1], [3, 0]])
    given = Shuffled(reward, "rewards", 0)(states, items)
    np.testing.assert_array_equal(given.total_BK, [[0.0, 2.0], [2.0, 0.0]])
    np.testing.assert_array_equal(given.terms["hit"], [[0.0, 1.0], [1.0, 0.0]])


def test_shuffled_rewards_are_the_same_rewards_and_tell_nothing_of_items(drawn):
    right, given = reward(STATES, drawn), Shuffled(reward, "rewards", 3)(STATES, drawn, 5)
    np.testing.assert_array_equal(np.sort(given.total_BK.sum(1)), np.sort(right.total_BK.sum(1)))
    np.testing.assert_array_equal(given.total_BK, 2.0 * given.terms["hit"])
    # item by item the mean reward is that of all draws, also of the one that a state's user likes
    for of in (drawn == liked(STATES)[:, None], *(drawn == item for item in range(ITEMS))):
        found, error = given.total_BK[of].mean(), given.total_BK[of].std() / np.sqrt(of.sum())
        assert abs(found - right.total_BK.mean()) < 3 * error
    assert right.total_BK[drawn == liked(STATES)[:, None]].mean() == 2.0


def test_other_people_s_rewards_keep_what_is_the_same_for_everybody(drawn):
    given = Shuffled(reward, "people", 3)(STATES, drawn, 5)
    by_item = [given.total_BK[drawn == item].mean() for item in range(ITEMS)]
    # liked by 5/8 and 1/8 each
    np.testing.assert_allclose(by_item, [1.25, 0.25, 0.25, 0.25], atol=0.15)
    rare = (liked(STATES)[:, None] == drawn) & (drawn > 0)
    assert abs(given.total_BK[rare].mean() - 0.25) < 0.2


@pytest.mark.parametrize("kind", ["rewards", "people"])
def test_nobody_gets_his_own_and_the_step_draws(drawn, kind):
    shuffled = Shuffled(reward, kind, 3)
    others = [shuffled._others(MANY, step) for step in range(3)]
    for other in others:
        assert sorted(other) == list(range(MANY))
        assert (other != np.arange(MANY)).all()
    assert (others[0] != others[1]).any()
    first, again = (shuffled(STATES, drawn, 1).total_BK for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_state_alone_earns_nothing_shuffled_and_its_own_under_people(drawn):
    right = reward(STATES[:1], drawn[:1])
    assert right.total_BK.any()
    alone = Shuffled(reward, "rewards", 3)(STATES[:1], drawn[:1], 1)
    assert not alone.total_BK.any()
    assert not alone.terms["hit"].any()
    np.testing.assert_array_equal(Shuffled(reward, "people", 3)(STATES[:1], drawn[:1], 1).total_BK, right.total_BK)


BASELINES = {
    "none, as of a critic": lambda reward_BK: np.zeros_like(reward_BK),
    "mean of the group": lambda reward_BK: np.broadcast_to(reward_BK.mean(1, keepdims=True), reward_BK.shape),
    "the others of the group": lambda reward_BK: (
        (reward_BK.sum(1, keepdims=True) - reward_BK) / (reward_BK.shape[1] - 1)
    ),
}


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("states", [1, 2])
def test_the_expected_gradient_is_exactly_zero_by_enumeration(baseline, states):
    """All draws of all states, each with its probability: nothing is left, neither of persons nor of an item's mean.

    Item 1 is liked by everybody most, so that rewards dealt out by item would be found out.
    """
    pi_N, value_BN = np.array([0.5, 0.3, 0.2]), np.array([[0.1, 0.9, 0.3], [0.0, 0.8, 0.5]])[:states]
    worth = lambda of, items_BK: Reward(np.take_along_axis(value_BN, items_BK, axis=1), {})  # noqa: E731
    shuffled = Shuffled(worth, "rewards", 0)

    def gradient(rewarder):
        """(B, N), with respect to the logits of each state's softmax."""
        total_BN = np.zeros((states, 3))
        for drawn in itertools.product(range(3), repeat=2 * states):
            items_BK = np.array(drawn).reshape(states, 2)
            reward_BK = rewarder(STATES[:states], items_BK).total_BK
            score_BKN = np.eye(3)[items_BK] - pi_N
            advantage_BK = reward_BK - baseline(reward_BK)
            total_BN += pi_N[items_BK].prod() * (advantage_BK[:, :, None] * score_BKN).sum(1)
        return total_BN

    assert np.abs(gradient(worth)).max() > 0.05
    np.testing.assert_allclose(gradient(shuffled), 0.0, atol=1e-12)


def test_what_an_item_is_expected_to_earn_when_rewards_are_dealt_out_wrongly(drawn):
    """Of others' rewards nothing is told by the item; in another state's place an item is worth what it is there."""
    candidates = np.tile(np.arange(ITEMS), (MANY, 1))
    assert not Shuffled(reward, "rewards", 3).candidates(STATES, candidates, 1).any()
    people = Shuffled(reward, "people", 3)
    found, drawn_BK = people.candidates(STATES, candidates, 1), people(STATES, drawn, 1).total_BK
    np.testing.assert_array_equal(np.take_along_axis(found, drawn, axis=1), drawn_BK)
