"""What can be seen of users: running sums for numeric observations, the last turns for text states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec.config import EnvironmentSettings
from llmrec.errors import RequestError
from llmrec.simulator.environments.population import Float32Array, Population
from llmrec.types import EventKind, IntArray, Interaction, State

_KINDS: tuple[EventKind, ...] = ("impression", "click", "conversion")
TURN_S = 60
DAY_S = 86_400


class Record:
    """What B users were shown and did in their present episodes.

    Attributes:
        clicked_BF: Sum of the features of clicked items, older turns weighing less; `passed_BF` of those not clicked.
        weight_B2: How much was clicked and passed, with the same weights.
        count_B2: Clicks and conversions of the episode.
        last_BK: The last slate (-1: no item), `click_BK` and `conversion_BK` what it got.
        ring_BRK: Items of the last R turns, at place turn % R; `kind_BRK` their feedback, `time_BR` their moments.
        turn_B: Turns played in the episode.
    """

    def __init__(self, count: int, population: Population, settings: EnvironmentSettings) -> None:
        features, places, turns = population.feature_NF.shape[1], settings.slate_size, settings.remembered_turns
        self.population, self.settings = population, settings
        self.clicked_BF = np.zeros((count, features), dtype=np.float32)
        self.passed_BF = np.zeros((count, features), dtype=np.float32)
        self.weight_B2 = np.zeros((count, 2), dtype=np.float32)
        self.count_B2 = np.zeros((count, 2), dtype=np.int32)
        self.last_BK = np.full((count, places), -1, dtype=np.int32)
        self.click_BK = np.zeros((count, places), dtype=np.bool_)
        self.conversion_BK = np.zeros((count, places), dtype=np.bool_)
        self.ring_BRK = np.full((count, turns, places), -1, dtype=np.int32)
        self.kind_BRK = np.zeros((count, turns, places), dtype=np.int8)
        self.time_BR = np.zeros((count, turns), dtype=np.int64)
        self.turn_B = np.zeros(count, dtype=np.int32)

    def restart(self, rows: slice | IntArray, user_B: IntArray) -> None:
        """New episodes of the users `user_B` at `rows`."""
        self.clicked_BF[rows], self.weight_B2[rows, 0] = self.population.past(user_B)
        self.passed_BF[rows] = 0
        self.weight_B2[rows, 1] = 0
        self.count_B2[rows] = 0
        self.last_BK[rows] = -1
        self.click_BK[rows] = self.conversion_BK[rows] = False
        self.turn_B[rows] = 0

    def turn(
        self, rows: slice | IntArray, items_BK: IntArray, click_BK: Any, conversion_BK: Any, time_B: IntArray
    ) -> npt.NDArray[np.int32]:
        """One turn of the users at `rows`, all of whom play; returns their clicks and conversions, (B, 2)."""
        decay, users, places = np.float32(self.settings.decay), len(items_BK), items_BK.shape[1]
        # Flat positions over K give the row: counts come from one pass instead of sums along rows.
        flat_P = np.flatnonzero(click_BK)
        count_B2 = np.empty((users, 2), dtype=np.int32)
        count_B2[:, 0] = np.bincount(flat_P // places, minlength=users)
        count_B2[:, 1] = np.bincount(np.flatnonzero(conversion_BK) // places, minlength=users)
        empty_Q = np.flatnonzero(items_BK < 0)
        shown_B = places - np.bincount(empty_Q // places, minlength=users)
        shown_Q = np.delete(items_BK, empty_Q) if len(empty_Q) else items_BK.reshape(-1)
        # Both sums (of what was clicked, and of all that was shown) in one product; their difference is what was
        # passed over.
        parts = ((items_BK.reshape(-1)[flat_P], count_B2[:, 0]), (shown_Q, shown_B))
        clicked_BF, shown_BF = self._sums(parts).reshape(2, users, -1)
        shown_BF -= clicked_BF
        _decayed(self.clicked_BF, rows, decay, clicked_BF)
        _decayed(self.passed_BF, rows, decay, shown_BF)
        passed_B = shown_B - count_B2[:, 0]
        _decayed(self.weight_B2, rows, decay, np.stack([count_B2[:, 0], passed_B], axis=1).astype(np.float32))
        self.count_B2[rows] += count_B2
        self.last_BK[rows], self.click_BK[rows], self.conversion_BK[rows] = items_BK, click_BK, conversion_BK
        self._remember(rows, time_B)
        self.turn_B[rows] += 1
        return count_B2

    def _remember(self, rows: slice | IntArray, time_B: IntArray) -> None:
        """Copies the last slates into the ring."""
        size = self.time_BR.shape[1]
        row_B = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        # The last R turns in a ring, the oldest overwritten: memory does not grow with the episode.
        cell_B = row_B * size + self.turn_B[rows] % size
        self.ring_BRK.reshape(-1, self.ring_BRK.shape[2])[cell_B] = self.last_BK[rows]
        kind_BK = self.click_BK[rows].view(np.int8) + self.conversion_BK[rows].view(np.int8)
        self.kind_BRK.reshape(-1, self.kind_BRK.shape[2])[cell_B] = kind_BK
        self.time_BR.reshape(-1)[cell_B] = time_B

    def _sums(self, parts: Sequence[tuple[IntArray, npt.NDArray[np.integer]]]) -> Float32Array:
        """For each part (items, counts): feature sums of its first counts[0] items, its next counts[1], and so on."""
        item_P, count_R = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        start_R1 = np.zeros(len(count_R) + 1, dtype=np.int64)
        np.cumsum(count_R, out=start_R1[1:])
        ones_P, feature_NF = np.ones(len(item_P), dtype=np.float32), self.population.feature_NF
        # A CSR matrix with a one for each item: row r of the product is the sum of the features of its items.
        return np.asarray(sparse.csr_array((ones_P, item_P, start_R1), (len(count_R), len(feature_NF))) @ feature_NF)

    def observe(self, rows: slice, out: dict[str, npt.NDArray[Any]], user_B: IntArray) -> None:
        """Writes the numeric observations of the users at `rows` into the arrays of `out`."""
        out["profile"][rows] = self.population.profile_UP[user_B]
        # 1 draws means of little towards 0, as in `FeatureSpace.encode`.
        weight_B2 = 1 + self.weight_B2[rows]
        np.divide(self.clicked_BF[rows], weight_B2[:, :1], out=out["interest"][rows])
        np.divide(self.passed_BF[rows], weight_B2[:, 1:], out=out["passed"][rows])
        np.log1p(self.count_B2[rows], out=out["counts"][rows])
        out["slate"][rows] = self.last_BK[rows]
        out["clicks"][rows] = self.click_BK[rows]
        out["conversions"][rows] = self.conversion_BK[rows]
        out["turn"][rows, 0] = self.turn_B[rows] / np.float32(self.settings.turns)

    def state(self, row: int, user: int, time: int, *, before_turn: bool = False) -> State:
        """The text state of one user: what was known before the episode, and its last turns as the session.

        With `before_turn` it is the state in which the last slate was chosen.
        """
        known = self.population.state(user)
        turns, size = int(self.turn_B[row]), self.ring_BRK.shape[1]
        # Before the turn is taken off: with it off, the place of the oldest turn in the ring is that of the turn just
        # played.
        first = max(0, turns - size)
        if before_turn and turns:
            turns -= 1
            time = int(self.time_BR[row, turns % size])
        session = []
        for turn in range(first, turns):
            moment = int(self.time_BR[row, turn % size])
            pairs = zip(self.ring_BRK[row, turn % size], self.kind_BRK[row, turn % size], strict=True)
            session += [Interaction(int(item), _KINDS[kind], moment) for item, kind in pairs if item >= 0]
        return State(known.user_id, known.profile, known.history, tuple(session), known.context, time)


def _decayed(sum_BX: Float32Array, rows: slice | IntArray, decay: np.float32, more_BX: Float32Array) -> None:
    """sum = decay * sum + more, at `rows`."""
    more_BX += decay * sum_BX[rows]
    sum_BX[rows] = more_BX


class LazyStates(Sequence[State]):
    """Text states of the users of an environment, each made when it is asked for and not before.

    They are those of the moment at which the environment handed this object out; once it has moved on they are gone,
    and asking raises `RequestError`. `made` counts the states that were made.
    """

    def __init__(self, make: Callable[[int], State], count: int, moment: int, now: Callable[[], int]) -> None:
        self._make, self._count, self._moment, self._now, self.made = make, count, moment, now, 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> State: ...
    @overload
    def __getitem__(self, index: slice) -> list[State]: ...
    def __getitem__(self, index: int | slice) -> State | list[State]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"user {index} of {self._count}")
        # The arrays that the states would be made of are those of another turn by now; a state of the wrong turn
        # would be a silent error.
        if self._now() != self._moment:
            raise RequestError("The environment has moved on since these states; read them before the next step.")
        self.made += 1
        return self._make(index % self._count)

    def __iter__(self) -> Iterator[State]:
        return (self[i] for i in range(self._count))


class LazyState:
    """The text state of the one user of an environment: call it to get the `State`.

    Two are equal where they are of the same turn of the same visit (`moment`); nothing is made to find that out.
    """

    def __init__(self, states: LazyStates, moment: tuple[int, int, int]) -> None:
        self._states, self.moment = states, moment

    def __call__(self) -> State:
        """Makes the state; raises `RequestError` once the environment has moved on."""
        return self._states[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyState) and other.moment == self.moment

    def __hash__(self) -> int:
        return hash(self.moment)

    @property
    def made(self) -> int:
        """How many states were made."""
        return self._states.made
