"""What is known of users: their past in the data set, and what they did with the slates that were served since.

Nothing is stored here: the event log is the record, and what is kept in memory can be read from it again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from llmrec.dataset.history import RANK
from llmrec.online.events import Outcome, Receipt, Received
from llmrec.online.log import EventLog
from llmrec.recommender import Recommender, Request
from llmrec.types import EventKind, IntArray, Interaction, State

KEPT = 10_000
"""Users whose feedback is kept in memory."""


class Users:
    """States of users as they are now.

    Args:
        log: what was served and what came of it.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self._kept: OrderedDict[str, tuple[Received, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def request(self, user_id: str, recommender: Recommender, row_of: Mapping[str, int]) -> Request:
        """The user's state and all that the user has seen; one whom nobody knows is a cold start."""
        if recommender.has_user(user_id):
            state, seen = recommender.user_state(user_id)
        else:
            state, seen = State(user_id), np.zeros(0, dtype=np.int64)
        since = happened(self._received(user_id), row_of)
        if since:
            events = int(recommender.bundle.facts["history_events"])
            history = (*state.history, *since)
            state = replace(state, history=history[max(0, len(history) - events) :])
            seen = _union(seen, [i.item for i in since])
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
            with self._lock:
                self._kept.pop(user_id, None)
            self._received(user_id)  # here, where a thread waits for the disk anyway, and not in the next request
        return receipt

    def _received(self, user_id: str) -> tuple[Received, ...]:
        if self.log.shared:  # others may have received some since
            return tuple(self.log.outcomes_of(user_id))
        # Reading and keeping are one step, so that what is forgotten after a report is never put back from before it.
        with self._lock:
            found = self._kept.pop(user_id, None)
            if found is None:
                found = tuple(self.log.outcomes_of(user_id))
            self._kept[user_id] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return found


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
