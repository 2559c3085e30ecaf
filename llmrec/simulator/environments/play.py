"""Sessions played out turn by turn, for whoever recommends: a policy in training or a system under test.

    play = Play(population, 100, EnvironmentSettings(slate_size=5, turns=6), dynamics=dynamics)
    play.begin(seed, user_N)
    while play.goes_on:
        items_AK = recommend(play.states(), play.shown())
        played = play.turn(items_AK)

Whoever left, or whose turns are used up, is met no more: rows (axis A) are the users who are still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings
from llmrec.simulator.choice import Choice
from llmrec.simulator.environments.population import Population
from llmrec.simulator.environments.vector import VectorRecEnv
from llmrec.types import BoolArray, Feedback, FloatArray, IntArray, State


@dataclass(frozen=True, slots=True)
class PlayedTurn:
    """What a turn brought the A users who were there for it.

    Attributes:
        row_A: their rows among all N.
        expected: what was to be expected of the slates in the users' state before the turn.
        drawn: what they did.
        left_A: who left for good with this turn.
        cut_A: whose turns are used up, though they would have stayed.
        after: the text states after the turn of those in `cut_A`, in their order.
        look_AK: expected clicks over what each item would get if it were looked at for certain (`Engine.outlook`);
            None is 1 everywhere.
    """

    row_A: IntArray
    expected: Feedback
    drawn: Feedback
    left_A: BoolArray
    cut_A: BoolArray
    after: list[State]
    look_AK: FloatArray | None = None


class Play:
    """N sessions side by side.

    What a user does depends on the seed, the user, the turn and what is shown, on nothing else: two systems under one
    seed meet the same users with the same luck, and so does one system whose users are split over processes.

    Args:
        population: who is met.
        count: N.
        settings: places of a slate, turns of a session, turns that a text state tells of.
        choice: how users choose within a slate.
        dynamics: how they change from turn to turn.
    """

    def __init__(
        self,
        population: Population,
        count: int,
        settings: EnvironmentSettings,
        *,
        choice: Choice | ChoiceSettings | None = None,
        dynamics: DynamicsSettings | None = None,
    ) -> None:
        self.env = VectorRecEnv(
            population,
            count,
            settings,
            choice=choice,
            dynamics=dynamics,
            autoreset_mode=AutoresetMode.DISABLED,
            copy=False,
        )
        self.settings = settings
        self.row_A: IntArray = np.arange(0)
        self._shown: list[list[int]] = []
        self._states: Sequence[State] = ()

    def begin(self, seed: int, user_N: npt.ArrayLike) -> None:
        """Begins the sessions of the users at rows `user_N` of the population, with the luck of `seed`."""
        _, info = self.env.reset(seed=seed, options={"users": np.asarray(user_N)})
        self.row_A = np.arange(self.env.num_envs)
        self._shown = [[] for _ in self.row_A]
        self._states = info["states"]

    @property
    def goes_on(self) -> bool:
        """Whether anybody is still there."""
        return bool(len(self.row_A))

    def states(self) -> list[State]:
        """The text states of those who are there."""
        return [self._states[row] for row in self.row_A.tolist()]

    def shown(self) -> list[IntArray]:
        """What each of them was shown in the session so far, also what a text state no longer tells."""
        return [np.array(self._shown[row], dtype=np.int64) for row in self.row_A.tolist()]

    def doubted(self, items_AK: IntArray) -> tuple[FloatArray, FloatArray] | None:
        """What is to be expected of the slates now by each replicate of the users' model (`Engine.doubted`)."""
        return self.env.engine.doubted(self._actions(items_AK))

    def _actions(self, items_AK: IntArray) -> IntArray:
        # Those who have left keep their row and get empty slates, so that everybody's luck stays what it is.
        actions_NK = np.full((self.env.num_envs, self.settings.slate_size), -1, dtype=np.int64)
        actions_NK[self.row_A] = items_AK
        return actions_NK

    def turn(self, items_AK: IntArray) -> PlayedTurn:
        """Shows each of them a slate (-1: an empty place)."""
        actions_NK = self._actions(items_AK)
        # Before the step, in the state in which the slate was chosen.
        expected, look_NK = self.env.engine.outlook(actions_NK)
        seen, _, gone_N, cut_N, info = self.env.step(actions_NK)
        rows, self._states = self.row_A, info["states"]
        for row, items in zip(rows.tolist(), items_AK.tolist(), strict=True):
            self._shown[row] += [item for item in items if item >= 0]
        left_A, cut_A = gone_N[rows], cut_N[rows]
        self.row_A = rows[~(left_A | cut_A)]
        return PlayedTurn(
            rows,
            Feedback(expected.click_BK[rows], expected.conversion_BK[rows]),
            Feedback(seen["clicks"][rows].astype(np.float64), seen["conversions"][rows].astype(np.float64)),
            left_A,
            cut_A,
            [self._states[row] for row in rows[cut_A].tolist()],
            look_NK[rows],
        )
