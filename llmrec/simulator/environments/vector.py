"""N users at a time, in arrays: a `gymnasium.vector.VectorEnv` without a loop over users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings
from llmrec.errors import ConfigError, RequestError
from llmrec.simulator.choice import Choice, make_choice
from llmrec.simulator.environments.engine import Engine, Term, Turned, total_reward
from llmrec.simulator.environments.population import Population
from llmrec.types import BoolArray, FloatArray, IntArray

_ROUNDING = 1e-4


Observations = dict[str, npt.NDArray[Any]]


def action_space(population: Population, settings: EnvironmentSettings) -> spaces.MultiDiscrete:
    """A slate: K item indices, best first."""
    return spaces.MultiDiscrete(np.full(settings.slate_size, len(population.items), dtype=np.int64))


def observation_space(population: Population, settings: EnvironmentSettings) -> spaces.Dict:
    """What a user shows; no hidden state. With P numbers of a profile, F features of an item and K places:

    profile (P,)      what the profile's text tells
    interest (F,)     mean features of what was clicked, older turns weighing less, drawn to 0 where it is little
    passed (F,)       the same of what was shown and not clicked
    counts (2,)       log(1 + clicks), log(1 + conversions) of the episode
    slate (K,)        item indices of the last slate, -1 for an empty place
    clicks, conversions (K,)   0 or 1: what it got
    turn (1,)         share of the turn limit that is used up
    """
    places, items = settings.slate_size, len(population.items)
    # Means of features, drawn to 0, lie between the smallest and the largest feature and 0; rounding may lead a
    # little beyond.
    low_F, high_F = (bound(population.feature_NF, axis=0) for bound in (np.min, np.max))
    low_P, high_P = (bound(population.profile_UP, axis=0) for bound in (np.min, np.max))
    mean = _box(np.minimum(low_F, 0) - _ROUNDING, np.maximum(high_F, 0) + _ROUNDING)
    most = float(np.log1p(settings.turns * places)) + _ROUNDING
    flags = _box(np.zeros(places), np.ones(places))
    return spaces.Dict(
        {
            "profile": _box(low_P - _ROUNDING, high_P + _ROUNDING),
            "interest": mean,
            "passed": mean,
            "counts": _box(np.zeros(2), np.full(2, most)),
            "slate": spaces.Box(-1, items - 1, (places,), np.int32),
            "clicks": flags,
            "conversions": flags,
            "turn": _box(np.zeros(1), np.ones(1)),
        }
    )


def empty_observations(space: spaces.Dict, count: int) -> dict[str, npt.NDArray[Any]]:
    """Arrays for the observations of `count` users."""
    return {name: np.empty((count, *box.shape), dtype=box.dtype) for name, box in space.spaces.items()}


def _box(low: npt.ArrayLike, high: npt.ArrayLike) -> spaces.Box:
    return spaces.Box(np.asarray(low, np.float32), np.asarray(high, np.float32), dtype=np.float32)


class VectorRecEnv(VectorEnv):  # type: ignore[misc]
    """N users of a population, each in an episode of its own.

    The action is (N, K) item indices, best first. -1 leaves a place empty; an item that stands in a slate twice is
    shown once, at the first of its places. The reward is click * clicks + conversion * conversions, or that of
    `terms`. `terminations` tells who left for good, `truncations` whose turns are used up (never both).

    Autoreset as in gymnasium 1.x. NEXT_STEP (the default): the step after an episode's end ignores that place's
    action, begins its next episode and returns the first observation with reward 0. DISABLED: a place whose episode
    has ended stands still (reward 0) until `reset(options={"reset_mask": mask})`.

    Luck: `reset(seed=s)` begins the sequence s. Which user a place meets in which episode, and all draws of a turn,
    depend on (seed, place, episode, user, turn) alone, so two policies under one seed meet the same users with the
    same luck. Without a seed a random one is drawn at the first reset; further resets go on in the sequence.

    `info`: "states" (`LazyStates`: the text states, made when asked for), "user" (row of the population), "terms"
    (unweighted reward terms), "shown" (slates as they were shown), "days" (days away before the next turn), and
    "reset" (which places began an episode with this call).

    Args:
        population: Who is met.
        num_envs: N.
        settings: Sizes of an episode.
        choice: Choice model or its settings; clicks are independent where not given.
        dynamics: Transitions; all off where not given.
        terms: Terms of the reward (`llmrec.rewards`) instead of clicks and conversions.
        offset: Number of the first place, to split users over processes.
        autoreset_mode: NEXT_STEP or DISABLED.
        copy: Whether every step returns arrays of its own; otherwise the next step overwrites them.
    """

    def __init__(
        self,
        population: Population,
        num_envs: int,
        settings: EnvironmentSettings | None = None,
        *,
        choice: Choice | ChoiceSettings | None = None,
        dynamics: DynamicsSettings | None = None,
        terms: Sequence[Term] | None = None,
        offset: int = 0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ) -> None:
        self.settings = settings or EnvironmentSettings()
        self.engine = Engine(
            population,
            num_envs,
            self.settings,
            as_choice(choice, self.settings.slate_size),
            dynamics or DynamicsSettings(),
            offset,
        )
        self.population, self.terms, self.num_envs, self._copy = population, terms, num_envs, copy
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": []}
        self.single_action_space = action_space(population, self.settings)
        self.single_observation_space = observation_space(population, self.settings)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._over_N = np.zeros(num_envs, dtype=np.bool_)
        self._out: Observations | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begins episodes: all, or those of `options["reset_mask"]`; `options["users"]` names rows to meet (N,)."""
        unseeded = self._np_random is None
        super().reset(seed=seed)
        options = options or {}
        mask_N = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=np.bool_)))
        if mask_N.shape != (self.num_envs,) or mask_N.dtype != np.bool_ or (unseeded and not mask_N.all()):
            raise RequestError(
                f"'reset_mask' must be {self.num_envs} truth values, and the first reset must be of all environments."
            )
        if seed is not None or unseeded:
            self.engine.seed(int(self.np_random.integers(2**62)) if seed is None else seed)
        rows = np.flatnonzero(mask_N)
        self.engine.restart(rows, self._users(options.get("users"), rows))
        self._over_N[rows] = False
        return self._observations(), self._info(None, {}, mask_N)

    def step(self, actions: npt.ArrayLike) -> tuple[Observations, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One turn of all users; see the class."""
        if self.engine.people is None:
            raise RequestError("The environment has no users yet; call reset before step.")
        over_N = self._over_N
        # In NEXT_STEP a place whose episode has ended does not play: this call returns its next episode's first
        # observation.
        renew = self.autoreset_mode is AutoresetMode.NEXT_STEP
        turned = self.engine.turn(actions, ~over_N if over_N.any() else None, others_restart=renew)
        began_N = over_N if renew else np.zeros_like(over_N)
        # Rewards are of the state in which the slate was chosen, not of what it led to.
        states = self.engine.lazy_states(before_turn=True)
        reward_N, terms = total_reward(self.settings, self.terms, states, turned)
        terminated_N = turned.gone_N
        # Leaving is an end of the process, running out of turns is not: value estimates may go on beyond the latter
        # only.
        truncated_N = (self.engine.record.turn_B >= self.settings.turns) & ~terminated_N & ~over_N
        if began_N.any():
            self.engine.restart(np.flatnonzero(began_N))
            # Places that just began anew neither ended nor were cut in this call.
            self._over_N = terminated_N | truncated_N
        else:
            self._over_N = over_N | terminated_N | truncated_N
        info = self._info(turned, terms, began_N)
        return self._observations(), reward_N, terminated_N, truncated_N, info

    def _users(self, users: Any, rows: IntArray) -> IntArray | None:
        if users is None:
            return None
        user_N, known = np.asarray(users), self.engine.users_total
        if user_N.shape != (self.num_envs,) or user_N.dtype.kind not in "iu":
            raise RequestError(
                f"'users' has shape {user_N.shape}; give one whole number for each of {self.num_envs}."
            )
        if user_N.min() < 0 or user_N.max() >= known:
            raise RequestError(f"'users' names row {user_N.max()}, but the population has the rows 0..{known - 1}.")
        return user_N[rows].astype(np.int64)

    def _observations(self) -> Observations:
        out = self._out
        if out is None or self._copy:
            out = self._out = empty_observations(self.single_observation_space, self.num_envs)
        engine = self.engine
        engine.each_block(lambda rows: engine.record.observe(rows, out, engine.user_N[rows]))
        return out

    def _info(self, turned: Turned | None, terms: dict[str, Any], began_N: BoolArray) -> dict[str, Any]:
        info: dict[str, Any] = {"states": self.engine.lazy_states(), "user": self.engine.user_N.copy()}
        if turned is not None:
            info |= {"terms": terms, "shown": turned.items_NK, "days": turned.days_N}
        return info | {"reset": began_N}

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the threads."""
        self.engine.close()


def as_choice(choice: Choice | ChoiceSettings | None, places: int) -> Choice:
    """A choice model from its settings, or as it is."""
    return choice if isinstance(choice, Choice) else make_choice(choice or ChoiceSettings(), places)


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    wanted = mode.value if isinstance(mode, AutoresetMode) else mode
    for known in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        if wanted == known.value:
            return known
    raise ConfigError(f"There is no autoreset mode {wanted!r} here; choose NextStep or Disabled.")
