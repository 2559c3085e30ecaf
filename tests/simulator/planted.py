"""A tiny world whose truth is known and is told by the state: profiles and titles name one of four colours.

A user clicks items of the own colour far more often; every item has an appeal (clicks) and a quality (conversions)
of its own, and users named "buyer" convert more. Half of the states carry a history as well, which tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.types import FloatArray, IntArray, Interaction, Item, State

COLOURS = ("red", "green", "blue", "yellow")


@dataclass(frozen=True)
class Impressions:
    states: list[State]
    state_row_M: IntArray
    item_M: IntArray
    click_M: FloatArray
    conversion_M: FloatArray


@dataclass(frozen=True)
class Planted:
    items: list[Item]
    states: list[State]
    click_SN: FloatArray
    conversion_SN: FloatArray

    def log(self, rows: IntArray, shown: int, seed: int) -> Impressions:
        """`shown` random items to each of the states at `rows`, with drawn feedback."""
        random = np.random.default_rng(seed)
        row_M = np.repeat(np.arange(len(rows)), shown)
        item_M = random.integers(0, len(self.items), len(row_M))
        click_M = random.random(len(row_M)) < self.click_SN[rows[row_M], item_M]
        conversion_M = click_M & (random.random(len(row_M)) < self.conversion_SN[rows[row_M], item_M])
        states = [self.states[r] for r in rows]
        return Impressions(states, row_M, item_M, click_M.astype(float), conversion_M.astype(float))


def _sigmoid(x: FloatArray) -> FloatArray:
    return 1 / (1 + np.exp(-x))


def planted(users: int = 600, items: int = 24, seed: int = 5) -> Planted:
    random = np.random.default_rng(seed)
    colour_N = np.arange(items) % len(COLOURS)
    colour_S = random.integers(0, len(COLOURS), users)
    buyer_S = random.random(users) < 0.5
    catalogue = [
        Item(f"i{n}", f"{COLOURS[c]} thing number {n}", "plain words", (COLOURS[c],), "maker", float(5 + n))
        for n, c in enumerate(colour_N)
    ]
    states = []
    for s in range(users):
        profile = f"likes {COLOURS[colour_S[s]]}, is a {'buyer' if buyer_S[s] else 'looker'}"
        history = tuple(Interaction(int(i), "click", 10) for i in random.integers(0, items, 3 * (s % 2)))
        states.append(State(user_id=f"u{s}", profile=profile, history=history, time=1000 + s))
    same_SN = (colour_S[:, None] == colour_N[None, :]).astype(float)
    click_SN = _sigmoid(-2.0 + 2.5 * same_SN + 0.5 * random.standard_normal(items))
    conversion_SN = _sigmoid(-1.2 + 1.5 * buyer_S[:, None] + 1.0 * random.standard_normal(items))
    return Planted(catalogue, states, click_SN, conversion_SN)
