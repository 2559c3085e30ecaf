"""Wrappers, and the agents of stable-baselines3 behind them as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from llmrec.config import EnvironmentSettings
from llmrec.errors import ConfigError, DataError
from llmrec.simulator.environments import (
    DiscreteActions,
    ItemFeatureActions,
    NumericObservations,
    RecEnv,
    WorldUsers,
)


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where agents of stable-baselines3 make the folders of their loggers."""
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path))


def _agent_env(people: WorldUsers) -> gymnasium.Env:
    return NumericObservations(DiscreteActions(RecEnv(people, EnvironmentSettings(slate_size=1, turns=10))))


def test_discrete_actions_show_that_item(people: WorldUsers) -> None:
    env = _agent_env(people)
    with pytest.warns(UserWarning, match="different from the unwrapped"):
        check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (20 + 20 + 20 + 2 + 1 + 1 + 1,)
    _, _, _, _, info = env.step(np.int64(33))
    assert info["shown"].tolist() == [33]


def test_feature_actions_show_the_nearest_items(people: WorldUsers) -> None:
    env = ItemFeatureActions(RecEnv(people, EnvironmentSettings(slate_size=4)))
    env.reset(seed=0)
    wish = np.zeros(20, dtype=np.float32)
    wish[5], wish[12 + 2] = 1.0, 0.4  # topic 5, a little of style 2
    _, _, _, _, info = env.step(wish)
    score = people.feature_NF @ wish
    best = sorted(range(80), key=lambda item: (-score[item], item))[:4]
    assert info["shown"].tolist() == best
    own = np.eye(80)
    env = ItemFeatureActions(RecEnv(people, EnvironmentSettings(slate_size=2)), own)
    assert env.action(own[7] + 0.5 * own[3]).tolist() == [7, 3]
    with pytest.raises(DataError, match="not finite"):
        env.action(np.full(80, np.nan))


def test_wrappers_refuse_what_they_are_not_for(people: WorldUsers) -> None:
    with pytest.raises(ConfigError, match="slate_size = 1, not 10"):
        DiscreteActions(RecEnv(people))
    with pytest.raises(ConfigError, match="environments of llmrec"):
        DiscreteActions(gymnasium.make("CartPole-v1"))
    with pytest.raises(DataError, match="80 rows"):
        ItemFeatureActions(RecEnv(people), np.zeros((3, 2)))


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN"])
def test_agents_of_stable_baselines3_learn_on_it(people: WorldUsers, name: str) -> None:
    agents = pytest.importorskip("stable_baselines3")
    few: dict[str, dict[str, Any]] = {
        "PPO": {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
        "A2C": {"n_steps": 16},
        "DQN": {"learning_starts": 50, "buffer_size": 500},
    }
    agent = getattr(agents, name)("MlpPolicy", _agent_env(people), seed=0, device="cpu", **few[name])
    agent.learn(256)
    action, _ = agent.predict(_agent_env(people).reset(seed=1)[0])
    assert 0 <= int(action) < 80


@pytest.mark.usefixtures("logs")
def test_agents_take_slates_and_dictionaries_too(people: WorldUsers) -> None:
    agents = pytest.importorskip("stable_baselines3")
    env = RecEnv(people, EnvironmentSettings(slate_size=3, turns=10))
    agents.PPO("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(128)
    env = NumericObservations(ItemFeatureActions(RecEnv(people, EnvironmentSettings(slate_size=3, turns=10))))
    agents.A2C("MlpPolicy", env, n_steps=16, seed=0, device="cpu").learn(64)


def test_wrappers_over_registered_environments() -> None:
    env = NumericObservations(DiscreteActions(gymnasium.make("llmrec/Shop-v0", users=20, items=30, slate_size=1)))
    env.reset(seed=1)
    assert env.step(4)[4]["shown"].tolist() == [4]
    env = NumericObservations(ItemFeatureActions(gymnasium.make("llmrec/News-v0", users=20, items=30, language="zh")))
    env.reset(seed=1)
    assert len(env.step(env.action_space.sample())[4]["shown"]) == 10
