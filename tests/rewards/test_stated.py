"""Weights that a state's text asks for: the reward by hand, and what settings may state."""

from dataclasses import replace

import numpy as np
import pytest

from llmrec.config import RewardSettings, RunConfig
from llmrec.config.reward import check_reward
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import check_algorithm
from llmrec.pipeline.algorithms.reward import reward_key
from llmrec.rewards import CustomReward, NextItemReward, RewardFunction
from llmrec.text.objectives import preferring
from llmrec.types import Example, State
from tests.rewards.test_model import Fixed

NAMES = ("click", "conversion", "new")
STATES = [State(user_id=name) for name in "abc"]
ITEMS = np.array([[0, 1], [2, -1], [0, 1]])


def stated(*names, **more):
    return RewardSettings(click=1.0, conversion=3.0, terms={"new": 0.5}, stated=names, **more)


def asking():
    """Nothing of the first, two thirds of conversions and all of "new" of the second, all of clicks of the third."""
    second = preferring(STATES[1], {"conversion": 2, "new": 3}, "en", NAMES)
    third = preferring(replace(STATES[2], context="a gift"), {"click": 3}, "zh", NAMES)
    return [STATES[0], second, third]


def test_a_state_is_rewarded_by_the_weights_that_it_asks_for_and_by_all_where_it_asks_for_none():
    met = []

    def new(state, items):
        met.append(state)
        return [float(i) for i in items]

    reward = RewardFunction(Fixed(), stated(*NAMES), terms=[CustomReward("new", 0.5, new)])(asking(), ITEMS)
    # P(click) 0.1, 0.2, 0.3 of items 0, 1, 2, half of it converted
    first = [0.1 + 3 * 0.05 + 0.5 * 0, 0.2 + 3 * 0.1 + 0.5 * 1]
    second = [0 * 0.3 + 2 / 3 * 3 * 0.15 + 0.5 * 2, 0.0]
    np.testing.assert_allclose(reward.total_BK, [first, second, [0.1, 0.2]])
    np.testing.assert_allclose(reward.terms["click"], [[0.1, 0.2], [0.3, 0.0], [0.1, 0.2]])  # as they are
    # what is asked for is no part of what simulators and terms are told, a request is
    assert [state.context for state in met] == ["", "", "a gift"]


def test_what_nothing_states_is_not_read():
    settings, terms = stated(), [CustomReward("new", 0.5, lambda _, items: [0.0 for _ in items])]
    assert RewardFunction(Fixed(), settings, terms=terms)(asking(), ITEMS).total_BK[1, 0] == pytest.approx(0.3 + 0.45)


def test_doubt_is_of_the_value_that_is_asked_for():
    settings = RewardSettings(click=1.0, conversion=3.0, stated=("click", "conversion"), pessimism=2.0)
    state = preferring(STATES[0], {"conversion": 3}, "en", settings.stated)
    reward = RewardFunction(Fixed(), settings)([state], np.array([[1]]))
    # deviations are 0.05 of clicks and 0.04 of conversions, which go together
    assert reward.total_BK[0, 0] == pytest.approx(3 * (0.1 - 2 * 0.04))


def test_the_logged_next_item_of_a_state_that_asks_is_that_of_the_state():
    settings = RewardSettings(click=0.0, conversion=1.0, terms={"next_item": 1.0}, stated=("conversion", "next_item"))
    terms = [NextItemReward.of([Example(STATES[0], 1)])]
    state = preferring(STATES[0], {"next_item": 1}, "en", settings.stated)
    reward = RewardFunction(Fixed(), settings, terms=terms)([state], ITEMS[:1])
    np.testing.assert_allclose(reward.total_BK, [[0.0, 1 / 3]])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (RewardSettings(stated=("click", "revenue")), "'revenue', which has no weight"),
        (RewardSettings(conversion=0.0, stated=("click", "conversion")), "'conversion', which has no weight"),
        (RewardSettings(stated=("click", "click")), "'click' twice"),
        (RewardSettings(stated=("click",)), "'click' alone"),
        (RewardSettings(terms={"margin": 1.0}, stated=("click", "margin")), "compares all the others"),
    ],
)
def test_what_cannot_be_weighed_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        check_reward(settings, 1)


@pytest.mark.parametrize("algorithm", ["off_policy", "dpo", "rlhf"])
def test_algorithms_that_read_no_such_states_are_refused(algorithm):
    config = RunConfig.read(None, {"algorithm": algorithm, "reward.stated": ["click", "conversion"]})
    with pytest.raises(ConfigError, match=r"reward\.stated.*take ppo"):
        check_algorithm(config)


def test_runs_that_state_nothing_have_the_keys_that_they_had():
    plain, other = RunConfig.read(None, {}), RunConfig.read(None, {"reward.stated": ["click", "conversion"]})
    assert "stated" not in reward_key(plain)[0]
    assert reward_key(other)[0]["stated"] == ["click", "conversion"]
