"""Any ranker under rules: a policy, a mixture, a reranker, a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.policy.filtered import hidden_items, nothing_left, one_each, passing
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.retrieved import Retrieved
from llmrec.policy.slates import Again, bounded_slates
from llmrec.rules.book import Exposure, RuleBook
from llmrec.types import BoolArray, IntArray, Item, Ranker, Slate, State


class Ruled:
    """A `types.Ranker` whose slates obey rules.

    Policies and mixtures search under the rules, so that their slates are the best that obey them (`policy.slates`).
    Anything else is asked for longer lists until the best obeying slate of its order is known. A reranker whose
    order of items hangs on how many it is asked for obeys as well; best is then by the order of the longest list.

    Args:
        ranker: recommends.
        book: the rules.
        items: the catalogue in item-index order.
        exposure: counts what is shown, where rules ask for a share of a day.
        attributes: what filters look at beside; made of `items` by default.
        may_be_empty: a state to which nothing is left gets an empty slate in place of an error.
    """

    def __init__(
        self,
        ranker: Ranker,
        book: RuleBook,
        items: Sequence[Item],
        exposure: Exposure | None = None,
        *,
        attributes: Attributes | None = None,
        may_be_empty: bool = False,
    ) -> None:
        self.ranker, self.book, self.exposure, self.may_be_empty = ranker, book, exposure, may_be_empty
        self.attributes = book.attributes(Attributes.of(items) if attributes is None else attributes)
        self._policies = policies_of(ranker)

    def around(self, ranker: Ranker) -> Ruled:
        """Another ranker under the same rules, counted with this one."""
        return Ruled(ranker, self.book, (), self.exposure, attributes=self.attributes, may_be_empty=self.may_be_empty)

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        seen: Sequence[IntArray] | None = None,
        filters: Filters | Sequence[Filters] | None = None,
        **options: Any,
    ) -> list[Slate]:
        """The best slates that obey; shorter where fewer items are left. `options` are the ranker's.

        Raises:
            RequestError: the rules leave a state nothing at all, which may not be.
        """
        return self.obeying(states, k, self.asked(states, k, filters), seen=seen, **options)

    def asked(
        self, states: Sequence[State], k: int, filters: Filters | Sequence[Filters] | None = None
    ) -> list[Filters]:
        """What the rules, and `filters` beside them, ask of the slates of some states."""
        return self.book.asked(states, k, one_each(filters, len(states)), self.exposure)

    def obeying(
        self,
        states: Sequence[State],
        k: int,
        asked: Sequence[Filters],
        *,
        seen: Sequence[IntArray] | None = None,
        **options: Any,
    ) -> list[Slate]:
        """The best slates that are as `asked` says; they count as shown. Raises as `recommend` does."""
        rows, passes_RN = self._left(states, asked, seen)
        part, wishes = [states[b] for b in rows], [asked[b] for b in rows]
        options["seen"] = None if seen is None else [seen[b] for b in rows]
        if self._policies:
            self.tell()
            ranker: Any = self.ranker
            found = ranker.recommend(part, k, filters=wishes, **options)
        else:
            found = self._listed(part, k, wishes, passes_RN, options)
        slates = [Slate((), ())] * len(states)
        for b, slate in zip(rows, found, strict=True):
            slates[b] = slate
        if self.exposure is not None:
            self.exposure.add(slates, self.book.groups)
        return slates

    def _left(
        self, states: Sequence[State], asked: Sequence[Filters], seen: Sequence[IntArray] | None
    ) -> tuple[list[int], BoolArray]:
        """Rows of the R states to which anything is left, and the items that pass their filters, (R, N)."""
        none = np.empty((0, len(self.attributes.price_N)), dtype=np.bool_)
        if not asked or (self._policies and not self.may_be_empty):  # a search finds out by itself
            return list(range(len(states))), none
        passes_BN = passing(self.attributes, asked)
        if any(policy.repeat == "exclude" for policy in self._policies):
            for passes_N, hidden in zip(passes_BN, hidden_items(states, seen), strict=True):
                passes_N[hidden] = False
        rows = np.flatnonzero(passes_BN.any(axis=1)).tolist()
        if len(rows) < len(states) and not self.may_be_empty:
            raise nothing_left(next(wish for b, wish in enumerate(asked) if b not in rows))
        return rows, passes_BN[rows]

    def tell(self) -> None:
        """Tells the policies which items the rules are about, where they do not know it, or know other rules."""
        for policy in self._policies:
            known = self.attributes if policy.filters is None else policy.filters.attributes
            if policy.filters is None or any(known.groups.get(n) is not g for n, g in self.book.groups.items()):
                policy.set_attributes(self.book.attributes(known))

    def _listed(
        self,
        states: Sequence[State],
        k: int,
        asked: Sequence[Filters],
        passes_BN: BoolArray,
        options: dict[str, Any],
    ) -> list[Slate]:
        attributes, seen = self.attributes, options.pop("seen")

        def ask(part: Sequence[int], depth: int) -> Sequence[Slate]:
            own = None if seen is None else [seen[b] for b in part]
            return self.ranker.recommend([states[b] for b in part], depth, seen=own, **options)

        n_items = len(attributes.price_N)
        main = Again(ask, len(states), n_items, passes_BN)

        def floor(name: str) -> Again:
            return Again(ask, len(states), n_items, passes_BN & attributes.group(name))

        return bounded_slates(main, floor, asked, attributes, k)


@runtime_checkable
class Searching(Protocol):
    """A ranker that searches by policies and takes `filters` as they do, such as a mixture."""

    @property
    def policies(self) -> list[LanguagePolicy]:
        """The policies."""
        ...


def policies_of(ranker: Any) -> list[LanguagePolicy]:
    """The policies that a ranker recommends by, whose attributes must know the rules' groups."""
    if isinstance(ranker, LanguagePolicy):
        return [ranker]
    if isinstance(ranker, Retrieved):
        return policies_of(ranker.policy)
    return ranker.policies if isinstance(ranker, Searching) else []
