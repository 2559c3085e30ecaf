"""Sessions of people who look around and choose for themselves, whose interest may become somebody else's meanwhile.

What is chosen tells more than what is clicked of what a recommender shows. A `Follower` is the exact posterior of
what somebody wants now, given such a session; its lessons teach a model to read one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.seeding import numpy_stream
from llmrec.studies.adaptation.strangers import Posterior, some
from llmrec.types import Example, FloatArray, IntArray, Interaction, Slate, State

LOOKING = 3.0
"""Power of P(click) by which somebody who looks around chooses among all items."""
MOVES = 0.1
"""Chance before each choice that the interest becomes that of anybody."""
LONGEST = 10
"""Choices of a session."""
SHARPNESS = 4.0
"""Power of the posterior mean value that a lesson's answer is drawn from: softer than a ranking needs, so that
whoever learns from what is shown meets all items."""


def choices(appeal_TN: FloatArray, stream: np.random.Generator) -> list[int]:
    """One choice after another without repeats, each by the row of P(click) that is the interest then."""
    found: list[int] = []
    for appeal_N in appeal_TN:
        weight_N = appeal_N**LOOKING
        weight_N[found] = 0
        found.append(int(stream.choice(len(weight_N), p=weight_N / weight_N.sum())))
    return found


def whose(last: int, length: int, people: int, stream: np.random.Generator) -> IntArray:
    """Whose interest each choice follows, of so many people, where the last one is known: (length,).

    Everybody is as likely at each choice, so going back in time is as going on.
    """
    found = [last]
    while len(found) < length:
        found.append(int(stream.integers(people)) if stream.random() < MOVES else found[-1])
    return np.array(found[::-1][-length:] if length else [], dtype=np.int64)


def told(items: Sequence[int], time: int = 0) -> tuple[Interaction, ...]:
    """A session of these choices."""
    return tuple(Interaction(int(item), "click", time) for item in items)


@dataclass(frozen=True)
class Follower(Posterior):
    """Ranks by the posterior mean value of what is wanted now, given the choices of a session in their order.

    A hidden Markov model whose states are people: the interest stays, or becomes that of anybody with chance `MOVES`
    before each choice. Exact, with `people` as the prior.
    """

    def follow(self, weight_BP: FloatArray, before: Sequence[Sequence[int]], item_B: IntArray) -> FloatArray:
        """Weights of the people after one more choice each, sessions having chosen `before`; rows sum to 1."""
        appeal_PN = (1 - self.chance_PN3[:, :, 0]) ** LOOKING
        moved_BP = weight_BP
        if before and len(before[0]):
            moved_BP = (1 - MOVES) * weight_BP + MOVES / len(self.people)
        left_BP = appeal_PN.sum(axis=1) - np.stack([appeal_PN[:, list(chosen)].sum(axis=1) for chosen in before])
        found_BP = moved_BP * appeal_PN[:, item_B].T / left_BP
        return np.asarray(found_BP / found_BP.sum(axis=1, keepdims=True))

    def begin(self, sessions: int) -> FloatArray:
        """Weights before the first choice, (sessions, P)."""
        return np.full((sessions, len(self.people)), 1 / len(self.people))

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k items of the greatest posterior mean at each state, with the logarithm of their value."""
        slates = []
        for state in states:
            items, weight_BP = [event.item for event in state.session], self.begin(1)
            for at, item in enumerate(items):
                weight_BP = self.follow(weight_BP, [items[:at]], np.array([item]))
            mean_N = (weight_BP @ self.value_PN)[0]
            items_K = np.argsort(-mean_N, kind="stable")[:k]
            slates.append(Slate(tuple(items_K.tolist()), tuple(np.log(mean_N[items_K]).tolist())))
        return slates


def choosing_lessons(teacher: Follower, sessions: int, seed: int) -> list[Example]:
    """Sessions of people drawn anew, cut before each choice and behind the last, with an item favoured there."""
    stream = numpy_stream(seed, "adaptation", "choosing")
    people, appeal_PN = len(teacher.people), 1 - teacher.chance_PN3[:, :, 0]
    whose_SL = [whose(int(stream.integers(people)), LONGEST, people, stream) for _ in range(sessions)]
    items_SL = [choices(appeal_PN[row_L], stream) for row_L in whose_SL]
    weight_SP, found = teacher.begin(sessions), []
    for length in range(LONGEST + 1):
        for items_L, mean_N in zip(items_SL, weight_SP @ teacher.value_PN, strict=True):
            answer = int(some(stream, mean_N, SHARPNESS, 1)[0])
            found.append(Example(State(session=told(items_L[:length])), answer))
        if length < LONGEST:
            now_S = np.array([items_L[length] for items_L in items_SL])
            weight_SP = teacher.follow(weight_SP, [items_L[:length] for items_L in items_SL], now_S)
    return found
