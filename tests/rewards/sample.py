"""Four items of three categories, two users, and predictions that are easy to compute with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmrec.rewards import RewardContext
from llmrec.types import Example, Feedback, Interaction, Item, Prediction, State

ITEMS = (
    Item("i0", "Alpha", categories=("a",), brand="x", price=30.0),
    Item("i1", "Beta", categories=("b",), brand="x"),
    Item("i2", "Gamma", categories=("a", "b"), brand="y", price=8.0),
    Item("i3", "Delta", brand="y", price=0.0),
)
SOME = State(
    "u",
    history=(Interaction(0, "click", 1), Interaction(3, "impression", 2), Interaction(1, "rating", 3, 4.0)),
    session=(Interaction(0, "conversion", 9),),
    time=10,
)
NEW = State("v", time=10)
STATES = [SOME, NEW]
SHOWN = np.array([[0, 1, 2, 3], [2, -1, 0, -1]])
FEEDBACK = Feedback(np.full((2, 4), 0.5), np.full((2, 4), 0.1))


class Half:
    """P(click) = 0.5 and P(conversion | click) = 0.2, whoever and whatever."""

    def predict(self, states, items_BK):
        return Prediction(np.full(items_BK.shape, 0.5), np.full(items_BK.shape, 0.2))


class Stars:
    """Expects `first + item`, nan where there is no item."""

    def __init__(self, first: float = 1.0) -> None:
        self.first = first

    def expected_value(self, states, items_BK):
        return np.where(items_BK >= 0, self.first + items_BK, np.nan)


class Written:
    titles = tuple(item.title for item in ITEMS)

    def token_ids(self, item: int) -> list[int]:
        return [item + 10, 99]


CONTEXT = RewardContext(
    items=ITEMS,
    popularity_N=np.array([6.0, 2.0, 1.0, 1.0]),
    targets=[Example(SOME, 2), Example(SOME, 3), Example(NEW, 0)],
    catalogue=Written(),
    prompts=lambda states: [f"user {state.user_id}" for state in states],
    slate_size=4,
)


def context(**changes) -> RewardContext:
    return replace(CONTEXT, **changes)
