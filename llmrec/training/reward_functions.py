"""Rewards in TRL's signature: a reward model asked once a rollout, and functions of one's own, checked."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmrec.errors import DataError
from llmrec.training.improvement import Rewarder
from llmrec.types import State

RewardFunction = Callable[..., list[float | None]]


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
    """A reward function of TRL's signature whose answers are refused, by its name, where they are no rewards.

    Models (`torch.nn.Module`) and functions of coroutines are TRL's to call; the latter are checked too.
    """
    if isinstance(function, GroupedReward) or not callable(function) or hasattr(function, "state_dict"):
        return function
    name = str(getattr(function, "__name__", type(function).__name__))
    if inspect.iscoroutinefunction(function):

        async def awaited(*arguments: Any, completions: Sequence[Any], **fields: Any) -> list[float | None]:
            return _rewards(name, await function(*arguments, completions=completions, **fields), len(completions))

        return _named(awaited, name)

    def called(*arguments: Any, completions: Sequence[Any], **fields: Any) -> list[float | None]:
        return _rewards(name, function(*arguments, completions=completions, **fields), len(completions))

    return _named(functools.wraps(function)(called) if hasattr(function, "__name__") else called, name)


def _named(function: Any, name: str) -> Any:
    function.__name__ = name
    return function


def _rewards(name: str, given: Any, wanted: int) -> list[float | None]:
    row = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(row, Sequence) or isinstance(row, str):
        raise DataError(f"Reward function {name!r} returned {type(given).__name__}; return a list of numbers.")
    if len(row) != wanted:
        raise DataError(
            f"Reward function {name!r} returned {len(row)} values for {wanted} items; return one an item."
        )
    for value in row:
        if value is not None and (not isinstance(value, numbers.Real) or not math.isfinite(value)):
            raise DataError(
                f"Reward function {name!r} returned {value!r}; every value must be a finite number, or None for an "
                "item that it does not judge."
            )
    return [None if value is None else float(value) for value in row]
