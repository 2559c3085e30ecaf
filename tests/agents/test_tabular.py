"""Q-learning and SARSA against enumerated values; the table's arithmetic; groups of items; legality."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.agents import TabularAgent, TabularSettings, load_agent, train_tabular
from llmrec.agents.clusters import Actions, Centres, best_legal, draw_legal
from llmrec.errors import ConfigError, RequestError, RunError
from llmrec.types import State
from tests.agents.worlds import USERS, Chain, Rows, share_of_optimum, trivial


@pytest.mark.parametrize(("algorithm", "epsilon"), [("q-learning", 0.0), ("sarsa", 0.3)])
def test_values_are_those_of_the_enumerated_chain(algorithm, epsilon):
    """Q-learning explores too, yet learns the optimal values; SARSA those of its own epsilon-greedy behaviour."""
    chain = Chain(count=64)
    settings = TabularSettings(
        algorithm=algorithm, transitions=200_000, exploration=0.0, epsilon_end=0.3, gamma=0.9, decay=0.8
    )
    agent = train_tabular(chain, None, settings, discretise=Rows(), seed=1)
    truth, other = chain.values(0.9, epsilon), chain.values(0.9, 0.3 - epsilon)
    np.testing.assert_allclose(agent.value_SA, truth, atol=0.02)
    assert np.abs(other - truth).max() > 0.05  # the other algorithm's values lie well outside
    assert agent.value_SA.argmax(axis=1).tolist() == [1, 1, 1]


def test_without_looking_ahead_the_chain_goes_back():
    chain = Chain()
    settings = TabularSettings(transitions=20_000, exploration=0.0, epsilon_end=0.3, gamma=0.0, decay=1.0)
    agent = train_tabular(chain, None, settings, discretise=Rows(), seed=1)
    np.testing.assert_allclose(agent.value_SA, [[0.1, 0.0], [0.1, 0.0], [0.1, 1.0]], atol=1e-9)


def _table(decay, learning_rate=1.0, initial=0.0):
    settings = TabularSettings(decay=decay, learning_rate=learning_rate, initial=initial)
    return TabularAgent(None, Rows(), Actions.items(2), settings)


def test_cells_move_by_hand():
    agent = _table(decay=0.0, learning_rate=0.5)
    agent.update(np.array([0, 2]), np.array([1, 0]), np.array([1.0, 4.0]))
    assert agent.value_SA.tolist() == [[0, 0.5], [0, 0], [2, 0]]
    agent.update(np.array([0, 0, 0]), np.array([1, 1, 1]), np.array([1.0, 2.0, 3.0]))  # a third of the rate each
    assert agent.value_SA[0, 1] == pytest.approx(0.5 + (0.5 + 1.5 + 2.5) / 3)
    assert agent.visit_SA.tolist() == [[0, 4], [0, 0], [1, 0]]


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=4), min_size=1, max_size=6))
def test_with_decay_one_a_cell_is_the_mean_of_its_targets(steps):
    agent = _table(decay=1.0, initial=7.0)
    for targets in steps:
        agent.update(np.zeros(len(targets), int), np.ones(len(targets), int), np.array(targets))
    assert agent.value_SA[0, 1] == pytest.approx(np.mean([t for step in steps for t in step]), abs=1e-9)
    assert agent.value_SA[0, 0] == 7.0


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algorithm", ["q-learning", "sarsa"])
def test_the_trivial_world_is_solved(shop, algorithm, seed):
    meeting, features, _ = trivial(shop)
    settings = TabularSettings(algorithm=algorithm, transitions=6000, clusters=6)
    agent = train_tabular(meeting, features, settings, seed=seed)
    assert share_of_optimum(agent) >= 0.9
    assert agent.trained.transitions == 6000
    assert not agent.trained.out_of_time
    assert agent.trained.curve[-1]["reward"] > 2 * agent.trained.curve[0]["reward"]


@pytest.mark.parametrize("groups", [None, 4])
def test_seen_items_are_neither_tried_nor_recommended(shop, groups):
    """The meeting refuses a seen item, so a training that ends never showed one."""
    seen = [np.array([3 * (n % 4), (5 * n) % 12]) for n in range(24)]
    meeting, features, item_NE = trivial(shop, seen=seen)
    settings = TabularSettings(transitions=3000, clusters=6, item_clusters=groups)
    agent = train_tabular(meeting, features, settings, item_NE=item_NE, repeat="exclude")
    slates = agent.recommend(USERS, 12, seen=seen)
    for slate, items in zip(slates, seen, strict=True):
        assert set(slate.items_K) == set(range(12)) - set(items.tolist())
    assert len(agent.recommend([USERS[0]], 12)[0].items_K) == 12


def test_whoever_has_seen_everything_is_named(shop):
    meeting, features, _ = trivial(shop, seen=[np.arange(12)] * 24)
    with pytest.raises(RequestError, match="User 0 has seen the whole catalogue"):
        train_tabular(meeting, features, TabularSettings(transitions=100, clusters=2))


def test_groups_of_items_are_actions_and_their_better_items_come_first(shop):
    meeting, features, _ = trivial(shop)
    colour_NE = np.eye(4)[np.arange(12) // 3]  # lamp, chair and desk of a colour are one action
    settings = TabularSettings(transitions=12_000, clusters=6, item_clusters=4)
    agent = train_tabular(meeting, features, settings, item_NE=colour_NE)
    assert agent.actions.count == 4
    assert agent.value_SA.shape[1] == 4
    assert share_of_optimum(agent) == 1.0
    with pytest.raises(ConfigError, match="pass item_NE"):
        train_tabular(meeting, features, settings)


def test_choices_are_legal_and_fair():
    random = np.random.default_rng(0)
    legal = np.tile([False, True, True, False], (4000, 1))
    assert np.bincount(draw_legal(legal, random), minlength=4)[[0, 3]].tolist() == [0, 0]
    value = np.tile([9.0, 1.0, 1.0, 9.0], (4000, 1))
    share = np.bincount(best_legal(value, legal, random), minlength=4) / 4000
    assert share[[0, 3]].tolist() == [0, 0]
    assert abs(share[1] - 0.5) < 0.03


def test_clusters_are_as_many_as_there_are_different_rows():
    rows = np.array([[0.0, 0], [0, 0], [10, 0], [10, 1], [0, 1]])
    assert Centres.fit(rows, 50, 0).rows == 4
    two = Centres.fit(rows, 2, 0)
    assert two(rows).tolist() in ([0, 0, 1, 1, 0], [1, 1, 0, 0, 1])


def test_a_saved_agent_recommends_the_same(shop, tmp_path):
    meeting, features, item_NE = trivial(shop)
    settings = TabularSettings(transitions=2000, clusters=6, item_clusters=5)
    agent = train_tabular(meeting, features, settings, item_NE=item_NE, seed=4)
    agent.save(tmp_path / "agent")
    again = load_agent(tmp_path / "agent", shop.items)
    states = [*USERS, State("new", "likes blue")]
    assert again.recommend(states, 5) == agent.recommend(states, 5)
    assert again.settings == settings
    with pytest.raises(RequestError, match="k is 13"):
        again.recommend(states, 13)
    (tmp_path / "agent" / "agent.json").write_text('{"kind": "other"}')
    with pytest.raises(RunError, match="kind 'other'"):
        load_agent(tmp_path / "agent", shop.items)
    given = train_tabular(Chain(), None, TabularSettings(transitions=100), discretise=Rows())
    with pytest.raises(RequestError, match="given a function"):
        given._save(tmp_path)


def test_the_clock_ends_a_training(shop):
    meeting, features, _ = trivial(shop)
    agent = train_tabular(meeting, features, TabularSettings(transitions=10**9, clusters=4, seconds=0.05))
    assert agent.trained.out_of_time
    assert agent.trained.transitions < 10**8
