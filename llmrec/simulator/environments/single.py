"""One user at a time: a `gymnasium.Env`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt

from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings
from llmrec.errors import RequestError
from llmrec.simulator.choice import Choice
from llmrec.simulator.environments.engine import Term
from llmrec.simulator.environments.population import Population
from llmrec.simulator.environments.record import LazyState
from llmrec.simulator.environments.vector import Observations, VectorRecEnv


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
