"""Rewards in TRL's signature: a reward model asked once a rollout, and functions of one's own, checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from llmrec.rewards.trl import CheckedReward
from llmrec.types import IntArray, Reward, State

RewardFunction = Callable[..., list[float | None]]


class Rewarder(Protocol):
    """What is asked of a reward model; `llmrec.rewards.RewardModel` is one."""

    def __call__(self, states: Sequence[State], items_BK: IntArray, /) -> Reward: ...  # noqa: D102


class GroupedReward:
    """A reward model in TRL's signature that is asked once a rollout, with each state's G items as one row.

    Its terms are logged apart, unweighted, as reward/<term>.
    """

    __name__ = "model"

    def __init__(self, model: Rewarder, states: Sequence[State], draws: int) -> None:
        self.model, self.states, self.draws = model, states, draws
        self.takes_step = "step" in _parameters(model)

    def __call__(
        self, *, state: list[int], item: list[int], rollout: list[int], log_metric: Any, **_: Any
    ) -> list[float | None]:
        """One reward an item, in the order of the rows."""
        items_BG = np.array(item, dtype=np.int64).reshape(-1, self.draws)
        asked = [self.states[row] for row in state[:: self.draws]]
        more: dict[str, Any] = {"step": rollout[0]} if self.takes_step else {}
        reward = self.model(asked, items_BG, **more)
        for name, values in reward.terms.items():
            log_metric(f"reward/{name}", float(np.mean(values)))
        return [float(value) for value in reward.total_BK.ravel()]


def _parameters(function: Any) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def checked(function: Any) -> Any:
    """A function of TRL's signature whose answers are checked; a model (`torch.nn.Module`) is TRL's to call."""
    if isinstance(function, torch.nn.Module | GroupedReward | CheckedReward):
        return function
    return CheckedReward(function)
