"""What a state is made of, and the state without some of it.

A part is an item of history and session with all of its events, a field of the profile, the free request, or one
field of the item cards (the brands of all entries). A state without a part is a state like any other: it is worded
anew, so that an older entry that had no room may come in where a newer one was left out, and what a recommender says
of it is what it would say of a person of whom that was never known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmrec.text.profiles import profile_fields
from llmrec.types import EventKind, Interaction, Item, State

PartKind = Literal["item", "profile", "context", "card"]
_STRENGTH: tuple[EventKind, ...] = ("impression", "click", "cart", "rating", "conversion")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a state. All text is untrusted.

    Attributes:
        kind: what it is.
        name: the item's title, the profile's field, the request, or the name of the cards' field.
        item_id: of an item.
        feedback: the strongest that the item got.
        value: the rating, where that is the feedback.
    """

    kind: PartKind
    name: str
    item_id: str | None = None
    feedback: EventKind | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """A state, and fields that its cards leave out."""

    state: State
    fields: frozenset[str] = frozenset()


class Parted:
    """A state in its parts.

    Args:
        state: the state.
        items: the catalogue in item-index order.
        card_fields: what the recommender reads of an item beside its title.

    Attributes:
        parts: items in the order of their latest events, then fields of the profile, the request, fields of cards.
    """

    def __init__(self, state: State, items: Sequence[Item], card_fields: Sequence[str] = ()) -> None:
        self.state = state
        events: dict[int, list[Interaction]] = {}
        for event in (*state.history, *state.session):
            events.setdefault(event.item, []).append(event)
            events[event.item] = events.pop(event.item)
        self._items, self._profile = list(events), profile_fields(state.profile)
        self._cards = tuple(card_fields) if events else ()
        told = [_item_part(items[item], own) for item, own in events.items()]
        told += [Part("profile", text) for text in self._profile]
        told += [Part("context", state.context)] if state.context else []
        self.parts: tuple[Part, ...] = (*told, *(Part("card", field) for field in self._cards))

    @property
    def whole(self) -> Variant:
        """The state with all parts."""
        return Variant(self.state)

    def of_kind(self, kind: PartKind) -> tuple[int, ...]:
        """Numbers of the parts of a kind."""
        return tuple(n for n, part in enumerate(self.parts) if part.kind == kind)

    def without(self, left_out: Iterable[int]) -> Variant:
        """The state without the parts of these numbers."""
        gone = frozenset(left_out)
        if not gone:
            return self.whole
        items = {self._items[n] for n in gone if n < len(self._items)}
        start = len(self._items)
        profile = "".join(text for n, text in enumerate(self._profile, start) if n not in gone)
        request = start + len(self._profile)
        context = "" if self.state.context and request in gone else self.state.context
        cards = request + bool(self.state.context)
        state = replace(
            self.state,
            profile=profile,
            context=context,
            history=_kept(self.state.history, items),
            session=_kept(self.state.session, items),
        )
        return Variant(state, frozenset(name for n, name in enumerate(self._cards, cards) if n in gone))


def _kept(events: Sequence[Interaction], gone: Collection[int]) -> tuple[Interaction, ...]:
    return tuple(event for event in events if event.item not in gone)


def _item_part(item: Item, events: Sequence[Interaction]) -> Part:
    said = max(events, key=lambda event: (_STRENGTH.index(event.feedback), event.time))
    value = said.value if said.feedback == "rating" else None
    return Part("item", item.title, item.item_id, said.feedback, value)
