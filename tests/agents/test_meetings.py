"""What agents meet, and that they see in deployment what they saw in training."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.agents import OneStep, Sessions, StateFeatures, TabularSettings, train_tabular
from llmrec.agents.clusters import Centres
from llmrec.agents.meeting import legal_items, padded
from llmrec.config import EnvironmentSettings
from llmrec.errors import ConfigError, DataError, RequestError, RunError
from llmrec.types import Interaction, Reward, State
from tests.agents.worlds import USERS, trivial
from tests.training.worlds import lamps


def features_of(world, people):
    states = [people.state(user) for user in range(30)]
    return StateFeatures.fit(world.dataset.item_list, states, seed=1)


def test_every_state_is_met_equally_often_and_earns_its_reward(shop):
    meeting, features, _ = trivial(shop, users=5)
    seen = np.zeros(24)
    own = features.encode(USERS)
    rows = {
        row.tobytes(): lamps([state], np.arange(12)[None]).total_BK[0] for row, state in zip(own, USERS, strict=True)
    }
    observed = meeting.begin(3)
    for turn in range(24):
        np.add.at(seen, meeting._row_B, 1)
        items = np.array([(turn + n) % 12 for n in range(5)])
        expected = [rows[row.tobytes()][item] for row, item in zip(observed.feature_BD, items, strict=True)]
        done = meeting.turn(items)
        assert done.reward_B.tolist() == expected
        assert done.over_B.all()
        observed = done.next
    assert seen.tolist() == [5] * 24


def test_rewards_are_the_same_with_and_without_a_table(shop, monkeypatch):
    with_table, features, _ = trivial(shop, users=8)
    monkeypatch.setattr("llmrec.agents.meeting._TABLE", 0)
    without = OneStep(USERS, None, lamps, features, 12, 8)
    assert without.reward_SN is None
    for meeting in (with_table, without):
        meeting.begin(1)
    items = np.arange(8)
    assert with_table.turn(items).reward_B.tolist() == without.turn(items).reward_B.tolist()


def test_what_was_seen_may_not_be_shown(shop):
    meeting, _, _ = trivial(shop, users=24, seen=[np.array([2, 5])] * 24)
    observed = meeting.begin(0)
    legal = observed.legal_BN(12)
    assert legal.sum() == 24 * 10
    assert not legal[:, [2, 5]].any()
    with pytest.raises(RequestError, match="User 3 was to be shown item 5"):
        meeting.turn(np.array([0, 0, 0, 5] + [0] * 20))
    with pytest.raises(RequestError, match=r"one of 0\.\.11"):
        meeting.turn(np.full(24, 12))


def test_padding_stands_for_no_item():
    assert padded([np.array([3]), np.array([], dtype=np.int64)]).tolist() == [[3], [-1]]
    assert legal_items(np.array([[3, -1], [-1, -1]]), 4).tolist() == [[True, True, True, False], [True] * 4]


def test_rewards_that_are_no_numbers_are_refused(shop):
    features = StateFeatures.fit(shop.items, USERS)
    with pytest.raises(DataError, match="not a finite number"):
        OneStep(USERS, None, lambda states, items: Reward(np.full(items.shape, np.nan)), features, 12)
    with pytest.raises(DataError, match="24 states"):
        OneStep(USERS, [np.array([1])], lamps, features, 12)
    with pytest.raises(DataError, match="not 12 and 0"):
        StateFeatures.fit(shop.items, [])


def test_sessions_reward_what_the_world_expects_and_end_with_their_turns(world, people):
    """Without dynamics the expected reward is the truth's P(click) (1 + 3 P(conversion | click))."""
    meeting = Sessions(people, features_of(world, people), EnvironmentSettings(slate_size=1, turns=3), users=6)
    meeting.begin(4)
    names = world.dataset.users["user_id"].to_list()
    for turn in range(7):
        users = [names[row] for row in meeting.env.engine.user_N]
        items = np.arange(6) + turn
        click, buys = world.expected_click_BN(users), world.expected_conversion_BN(users)
        at = (np.arange(6), items)
        done = meeting.turn(items)
        np.testing.assert_allclose(done.reward_B, click[at] * (1 + 3 * buys[at]), rtol=1e-5)
        assert done.over_B.tolist() == [turn % 3 == 2] * 6


def test_sessions_hide_what_they_have_shown_and_forget_it_with_the_next_user(world, people):
    seen = [np.array([user % 5]) for user in range(30)]
    sizes = EnvironmentSettings(slate_size=1, turns=2)
    meeting = Sessions(people, features_of(world, people), sizes, seen=seen, users=4)
    observed = meeting.begin(0)
    for turn in range(4):
        users = meeting.env.engine.user_N
        hidden = [{int(user) % 5} | ({10} if turn % 2 else set()) for user in users]
        legal = observed.legal_BN(40)
        assert [set(np.flatnonzero(~row).tolist()) for row in legal] == hidden
        observed = meeting.turn(np.array([10 + 10 * (turn % 2)] * 4)).next
    with pytest.raises(ConfigError, match="one item a turn"):
        Sessions(people, meeting.features, EnvironmentSettings(slate_size=2))
    with pytest.raises(DataError, match="30 users"):
        Sessions(people, meeting.features, sizes, seen=seen[:3])


def test_an_agent_sees_in_deployment_what_it_saw_in_training(world, people):
    """The same users, items and luck by the training's arrays and by the text states of deployment."""
    features = features_of(world, people)
    sizes = EnvironmentSettings(slate_size=1, turns=4, remembered_turns=4)
    meeting = Sessions(people, features, sizes, users=7)
    observed = meeting.begin(2)
    centres = Centres(np.random.default_rng(0).normal(size=(9, features.width)))
    settings = TabularSettings(transitions=400)
    agent = train_tabular(Sessions(people, features, sizes), features, settings, discretise=centres)
    changed = 0
    for turn in range(4):
        states = list(meeting.env.engine.lazy_states())
        assert [len(state.session) for state in states] == [turn] * 7
        np.testing.assert_array_equal(features.encode(states), observed.feature_BD)
        np.testing.assert_array_equal(agent.score(states), agent.values(observed.feature_BD))
        before = observed.feature_BD
        observed = meeting.turn(agent.values(observed.feature_BD).argmax(axis=1)).next
        changed += int((before != observed.feature_BD).any(axis=1).sum())
    assert changed == 28  # what happens in a session is seen


def test_features_tell_profile_history_and_session_apart_and_keep(shop, tmp_path):
    features = StateFeatures.fit(shop.items, shop.states(12), seed=0)
    plain = State("u", "likes red")
    others = [
        State("u", "likes blue"),
        State("u", "likes red", history=(Interaction(1, "click", 1),)),
        State("u", "likes red", session=(Interaction(1, "impression", 1),)),
        State("u", "likes red", session=(Interaction(1, "conversion", 1),)),
    ]
    rows = features.encode([plain, *others])
    assert len(np.unique(rows, axis=0)) == 5
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() <= 5
    features.save(tmp_path)
    np.testing.assert_array_equal(StateFeatures.load(tmp_path, shop.items).encode([plain, *others]), rows)
    with pytest.raises(RunError, match="another catalogue"):
        StateFeatures.load(tmp_path, shop.items[:-1])
    (tmp_path / "features.npz").write_bytes(b"no archive")
    with pytest.raises(RunError, match=r"features\.npz cannot be read"):
        StateFeatures.load(tmp_path, shop.items)
