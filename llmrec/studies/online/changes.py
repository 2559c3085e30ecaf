"""Which change needs an update, and which needs the session in the state?

Two changes are put to a frozen policy and to the one that goes on, each with the running session in the state and
without it. *One person's interest moves within a session*: they go on as somebody else would, and five choices of
the new interest stand in the session; demand is what it was. *Everybody's demand has shifted*: people keep their
interest, their five choices of the session are made under the new demand, and the policy that goes on has had half a
month of it. Figures are true values a place; the optimum knows person and demand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmrec.dataset.world.world import World
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.studies.answer import Sheet, signed
from llmrec.studies.study import Pooled
from llmrec.types import FloatArray, IntArray, Interaction, State

MOVED, SHIFTED = "interest moved within the session", "demand shifted for everybody"
CHANGES = (MOVED, SHIFTED)
READ, UNREAD = "session read", "session not read"
OPTIMUM = "optimum"
CHOICES = 5
"""Of the session."""


def side(policy: str, how: str) -> str:
    """The name of a row."""
    return f"{policy}, {how}"


def changed(
    world: World,
    states: Sequence[State],
    others: Sequence[str],
    policies: Mapping[str, Mapping[str, LanguagePolicy]],
    times: Mapping[str, int],
    places: int,
    stream: np.random.Generator,
) -> dict[str, dict[str, FloatArray]]:
    """True values a place of what is shown under each change, by row and change: (B,) each.

    Args:
        world: whose people they are.
        states: of B people, without a session.
        others: whose interest each of them turns to.
        policies: by change and by policy's name, what is served then.
        times: of each change, at which demand is asked.
        places: of a slate.
        stream: of the sessions' choices.
    """
    found: dict[str, dict[str, FloatArray]] = {}
    for change in CHANGES:
        users = others if change == MOVED else [str(state.user_id) for state in states]
        time = times[change]
        click_BN, value_BN = world.expected_click_BN(users, time), world.value_BN(users, time=time)
        chosen_BK = _choices(click_BN, stream)
        read = [_with(state, chosen_K, time) for state, chosen_K in zip(states, chosen_BK, strict=True)]
        unread = [dataclasses.replace(state, time=time) for state in states]
        for name, policy in policies[change].items():
            for how, asked in ((READ, read), (UNREAD, unread)):
                slates = policy.recommend(asked, places, exclude_seen=False)
                values = [value_BN[row, list(one.items_K)].mean() for row, one in enumerate(slates)]
                found.setdefault(side(name, how), {})[change] = np.array(values)
        best_BK = -np.partition(-value_BN, places - 1, axis=1)[:, :places]
        found.setdefault(OPTIMUM, {})[change] = best_BK.mean(axis=1)
    return found


def _choices(click_BN: FloatArray, stream: np.random.Generator) -> IntArray:
    """What somebody clicks on first: draws by P(click), sharpened as by looking around; (B, CHOICES)."""
    gumbel_BN = 3 * np.log(click_BN) + stream.gumbel(size=click_BN.shape)
    return np.argsort(-gumbel_BN, axis=1)[:, :CHOICES].astype(np.int64)


def _with(state: State, chosen_K: IntArray, time: int) -> State:
    """The state with a session of clicks a minute ago."""
    session = tuple(Interaction(item, "click", time - 60) for item in chosen_K.tolist())
    return dataclasses.replace(state, session=session, time=time)


def sheet(pooled: Pooled, frozen: str, updated: str) -> tuple[Sheet, dict[str, Any], list[str]]:
    """The table, its figures, and what each of the two is worth under each change, with intervals over people."""
    sides = [side(policy, how) for policy in (frozen, updated) for how in (UNREAD, READ)]
    rows = []
    for name in (*sides, OPTIMUM):
        cells = []
        for change in CHANGES:
            value = float(pooled.rows(name, change).mean())
            cells.append(f"{value:.4f} ({value / float(pooled.rows(OPTIMUM, change).mean()):.2f})")
        rows.append([name, *cells])
    pairs = {
        "reading the session, frozen": (side(frozen, READ), side(frozen, UNREAD)),
        "reading the session, updated": (side(updated, READ), side(updated, UNREAD)),
        "updating, session read": (side(updated, READ), side(frozen, READ)),
        "updating, session not read": (side(updated, UNREAD), side(frozen, UNREAD)),
    }
    gains = {
        what: {c: pooled.difference(*pair, c, samples=2000, seed=0) for c in CHANGES} for what, pair in pairs.items()
    }
    said = [f"{c}: {what} is worth {signed(of[c])} a place." for c in CHANGES for what, of in gains.items()]
    figures = {what: {c: dataclasses.asdict(one) for c, one in of.items()} for what, of in gains.items()}
    title = "Two changes: true value a place, and its share of the optimum that knows person and demand"
    values = {name: {c: float(pooled.rows(name, c).mean()) for c in CHANGES} for name in (*sides, OPTIMUM)}
    return Sheet(title, ["", *CHANGES], rows), {"values": values, "gains": figures}, said
