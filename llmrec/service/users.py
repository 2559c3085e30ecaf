"""What is known of users: their past in the data set, and what they did with the slates that were served since.

Nothing is stored here: the event log is the record, and what is kept in memory can be read from it again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrec.dataset.history import RANK
from llmrec.online.events import Outcome, Receipt, Received
from llmrec.online.log import EventLog
from llmrec.recommender import Recommender, Request
from llmrec.types import EventKind, IntArray, Interaction, State

KEPT = 10_000
"""Users whose feedback is kept in memory."""


@dataclass(frozen=True, slots=True)
class _Past:
    """What came of a user's slates as a history of one catalogue; it does not grow with every report.

    Attributes:
        row_of: rows of the catalogue's items.
        most: events of a history.
        last: sequence number up to which it was read.
        since: its end, `most` events and all of the last moment, as a report of that moment may still be joined.
        items: all items, in the order in which they first came.
    """

    row_of: Mapping[str, int]
    most: int
    last: int = 0
    since: tuple[Interaction, ...] = ()
    items: tuple[int, ...] = ()

    def then(self, received: Sequence[Received]) -> _Past:
        """The same with what came behind it."""
        if not received:
            return self
        since = happened(received, self.row_of, self.since)
        items = tuple(dict.fromkeys((*self.items, *(one.item for one in since))))
        first = max(0, len(since) - self.most)
        while first and since[first - 1].time == since[-1].time:
            first -= 1
        return replace(self, last=received[-1].seq, since=since[first:], items=items)


class Users:
    """States of users as they are now.

    Args:
        log: what was served and what came of it.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self._kept: OrderedDict[str, _Past] = OrderedDict()
        self._lock = threading.Lock()

    def request(self, user_id: str, recommender: Recommender, row_of: Mapping[str, int]) -> Request:
        """The user's state and all that the user has seen; one whom nobody knows is a cold start."""
        if recommender.has_user(user_id):
            state, seen = recommender.user_state(user_id)
        else:
            state, seen = State(user_id), np.zeros(0, dtype=np.int64)
        events = int(recommender.bundle.facts["history_events"])
        past = self._past(user_id, _Past(row_of, events))
        if past.since:
            history = (*state.history, *past.since[max(0, len(past.since) - events) :])
            state = replace(state, history=history[max(0, len(history) - events) :])
            seen = _union(seen, past.items)
        note = "" if state.history else "Nothing is known of this user yet: a cold start."
        return Request(state, seen, note=note)

    def at_hand(self, user_id: str, row_of: Mapping[str, int]) -> bool:
        """Whether the user's feedback is in memory for this catalogue, so that `request` needs no disk."""
        kept = self._kept.get(user_id)
        return kept is not None and kept.row_of is row_of

    def receive(self, outcome: Outcome) -> Receipt:
        """Logs feedback; when this returns it is on the disk, and the user's next state holds it.

        Raises:
            RequestError: see `EventLog.receive`.
        """
        (receipt,) = self.log.receive([outcome])
        _, user_id = self.log.user_of(outcome.slate_id)
        if user_id is not None and not self.log.shared:
            # Here, where a thread waits for the disk anyway, and not in the next request. Reading and keeping are one
            # step, so that of two reports at once none is lost.
            with self._lock:
                before = self._kept.get(user_id)
                # a report that came twice was read with the first one
                if before is not None and receipt.seq > before.last:
                    new = self.log.outcomes_of(user_id, before.last, receipt.seq)
                    self._keep(user_id, before.then(new))
        return receipt

    def _past(self, user_id: str, nothing: _Past) -> _Past:
        """What came of the user's slates, told as `nothing` says."""
        if self.log.shared:  # others may have received some since
            return nothing.then(self.log.outcomes_of(user_id))
        with self._lock:
            past = self._kept.get(user_id)
            if past is None or past.row_of is not nothing.row_of:
                past = nothing.then(self.log.outcomes_of(user_id))
            self._keep(user_id, past)
            return past

    def _keep(self, user_id: str, past: _Past) -> None:
        self._kept[user_id] = past
        self._kept.move_to_end(user_id)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def happened(
    received: Sequence[Received], row_of: Mapping[str, int], before: Sequence[Interaction] = ()
) -> tuple[Interaction, ...]:
    """Feedback behind a history, as `dataset.history` tells it: of an item at one moment the strongest, in order.

    Items that the catalogue does not have are left out.
    """
    found: dict[tuple[int, int], tuple[EventKind, float | None]] = {
        (one.time, one.item): (one.feedback, one.value) for one in before
    }
    for one in received:
        row = row_of.get(one.outcome.item_id)
        if row is None:
            continue
        known = found.get((one.time, row))
        if known is None or RANK[one.outcome.kind] >= RANK[known[0]]:
            found[one.time, row] = (one.outcome.kind, one.outcome.value)
    return tuple(Interaction(row, kind, time, value) for (time, row), (kind, value) in found.items())


def _union(seen: IntArray, more: Sequence[int]) -> IntArray:
    return np.array(list(dict.fromkeys([*seen.tolist(), *more])), dtype=np.int64)
