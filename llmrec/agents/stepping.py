"""A meeting as the vectorised environment of stable-baselines3, with its progress and its clock."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from llmrec.agents.meeting import Meeting, Observed
from llmrec.agents.networks import as_observation, observation_space
from llmrec.progress import Bar
from llmrec.types import IntArray

from stable_baselines3.common.callbacks import BaseCallback  # isort: skip  (networks says what to install)
from stable_baselines3.common.vec_env import VecEnv  # isort: skip


class MeetingEnv(VecEnv):  # type: ignore[misc]
    """Users side by side; a session's end is terminal, and the next one begins in the same step."""

    def __init__(self, meeting: Meeting, seed: int) -> None:
        self.meeting, self._first = meeting, seed
        self.observed = meeting.begin(seed)
        width, seen = self.observed.feature_BD.shape[1], self.observed.seen_BS.shape[1]
        space = observation_space(width, seen, meeting.n_items)
        self._seen = seen
        super().__init__(meeting.count, space, spaces.Discrete(meeting.n_items))

    def reset(self) -> dict[str, Any]:
        """Begins all sessions anew."""
        self.observed = self.meeting.begin(self._first)
        return self._numbers(self.observed)

    def step_async(self, actions: IntArray) -> None:
        """Takes the items."""
        self._items_B = np.asarray(actions, dtype=np.int64).reshape(-1)

    def step_wait(self) -> tuple[dict[str, Any], Any, Any, list[dict[str, Any]]]:
        """Shows them."""
        turn = self.meeting.turn(self._items_B)
        self.observed = turn.next
        reward_B = turn.reward_B.astype(np.float32)
        # stable-baselines3 expects the next episode's first observation behind an end. No `terminal_observation` is
        # given: nothing is bootstrapped behind an end.
        return self._numbers(turn.next), reward_B, turn.over_B.copy(), [{} for _ in range(self.num_envs)]

    def _numbers(self, observed: Observed) -> dict[str, Any]:
        return as_observation(observed.feature_BD, observed.seen_BS, self._seen)

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The meeting's attribute, once a user."""
        if attr_name == "render_mode":
            return [None] * self.num_envs
        return [getattr(self.meeting, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not for a meeting."""
        raise NotImplementedError("A meeting's users have no attributes of their own.")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **more: Any) -> list[Any]:
        """Not for a meeting."""
        raise NotImplementedError("A meeting's users have no methods of their own.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """It never is."""
        return [False] * self.num_envs


class Watch(BaseCallback):  # type: ignore[misc]
    """Advances the bar, keeps the rewards, and ends the training when its time is up."""

    def __init__(self, bar: Bar, seconds: float | None) -> None:
        super().__init__()
        self.bar, self.seconds, self.start = bar, seconds, time.monotonic()
        self.rewards: list[float] = []
        self.late = False

    def _on_step(self) -> bool:
        self.rewards.append(float(np.mean(self.locals["rewards"])))
        self.bar.advance(self.training_env.num_envs, f"reward {self.rewards[-1]:.3f}")
        self.late = self.seconds is not None and time.monotonic() - self.start >= self.seconds
        return not self.late


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[int]:
    """The global generators, on which stable-baselines3 draws, seeded inside the block and put back behind it."""
    # the rest of the process draws from named streams, but a person's own code beside it may not
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    small = seed % 2**32
    random.seed(small)
    np.random.seed(small)
    torch.manual_seed(small)
    try:
        yield small
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
