"""What the page does, without a browser: slates of all systems for a visit, with reasons and what has moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmrec.errors import RequestError
from llmrec.page.search import Search
from llmrec.page.systems import Loaded, chosen
from llmrec.page.visit import Act, Did, Visit, moved
from llmrec.printing import one_line, short_line
from llmrec.recommender import Request
from llmrec.recommender.answers import named_first
from llmrec.text.render import StateRenderer
from llmrec.types import EventKind, Item, State

MOST_PLACES, MOST_USERS = 20, 500
SHOWN_HISTORY = 12


@dataclass(frozen=True, slots=True)
class Told:
    """An item with what is known of it; all of it is untrusted text on one line."""

    item: int
    title: str
    facts: str


@dataclass(frozen=True, slots=True)
class Card:
    """A place of a slate.

    Attributes:
        told: the item.
        reason: why, in a sentence; "" where that was not asked for.
        moved: places that it has come up since the slate before; None where it is new there.
        only: whether no other slate has it.
        did: what the visitor did with it.
    """

    told: Told
    reason: str = ""
    moved: int | None = 0
    only: bool = False
    did: Act | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A system's slate, best first."""

    name: str
    role: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """All that the page shows of a visit.

    Attributes:
        visit: whose it is.
        columns: the slates.
        did: acts of the visit, oldest first.
        history: what was known before, newest last, and what was done with it.
        notes: how the request was read.
        state: the text that the policies read.
        seconds: that all of it took.
    """

    visit: Visit
    columns: tuple[Column, ...]
    did: tuple[tuple[Told, Act], ...]
    history: tuple[tuple[Told, EventKind], ...]
    notes: tuple[str, ...]
    state: str
    seconds: float


class Studio:
    """Answers for all visitors, one after the other.

    Args:
        loaded: a run with its systems.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.reader = loaded, loaded.reader
        self.items: Sequence[Item] = loaded.reader.bundle.items
        self.search_index = Search(self.items)
        data = loaded.reader.data
        self.currency = "" if data is None else data.manifest.currency
        self._lock = threading.Lock()  # models and their caches answer one caller at a time

    @property
    def names(self) -> list[str]:
        """Of the systems."""
        return list(self.loaded.systems)

    @property
    def weighed(self) -> tuple[str, ...]:
        """The terms of the reward whose weights the run reads."""
        stated = self.reader.bundle.facts.get("stated") or {}
        return tuple(stated.get("terms", ()))

    def users(self) -> list[str]:
        """The first users of the data set; others can be asked for by their id."""
        data = self.reader.data
        return [] if data is None else data.users["user_id"].head(MOST_USERS).to_list()

    def search(self, query: str, limit: int = 8) -> list[Told]:
        """Items for what was typed so far."""
        return [self.told(item) for item in self.search_index.find(query, limit)]

    def told(self, item: int) -> Told:
        """An item as it is shown."""
        return Told(item, short_line(self.items[item].title), facts_of(self.items[item], self.currency))

    def act(self, visit: Visit, item: object, kind: object) -> Visit:
        """The visit after a click ("click") or a purchase ("conversion") of an item, by its index.

        Raises:
            RequestError: what a browser should not have sent.
        """
        row = int(item) if isinstance(item, int) or (isinstance(item, str) and item.isdecimal()) else -1
        if not 0 <= row < len(self.items):
            raise RequestError(f"There is no item {one_line(item, 40)}; show the slates anew.")
        if kind == "click":
            return visit.then(row, "click")
        if kind == "conversion":
            return visit.then(row, "conversion")
        raise RequestError(f"Nobody can {one_line(kind, 40)!r} an item here; click or buy it.")

    def request(self, visit: Visit, k: int) -> Request:
        """The visit as a request: what was known before, and the visit as the running session.

        Raises:
            RequestError: an unknown user.
        """
        if visit.who == "user" and visit.text:
            known = self.reader.read(user=visit.text, k=k)
        elif visit.who == "prompt" and visit.text:
            known = self.reader.read(prompt=visit.text, k=k)
        else:
            known = self.reader.read(state=State(profile=visit.text if visit.who == "profile" else ""), k=k)
        state = visit.state(known.state)
        request = replace(known, state=state, filters=self.reader.under_rules(state, None, k))
        return self.reader.preferring(request, dict(visit.prefer))

    def board(
        self, visit: Visit, names: Sequence[str], *, k: int = 6, reasons: int = 3, before: Board | None = None
    ) -> Board:
        """The slates of a visit.

        Args:
            visit: whose.
            names: of the systems.
            k: places.
            reasons: so many of the first places of each slate say why they are there.
            before: what was shown before, where it was for the same visitor: cards say how far they moved.

        Raises:
            RequestError: an unknown user, no system, or places outside 1 .. 20.
        """
        begin = time.monotonic()
        if not 1 <= k <= MOST_PLACES:
            raise RequestError(f"{k} places cannot be shown; choose 1 to {MOST_PLACES}.")
        k, systems = min(k, len(self.items)), chosen(self.loaded, names)
        with self._lock:
            request = self.request(visit, k)
            found = {}
            for system in systems:
                items = system.slate(request, k).items_K
                found[system.name] = (items, system.reasons(request, items[: max(0, reasons)], k))
            state = self._text(request.state)
        same = before is not None and (before.visit.who, before.visit.text) == (visit.who, visit.text)
        was = {c.name: [card.told.item for card in c.cards] for c in before.columns} if before and same else {}
        acts = {one.item: one.kind for one in visit.did}
        columns = []
        for system in systems:
            items, why = found[system.name]
            others = {item for name, (other, _) in found.items() if name != system.name for item in other}
            cards = tuple(
                Card(
                    self.told(item),
                    one_line(why.get(item, "")),
                    up,
                    len(found) > 1 and item not in others,
                    acts.get(item),
                )
                for item, up in zip(items, moved(was.get(system.name), items), strict=True)
            )
            columns.append(Column(system.name, system.role, cards))
        return Board(
            visit,
            tuple(columns),
            tuple((self.told(one.item), one.kind) for one in visit.did),
            tuple((self.told(i.item), i.feedback) for i in request.state.history[-SHOWN_HISTORY:]),
            tuple(_notes(request)),
            state,
            time.monotonic() - begin,
        )

    def _text(self, state: State) -> str:
        renderer = self.reader.bundle.policy.renderer
        return renderer.prompt(state) if isinstance(renderer, StateRenderer) else ""


def facts_of(item: Item, currency: str = "") -> str:
    """What stands beside a title: price, category and brand, as far as they are known."""
    price = "" if item.price is None else f"{item.price:,.2f} {currency}".strip()
    return " · ".join(filter(None, (price, short_line(", ".join(item.categories)), short_line(item.brand))))


def _notes(request: Request) -> list[str]:
    """How a request was read, a sentence each."""
    said = [f"“{short_line(m.text)}” is read as {short_line(m.title)}." for m in request.matches]
    if request.rest:
        said.append(f"The rest is context: {short_line(request.rest)}.")
    if request.words:
        said.append(named_first(request.words))
    return [*said, *([one_line(request.note)] if request.note else [])]


__all__ = ["Board", "Card", "Column", "Did", "Studio", "Told", "facts_of"]
