"""Trainings whose checkpoints have the true gains that they shall have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmrec.seeding import numpy_stream
from llmrec.studies.gate_error.shop import Scored, Shop, standardised
from llmrec.types import FloatArray, State

CHECKPOINTS = 6
PATHS = ("reward", "items")
"""What helps along a training's path: the reward's belief, or what items are worth on average."""
TASTES = 8


@dataclass(frozen=True)
class Tastes:
    """A random walk over checkpoints of tastes that nobody has: of items, and of users for items."""

    item_CN: FloatArray
    vector_CVN: FloatArray
    seed: int
    own: dict[str | None, FloatArray] = field(default_factory=dict)

    @classmethod
    def drawn(cls, random: np.random.Generator, items: int) -> Tastes:
        """Half of what each step adds to the first one's."""
        steps = np.concatenate([[1.0], np.full(CHECKPOINTS - 1, 0.5)])

        def walk(*shape: int) -> FloatArray:
            made = random.standard_normal((CHECKPOINTS, *shape))
            return np.cumsum(made * steps.reshape(-1, *[1] * len(shape)), axis=0)

        return cls(walk(items), walk(TASTES, items), int(random.integers(2**31)))

    def of(self, states: Sequence[State], step: int) -> FloatArray:
        """At checkpoint `step`, (B, N)."""
        for user in {state.user_id for state in states} - self.own.keys():
            self.own[user] = numpy_stream(self.seed, "tastes", user).standard_normal(TASTES)
        own_BV = np.stack([self.own[state.user_id] for state in states])
        return standardised(self.item_CN[step] + own_BV @ self.vector_CVN[step] / np.sqrt(TASTES))


@dataclass(frozen=True)
class Planted:
    """A training whose checkpoints have the true gains that they shall have."""

    shop: Shop
    path: str
    tastes: Tastes
    harm_C: tuple[float, ...]
    """How much of what harms is in each checkpoint."""
    gain_C: tuple[float, ...]
    """The true gains that came of it, as shares of the start's true value."""

    @classmethod
    def of(cls, shop: Shop, path: str, tastes: Tastes, gain: float) -> Planted | None:
        """A training that ends with a true gain of `gain`, reached evenly; None where even help alone gains less."""
        begin_PN, help_PN = shop.begin(shop.pool), shop.help(path, shop.pool)
        base = shop.true_value(begin_PN)
        found: list[tuple[float, float]] = []
        for step in range(CHECKPOINTS):
            share = (step + 1) / CHECKPOINTS
            harm_PN = tastes.of(shop.pool, step)

            def reached(much: float, harm_PN: FloatArray = harm_PN, share: float = share) -> float:
                return shop.true_value(begin_PN + share * (help_PN + much * harm_PN)) / base - 1

            wanted = gain * share
            if reached(0.0) < wanted:
                return None
            found.append(root(reached, wanted))
        return cls(shop, path, tastes, tuple(c for c, _ in found), tuple(g for _, g in found))

    def checkpoint(self, step: int) -> Scored:
        """The policy of a checkpoint."""
        share = (step + 1) / CHECKPOINTS

        def score(states: Sequence[State]) -> FloatArray:
            away_BN = self.shop.help(self.path, states) + self.harm_C[step] * self.tastes.of(states, step)
            return self.shop.begin(states) + share * away_BN

        return Scored(score)


def root(reached: Callable[[float], float], wanted: float, within: float = 2e-4) -> tuple[float, float]:
    """How much harm brings a falling gain down to `wanted`, and the gain there."""
    low, high, top = 0.0, 1.0, reached(1.0)
    while top > wanted and high < 1000:
        low, high, top = high, 2 * high, reached(2 * high)
    for _ in range(14):
        middle = (low + high) / 2
        found = reached(middle)
        if abs(found - wanted) < within:
            break
        low, high = (middle, high) if found > wanted else (low, middle)
    return middle, found


def tilted(shop: Shop, path: str, share: float) -> Scored:
    """The start with some of what helps."""
    return Scored(lambda states: shop.begin(states) + share * shop.help(path, states))
