"""Rewards that are dealt out wrongly on purpose: what a training gains from them is no merit of the reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from llmrec.rewards.trl import Rewarder, takes_step
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray, Reward, State

Shuffle = Literal["rewards", "people"]


class Shuffled:
    """A reward whose values go to the wrong states.

    `rewards`: what is permuted are whole rows of the rewards of a call, (B, K), over its B states: the draws of a
    state earn, place by place, what those of another state earned. Rewards keep their size and their spread. States
    are drawn for independently, so that what a draw earns is independent of the item that it is, whoever likes what
    and however popular an item is: the expectation of (reward - baseline) * grad log pi is 0 for any baseline that
    knows the group alone, and a training has nothing to gain. `people`: a draw earns what it would earn in another
    state: what is still gained is the same for everybody, and what is lost was personal.

    The other state is another one of the same call, drawn by seed and step. A call with a single state has none:
    its draws earn 0 under `rewards`, and under `people` what they earn. Dealt out within the state, rewards would
    still tell which items were drawn: a group's mean is that of its own items, and a share 1 / K of the gradient of
    the right reward would be left to a method whose baseline is a critic.

    Example: two states whose draws are (3, 7) and (7, 9), and a reward that is 1 for item 7. Values ((0, 1), (1, 0));
    under `rewards` ((1, 0), (0, 1)).
    """

    def __init__(self, reward: Rewarder, kind: Shuffle, seed: int) -> None:
        self.reward, self.kind, self.seed = reward, kind, seed
        self._takes_step = takes_step(reward)

    def __call__(self, states: Sequence[State], items_BK: IntArray, step: int = 0) -> Reward:
        """Rewards of shape (B, K); the terms are dealt out as the total is."""
        other_B = self._others(len(states), step)
        more: dict[str, Any] = {"step": step} if self._takes_step else {}
        if self.kind == "people":
            return self.reward([states[b] for b in other_B], items_BK, **more)
        given = self.reward(states, items_BK, **more)
        if len(states) > 1:
            terms = {name: value_BK[other_B] for name, value_BK in given.terms.items()}
            return Reward(given.total_BK[other_B], terms)
        none_BK = np.zeros_like(given.total_BK)
        return Reward(none_BK, dict.fromkeys(given.terms, none_BK))

    def candidates(self, states: Sequence[State], items_BM: IntArray, step: int = 0) -> FloatArray:
        """What each of M items is expected to earn by itself, (B, M).

        Under `rewards` nothing that is known of an item tells what its draw will earn: 0 for all.
        """
        if self.kind == "rewards":
            return np.zeros(items_BM.shape)
        more: dict[str, Any] = {"step": step} if self._takes_step else {}
        asked = [states[b] for b in self._others(len(states), step)]
        if hasattr(self.reward, "candidates"):
            found: FloatArray = self.reward.candidates(asked, items_BM, **more)
            return found
        return self.reward(asked, items_BM, **more).total_BK

    def _others(self, states: int, step: int) -> IntArray:
        """For each state another one: a random circle, on which nobody stands at his own place."""
        order_B = numpy_stream(self.seed, "shuffled", "states", step).permutation(states)
        other_B = np.empty(states, dtype=np.int64)
        other_B[order_B] = np.roll(order_B, 1)
        return other_B
