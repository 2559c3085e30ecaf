"""Rules made ready for one catalogue: which items each is about, and what it asks of a request."""

from __future__ import annotations

import dataclasses
import difflib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmrec.catalogue.filters import Attributes, Bound, Filters
from llmrec.errors import ConfigError
from llmrec.printing import short_line
from llmrec.rules.types import AtLeast, AtMost, ForbiddenWords, ItemSet, MinimumAge, Never, People, Rule
from llmrec.text.forbidden import WordFilter
from llmrec.text.profiles import profile_facts, stated_age
from llmrec.types import BoolArray, Item, Slate, State

DAY_S = 86_400
_GENDERS = {"m": "man", "male": "man", "f": "woman", "female": "woman"}


@dataclass
class Exposure:
    """Places that were shown today, for floors of a day; begins anew with every day (UTC).

    It is kept in memory by one process: several that serve the same people keep their floors each for itself, and
    with them the floor of all together.

    Attributes:
        clock: seconds since 1970.
        day: the number of the day that is counted.
        shown: places that were shown.
        of_group: places of each rule's items.
    """

    clock: Callable[[], float] = time.time
    day: int = -1
    shown: int = 0
    of_group: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        """Forgets the counts of another day."""
        # a clock that goes back stays in the later day: else its counts would be lost
        today = int(self.clock() // DAY_S)
        if today > self.day:
            self.day, self.shown, self.of_group = today, 0, {}

    def add(self, slates: Sequence[Slate], groups: dict[str, BoolArray]) -> None:
        """Counts slates that were shown."""
        self.shown += sum(len(slate.items_K) for slate in slates)
        for name, group_N in groups.items():
            more = sum(int(group_N[list(slate.items_K)].sum()) for slate in slates)
            self.of_group[name] = self.of_group.get(name, 0) + more


@dataclass(frozen=True)
class RuleBook:
    """Rules with the items that each is about; make it by `of`.

    Attributes:
        rules: in their order.
        groups: by the name of a rule, whether each item is one that it is about, (N,).
    """

    rules: tuple[Rule, ...]
    groups: dict[str, BoolArray]

    @classmethod
    def of(cls, rules: Sequence[Rule], items: Sequence[Item], *, known: bool = True) -> RuleBook:
        """Finds the items of every rule.

        Args:
            rules: what must hold.
            items: the catalogue in item-index order.
            known: whether every id, category and brand that a rule names must be there. Where items come and go, the
                last one of a category may have gone.

        Raises:
            ConfigError: a rule names what no item has, or rules contradict one another: they forbid every item, or
                ask for items that they forbid, or for more than they allow.
        """
        attributes = Attributes.of(items)
        found = {}
        for rule in rules:
            if isinstance(rule, ForbiddenWords):
                found[rule.name] = _holding(items, rule.words)
            elif rule.items is not None:
                found[rule.name] = _members(rule.items, items, attributes, rule.name, known=known)
        book = cls(tuple(rules), found)
        book._check(len(items))
        return book

    def attributes(self, known: Attributes) -> Attributes:
        """What filters look at, with the rules' groups beside those that are there."""
        return known.with_groups({**known.groups, **self.groups})

    def asked(
        self,
        states: Sequence[State],
        k: int,
        filters: Sequence[Filters] = (),
        exposure: Exposure | None = None,
    ) -> list[Filters]:
        """What the rules ask of slates of k, together with what was asked beside.

        Args:
            states: whose slates they are; their profiles say whom they are for.
            k: places.
            filters: none, or those of each request.
            exposure: what was shown today; without it a floor of a day holds for each slate.
        """
        if exposure is not None:
            exposure.begin()
        promised: dict[str, int] = {}
        return [
            self._of(state, k, filters[b] if filters else Filters(), exposure, promised, b)
            for b, state in enumerate(states)
        ]

    def _of(
        self, state: State, k: int, asked: Filters, exposure: Exposure | None, promised: dict[str, int], before: int
    ) -> Filters:
        facts, age = profile_facts(state.profile), stated_age(state.profile)
        without, bounds, most = [], [], asked.max_per_category
        for rule in self.rules:
            if isinstance(rule, ForbiddenWords):
                without.append(rule.name)
            elif isinstance(rule, MinimumAge):
                if rule.unknown == "forbid" if age is None else age < rule.age:
                    without.append(rule.name)
            elif not _meant(rule.to, facts):
                continue
            elif isinstance(rule, Never):
                without.append(rule.name)
            elif isinstance(rule, AtLeast):
                low = _places(rule, k, exposure, promised, before)
                bounds += [Bound(rule.name, low=min(low, k))] if low > 0 else []
            elif rule.items is None:
                most = rule.most if most is None else min(most, rule.most)
            else:
                bounds.append(Bound(rule.name, high=rule.most))
        return dataclasses.replace(
            asked,
            without=tuple(sorted({*asked.without, *without})),
            bounds=tuple(dict.fromkeys((*asked.bounds, *bounds))),
            max_per_category=most,
        )

    def remarks(self, asked: Filters, slate: Slate, k: int) -> list[str]:
        """What a slate could not give, in sentences: places that stayed empty, floors that were not met."""
        said = []
        if len(slate.items_K) < k and self.rules:
            said.append(f"Only {len(slate.items_K)} of {k} items are left under the rules.")
        for bound in asked.bounds:
            count = int(self.groups[bound.group][list(slate.items_K)].sum()) if bound.group in self.groups else 0
            if bound.group in self.groups and count < bound.low:
                said.append(f"Only {count} of {bound.low} that {short_line(bound.group)!r} asks for are to be had.")
        return said

    def _check(self, n_items: int) -> None:
        """Raises `ConfigError` for rules that contradict one another, whoever asks."""
        forbidden_N = np.zeros(n_items, dtype=np.bool_)
        for rule in self.rules:
            everybody = isinstance(rule, ForbiddenWords) or (isinstance(rule, Never) and not rule.to.fields)
            if everybody:
                forbidden_N |= self.groups[rule.name]
        if forbidden_N.all():
            raise ConfigError("The rules forbid every item of the catalogue; allow some.")
        for rule in self.rules:
            if not isinstance(rule, AtLeast):
                continue
            own_N = self.groups[rule.name]
            if own_N.any() and not (own_N & ~forbidden_N).any():
                raise ConfigError(f"Rule {short_line(rule.name)!r} asks for items all of which other rules forbid.")
            for other in self.rules:
                if not isinstance(other, AtMost) or other.items is None or other.to.fields:
                    continue
                inside = own_N.any() and not (own_N & ~self.groups[other.name]).any()
                over = rule.least is not None and rule.least > other.most
                if inside and over:
                    raise ConfigError(
                        f"Rule {short_line(rule.name)!r} asks for at least {rule.least} of items of which "
                        f"{short_line(other.name)!r} allows {other.most}."
                    )
        shares = [rule for rule in self.rules if isinstance(rule, AtLeast) and rule.share and not rule.to.fields]
        apart = sum(self.groups[rule.name].astype(int) for rule in shares) if shares else np.zeros(1)
        total = sum(rule.share or 0.0 for rule in shares)
        if total > 1 + 1e-9 and np.max(apart) <= 1:
            raise ConfigError(
                f"The rules ask for shares of {total:.0%} together of items apart; ask for 100% at most."
            )


def _places(rule: AtLeast, k: int, exposure: Exposure | None, promised: dict[str, int], before: int) -> int:
    """Places of a slate of k that a floor asks for."""
    if rule.share is None:
        return rule.least or 0
    if rule.over == "slate" or exposure is None:
        return math.ceil(rule.share * k - 1e-9)
    # As many as make the share whole after this slate, if those before it in the batch show what they were asked to.
    had = exposure.of_group.get(rule.name, 0) + promised.get(rule.name, 0)
    low = min(max(math.ceil(rule.share * (exposure.shown + (before + 1) * k) - 1e-9) - had, 0), k)
    promised[rule.name] = promised.get(rule.name, 0) + low
    return low


def _meant(to: People, facts: dict[str, str]) -> bool:
    """Whether somebody of these facts is meant."""
    for name, values in to.fields:
        own = facts.get(name.strip().lower())
        if own is None:
            if to.unknown == "allow":
                return False
        elif own.lower() not in {_value(name, value) for value in values}:
            return False
    return True


def _value(name: str, value: str) -> str:
    plain = value.strip().lower()
    return _GENDERS.get(plain, plain) if name.strip().lower() == "gender" else plain


def _holding(items: Sequence[Item], words: Sequence[str]) -> BoolArray:
    """Which items hold any of the words in their own texts, (N,)."""
    listed = WordFilter({"": words})
    texts = (" . ".join((i.title, i.description, i.brand, *i.categories)) for i in items)
    return np.array([bool(listed.find(text)) for text in texts], dtype=np.bool_)


def _members(wanted: ItemSet, items: Sequence[Item], attributes: Attributes, name: str, *, known: bool) -> BoolArray:
    """Which items are all that `wanted` says, (N,)."""
    found_N = np.ones(len(items), dtype=np.bool_)
    one_each = {item_id: np.array([index]) for item_id, index in attributes.item_index.items()}
    for named, there, what in (
        (wanted.ids, one_each, "item"),
        (wanted.categories, attributes.members, "category"),
        (wanted.brands, attributes.brands, "brand"),
    ):
        if named:
            any_N = np.zeros_like(found_N)
            for one in named:
                if one in there:
                    any_N[there[one]] = True
                elif known:
                    near = difflib.get_close_matches(one, list(there)[:100_000], n=1)
                    meant = f"did you mean {short_line(near[0])!r}?" if near else "look at the catalogue's names."
                    raise ConfigError(
                        f"Rule {short_line(name)!r} names the {what} {short_line(one)!r}, which no item has; {meant}"
                    )
            found_N &= any_N
    if wanted.price is not None:
        low, high = wanted.price.low, wanted.price.high
        with np.errstate(invalid="ignore"):  # NaN, no price, is on neither side of a bound
            found_N &= ~np.isnan(attributes.price_N)
            found_N &= (attributes.price_N >= low) if low is not None else True
            found_N &= (attributes.price_N <= high) if high is not None else True
    if wanted.words:
        found_N &= _holding(items, wanted.words)
    return found_N
