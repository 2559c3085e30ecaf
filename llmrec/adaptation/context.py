"""Adaptation in context: lessons whose states tell of a running session, what was shown and passed over included.

A policy that learns over many people's sessions what is chosen next reads a new person's feedback from the state, and
no gradient is needed where it is used. What it learns from is logged sessions, cut at every slate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmrec.adaptation.sessions import Sessions
from llmrec.types import EventKind, FloatArray, IntArray, Interaction, Ranker, Slate, State


def as_sessions(sessions: Sessions, remembered: int) -> Sessions:
    """The same slates, each in a state as an environment tells it: no history, the user's slates before as session.

    Args:
        sessions: slates in order of time.
        remembered: newest interactions that a state tells of, clicked or passed over.
    """
    log = sessions.log
    rows_of: dict[int, list[int]] = {}
    for row, slate in enumerate(log.state_row_M.tolist()):
        rows_of.setdefault(slate, []).append(row)
    told: dict[str | None, list[Interaction]] = {}
    states = []
    for slate, state in enumerate(log.states):
        past = told.setdefault(state.user_id, [])
        states.append(replace(state, history=(), session=tuple(past[-remembered:])))
        past += [
            Interaction(int(log.item_M[row]), _kind(log.click_M[row], log.conversion_M[row]), state.time or 0)
            for row in rows_of.get(slate, ())
        ]
    return replace(sessions, log=replace(log, states=states))


def _kind(click: float, conversion: float) -> EventKind:
    return "conversion" if conversion > 0 else "click" if click > 0 else "impression"


@dataclass(frozen=True)
class Told:
    """A ranker that is told less than there is to tell.

    Attributes:
        ranker: who is asked.
        telling: makes of a state what it is told of it.
    """

    ranker: Ranker
    telling: Callable[[State], State]

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """What the ranker answers to what it is told."""
        return self.ranker.recommend([self.telling(state) for state in states], k, seen=seen)


def without_feedback(state: State) -> State:
    """What was shown in the running session, all of it as passed over."""
    passed = tuple(replace(event, feedback="impression", value=None) for event in state.session)
    return replace(state, session=passed)


def without_session(state: State) -> State:
    """Nothing of the running session."""
    return replace(state, session=())


def halves(turn_BT: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean value of a turn in the first and the second half of each session, (B,) both, without a middle one."""
    half = turn_BT.shape[1] // 2
    return turn_BT[:, :half].mean(axis=1), turn_BT[:, -half:].mean(axis=1)
