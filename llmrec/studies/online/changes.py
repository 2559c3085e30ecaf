"""Which change needs an update, and which needs the session in the state?

Two changes are put to a frozen policy and to the one that goes on. *One person's interest moves within a session*:
five choices of theirs stand in it, then five that somebody else would make, and what is shown is worth what it is to
that other one; demand is what it was. *Everybody's demand has shifted*: people keep their interest, their five
choices are made under the new demand, and the policy that goes on has had the rest of the month of it. Each is told
the whole session, the session up to the change, or nothing. Figures are true values a place; the optimum knows person
and demand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.adaptation.context import Told, without_session
from llmrec.dataset.world.world import World
from llmrec.seeding import numpy_stream
from llmrec.studies.adaptation.choosing import choices, told
from llmrec.studies.answer import Answer, Sheet, signed
from llmrec.studies.online.month import FROZEN, UPDATED
from llmrec.studies.study import Pooled, over_seeds
from llmrec.types import FloatArray, Ranker, State

MOVED, SHIFTED = "interest moved within the session", "demand shifted for everybody"
CHANGES = (MOVED, SHIFTED)
READ, STALE, UNREAD = "session read", "session read up to the change", "session not read"
OPTIMUM, BEST = "optimum", "best for all, demand known"
MEANS, COUNTS, KNOWN = "item means", "co-visitation", "posterior by the same choices"
CHOICES = 5
"""Of the session since the change, and before it where the interest has moved."""


def side(system: str, how: str) -> str:
    """The name of a row."""
    return f"{system}, {how}"


@dataclass(frozen=True)
class Asked:
    """Sessions that are asked about under one change.

    Attributes:
        states: with the whole session, (B,).
        users: whose interest it is now.
        time: moment whose demand it is.
    """

    states: Sequence[State]
    users: Sequence[str]
    time: int

    @classmethod
    def of(cls, world: World, change: str, users: Sequence[str], time: int, seed: int) -> Asked:
        """Sessions with `users` under a change; where the interest moves it becomes that of the next one.

        Args:
            world: whose people they are.
            change: one of `CHANGES`.
            users: of B people.
            time: at which demand is asked.
            seed: of the choices.
        """
        stream = numpy_stream(seed, "online", "changes", change)
        others = [*users[1:], users[0]] if change == MOVED else list(users)
        old_BN, new_BN = (world.expected_click_BN(who, time) for who in (users, others))
        before = CHOICES if change == MOVED else 0
        states = [
            State(user, session=told(choices(np.stack([old_N] * before + [new_N] * CHOICES), stream)))
            for user, old_N, new_N in zip(users, old_BN, new_BN, strict=True)
        ]
        return cls(states, others, time)

    def values(self, world: World, ranker: Ranker, places: int) -> FloatArray:
        """True value a place of what a ranker shows, (B,)."""
        slates = ranker.recommend(self.states, places)
        items_BK = np.array([slate.items_K for slate in slates])
        value_B: FloatArray = world.value_of_BK(self.users, items_BK, time=self.time).mean(axis=1)
        return value_B

    def known(self, world: World, met: Sequence[str], places: int) -> dict[str, FloatArray]:
        """What the best list for all is worth, on the average over everybody met before, and what the optimum is."""
        best_K = np.argsort(-world.value_BN(met, time=self.time).mean(axis=0), kind="stable")[:places]
        best_BK = np.tile(best_K, (len(self.users), 1))
        return {
            BEST: np.asarray(world.value_of_BK(self.users, best_BK, time=self.time).mean(axis=1)),
            OPTIMUM: np.asarray(world.optimum(self.users, places, time=self.time).value_BK.mean(axis=1)),
        }


def up_to_the_change(state: State) -> State:
    """The session without what was chosen since."""
    return dataclasses.replace(state, session=state.session[:-CHOICES])


HOW = {UNREAD: without_session, STALE: up_to_the_change}


def sides_of(system: str, ranker: Ranker, how: Sequence[str] = (UNREAD, STALE, READ)) -> dict[str, Ranker]:
    """A system by what it is told of the session."""
    return {side(system, told): Told(ranker, HOW[told]) if told in HOW else ranker for told in how}


PAIRS = {
    "reading the session, frozen": (side(FROZEN, READ), side(FROZEN, UNREAD)),
    "reading the session, updated": (side(UPDATED, READ), side(UPDATED, UNREAD)),
    "reading what came since the change, frozen": (side(FROZEN, READ), side(FROZEN, STALE)),
    "updating, session read": (side(UPDATED, READ), side(FROZEN, READ)),
    "updating, session not read": (side(UPDATED, UNREAD), side(FROZEN, UNREAD)),
    "reading, less updating": (side(FROZEN, READ), side(UPDATED, UNREAD)),
}
"""What each of the two is worth."""


def changes_answer(pooled: Pooled) -> Answer:
    """The table, and what each of the two is worth under each change: over people, and over worlds."""
    values = {name: {c: float(pooled.rows(name, c).mean()) for c in CHANGES} for name in pooled.sides}
    rows = [
        [name, *(f"{of[c]:.4f} ({of[c] / values[OPTIMUM][c]:.2f})" for c in CHANGES)] for name, of in values.items()
    ]
    gains, worlds = {}, {}
    for what, (a, b) in PAIRS.items():
        gains[what] = {c: pooled.difference(a, b, c, samples=2000, seed=0) for c in CHANGES}
        worlds[what] = {c: over_seeds(_less(pooled, a, b, c)) for c in CHANGES}
    said = [
        f"{change}: {what} is worth {signed(of[change])} a place{_in_worlds(worlds[what][change])}."
        for change in CHANGES
        for what, of in gains.items()
    ]
    facts = [dict(one.facts) for one in pooled.seeds]
    said += [
        f"World {one.seed}: {one.facts['promoted'][MOVED]} updates were promoted before demand shifted and "
        f"{one.facts['promoted'][SHIFTED]} behind it; alarms on days {one.facts['alarms']}."
        for one in pooled.seeds
    ]
    figures: dict[str, Any] = {
        "values": values,
        "gains": {what: {c: dataclasses.asdict(one) for c, one in of.items()} for what, of in gains.items()},
        "worlds": worlds,
        "facts": facts,
    }
    title = "True value a place, and its share of the optimum that knows person and demand"
    return Answer("Two changes, and which remedy helps", figures, [Sheet(title, ["", *CHANGES], rows)], said)


def _less(pooled: Pooled, a: str, b: str, change: str) -> list[float]:
    return [x - y for x, y in zip(pooled.means(a, change), pooled.means(b, change), strict=True)]


def _in_worlds(of: Mapping[str, Any]) -> str:
    if "low" not in of:
        return ""
    return f", over worlds {of['mean']:+.4f} ({of['low']:+.4f} to {of['high']:+.4f})"
