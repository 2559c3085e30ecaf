"""Slates that explore, with the exact probability of every place.

A propensity is P(item at its place | the state, the items above), which is what learning from a log of slates needs
(`llmrec.training.losses`: Des Raj's weights). It is computed and not counted, and sums to 1 over the items that could
have stood there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from llmrec.errors import ConfigError, RequestError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.without_replacement import sample_without_replacement, slot_log_probs
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.types import IntArray, Ranker, State


@dataclass(frozen=True, slots=True)
class Proposal:
    """A slate to show: item indices, the highest place first, and P(item at its place | state, items above)."""

    items_K: tuple[int, ...]
    propensity_K: tuple[float, ...]


class Explorer(Protocol):
    """Turns a policy into slates. What is drawn for a slate depends on its name and state, on nothing beside it."""

    @property
    def name(self) -> str:
        """How slates are drawn, in a word."""
        ...

    def propose(
        self, states: Sequence[State], k: int, names: Sequence[str], *, seen: Sequence[IntArray] | None = None
    ) -> list[Proposal]:
        """A slate of at most `k` items for each state.

        Args:
            states: who is served.
            k: places.
            names: of the slates; equal names draw with equal luck.
            seen: what each user has seen beside the state; left out where repeats are excluded.

        Raises:
            RequestError: nothing is left to show.
        """
        ...


@dataclass(frozen=True)
class WithoutReplacement:
    """Draws a slate from the policy itself, place by place without replacement (Plackett-Luce), by Gumbel top-k.

    P(i at place k | above) = pi_T(i) / (1 - sum of pi_T above), pi_T the policy at `temperature`.

    Attributes:
        policy: a language model; what it excludes has no probability.
        seed: of the draws.
        temperature: divides the logits; below 1 explores less.
    """

    policy: LanguagePolicy
    seed: int
    temperature: float = 1.0

    @property
    def name(self) -> str:
        """How slates are drawn."""
        return f"without-replacement {self.temperature:g}"

    def propose(
        self, states: Sequence[State], k: int, names: Sequence[str], *, seen: Sequence[IntArray] | None = None
    ) -> list[Proposal]:
        """See `Explorer`."""
        policy = self.policy
        hidden = policy.exclude(states, seen) if policy.repeat == "exclude" else None
        # by the slate's name and not by its place in a batch: the same request twice is the same slate
        keys_B = torch.tensor([stream_seed(self.seed, "online", "slate", name) for name in names], dtype=torch.long)
        made = [Proposal((), ())] * len(states)
        for part, ids, mask in policy.batches(states, None):
            drawn = sample_without_replacement(
                policy.model,
                ids,
                mask,
                k,
                policy.index,
                keys_B=keys_B[part],
                exclude=None if hidden is None else hidden[part],
                temperature=self.temperature,
            )
            # whole: the slate holds all that may be shown, so its last place was certain
            whole_B = torch.isneginf(drawn.threshold_B)
            chance_BK = slot_log_probs(drawn.log_prob_BK, whole_B).exp().clamp(max=1.0)
            kept_B = (drawn.items_BK >= 0).sum(1).tolist()
            rows = zip(part, drawn.items_BK.tolist(), chance_BK.tolist(), kept_B, strict=True)
            for b, items, chances, kept in rows:
                made[b] = Proposal(tuple(items[:kept]), tuple(chances[:kept]))
        return made


@dataclass(frozen=True)
class EpsilonGreedy:
    """Fills each place with the next item of the ranker's list, or with probability epsilon with any item not above.

    P(i at place k | above) = (1 - epsilon) [i is the best of the list not above] + epsilon / (items left). Which coin
    fell is not part of it: an item of the list that was drawn at random has the probability of both ways.

    Attributes:
        ranker: anything whose lists are deterministic. `epsilon` 0 serves its list as it is.
        n_items: of the catalogue.
        epsilon: share of places that explore, 0 to 1.
        seed: of the draws.
        repeat: whether items that a user has seen may be drawn ("allow" or "exclude"), as the ranker has it.
    """

    ranker: Ranker
    n_items: int
    epsilon: float
    seed: int
    repeat: str = "exclude"

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ConfigError(f"Epsilon is {self.epsilon}; it must lie between 0 and 1.")

    @property
    def name(self) -> str:
        """How slates are drawn."""
        return f"epsilon {self.epsilon:g}"

    def propose(
        self, states: Sequence[State], k: int, names: Sequence[str], *, seen: Sequence[IntArray] | None = None
    ) -> list[Proposal]:
        """See `Explorer`."""
        lists = self.ranker.recommend(states, min(k, self.n_items), seen=seen)
        made = []
        for b, (state, name, ranked) in enumerate(zip(states, names, lists, strict=True)):
            left = np.ones(self.n_items, dtype=bool)
            if self.repeat == "exclude":
                left[list(state.seen())] = False
                if seen is not None:
                    left[seen[b]] = False
            random = numpy_stream(self.seed, "online", "slate", name)
            made.append(self._filled(list(ranked.items_K), left, min(k, self.n_items), random))
        return made

    def _filled(self, ranked: list[int], left: np.ndarray, k: int, random: np.random.Generator) -> Proposal:
        items: list[int] = []
        chances: list[float] = []
        left = left.copy()
        left[ranked] = True  # what the ranker shows may be shown
        while len(items) < k and (free := int(left.sum())):
            # At most k - 1 places stand above, so a list of k still has an item; a list that is short by itself is
            # gone on with by drawing.
            best = next((item for item in ranked if left[item]), None)
            if best is None and self.epsilon == 0:
                break
            share = self.epsilon if best is not None else 1.0
            drawn = int(np.flatnonzero(left)[random.integers(free)])
            item = drawn if best is None or random.random() < share else best
            items.append(item)
            chances.append(share / free + (1 - share) * (item == best))
            left[item] = False
        if not items:
            raise RequestError("Nothing is left to show for a state; allow repeats, or add items.")
        return Proposal(tuple(items), tuple(chances))
