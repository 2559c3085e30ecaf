"""Both ways between our rewards and TRL's reward functions, and a check of what such a function returns.

TRL's signature is `(prompts, completions, completion_ids, **fields) -> list[float | None]`, one value a completion;
None says that the function has nothing to say of this one.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from llmrec.errors import ConfigError, DataError
from llmrec.rewards.function import RewardFunction
from llmrec.rewards.term import Logged, compares, is_list_level, plain_values
from llmrec.types import Feedback, FloatArray, IntArray, Reward, State


class Written(Protocol):
    """How items are written: a `Catalogue`."""

    @property
    def titles(self) -> Sequence[str]: ...  # noqa: D102
    def token_ids(self, item: int, /) -> Sequence[int]: ...  # noqa: D102


class TRLReward:
    """A `RewardFunction` in the signature of TRL's reward functions.

    Each row of the trainer's data set names its state by a field (an index into `states`), and `item_of` reads the
    item off the completion's token ids (-1: no item, worth 0). The values that were last computed stay in
    `last_terms` for logging.
    """

    def __init__(
        self,
        model: RewardFunction,
        states: Sequence[State],
        item_of: Callable[[Sequence[int]], int],
        *,
        field: str = "state",
        name: str = "reward",
    ) -> None:
        for term in model.terms:
            if is_list_level(term) or compares(term):
                what = "is defined on a slate" if is_list_level(term) else "compares the draws of a state"
                raise ConfigError(
                    f"Reward {term.name!r} {what}, but TRL's trainers write one item a completion; use a trainer of "
                    "llmrec's or remove the term."
                )
        self.model, self.states, self.item_of, self.field = model, states, item_of, field
        self.__name__ = name
        self.last_terms: Mapping[str, FloatArray] = {}

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **fields: Any,
    ) -> list[float]:
        """One reward a completion."""
        rows = fields.get(self.field)
        if rows is None or len(rows) != len(completion_ids):
            raise DataError(
                f"The reward {self.__name__!r} needs the field {self.field!r} (index of the state) in every row."
            )
        states = [self.states[int(row)] for row in rows]
        items_B1 = np.array([[self.item_of(ids)] for ids in completion_ids], dtype=np.int64).reshape(-1, 1)
        reward = self.model(states, items_B1, step=int(getattr(fields.get("trainer_state"), "global_step", 0)))
        self.last_terms = {name: value_B1[:, 0] for name, value_B1 in reward.terms.items()}
        return [float(value) for value in reward.total_BK[:, 0]]


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class CheckedReward:
    """A reward function in TRL's signature whose answer is checked: one finite number or None a completion.

    Functions that are coroutines are awaited. Use it around functions of one's own before a trainer gets them.

    Raises:
        ConfigError: The function cannot be called as TRL calls it.
        DataError: When called: another length, a text, NaN, or None for every completion.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        self.__name__ = str(name or getattr(function, "__name__", type(function).__name__))
        call = dict.fromkeys(("prompts", "completions", "completion_ids", "trainer_state", "log_metric"))
        try:
            signature = inspect.signature(function)
            asked = {
                name: None for name, p in signature.parameters.items() if p.default is p.empty and p.kind in _NAMED
            }
            # only as a trial, before anything is drawn: a wrong signature would else end a run at its first reward
            signature.bind(**(asked | call))  # a row's fields may be asked for by name
        except TypeError:
            raise ConfigError(
                f"Reward {self.__name__!r} cannot be called as TRL calls it; write it as "
                f"def {self.__name__}(prompts, completions, completion_ids, **fields)."
            ) from None
        except ValueError:  # a builtin that does not tell its signature
            pass

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **fields: Any,
    ) -> list[float | None]:
        """One value a completion, as the function gave it."""
        given = self.function(prompts=prompts, completions=completions, completion_ids=completion_ids, **fields)
        if inspect.isawaitable(given):
            # `asyncio.run` takes coroutines alone, and a function may give any awaitable
            given = asyncio.run(_awaited(given))
        values = plain_values(given, self.__name__, len(completions), none=True)
        if values and all(value is None for value in values):
            raise DataError(
                f"Reward {self.__name__!r} returned None for all {len(values)} items; return a number for those that "
                "it can judge."
            )
        return values


async def _awaited(given: Any) -> Any:
    return await given


