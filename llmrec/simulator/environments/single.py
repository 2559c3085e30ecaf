"""One user at a time: a `gymnasium.Env`, and wrappers for agents that know neither slates nor dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings
from llmrec.errors import ConfigError, DataError, RequestError
from llmrec.simulator.choice import Choice
from llmrec.simulator.environments.engine import Term
from llmrec.simulator.environments.population import Population, check_features
from llmrec.simulator.environments.record import LazyState
from llmrec.simulator.environments.vector import Observations, VectorRecEnv
from llmrec.types import IntArray


class RecEnv(gymnasium.Env):  # type: ignore[misc]
    """One user an episode; `VectorRecEnv` of one place, with the same arguments, rewards and luck.

    `reset(options={"user": row})` meets the user at that row of the population. `info`: "state" (a `LazyState`: call
    it for the text state), "user", and after a step "terms", "shown", "days".
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        population: Population,
        settings: EnvironmentSettings | None = None,
        *,
        choice: Choice | ChoiceSettings | None = None,
        dynamics: DynamicsSettings | None = None,
        terms: Sequence[Term] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.vector = VectorRecEnv(
            population, 1, settings, choice=choice, dynamics=dynamics, terms=terms, autoreset_mode="Disabled"
        )
        self.population, self.settings = population, self.vector.settings
        self.action_space = self.vector.single_action_space
        self.observation_space = self.vector.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begins an episode; see the class."""
        unseeded = self._np_random is None
        super().reset(seed=seed)
        if seed is None and unseeded:
            seed = int(self.np_random.integers(2**62))
        user = (options or {}).get("user")
        observations, info = self.vector.reset(seed=seed, options=None if user is None else {"users": [user]})
        return _one(observations), self._info(info)

    def step(self, action: npt.ArrayLike) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """One turn; raises `RequestError` once the episode has ended."""
        if self.vector.engine.people is not None and self.vector._over_N[0]:
            raise RequestError("The episode has ended; call reset before the next step.")
        slates = np.asarray(action)[None]
        observations, reward_N, terminated_N, truncated_N, info = self.vector.step(slates)
        return _one(observations), float(reward_N[0]), bool(terminated_N[0]), bool(truncated_N[0]), self._info(info)

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        engine, user = self.vector.engine, int(info["user"][0])
        moment = (user, int(engine.key_N[0]), int(engine.record.turn_B[0]))
        own: dict[str, Any] = {"state": LazyState(info["states"], moment), "user": user}
        if "terms" in info:
            own["terms"] = {name: float(value_N[0]) for name, value_N in info["terms"].items()}
            own |= {"shown": info["shown"][0], "days": float(info["days"][0])}
        return own

    def close(self) -> None:
        """Ends the threads."""
        self.vector.close()


def _one(observations: Observations) -> Observations:
    return {name: values[0] for name, values in observations.items()}


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
        # The K-th best score by selection, then only those that reach it are sorted: ties at the border go to the
        # smaller index.
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
