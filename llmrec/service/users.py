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
    """What came of a user's slates, and what that is as a history of one catalogue, made when it is asked for."""

    received: tuple[Received, ...]
    row_of: Mapping[str, int] | None = None
    since: tuple[Interaction, ...] = ()
    items: tuple[int, ...] = ()

    def read_by(self, row_of: Mapping[str, int]) -> _Past:
        """The same for this catalogue."""
        if self.row_of is row_of:
            return self
        since = happened(self.received, row_of)
        return _Past(self.received, row_of, since, tuple(dict.fromkeys(i.item for i in since)))


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
        past = self._past(user_id, row_of)
        if past.since:
            events = int(recommender.bundle.facts["history_events"])
            history = (*state.history, *past.since[max(0, len(past.since) - events) :])
            state = replace(state, history=history[max(0, len(history) - events) :])
            seen = _union(seen, past.items)
        note = "" if state.history else "Nothing is known of this user yet: a cold start."
        return Request(state, seen, note=note)

    def at_hand(self, user_id: str) -> bool:
        """Whether the user's feedback is in memory, so that `request` needs no disk."""
        return user_id in self._kept

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
                before = self._kept.pop(user_id, None)
                known = () if before is None else before.received
                last = known[-1].seq if known else 0
                # a report that came twice was read with the first one
                new = [] if receipt.seq <= last else self.log.outcomes_of(user_id, last, receipt.seq)
                past = _Past((*known, *new))
                self._keep(user_id, past if before is None or before.row_of is None else past.read_by(before.row_of))
        return receipt

    def _past(self, user_id: str, row_of: Mapping[str, int]) -> _Past:
        if self.log.shared:  # others may have received some since
            return _Past(tuple(self.log.outcomes_of(user_id))).read_by(row_of)
        with self._lock:
            found = self._kept.pop(user_id, None)
            if found is None:
                found = _Past(tuple(self.log.outcomes_of(user_id)))
            self._keep(user_id, found.read_by(row_of))
            return self._kept[user_id]

    def _keep(self, user_id: str, past: _Past) -> None:
        self._kept[user_id] = past
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def happened(received: Sequence[Received], row_of: Mapping[str, int]) -> tuple[Interaction, ...]:
    """Feedback as a history, as `dataset.history` tells it: of an item at one moment the strongest, in order.

    Items that the catalogue does not have are left out.
    """
    found: dict[tuple[int, int], tuple[EventKind, float | None]] = {}
    for one in received:
        row = row_of.get(one.outcome.item_id)
        if row is None:
            continue
        before = found.get((one.time, row))
        if before is None or RANK[one.outcome.kind] >= RANK[before[0]]:
            found[one.time, row] = (one.outcome.kind, one.outcome.value)
    return tuple(Interaction(row, kind, time, value) for (time, row), (kind, value) in found.items())


def _union(seen: IntArray, more: Sequence[int]) -> IntArray:
    return np.array(list(dict.fromkeys([*seen.tolist(), *more])), dtype=np.int64)
