"""Terms that know what the log says was chosen next: a hit, and a hit that is worth more the higher it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from llmrec.errors import DataError
from llmrec.types import Example, Feedback, FloatArray, IntArray, State

Key = tuple[object, ...]


class LoggedNext:
    """What was chosen in which state, according to the log.

    Users who chose several items at one moment have several targets. A state is found as it is logged. One that is
    equal in all but the moment (a simulated session begins where the whole log ends) is found by the user and the
    history, whose events carry their own moments, if a single logged state is meant.

    Args:
        examples: states with what was chosen in them; equal states add up.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        self._known: dict[Key, list[tuple[State, list[int]]]] = {}
        for example in examples:
            targets = self._exact(example.state)
            if targets is None:
                targets = []
                self._known.setdefault(_key(example.state), []).append((example.state, targets))
            targets.append(example.target)

    def __len__(self) -> int:
        """How many states are known."""
        return sum(map(len, self._known.values()))

    def of(self, states: Sequence[State], name: str) -> list[tuple[int, ...]]:
        """The targets of each state.

        Raises:
            DataError: a state without a logged target, in the name of the reward `name`.
        """
        found = []
        for state in states:
            targets = self._exact(state)
            if targets is None:
                targets = self._whenever(state)
            if targets is None:
                raise DataError(
                    f"Reward {name!r} knows no target of user {state.user_id!r} at time {state.time}; start rollouts "
                    "from logged examples or remove the term."
                )
            found.append(tuple(targets))
        return found

    def _exact(self, state: State) -> list[int] | None:
        """The targets of an equal state; a state is hashed by little, for its whole history would cost too much."""
        for known, targets in self._known.get(_key(state), ()):
            if known is state or known == state:
                return targets
        return None

    def _whenever(self, state: State) -> list[int] | None:
        """The targets of the one state that differs in its moment alone."""
        found = [
            targets for known, targets in self._known.get(_key(state), ()) if replace(known, time=state.time) == state
        ]
        return found[0] if len(found) == 1 else None


def _key(state: State) -> Key:
    last = state.history[-1].item if state.history else None
    return state.user_id, len(state.history), last, len(state.session), state.context


@dataclass(frozen=True, eq=False)
class NextItemReward:
    """1 for an item that the user chose in this state according to the log, else 0.

    Users who chose several items at one moment have several targets, and any of them is a hit.

    Example: the log says 7 and the items are (3, 7): values 0 and 1.
    """

    logged: LoggedNext
    weight: float = 1.0
    name: str = "next_item"
    needs_target: ClassVar[bool] = True

    @classmethod
    def of(cls, examples: Iterable[Example], weight: float = 1.0) -> NextItemReward:
        """From states with what was chosen in them; raises `DataError` where there is none."""
        return cls(known_targets(examples, "next_item"), weight)

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """0 or 1, of shape (B, K); raises `DataError` for a state without a logged target."""
        return hits_BK(self.logged.of(states, self.name), items_BK)


@dataclass(frozen=True, eq=False)
class NextItemRankReward:
    """1 / log2(1 + place) for an item that the user chose in this state, place 1 the first; else 0.

    Summed over a slate it is the discounted cumulative gain of the logged choice (Jaervelin and Kekaelaeinen 2002),
    which for a single one equals its NDCG: a hit at the top is worth 1, at place 3 a half. A place's value depends on
    nothing but its own item, so it is causal.

    Independent draws (`slate` False) have no places: the order of a row's draws is an accident, and each draw is a
    list of one, whose item stands at place 1. The value is then that of `next_item`, and its expectation
    pi(target | state). Nothing else would be right there. A discount by the rank that the policy itself gives an item
    would be a reward that moves with the policy, so that the optimum under a KL term were no longer
    pi ~ pi_ref exp(r / beta); and that optimum ranks items by their chance to be chosen anyway, which is what a
    discount by places asks for.

    Example: the log says 7. The slate (3, 7, 5) is worth (0, 1 / log2(3), 0) = (0, 0.631, 0), three draws (0, 1, 0).
    """

    logged: LoggedNext
    slate: bool
    weight: float = 1.0
    name: str = "next_item_rank"
    needs_target: ClassVar[bool] = True

    @classmethod
    def of(cls, examples: Iterable[Example], *, slate: bool, weight: float = 1.0) -> NextItemRankReward:
        """From states with what was chosen in them; raises `DataError` where there is none."""
        return cls(known_targets(examples, "next_item_rank"), slate, weight)

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Gains in 0..1, of shape (B, K); raises `DataError` for a state without a logged target."""
        hit_BK = hits_BK(self.logged.of(states, self.name), items_BK)
        return hit_BK / np.log2(2.0 + np.arange(items_BK.shape[1])) if self.slate else hit_BK


def known_targets(examples: Iterable[Example], name: str) -> LoggedNext:
    """What was chosen; raises `DataError`, naming the reward, where nothing is known."""
    logged = LoggedNext(examples)
    if not len(logged):
        raise DataError(f"Reward {name!r} needs states with known targets, but there is none; check the log.")
    return logged


def hits_BK(targets: Sequence[Sequence[int]], items_BK: IntArray) -> FloatArray:
    """1 where an item is among its row's targets, else 0: (B, K)."""
    # several targets a state, filled up with -2, which no item index and no empty place (-1) equals
    width = max((len(row) for row in targets), default=1)
    target_BJ = np.array([[*row, *[-2] * (width - len(row))] for row in targets], dtype=np.int64)
    hit_BK = (items_BK[:, :, None] == target_BJ.reshape(len(items_BK), 1, width)).any(axis=2)
    return np.asarray(hit_BK.astype(np.float64))
