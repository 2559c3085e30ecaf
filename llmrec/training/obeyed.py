"""What rules leave of the catalogue for the draws of a training, state by state.

A rule about single items closes prefixes, as in decoding: draws are from pi_F, and scores, reference, KL and entropy
are taken under the same F. What rules bound of a slate as a whole is had where slates are drawn (`session_source`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.errors import ConfigError
from llmrec.files import sha256_of
from llmrec.printing import short_line
from llmrec.rules import AtLeast, AtMost, Rule, RuleBook, write_rules
from llmrec.types import BoolArray, IntArray, Item, State


@dataclass(frozen=True)
class Obeyed:
    """Rules that a training's draws obey, with the catalogue that they are about; make it by `of`."""

    book: RuleBook
    attributes: Attributes

    @classmethod
    def of(cls, rules: Sequence[Rule], items: Sequence[Item]) -> Obeyed:
        """The rules made ready for the items.

        Raises:
            ConfigError: rules that contradict one another or name what no item has.
        """
        book = RuleBook.of(rules, items)
        return cls(book, book.attributes(Attributes.of(items)))

    def asked(self, states: Sequence[State], places: int) -> list[Filters]:
        """What the rules ask of a slate for each state; a floor of a day is asked of each slate."""
        return self.book.asked(states, places)

    @property
    def digest(self) -> str:
        """By which a training knows whether it was under other rules."""
        groups = (np.packbits(self.book.groups[name]).tobytes() for name in sorted(self.book.groups))
        return sha256_of(write_rules(self.book.rules), *groups)


def about_items(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules that take single items away and bound no slate."""
    return tuple(rule for rule in rules if not isinstance(rule, AtMost | AtLeast))


def require_no_floor(rules: Sequence[Rule], drawn: str) -> None:
    """Raises `ConfigError` for a floor where `drawn` draws items one by one, of which none is a slate.

    A cap is no matter there: no single item is more than a rule can allow.
    """
    for rule in rules:
        if isinstance(rule, AtLeast):
            raise ConfigError(
                f"Rule {short_line(rule.name)!r} asks for a floor in every slate, but {drawn} draws single items, "
                "which hold none; set rules_in_training to items (floors and caps then hold in answers alone), or "
                "session.slate to the places of a slate (ppo, reinforce)."
            )


@dataclass(frozen=True)
class Closed(Sequence[IntArray]):
    """The items that may not be drawn at each of S states: row by row those that `passes_N` does not close to all.

    Rows are made when they are asked for: a rule may close half of a catalogue to half of the people.

    Attributes:
        asked_S: what the rules ask for each state.
        attributes: the catalogue that they are about.
        seen_S: what each user has seen where repeats are excluded; else None.
    """

    asked_S: Sequence[Filters]
    attributes: Attributes
    seen_S: Sequence[IntArray] | None

    def __len__(self) -> int:
        return len(self.asked_S)

    def __getitem__(self, row: int) -> IntArray:  # type: ignore[override]  # nobody asks for slices
        return np.flatnonzero(self.passes_N & ~self.open_N(row))

    @cached_property
    def passes_N(self) -> BoolArray:
        """Which items the rules leave to anybody."""
        left_N = np.zeros(len(self.attributes.price_N), dtype=np.bool_)
        for asked in dict.fromkeys(asked.attributes for asked in self.asked_S):
            left_N |= self.attributes.passes(asked or Filters())
        return left_N

    def open_N(self, row: int) -> BoolArray:
        """The items that may be drawn at a state."""
        open_N = self.attributes.passes(self.asked_S[row]).copy()
        if self.seen_S is not None:
            open_N[self.seen_S[row]] = False
        return open_N

    def take(self, rows: Sequence[int]) -> Closed:
        """Some of the states, in that order."""
        seen = None if self.seen_S is None else [self.seen_S[row] for row in rows]
        return Closed([self.asked_S[row] for row in rows], self.attributes, seen)


def closed_to(
    states: Sequence[State],
    seen: Sequence[IntArray],
    repeat: str,
    rules: Obeyed | None = None,
    *,
    places: int = 1,
) -> Sequence[IntArray] | None:
    """The items that may not be drawn at each state; None where all may.

    Args:
        states: where something is drawn.
        seen: item indices that their users have seen beside those in the states.
        repeat: "exclude" where what was seen may not be drawn.
        rules: what is obeyed beside.
        places: of a slate.
    """
    both = None
    if repeat == "exclude":
        both = [
            np.union1d(np.asarray(s.seen(), dtype=np.int64), np.asarray(more, dtype=np.int64))
            for s, more in zip(states, seen, strict=True)
        ]
    return both if rules is None else Closed(rules.asked(states, places), rules.attributes, both)


def places_left(closed: Sequence[IntArray] | None, states: int, items: int) -> IntArray:
    """How many items may be drawn at each of so many states, (S,)."""
    if closed is None:
        return np.full(states, items)
    left = items if not isinstance(closed, Closed) else int(closed.passes_N.sum())
    return np.array([left - len(row) for row in closed], dtype=np.int64)


def chosen(closed: Sequence[IntArray] | None, rows: Sequence[int]) -> Sequence[IntArray] | None:
    """What is closed at some of the states."""
    if closed is None or isinstance(closed, Closed):
        return closed if closed is None else closed.take(rows)
    return [closed[row] for row in rows]


def shut(closed: Sequence[IntArray], row: int, items: IntArray) -> BoolArray:
    """Which of some items (-1: none, which is never shut) may not be drawn at a state."""
    if isinstance(closed, Closed):
        return np.asarray((items >= 0) & ~closed.open_N(row)[items])
    return np.isin(items, closed[row])


def told(closed: Sequence[IntArray] | None, rules: Obeyed | None) -> str:
    """What tells the same closed items from others."""
    if not isinstance(closed, Closed) or rules is None:
        return repr(closed)
    return f"{closed.seen_S!r} {rules.digest}"


def left_out_states(given: int, kept: int, rules: Obeyed | None) -> str | None:
    """A sentence on states at which rules leave nothing to draw; None where there are none."""
    if rules is None or kept == given:
        return None
    return f"{given - kept} of {given} states were left out of the training: the rules leave nothing to draw there."


def in_all(*said: str | None) -> str | None:
    """Sentences as one text; None where there is none."""
    return " ".join(filter(None, said)) or None
