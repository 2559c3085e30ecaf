"""Whom agents learn from: users side by side, one item a turn, in numbers.

Two kinds of meeting. `OneStep` asks a reward for one item at a logged state, as the trainers of language-model
policies do by default: every session is one turn long, so a Q-value is an expected reward. `Sessions` plays the
environments of `llmrec.simulator.environments`, whose users remember. The end of a session is terminal in both: its
value is the sum over its turns, and nothing is bootstrapped beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from llmrec.agents.features import Float32Array, StateFeatures
from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings
from llmrec.errors import ConfigError, DataError, RequestError
from llmrec.progress import track
from llmrec.rewards.trl import Rewarder
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.simulator.environments.population import Population
from llmrec.simulator.environments.vector import VectorRecEnv
from llmrec.types import BoolArray, FloatArray, IntArray, State

NOBODY = np.zeros(0, dtype=np.int64)
_TABLE = 8_000_000  # rewards known beforehand, at most: 64 MB
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Observed:
    """Features of B states, (B, D), and items that may not be shown, (B, S), -1 where there is none."""

    feature_BD: Float32Array
    seen_BS: IntArray

    def legal_BN(self, n_items: int) -> BoolArray:
        """Which items may be shown."""
        return legal_items(self.seen_BS, n_items)


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What a turn brought B users; `next` is the state after it, or a new session's first where it is `over_B`."""

    reward_B: FloatArray
    over_B: BoolArray
    next: Observed


class Meeting(Protocol):
    """B users met side by side; each turn shows one item to every one of them."""

    @property
    def count(self) -> int: ...  # noqa: D102
    @property
    def n_items(self) -> int: ...  # noqa: D102
    def begin(self, seed: int) -> Observed:
        """Begins all sessions anew, in the order and with the luck of `seed`."""
        ...

    def turn(self, items_B: IntArray) -> UserTurn:
        """Shows an item to each."""
        ...


class OneStep:
    """Logged states, a reward, one turn.

    Every state is met equally often (to one), in the seed's order. Where all rewards fit into a table they are asked
    for once, in large batches.

    Args:
        states: training states.
        seen: items that each may not be shown; None where repeats are allowed.
        reward: gives the reward of items; must not be the judge.
        features: what an agent sees.
        n_items: size of the catalogue.
        users: states met at a time.

    Raises:
        DataError: no state, or lists of seen items that do not fit.
    """

    def __init__(
        self,
        states: Sequence[State],
        seen: Sequence[IntArray] | None,
        reward: Rewarder,
        features: StateFeatures,
        n_items: int,
        users: int = 32,
    ) -> None:
        if not len(states) or (seen is not None and len(seen) != len(states)):
            raise DataError(f"{len(states)} states need at least one of them, and one list of seen items each.")
        self.states, self.reward, self.n_items, self.count = states, reward, n_items, users
        self.feature_SD = features.encode(states)
        self.seen_SW = padded(seen if seen is not None else [NOBODY] * len(states))
        # An agent makes hundreds of thousands of single steps: asked one by one, the simulator would take most of the
        # time.
        self.reward_SN = self._table() if len(states) * n_items <= _TABLE else None
        self._row_B = NOBODY

    def _table(self) -> FloatArray:
        every_N = np.arange(self.n_items)
        parts = []
        for low in track(range(0, len(self.states), _BATCH), "Asking for rewards"):
            part = self.states[low : low + _BATCH]
            parts.append(self.reward(part, np.tile(every_N, (len(part), 1))).total_BK)
        return finite(np.concatenate(parts))

    def begin(self, seed: int) -> Observed:
        """The first states."""
        self._random = numpy_stream(seed, "agents", "states")
        self._queue = NOBODY
        return self._draw()

    def _draw(self) -> Observed:
        # a permutation after another, so that no state is met twice before all were met once
        while len(self._queue) < self.count:
            self._queue = np.concatenate([self._queue, self._random.permutation(len(self.states))])
        self._row_B, self._queue = self._queue[: self.count], self._queue[self.count :]
        return Observed(self.feature_SD[self._row_B], self.seen_SW[self._row_B])

    def turn(self, items_B: IntArray) -> UserTurn:
        """Rewards of the items, and the next states."""
        check_legal(items_B, self.seen_SW[self._row_B], self.n_items)
        if self.reward_SN is not None:
            reward_B = self.reward_SN[self._row_B, items_B]
        else:
            states = [self.states[row] for row in self._row_B.tolist()]
            reward_B = finite(self.reward(states, items_B[:, None]).total_BK[:, 0])
        # one turn is the whole session, so nothing is bootstrapped from the next state, which is another user's
        return UserTurn(reward_B, np.ones(self.count, dtype=np.bool_), self._draw())


