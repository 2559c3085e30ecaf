"""What a term of the reward is, a term of one's own, and the weighted sum of terms."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from llmrec.errors import DataError
from llmrec.types import Feedback, FloatArray, IntArray, Prediction, Reward, State


class Behaviour(Protocol):
    """What a reward is computed from: a behaviour model, an ensemble, or a world's truth in a test."""

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction: ...  # noqa: D102


class Logged(Protocol):
    """Tells what was chosen in which state (`llmrec.rewards.next_item.LoggedNext`)."""

    def of(self, states: Sequence[State], name: str) -> list[tuple[int, ...]]: ...  # noqa: D102


class RewardTerm(Protocol):
    """A named, weighted part of the reward; called with states, items (B, K) and feedback, it returns (B, K).

    More is better. Three marks may stand on it: `list_level = True` for a term that is defined on a whole
    slate and must not see independent draws, `causal = True` for such a one whose value at a place does not depend on
    the places below, `needs_target = True` for one that knows what the log says comes next.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102
    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray: ...  # noqa: D102


class ComparingTerm(Protocol):
    """A named, weighted part of the reward that reads what the items of a row are worth beside one another.

    `compares = True` stands on the class. It is asked last: `value_BK` is the weighted sum of all other terms.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102
    def compare(self, items_BK: IntArray, value_BK: FloatArray) -> FloatArray: ...  # noqa: D102


Term = RewardTerm | ComparingTerm


def compares(term: object) -> bool:
    """Whether a term compares the values of a row's independent draws, which a slate or a candidate has not."""
    return bool(getattr(term, "compares", False))


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

    With `logged` it knows what the log says was chosen, and is called as `function(state, items_K, targets)`.

    A function that compares the items of a slate with one another must say so by `list_level=True`: the items of a
    call may otherwise be independent draws, or candidates. If the value of a place then depends on the places above
    it and on its own alone, `causal=True` says so, and a policy is taught with less noise.

    Example: `CustomReward("new", 0.1, lambda state, items: [float(i not in state.seen()) for i in items])`.
    """

    name: str
    weight: float
    function: Callable[..., Sequence[float]]
    list_level: bool = False
    causal: bool | None = None
    logged: Logged | None = None

    @property
    def needs_target(self) -> bool:
        """Whether it knows the logged next item."""
        return self.logged is not None

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Values of shape (B, K); raises `DataError` for anything but K finite numbers a state."""
        values = np.zeros(items_BK.shape)
        chosen = [()] * len(states) if self.logged is None else [(row,) for row in self.logged.of(states, self.name)]
        for b, (state, more) in enumerate(zip(states, chosen, strict=True)):
            given = self.function(state, tuple(items_BK[b].tolist()), *more)
            values[b] = plain_values(given, self.name, items_BK.shape[1])
        return values


def combine(
    terms: Sequence[Term],
    states: Sequence[State],
    items_BK: IntArray,
    feedback: Feedback,
    asked_B1: Mapping[str, FloatArray] | None = None,
) -> Reward:
    """The weighted sum of `terms` and each of them unweighted; a missing item (-1) is worth 0 in all.

    Terms that compare values get the sum of the others. `asked_B1` (B, 1) is the share of a term's weight, by its
    name, that each state asks for; 1 where it is not there.
    """
    share = asked_B1 or {}
    real_BK = items_BK >= 0
    total_BK = np.zeros(items_BK.shape)
    named: dict[str, FloatArray] = {}

    def add(term: Term, value_BK: FloatArray) -> None:
        nonlocal total_BK
        # an empty place is worth 0 in every term, whatever a term's table holds at -1
        value_BK = np.where(real_BK, value_BK, 0.0)
        if not np.isfinite(value_BK).all():
            raise DataError(f"Reward {term.name!r} is not finite; check the function that computes it.")
        named[term.name] = value_BK
        total_BK = total_BK + term.weight * share.get(term.name, 1.0) * value_BK

    comparing: list[ComparingTerm] = []
    for term in terms:
        if compares(term):
            comparing.append(cast(ComparingTerm, term))
        else:
            add(term, cast(RewardTerm, term)(states, items_BK, feedback))
    known_BK = total_BK
    for one in comparing:
        add(one, one.compare(items_BK, known_BK))
    return Reward(total_BK, {term.name: named[term.name] for term in terms})
