"""The systems of the comparison that are not plain policies or baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.dataset.world.slates import DENSE_ITEMS
from llmrec.dataset.world.world import World
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards import RewardFunction
from llmrec.types import FloatArray, IntArray, Prediction, Ranker, Slate, State

OPTIMUM, INFORMED = "true optimum", "informed optimum"
"""Systems of generated worlds: the best for somebody who knows every user, and for one who sees only the states."""
BATCH = 256
"""States whose whole catalogue is scored at a time."""


@dataclass(frozen=True)
class Policy:
    """A language-model policy with the beam width of the evaluation."""

    policy: LanguagePolicy
    beams: int

    @property
    def policies(self) -> list[LanguagePolicy]:
        """What `rules.Ruled` asks for, to search under rules."""
        return [self.policy]

    def recommend(
        self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None, **options: Any
    ) -> list[Slate]:
        """Top k by log pi; `options` are the policy's."""
        return self.policy.recommend(states, k, beams=max(k, self.beams), seen=seen, **options)


@dataclass(frozen=True)
class Reranked:
    """The policy's top `depth` (of `n_items`) reordered by the reward simulator: what one gets without any RL."""

    system: Ranker
    reward: RewardFunction
    n_items: int
    depth: int = 20

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k items of the policy's top `depth` with the highest expected reward."""
        slates = self.system.recommend(states, max(k, min(self.depth, self.n_items)), seen=seen)
        answer = []
        for start in range(0, len(states), BATCH):
            part = slates[start : start + BATCH]
            width = max((len(s.items_K) for s in part), default=0)
            items_BK = np.full((len(part), width), -1, dtype=np.int64)
            for b, slate in enumerate(part):
                items_BK[b, : len(slate.items_K)] = slate.items_K
            total_BK = self.reward(states[start : start + BATCH], items_BK).total_BK
            answer += _top(np.where(items_BK >= 0, total_BK, -np.inf), k, items_BK)
        return answer


class Greedy:
    """The reward simulator's own best items over the whole catalogue: what RL would become without a prior."""

    def __init__(self, reward: RewardFunction, n_items: int, repeat: str) -> None:
        self.reward, self.n_items, self.repeat = reward, n_items, repeat

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k items of the catalogue with the highest expected reward."""
        answer = []
        for start in range(0, len(states), BATCH):
            part = states[start : start + BATCH]
            items_BN = np.tile(np.arange(self.n_items), (len(part), 1))
            total_BN = np.array(self.reward(part, items_BN).total_BK)
            if self.repeat == "exclude":
                for b, state in enumerate(part):
                    total_BN[b, list(state.seen())] = -np.inf
                    if seen is not None:
                        total_BN[b, seen[start + b]] = -np.inf
            answer += _top(total_BN, k, items_BN)
        return answer


class TruthJudge:
    """A generated world as a judge: the true probabilities of each user; only worlds have one."""

    def __init__(self, world: World) -> None:
        self.world = world

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """True P(click) and P(conversion | click), (B, K)."""
        users = [str(state.user_id) for state in states]
        click, conversion = self.world.expected_click_BN(users), self.world.expected_conversion_BN(users)
        return Prediction(np.take_along_axis(click, items_BK, 1), np.take_along_axis(conversion, items_BK, 1))


class OptimumRanker:
    """The true optimum V*: the items of highest true value for each user."""

    def __init__(self, world: World, click: float, conversion: float) -> None:
        self.world, self.click, self.conversion = world, click, conversion

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k items of highest true value; knows what no policy may know."""
        del seen
        users = [str(state.user_id) for state in states]
        value_BN = self.world.value_BN(users, self.click, self.conversion)
        return _top(value_BN, k, np.tile(np.arange(value_BN.shape[1]), (len(users), 1)))


class InformedRanker:
    """The informed optimum: what is best to show to somebody of whom only the state is known (docs/world.md)."""

    def __init__(self, world: World, click: float, conversion: float) -> None:
        self.world, self.click, self.conversion = world, click, conversion

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k items of highest expected true value; knows the items and the world, but not the user."""
        del seen
        # A third of the particles: items of nearly equal value are exchanged, which costs about 1% of the value.
        found = self.world.informed_optimum(states, k, self.click, self.conversion, particles=128, least=32)
        rows = zip(found.items_BK.tolist(), found.value_BK.tolist(), strict=True)
        return [Slate(tuple(items), tuple(values)) for items, values in rows]


def best_known(world: World | None, click: float, conversion: float) -> dict[str, Ranker]:
    """What a generated world's truth says of how much there is to find, by the names of the tables."""
    if world is None:
        return {}
    known: dict[str, Ranker] = {}
    if world.dataset.n_items <= DENSE_ITEMS:
        known[INFORMED] = InformedRanker(world, click, conversion)
    return {**known, OPTIMUM: OptimumRanker(world, click, conversion)}


def _top(score_BK: FloatArray, k: int, items_BK: IntArray) -> list[Slate]:
    """The k best finite scores of each row, as slates whose log_probs hold the scores."""
    order_BK = np.argsort(-score_BK, axis=1, kind="stable")[:, :k]
    slates = []
    for row, order_K in enumerate(order_BK):
        kept = [int(j) for j in order_K if np.isfinite(score_BK[row, j])]
        slates.append(Slate(tuple(int(items_BK[row, j]) for j in kept), tuple(float(score_BK[row, j]) for j in kept)))
    return slates
