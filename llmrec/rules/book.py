"""Rules made ready for one catalogue: which items each is about, and what it asks of a request."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
        lock: of several threads that count.
    """

    clock: Callable[[], float] = time.time
    day: int = -1
    shown: int = 0
    of_group: dict[str, int] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def begin(self) -> None:
        """Forgets the counts of another day."""
        # a clock that goes back stays in the later day: else its counts would be lost
        today = int(self.clock() // DAY_S)
        if today > self.day:
            self.day, self.shown, self.of_group = today, 0, {}

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """No other thread counts meanwhile, and what was counted within is taken back where the block fails."""
        with self.lock:
            before = self.day, self.shown, dict(self.of_group)
            try:
                yield
            except BaseException:
                self.day, self.shown, self.of_group = before
                raise

    def add(self, slates: Sequence[Slate], groups: dict[str, BoolArray]) -> None:
        """Counts slates that were shown."""
        self.begin()
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

    @property
    def daily(self) -> tuple[AtLeast, ...]:
        """Floors of all that is shown in a day."""
        return tuple(rule for rule in self.rules if isinstance(rule, AtLeast) and rule.over == "day")

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
        lasting = self.lasting(states, k, filters)
        if exposure is None:
            return [self.alone(one, k) for one in lasting]
        return self.today(lasting, [k] * len(lasting), exposure)

    def lasting(self, states: Sequence[State], k: int, filters: Sequence[Filters] = ()) -> list[Filters]:
        """The same without floors of a day: what holds whenever the slates are made."""
        return [self._of(state, k, filters[b] if filters else Filters()) for b, state in enumerate(states)]

    def alone(self, asked: Filters, k: int) -> Filters:
        """What `lasting` asks, and floors of a day held by a slate of k for itself."""
        return _bounded(asked, [(rule, _share(rule, k)) for rule in self.daily])

    def today(
        self, asked: Sequence[Filters], places: Sequence[int], exposure: Exposure, *, spare: bool = False
    ) -> list[Filters]:
        """What `lasting` asks, and so much of the floors of a day as makes them whole after each slate.

        Args:
            asked: of slates that are shown one after the other.
            places: of each slate.
            exposure: what was shown before them.
            spare: use up nothing that was shown beyond the floors, so that slates that are being made beside these
                find all that they count on.
        """
        exposure.begin()
        promised = dict(exposure.of_group)
        shown, found = exposure.shown, []
        for one, k in zip(asked, places, strict=True):
            shown += k
            lows = []
            for rule in self.daily:
                # as many as make the share whole if the slates before it show what they were asked to
                low = _of_places(rule, shown) - promised.get(rule.name, 0)
                low = min(max(low, _share(rule, k) if spare else 0), k)
                promised[rule.name] = promised.get(rule.name, 0) + low
                lows.append((rule, low))
            found.append(_bounded(one, lows))
        return found

    def holds_today(self, asked: Filters, slate: Slate, exposure: Exposure) -> bool:
        """Whether the floors of a day are whole after a slate, or it was asked for all that could be had."""
        exposure.begin()
        lows = {bound.group: bound.low for bound in asked.bounds}
        for rule in self.daily:
            count = int(self.groups[rule.name][list(slate.items_K)].sum())
            wanted = _of_places(rule, exposure.shown + len(slate.items_K)) - exposure.of_group.get(rule.name, 0)
            short_of_what_was_asked = count < lows.get(rule.name, 0)
            if count < min(wanted, len(slate.items_K)) and not short_of_what_was_asked:
                return False
        return True

    def _of(self, state: State, k: int, asked: Filters) -> Filters:
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
                if rule.over == "slate":
                    bounds.append(Bound(rule.name, low=min(_share(rule, k), k)))
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


def _share(rule: AtLeast, k: int) -> int:
    """Places of a slate of k that a floor asks for by itself."""
    return (rule.least or 0) if rule.share is None else _of_places(rule, k)


def _of_places(rule: AtLeast, places: int) -> int:
    return math.ceil((rule.share or 0.0) * places - 1e-9)


def _bounded(asked: Filters, lows: Sequence[tuple[AtLeast, int]]) -> Filters:
    """`asked` with floors beside; none where they ask for nothing."""
    more = [Bound(rule.name, low=low) for rule, low in lows if low > 0]
    return dataclasses.replace(asked, bounds=tuple(dict.fromkeys((*asked.bounds, *more)))) if more else asked


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
