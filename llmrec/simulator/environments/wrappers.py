"""Wrappers for agents that know neither slates nor dictionaries, such as those of stable-baselines3."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from llmrec.errors import ConfigError, DataError
from llmrec.simulator.environments.population import check_features
from llmrec.simulator.environments.single import RecEnv
from llmrec.types import IntArray


class DiscreteActions(gymnasium.ActionWrapper):  # type: ignore[misc]
    """Slates of one item as plain item indices (`Discrete(N)`), for DQN and its like."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        places = _inner(env).settings.slate_size
        if places != 1:
            raise ConfigError(f"DiscreteActions needs environment.slate_size = 1, not {places}.")
        self.action_space = spaces.Discrete(len(_inner(env).population.items))

    def action(self, action: Any) -> IntArray:
        """The slate of one item."""
        return np.array([action], dtype=np.int64)


class ItemFeatureActions(gymnasium.ActionWrapper):  # type: ignore[misc]
    """A continuous action in the space of item embeddings: shown are the K items of greatest inner product with it.

    The proto-action of Dulac-Arnold et al. 2015, "Deep reinforcement learning in large discrete action spaces", with
    inner products of unit vectors; ties go to the smaller item index.

    Args:
        env: The environment.
        embedding_NE: One row an item; the environment's item features where not given.
    """

    def __init__(self, env: gymnasium.Env, embedding_NE: npt.ArrayLike | None = None) -> None:
        super().__init__(env)
        inner = _inner(env)
        self._places = inner.settings.slate_size
        rows = inner.population.feature_NF if embedding_NE is None else embedding_NE
        embedding_NE = check_features(rows, len(inner.population.items), "the item embeddings")
        length = np.linalg.norm(embedding_NE, axis=1, keepdims=True)
        self._unit_NE = embedding_NE / np.where(length > 0, length, 1)
        self.action_space = spaces.Box(-1.0, 1.0, (embedding_NE.shape[1],), np.float32)

    def action(self, action: npt.ArrayLike) -> IntArray:
        """The slate whose items lie nearest in direction."""
        wish_E = np.asarray(action, dtype=np.float32)
        if not np.isfinite(wish_E).all():
            raise DataError("The action holds a number that is not finite; check the agent.")
        score_N = self._unit_NE @ wish_E
        least = np.partition(score_N, -self._places)[-self._places]
        near = np.flatnonzero(score_N >= least)
        best: IntArray = near[np.argsort(-score_N[near], kind="stable")][: self._places]
        return best


class NumericObservations(gymnasium.ObservationWrapper):  # type: ignore[misc]
    """All observations but the item indices of the last slate, as one vector of numbers."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._names = [name for name in env.observation_space.spaces if name != "slate"]
        boxes = [env.observation_space[name] for name in self._names]
        low, high = (np.concatenate([getattr(box, side) for box in boxes]) for side in ("low", "high"))
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The parts side by side."""
        return np.concatenate([observation[name] for name in self._names], dtype=np.float32)


def _inner(env: gymnasium.Env) -> RecEnv:
    inner = env.unwrapped
    if not isinstance(inner, RecEnv):
        raise ConfigError(f"This wrapper is for environments of llmrec, not for {type(inner).__name__}.")
    return inner
