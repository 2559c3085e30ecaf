"""Every network solves the trivial world: the best item of each type of user is known."""

from __future__ import annotations

import pytest

from llmrec.agents import DQNSettings, PolicyGradientSettings
from tests.agents.worlds import share_of_optimum, trivial

pytest.importorskip("stable_baselines3")

from llmrec.agents.deep import train_deep

DQN = {"transitions": 12_000, "hidden": (64,), "learning_starts": 500, "buffer": 5000}
ALL = {
    "plain": DQNSettings(**DQN),
    "double": DQNSettings(double=True, **DQN),
    "dueling": DQNSettings(dueling=True, **DQN),
    "policy gradient": PolicyGradientSettings(transitions=24_000, hidden=(64,), learning_rate=3e-3),
    "actor-critic": PolicyGradientSettings(
        transitions=48_000, hidden=(64,), learning_rate=3e-3, steps=5, gae_lambda=0.9, normalised=True
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ALL)
def test_the_best_item_of_each_user_is_found(shop, name, seed):
    meeting, features, item_NE = trivial(shop)
    agent = train_deep(meeting, features, item_NE, ALL[name], seed=seed)
    assert share_of_optimum(agent) >= 0.9
