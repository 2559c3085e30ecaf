"""Sellers that learn what to ask: one bandit each over price factors and promotion, all learning at once.

Each seller takes one action for all items that it owns, keeps it for some rounds, and sees its own profit in them,
nothing of the others: independent learners (Claus and Boutilier 1998), as in studies of pricing by algorithms
(Calvano et al. 2020, here without a memory of past prices). Values are running means that forget, since the others
change what an action is worth: Q(a) += max(1 / n(a), `rate`) (profit - Q(a)). Actions are greedy but for a share
epsilon, which falls geometrically.

`best_responses` is what learning is held against: sellers in turn take the exactly best action until nobody moves.

Axes: S sellers, A actions, N items.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import RequestError
from llmrec.simulator.environments.market import Offer
from llmrec.types import FloatArray, IntArray

FACTORS = (0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class Ask:
    """What a seller may do: a factor on the list price, and whether its items are promoted."""

    factor: float
    promoted: bool


ASKS = tuple(Ask(factor, promoted) for promoted, factor in itertools.product((False, True), FACTORS))
LISTED = ASKS.index(Ask(1.0, False))
"""The action that changes nothing."""


def offer_of(action_S: IntArray, owner_N: IntArray, asks: Sequence[Ask] = ASKS) -> Offer:
    """What the items are offered for when each seller takes its action."""
    factor_A, promoted_A = np.array([ask.factor for ask in asks]), np.array([ask.promoted for ask in asks])
    action_N = action_S[owner_N]
    return Offer(factor_A[action_N], promoted_A[action_N])


@dataclass(frozen=True, kw_only=True)
class SellerSettings:
    """How sellers learn."""

    hold: int = 20
    """Rounds for which an action is kept: a recommender that learns has answered to it by then."""
    rate: float = 0.05
    """The least step of a value: about 1 / rate actions are remembered."""
    explore: float = 0.5
    """Epsilon of the first action."""
    explore_last: float = 0.01
    """In the last."""

    def __post_init__(self) -> None:
        if self.hold < 1 or not 0 < self.rate <= 1 or not 0 < self.explore_last <= self.explore <= 1:
            raise RequestError(
                "Sellers need to hold an action for 1 round or more, a rate in (0, 1], and epsilons in (0, 1], the "
                "last not above the first."
            )


class Sellers:
    """S independent learners.

    Args:
        sellers: S.
        turns: actions of each, over which epsilon falls.
        settings: of all.
        asks: what they may do.
    """

    def __init__(
        self, sellers: int, turns: int, settings: SellerSettings | None = None, asks: Sequence[Ask] = ASKS
    ) -> None:
        self.settings, self.turns = settings or SellerSettings(), turns
        self.value_SA = np.zeros((sellers, len(asks)))
        self.tried_SA = np.zeros((sellers, len(asks)), dtype=np.int64)

    def epsilon(self, turn: int) -> float:
        """Share of random actions in this turn."""
        first, last = self.settings.explore, self.settings.explore_last
        return float(first * (last / first) ** (turn / max(self.turns - 1, 1)))

    def act(self, turn: int, stream: np.random.Generator) -> IntArray:
        """Actions, (S,): each untried one first, then greedy but for epsilon."""
        sellers, actions = self.value_SA.shape
        random_S = stream.integers(actions, size=sellers)
        explores_S = stream.random(sellers) < self.epsilon(turn)
        untried_SA = self.tried_SA == 0
        # a random one of the untried: the largest of random numbers among them
        first_S = np.where(untried_SA, stream.random(untried_SA.shape), -1.0).argmax(1)
        chosen_S = np.where(explores_S, random_S, self.greedy())
        action_S: IntArray = np.where(untried_SA.any(1), first_S, chosen_S)
        return action_S

    def greedy(self) -> IntArray:
        """The action that each believes to be the best, (S,)."""
        best_S: IntArray = self.value_SA.argmax(1)
        return best_S

    def learn(self, action_S: IntArray, profit_S: FloatArray) -> None:
        """Moves the values of the actions that were taken."""
        at = (np.arange(len(action_S)), action_S)
        self.tried_SA[at] += 1
        step_S = np.maximum(1.0 / self.tried_SA[at], self.settings.rate)
        self.value_SA[at] += step_S * (profit_S - self.value_SA[at])


@dataclass(frozen=True)
class Responses:
    """Where best responses lead: the last actions (S,), whether nobody would move any more, after how many turns."""

    action_S: IntArray
    settled: bool
    turns: int


def best_responses(
    profit_of: Callable[[IntArray], FloatArray],
    sellers: int,
    actions: int = len(ASKS),
    *,
    start: int = LISTED,
    turns: int = 20,
) -> Responses:
    """Sellers in turn take the action with the greatest profit, given the others', until nobody moves.

    Where it ends by itself the actions are a Nash equilibrium in pure strategies; it may go round for ever.

    Args:
        profit_of: profits (S,) of all under actions (S,).
        sellers: S.
        actions: A.
        start: everybody's first action.
        turns: at most so many rounds over all sellers.
    """
    action_S = np.full(sellers, start)
    for turn in range(turns):
        moved = False
        for seller in range(sellers):
            profit_A = np.empty(actions)
            for action in range(actions):
                tried_S = action_S.copy()
                tried_S[seller] = action
                profit_A[action] = profit_of(tried_S)[seller]
            best = int(profit_A.argmax())
            # of equals the present one: else two that are worth the same would be exchanged for ever
            if profit_A[best] > profit_A[action_S[seller]] + 1e-12:
                action_S[seller], moved = best, True
        if not moved:
            return Responses(action_S, True, turn)
    return Responses(action_S, False, turns)
