"""Slates that explore, with the exact probability of every place.

A propensity is P(item at its place | the state, the items above), which is what learning from a log of slates needs
(`llmrec.training.losses`: Des Raj's weights). It is computed and not counted, and sums to 1 over the items that could
have stood there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.errors import ConfigError, RequestError
from llmrec.policy.admissible import Admissible
from llmrec.policy.drawn_slates import draw_slates
from llmrec.policy.filtered import one_each, passing
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rules import Exposure, RuleBook, Ruled
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.types import BoolArray, IntArray, Item, Ranker, Slate, State


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
        self,
        states: Sequence[State],
        k: int,
        names: Sequence[str],
        *,
        seen: Sequence[IntArray] | None = None,
        filters: Sequence[Filters] | None = None,
    ) -> list[Proposal]:
        """A slate of at most `k` items for each state.

        Args:
            states: who is served.
            k: places.
            names: of the slates; equal names draw with equal luck.
            seen: what each user has seen beside the state; left out where repeats are excluded.
            filters: what each slate must obey, bounds on the whole of it among them; every place is drawn among
                what may still stand there, so a propensity is that of the slate that obeys.

        Raises:
            RequestError: nothing is left to show, or a filter that is unknown.
        """
        ...


@dataclass(frozen=True)
class WithoutReplacement:
    """Draws a slate from the policy itself, place by place without replacement (Plackett-Luce), by Gumbel top-k.

    P(i at place k | above) = pi_T(i) / (1 - sum of pi_T above), pi_T the policy at `temperature` among what filters
    leave. Where filters bound the slate as a whole every place is a draw of its own from pi_T among what may still
    stand there (`policy.drawn_slates`).

    Attributes:
        policy: a language model; what it excludes has no probability. It must know the attributes that filters name.
        seed: of the draws.
        temperature: divides the logits; below 1 explores less.
        exclude_seen: whether seen items are left out; by default as the policy's `repeat` says.
    """

    policy: LanguagePolicy
    seed: int
    temperature: float = 1.0
    exclude_seen: bool | None = None

    @property
    def name(self) -> str:
        """How slates are drawn."""
        return f"without-replacement {self.temperature:g}"

    def propose(
        self,
        states: Sequence[State],
        k: int,
        names: Sequence[str],
        *,
        seen: Sequence[IntArray] | None = None,
        filters: Sequence[Filters] | None = None,
    ) -> list[Proposal]:
        """See `Explorer`."""
        # by the slate's name and not by its place in a batch: the same request twice is the same slate
        keys = [stream_seed(self.seed, "online", "slate", name) for name in names]
        drawn = draw_slates(
            self.policy,
            states,
            k,
            keys,
            seen=seen,
            exclude_seen=self.exclude_seen,
            filters=filters,
            temperature=self.temperature,
        )
        return [Proposal(one.items_K, tuple(math.exp(value) for value in one.log_probs_K)) for one in drawn]


@dataclass(frozen=True)
class EpsilonGreedy:
    """Fills each place with the next item of the ranker's list, or with probability epsilon with any item not above.

    P(i at place k | above) = (1 - epsilon) [i is the best of the list not above] + epsilon / (items left). Which coin
    fell is not part of it: an item of the list that was drawn at random has the probability of both ways. Filters
    take items from the list and from what is left, and bounds on the slate close items as places are filled.

    Attributes:
        ranker: anything whose lists are deterministic. `epsilon` 0 serves its list as it is.
        n_items: of the catalogue.
        epsilon: share of places that explore, 0 to 1.
        seed: of the draws.
        repeat: whether items that a user has seen may be drawn ("allow" or "exclude"), as the ranker has it.
        attributes: what filters look at; only needed where there are any.
    """

    ranker: Ranker
    n_items: int
    epsilon: float
    seed: int
    repeat: str = "exclude"
    attributes: Attributes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ConfigError(f"Epsilon is {self.epsilon}; it must lie between 0 and 1.")

    @property
    def name(self) -> str:
        """How slates are drawn."""
        return f"epsilon {self.epsilon:g}"

    def propose(
        self,
        states: Sequence[State],
        k: int,
        names: Sequence[str],
        *,
        seen: Sequence[IntArray] | None = None,
        filters: Sequence[Filters] | None = None,
    ) -> list[Proposal]:
        """See `Explorer`."""
        k, wishes = min(k, self.n_items), one_each(filters, len(states))
        lists = self._lists(states, k, seen, wishes)
        may_BN = passing(self._known(), wishes) if wishes else np.ones((len(states), self.n_items), dtype=np.bool_)
        made = []
        for b, (state, name, ranked) in enumerate(zip(states, names, lists, strict=True)):
            left_N = may_BN[b]
            if self.repeat == "exclude":
                left_N[list(state.seen())] = False
                if seen is not None:
                    left_N[seen[b]] = False
            left_N[list(ranked)] = True  # what the ranker shows may be shown
            rule = Admissible.of(wishes[b], self._known(), k) if wishes and wishes[b].bounds_slate else None
            random = numpy_stream(self.seed, "online", "slate", name)
            made.append(self._filled(ranked, left_N, k, random, rule))
        return made

    def _known(self) -> Attributes:
        if self.attributes is None:
            raise RequestError("This explorer knows no attributes of its items; give it some before filtering.")
        return self.attributes

    def _lists(
        self, states: Sequence[State], k: int, seen: Sequence[IntArray] | None, wishes: Sequence[Filters]
    ) -> list[tuple[int, ...]]:
        """The ranker's items for each state, best first: k that obey, and under bounds what takes their places."""
        if not wishes:
            return [one.items_K for one in self.ranker.recommend(states, k, seen=seen)]
        ruled = Ruled(self.ranker, RuleBook((), {}), (), attributes=self._known())
        lists = [one.items_K for one in ruled.obeying(states, k, wishes, seen=seen)]
        if self.epsilon == 0 or not any(wish.bounds_slate for wish in wishes):
            return lists
        # an item that was drawn may close some of the list: those that come next stand in for them
        more = ruled.obeying(states, min(2 * k, self.n_items), [wish.unbounded for wish in wishes], seen=seen)
        return [tuple(dict.fromkeys((*own, *further.items_K))) for own, further in zip(lists, more, strict=True)]

    def _filled(
        self, ranked: Sequence[int], left_N: BoolArray, k: int, random: np.random.Generator, rule: Admissible | None
    ) -> Proposal:
        items: list[int] = []
        chances: list[float] = []
        while len(items) < k:
            open_N = left_N if rule is None else rule.next_N(items, left_N)
            free = int(open_N.sum())
            # At most k - 1 places stand above, so a list of k still has an item; a list that is short by itself is
            # gone on with by drawing.
            best = next((item for item in ranked if open_N[item]), None)
            if not free or (best is None and self.epsilon == 0):
                break
            share = self.epsilon if best is not None else 1.0
            drawn = int(np.flatnonzero(open_N)[random.integers(free)])
            item = drawn if best is None or random.random() < share else best
            items.append(item)
            chances.append(share / free + (1 - share) * (item == best))
            left_N[item] = False
        if not items:
            raise RequestError("Nothing is left to show for a state; allow repeats, or add items.")
        return Proposal(tuple(items), tuple(chances))


