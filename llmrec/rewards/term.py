"""What a term of the reward is, a term of one's own, and the weighted sum of terms."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llmrec.errors import DataError
from llmrec.types import Feedback, FloatArray, IntArray, Prediction, Reward, State


class Behaviour(Protocol):
    """What a reward is computed from: a behaviour model, an ensemble, or a world's truth in a test."""

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction: ...  # noqa: D102


class RewardTerm(Protocol):
    """A named, weighted part of the reward; called with states, items (B, K) and feedback, it returns (B, K).

    More is better. Three marks may stand on the class: `list_level = True` for a term that is defined on a whole
    slate and must not see independent draws, `causal = True` for such a one whose value at a place does not depend on
    the places below, `needs_target = True` for one that knows what the log says comes next.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102
    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray: ...  # noqa: D102


def is_list_level(term: object) -> bool:
    """Whether a term is defined on a whole slate."""
    return bool(getattr(term, "list_level", False))


def is_causal(term: object) -> bool:
    """Whether the value of a place depends on the places above it and on its own alone."""
    said = getattr(term, "causal", None)
    return not is_list_level(term) if said is None else bool(said)


def needs_target(term: object) -> bool:
    """Whether a term knows the logged next item of a state."""
    return bool(getattr(term, "needs_target", False))


def plain_values(given: Any, name: str, count: int, *, none: bool = False) -> list[float | None]:
    """What an own reward function gave, as `count` finite numbers (None kept where `none` allows it).

    Raises:
        DataError: Anything else, in a sentence that names the reward and says what to return.
    """
    row = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(row, Sequence) or isinstance(row, str | bytes):
        raise DataError(f"Reward {name!r} returned {type(given).__name__}; return a list of numbers.")
    if len(row) != count:
        raise DataError(f"Reward {name!r} returned {len(row)} values for {count} items; return one an item.")
    return [_number(value, name, none) for value in row]


def _number(value: Any, name: str, none: bool) -> float | None:
    if none and value is None:
        return None
    plain = value.tolist() if hasattr(value, "tolist") else value  # a scalar of NumPy or torch
    if not isinstance(plain, numbers.Real) or not math.isfinite(plain):
        raise DataError(f"Reward {name!r} returned {repr(plain)[:60]}; every value must be a finite number.")
    return float(plain)


def lookup(table_N: FloatArray, items_BK: IntArray, name: str) -> FloatArray:
    """`table_N` at the items; a missing one (-1) gets some value or other, which `combine` sets to 0.

    Raises:
        DataError: An item index beyond the table.
    """
    if items_BK.size and items_BK.max() >= len(table_N):
        raise DataError(
            f"Reward {name!r} knows {len(table_N)} items but met item index {int(items_BK.max())}; build it from the "
            "catalogue that is recommended from."
        )
    return table_N[items_BK]


@dataclass(frozen=True)
class CustomReward:
    """A term of one's own: `function(state, items_K) -> one number an item`, called once a state.

    A function that compares the items of a slate with one another must say so by `list_level=True`: the items of a
    call may otherwise be independent draws, or candidates. If the value of a place then depends on the places above
    it and on its own alone, `causal=True` says so, and a policy is taught with less noise.

    Example: `CustomReward("new", 0.1, lambda state, items: [float(i not in state.seen()) for i in items])`.
    """

    name: str
    weight: float
    function: Callable[[State, tuple[int, ...]], Sequence[float]]
    list_level: bool = False
    causal: bool | None = None

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Values of shape (B, K); raises `DataError` for anything but K finite numbers a state."""
        values = np.zeros(items_BK.shape)
        for b, state in enumerate(states):
            given = self.function(state, tuple(items_BK[b].tolist()))
            values[b] = plain_values(given, self.name, items_BK.shape[1])
        return values


def combine(terms: Sequence[RewardTerm], states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> Reward:
    """The weighted sum of `terms` and each of them unweighted; a missing item (-1) is worth 0 in all."""
    real_BK = items_BK >= 0
    total_BK = np.zeros(items_BK.shape)
    named: dict[str, FloatArray] = {}
    for term in terms:
        # an empty place is worth 0 in every term, whatever a term's table holds at -1
        value_BK = np.where(real_BK, term(states, items_BK, feedback), 0.0)
        if not np.isfinite(value_BK).all():
            raise DataError(f"Reward {term.name!r} is not finite; check the function that computes it.")
        named[term.name] = value_BK
        total_BK = total_BK + term.weight * value_BK
    return Reward(total_BK, named)