class Sessions:
    """Sessions of simulated users, one item a turn; the reward is click * clicks + conversion * conversions.

    Args:
        population: who is met; must not be the judge or a world's truth.
        features: what an agent sees of the text state.
        settings: `slate_size` must be 1; turns, remembered turns and the weights of the reward.
        seen: items that each user of the population may not be shown, with what the session has shown; None where
            repeats are allowed.
        users: met side by side.
        sampled: rewards what users did instead of what was to be expected of them.

    Raises:
        ConfigError: slates of more than one item.
        DataError: lists of seen items that do not fit.
    """

    def __init__(
        self,
        population: Population,
        features: StateFeatures,
        settings: EnvironmentSettings,
        *,
        choice: ChoiceSettings | None = None,
        dynamics: DynamicsSettings | None = None,
        seen: Sequence[IntArray] | None = None,
        users: int = 32,
        sampled: bool = False,
    ) -> None:
        if settings.slate_size != 1:
            raise ConfigError(
                f"Key 'environment.slate_size' is {settings.slate_size}, but agents show one item a turn; set 1."
            )
        if seen is not None and len(seen) != len(population.profile_UP):
            raise DataError(f"{len(population.profile_UP)} users need as many lists of seen items, not {len(seen)}.")
        self.features, self.settings, self.count, self.sampled = features, settings, users, sampled
        self.n_items = len(population.items)
        # ended sessions are begun anew here, in the turn that ended them: stable-baselines3 has no turn to waste on a
        # reset
        mode = {"choice": choice, "dynamics": dynamics, "autoreset_mode": "Disabled"}
        self.env = VectorRecEnv(population, users, replace(settings), **mode)  # type: ignore[arg-type]
        self.seen_UW = None if seen is None else padded(seen)
        self._shown_BT = np.full((users, settings.turns), -1, dtype=np.int64)

    def begin(self, seed: int) -> Observed:
        """The first states of the first users."""
        _, info = self.env.reset(seed=stream_seed(seed, "agents", "sessions"))
        self._shown_BT[:] = -1
        return self._observed(info)

    def turn(self, items_B: IntArray) -> UserTurn:
        """One turn of all users; whoever is done is followed by the next of the sequence."""
        check_legal(items_B, self._seen_BS, self.n_items)
        slates_B1 = np.asarray(items_B, dtype=np.int64)[:, None]
        # copied before the step, which moves it on
        turn_B = self.env.engine.record.turn_B.copy()
        # before the step too: what was to be expected in the state in which the item was shown
        expected = self.env.engine.expected(slates_B1)
        _, reward_B, left_B, cut_B, info = self.env.step(slates_B1)
        if not self.sampled:
            weights = (self.settings.click, self.settings.conversion)
            reward_B = weights[0] * expected.click_BK[:, 0] + weights[1] * expected.conversion_BK[:, 0]
        self._shown_BT[np.arange(self.count), turn_B] = items_B
        # The turn limit ends a session like leaving does: an agent is judged by the sum over these turns.
        over_B = left_B | cut_B
        if over_B.any():
            _, info = self.env.reset(options={"reset_mask": over_B})
            self._shown_BT[over_B] = -1
        return UserTurn(finite(np.asarray(reward_B, dtype=np.float64)), over_B, self._observed(info))

    def _observed(self, info: dict[str, Any]) -> Observed:
        self._seen_BS: IntArray = np.full((self.count, 1), -1, dtype=np.int64)
        if self.seen_UW is not None:
            before_BW = self.seen_UW[self.env.engine.user_N]
            self._seen_BS = np.concatenate([before_BW, self._shown_BT], axis=1)
        return Observed(self.features.encode(list(info["states"])), self._seen_BS)


def legal_items(seen_BS: IntArray, n_items: int) -> BoolArray:
    """(B, N): False at the items of each row's list, whose -1 stand for none."""
    legal_BN = np.ones((len(seen_BS), n_items + 1), dtype=np.bool_)
    legal_BN[np.arange(len(seen_BS))[:, None], seen_BS] = False  # -1 falls on the column that is cut off
    return legal_BN[:, :n_items]


def check_legal(items_B: IntArray, seen_BS: IntArray, n_items: int) -> None:
    """Raises `RequestError` for the first item that is none, or that its user must not be shown."""
    bad_B = (items_B < 0) | (items_B >= n_items) | (np.asarray(items_B)[:, None] == seen_BS).any(axis=1)
    if bad_B.any():
        row = int(np.argmax(bad_B))
        raise RequestError(
            f"User {row} was to be shown item {items_B[row]}; give one of 0..{n_items - 1} that was not seen before."
        )


def padded(lists: Sequence[IntArray]) -> IntArray:
    """Lists of items as rows, -1 behind them; at least one column."""
    width = max(1, max((len(row) for row in lists), default=0))
    out = np.full((len(lists), width), -1, dtype=np.int64)
    for row, items in enumerate(lists):
        out[row, : len(items)] = items
    return out


def finite(values: FloatArray) -> FloatArray:
    """The values as they are; raises `DataError` where one is not finite."""
    if not np.isfinite(values).all():
        raise DataError("A reward is not a finite number; check the reward's terms and the simulator's fit.")
    return values