class TRLTerm:
    """A reward function in TRL's signature as a `RewardTerm`, so that it works without TRL's rollout too.

    The function is asked once a call, for the items that are there: their states' prompts, their titles as
    completions, their token ids, and beside these the fields `item` (index), `place` (from 0), `user_id`,
    `user_state` (the `State`), `trainer_state` (None), `log_extra` (keeps nothing) and `log_metric`, whose values
    stay in `metrics`. None counts as 0. With `logged` there is `target` too, the items that were chosen in the state.

    Args:
        name: Name of the term.
        weight: Its weight.
        function: The function.
        catalogue: Titles and token ids of the items.
        prompts: Renders states, for example `StateRenderer.prompts`.
        conversational: Hand prompts and completions over as lists of one message each.
        logged: Tells what the log says was chosen, to a function that knows it.
    """

    def __init__(
        self,
        name: str,
        weight: float,
        function: Callable[..., Any],
        catalogue: Written,
        prompts: Callable[[Sequence[State]], Sequence[str]],
        *,
        conversational: bool = False,
        logged: Logged | None = None,
    ) -> None:
        self.logged, self.needs_target = logged, logged is not None
        self.name, self.weight, self.catalogue, self.prompts = name, weight, catalogue, prompts
        self.list_level = bool(getattr(function, "list_level", False))
        self.causal: bool | None = getattr(function, "causal", None)
        self.conversational, self.metrics = conversational, dict[str, float]()
        self.function = CheckedReward(function, name)

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Values of shape (B, K); raises `DataError` for an answer that is no list of numbers."""
        # empty places are not asked about: they have neither title nor tokens
        row_M, place_M = np.nonzero(items_BK >= 0)
        value_BK = np.zeros(items_BK.shape)
        if not len(row_M):
            return value_BK
        items, rows = items_BK[row_M, place_M].tolist(), row_M.tolist()
        prompts = self.prompts(states)
        asked = [states[b] for b in rows]
        more = {} if self.logged is None else {"target": self.logged.of(asked, self.name)}
        given = self.function(
            [self._said("user", prompts[b]) for b in rows],
            [self._said("assistant", self.catalogue.titles[item]) for item in items],
            [list(self.catalogue.token_ids(item)) for item in items],
            item=items,
            place=place_M.tolist(),
            user_id=[state.user_id for state in asked],
            user_state=asked,
            trainer_state=None,
            log_extra=_nothing,
            log_metric=self.metrics.__setitem__,
            **more,
        )
        value_BK[row_M, place_M] = [0.0 if value is None else value for value in given]
        return value_BK

    def _said(self, role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if self.conversational else text


def _nothing(*_: Any) -> None:
    return


TRLFunction = Callable[..., list[float | None]]


class Rewarder(Protocol):
    """What is asked of a reward; `RewardFunction` is one, and so is any callable of states and items."""

    def __call__(self, states: Sequence[State], items_BK: IntArray, /) -> Reward: ...  # noqa: D102


class GroupedReward:
    """A reward model in TRL's signature that is asked once a rollout, with each state's G items as one row.

    Its terms are logged apart, unweighted, as reward/<term>.
    """

    __name__ = "model"

    def __init__(self, model: Rewarder, states: Sequence[State], draws: int) -> None:
        self.model, self.states, self.draws = model, states, draws
        self.takes_step = takes_step(model)

    def candidates(self, rows: Sequence[int], items_BM: IntArray, rollout: int) -> FloatArray:
        """What each of M items is expected to earn by itself at the states of these rows, (B, M)."""
        asked = [self.states[row] for row in rows]
        more: dict[str, Any] = {"step": rollout} if self.takes_step else {}
        if hasattr(self.model, "candidates"):
            found: FloatArray = self.model.candidates(asked, items_BM, **more)
            return found
        return self.model(asked, items_BM, **more).total_BK

    def __call__(
        self, *, state: list[int], item: list[int], rollout: list[int], log_metric: Any, **_: Any
    ) -> list[float | None]:
        """One reward an item, in the order of the rows."""
        # TRL hands rows over flat; a state's G draws stand in succession and are asked about as one row
        items_BG = np.array(item, dtype=np.int64).reshape(-1, self.draws)
        asked = [self.states[row] for row in state[:: self.draws]]
        # the rollout names the luck of sampled rewards, the same after resuming
        more: dict[str, Any] = {"step": rollout[0]} if self.takes_step else {}
        reward = self.model(asked, items_BG, **more)
        for name, values in reward.terms.items():
            log_metric(f"reward/{name}", float(np.mean(values)))
        return [float(value) for value in reward.total_BK.ravel()]


def takes_step(model: Rewarder) -> bool:
    """Whether a reward is told which rollout asks, and may draw by it."""
    return "step" in _parameters(model)


def _parameters(function: Any) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def checked(function: Any) -> Any:
    """A function of TRL's signature whose answers are checked; a model (`torch.nn.Module`) is TRL's to call."""
    # TRL runs a reward model on token ids itself
    if isinstance(function, torch.nn.Module | GroupedReward | CheckedReward):
        return function
    return CheckedReward(function)
