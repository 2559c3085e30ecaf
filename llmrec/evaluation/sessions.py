"""Systems in simulated sessions: what users do over several turns, and stay for, under common random numbers.

A system that sees one step ahead is judged here by what its slates do to the turns after them. Every system meets the
same users with the same luck; the value of a turn is what was to be expected of the slate in the user's state, so two
systems differ by their slates and by where these lead, not by the draws of single clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings
from llmrec.errors import RequestError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.evaluation.significance import Interval, bootstrap_interval, paired_bootstrap
from llmrec.progress import Bar
from llmrec.seeding import stream_seed
from llmrec.simulator.environments.play import Play
from llmrec.simulator.environments.population import Population
from llmrec.types import FloatArray, IntArray, Slate, State


class System(Protocol):
    """Anything that can be deployed."""

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k best items of each state; `seen` is what each user has seen beside the state."""
        ...


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """What each user's session came to, shapes (B,).

    Attributes:
        value_B: sum over turns of gamma ** turn times the weighted clicks and conversions of the slate.
        click_B: clicks of the session, not discounted; `conversion_B` conversions.
        turns_B: turns played.
        left_B: 1 where the user left for good before the turns were used up.
        first_B: the value of the first turn alone, which is all that one-step ranking looks at.
        users_B: names the user of each row.
    """

    value_B: FloatArray
    click_B: FloatArray
    conversion_B: FloatArray
    turns_B: FloatArray
    left_B: FloatArray
    first_B: FloatArray
    users_B: tuple[str, ...]

    @property
    def per_user(self) -> dict[str, FloatArray]:
        """The measures by their names in tables and JSON."""
        return {
            "value": self.value_B,
            "clicks": self.click_B,
            "conversions": self.conversion_B,
            "turns": self.turns_B,
            "left": self.left_B,
            "first_turn": self.first_B,
        }

    @property
    def means(self) -> dict[str, float]:
        """Mean over users of each measure."""
        return {name: float(values_B.mean()) for name, values_B in self.per_user.items()}

    def intervals(self, *, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """Bootstrap interval over users of each measure."""
        return {
            name: bootstrap_interval(values_B, users=self.users_B, samples=samples, seed=seed)
            for name, values_B in self.per_user.items()
        }

    def minus(self, other: SessionFigures, *, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """Paired interval over users of this system minus `other`, met by the same users in the same order."""
        if self.users_B != other.users_B:
            raise RequestError("A paired comparison needs the same users in the same order for both systems.")
        return {
            name: paired_bootstrap(values, other.per_user[name], users=self.users_B, samples=samples, seed=seed)
            for name, values in self.per_user.items()
        }


def simulate_sessions(
    system: System,
    population: Population,
    user_N: IntArray,
    sizes: EnvironmentSettings,
    *,
    choice: ChoiceSettings | None = None,
    dynamics: DynamicsSettings | None = None,
    seen: Sequence[IntArray] | None = None,
    seed: int = 0,
    gamma: float = 1.0,
    sampled: bool = False,
    batch: int = 512,
) -> SessionFigures:
    """Plays one session of each user with what `system` would deploy.

    Args:
        system: asked at every turn for `sizes.slate_size` items of the state with the session so far.
        population: who is met; must not be the users that the system was trained on.
        user_N: rows of the population.
        sizes: places, turns, remembered turns, and the weights `click` and `conversion` of the value.
        choice: how users choose within a slate.
        dynamics: how they change from turn to turn.
        seen: what each of the users has seen beside their state.
        seed: of the luck; the same for systems that are compared.
        gamma: discount between turns.
        sampled: counts what users did in place of what was to be expected.
        batch: sessions played side by side.

    Raises:
        RequestError: no user, or lists of seen items that do not fit.
    """
    user_N = np.asarray(user_N, dtype=np.int64)
    if not len(user_N) or (seen is not None and len(seen) != len(user_N)):
        raise RequestError(f"{len(user_N)} users need at least one session, and one list of seen items each.")
    parts = []
    with Bar("Playing sessions", len(user_N)) as bar:
        for low in range(0, len(user_N), batch):
            rows = user_N[low : low + batch]
            play = Play(population, len(rows), sizes, choice=choice, dynamics=dynamics)
            play.begin(stream_seed(seed, "evaluation", "sessions"), rows)
            before = [np.zeros(0, dtype=np.int64)] * len(rows) if seen is None else list(seen[low : low + batch])
            parts.append(_played(system, play, before, gamma, sampled))
            bar.advance(len(rows))
    table_BM = np.concatenate(parts)
    names = [population.state(int(user)).user_id for user in user_N]
    users_B = tuple(name if name is not None else f"\0{row}" for row, name in enumerate(names))
    value_B, click_B, conversion_B, turns_B, left_B, first_B = table_BM.T
    return SessionFigures(value_B, click_B, conversion_B, turns_B, left_B, first_B, users_B)


def _played(system: System, play: Play, seen: Sequence[IntArray], gamma: float, sampled: bool) -> FloatArray:
    """The columns of `SessionFigures` for the sessions of `play`: (B, 6)."""
    sizes, table_B6 = play.settings, np.zeros((len(play.row_A), 6))
    turn = 0
    while play.goes_on:
        known = [np.union1d(seen[row], shown) for row, shown in zip(play.row_A, play.shown(), strict=True)]
        slates = system.recommend(play.states(), sizes.slate_size, seen=known)
        done = play.turn(slates_to_items(slates, sizes.slate_size))
        feedback = done.drawn if sampled else done.expected
        clicks, buys = feedback.click_BK.sum(1), feedback.conversion_BK.sum(1)
        value = sizes.click * clicks + sizes.conversion * buys
        ones, first = np.ones(len(value)), value * (turn == 0)
        table_B6[done.row_A] += np.stack([gamma**turn * value, clicks, buys, ones, done.left_A, first], axis=1)
        turn += 1
    return table_B6