class UnderRules:
    """An explorer whose slates obey rules (docs/rules.md), whatever is drawn.

    Args:
        explorer: draws the slates.
        book: the rules.
        items: the catalogue in item-index order.
        exposure: counts what is shown, where rules ask for a share of a day; without it a floor of a day holds for
            each slate.
    """

    def __init__(
        self, explorer: Explorer, book: RuleBook, items: Sequence[Item], exposure: Exposure | None = None
    ) -> None:
        self.explorer, self.book, self.exposure = explorer, book, exposure
        known = Attributes.of(items)
        if isinstance(explorer, WithoutReplacement):
            Ruled(explorer.policy, book, items, attributes=known).tell()
        elif isinstance(explorer, EpsilonGreedy):
            Ruled(explorer.ranker, book, items, attributes=known).tell()
            self.explorer = replace(explorer, attributes=book.attributes(explorer.attributes or known))

    @property
    def name(self) -> str:
        """How slates are drawn."""
        return self.explorer.name

    def propose(
        self,
        states: Sequence[State],
        k: int,
        names: Sequence[str],
        *,
        seen: Sequence[IntArray] | None = None,
        filters: Sequence[Filters] | None = None,
    ) -> list[Proposal]:
        """See `Explorer`; `filters` hold beside the rules. What is proposed counts as shown."""
        asked = self.book.asked(states, k, one_each(filters, len(states)), self.exposure)
        made = self.explorer.propose(states, k, names, seen=seen, filters=asked)
        if self.exposure is not None:
            self.exposure.add([Slate(one.items_K, one.propensity_K) for one in made], self.book.groups)
        return made
