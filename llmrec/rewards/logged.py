"""The logged truth as a reward: 1 for the item that the user chose next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from llmrec.errors import DataError
from llmrec.types import Example, Feedback, FloatArray, IntArray, State

Key = tuple[object, ...]


class NextItemReward:
    """1 for an item that the user chose in this state according to the log, else 0.

    Users who chose several items at one moment have several targets, and any of them is a hit.

    Example: the log says 7 and the items are (3, 7): values 0 and 1.

    Args:
        examples: States with what was chosen in them; equal states add up.
        weight: Weight of the term.
        name: Name of the term.
    """

    list_level: ClassVar[bool] = False
    needs_target: ClassVar[bool] = True

    def __init__(self, examples: Iterable[Example], weight: float = 1.0, name: str = "next_item") -> None:
        self.weight, self.name = weight, name
        self._known: dict[Key, list[tuple[State, list[int]]]] = {}
        for example in examples:
            targets = self._find(example.state)
            if targets is None:
                targets = []
                self._known.setdefault(_key(example.state), []).append((example.state, targets))
            targets.append(example.target)
        if not self._known:
            raise DataError(f"Reward {name!r} needs states with known targets, but there is none; check the log.")

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """0 or 1, of shape (B, K); raises `DataError` for a state without a logged target."""
        found = [self._find(state) for state in states]
        for state, targets in zip(states, found, strict=True):
            if targets is None:
                raise DataError(
                    f"Reward {self.name!r} knows no target of user {state.user_id!r} at time {state.time}; start "
                    "rollouts from logged examples or remove the term."
                )
        width = max((len(targets) for targets in found if targets), default=1)
        target_BJ = np.array([[*(targets or ()), *[-2] * (width - len(targets or ()))] for targets in found])
        target_BJ = target_BJ.reshape(len(states), width)
        hit_BK = (items_BK[:, :, None] == target_BJ[:, None, :]).any(axis=2)
        return np.asarray(hit_BK.astype(np.float64))

    def _find(self, state: State) -> list[int] | None:
        """The targets of an equal state; a state is hashed by little, for its whole history would cost too much."""
        for known, targets in self._known.get(_key(state), ()):
            if known is state or known == state:
                return targets
        return None


def _key(state: State) -> Key:
    last = state.history[-1].item if state.history else None
    return state.user_id, state.time, len(state.history), last, len(state.session), state.context
