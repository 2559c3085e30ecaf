"""Worlds whose right answer is known: the shop in which a colour wants its lamp, and a chain of three states."""

from __future__ import annotations

import dataclasses

import numpy as np

from llmrec.agents import OneStep, StateFeatures, item_embeddings
from llmrec.agents.meeting import Observed, UserTurn
from llmrec.seeding import numpy_stream
from llmrec.types import State
from tests.training.conftest import COLOURS
from tests.training.worlds import lamps

USERS = [State(f"u{n}", f"likes {COLOURS[n % 4]}") for n in range(24)]


def trivial(shop, users=24, seen=None):
    """24 users of four types; the right lamp is worth 1.5, its colour 0.5, all else nothing."""
    features = StateFeatures.fit(shop.items, USERS, seed=0)
    return OneStep(USERS, seen, lamps, features, 12, users), features, item_embeddings(shop.items, [], 8)


def share_of_optimum(agent) -> float:
    """Value of the deployed top items over that of the best ones, 1.5 for every user."""
    top_B1 = np.array([[slate.items_K[0]] for slate in agent.recommend(USERS, 1)])
    return float(lamps(USERS, top_B1).total_BK.mean() / 1.5)


@dataclasses.dataclass
class Chain:
    """States 0, 1, 2 and two actions: 0 goes back to state 0 for 0.1, 1 goes on for nothing, from state 2 for 1.

    The end comes after action 1 in state 2, and after any other step with probability `end`. Sessions begin in a
    state drawn at random, so that all states are met. Greed for the next reward goes back for ever; it pays to go on.
    """

    count: int = 16
    n_items: int = 2
    end: float = 0.1

    def begin(self, seed):
        self.random = numpy_stream(seed, "chain")
        self.row_B = self.random.integers(3, size=self.count)
        return self._observed()

    def turn(self, items_B):
        on_B = items_B == 1
        goal_B = on_B & (self.row_B == 2)
        reward_B = np.where(goal_B, 1.0, np.where(on_B, 0.0, 0.1))
        over_B = goal_B | (self.random.random(self.count) < self.end)
        next_B = np.where(on_B, self.row_B + 1, 0)
        self.row_B = np.where(over_B, self.random.integers(3, size=self.count), next_B)
        return UserTurn(reward_B, over_B, self._observed())

    def _observed(self):
        return Observed(np.eye(3, dtype=np.float32)[self.row_B], np.full((self.count, 1), -1))

    def values(self, gamma, epsilon):
        """Q by iteration of Bellman's equation for epsilon-greedy behaviour; epsilon 0: the optimal Q."""
        q = np.zeros((3, 2))
        for _ in range(2000):
            v = (1 - epsilon) * q.max(axis=1) + epsilon * q.mean(axis=1)
            back = 0.1 + gamma * (1 - self.end) * v[0]
            on = gamma * (1 - self.end) * v[1:]
            q = np.array([[back, on[0]], [back, on[1]], [back, 1.0]])
        return q


class Rows:
    """The chain's states as they are."""

    rows = 3

    def __call__(self, feature_BD):
        return feature_BD.argmax(axis=1)
