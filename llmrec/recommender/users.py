"""What a data set knows of its users, told in the items of a run's catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from llmrec.assortment import hash_of_ids, items_frame
from llmrec.dataset.examples import History
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError
from llmrec.export import Bundle
from llmrec.finding import recorded_source
from llmrec.types import IntArray, State


class KnownUsers:
    """The users of `data`, where there is one, as the policy of `bundle` may be told of them."""

    def __init__(self, bundle: Bundle, data: Dataset | None) -> None:
        self.bundle, self.data = bundle, data
        self._fitted: Dataset | None = None
        self._history: History | None = None

    def has(self, user: str) -> bool:
        """Whether the data set, where there is one, knows the user."""
        return self.data is not None and self.data.user(user) is not None

    def state(self, user: str, before: int | None = None) -> tuple[State, IntArray]:
        """What is known of a user strictly before `before` (seconds), and all that the user has seen.

        Raises:
            RequestError: there is no data set, one of other items, or no such user in it.
        """
        data = self.fitted()
        if data is None:
            source = recorded_source(self.bundle.folder)
            lost = "" if source is None else f", and its data set ({source}) is not there any more, or was changed"
            raise RequestError(
                f"The run folder {self.bundle.folder} holds no users{lost}; give the data set's folder with --data "
                "(data= in Python) to recommend for a user, or use a prompt."
            )
        if self._history is None:
            self._history = History(data, int(self.bundle.facts["history_events"]))
        if not self.has(user):
            raise RequestError(
                f"User {user!r} is not in the data set; use a user id of its users table, or a prompt."
            )
        return self._history.state(user, before), np.asarray(self._history.seen(user, before))

    def fitted(self) -> Dataset | None:
        """The data set with exactly the catalogue's items; events with items that are gone since go as well.

        Raises:
            RequestError: its items are neither the catalogue's nor those that the recorded changes began with.
        """
        data = self.data
        if data is None or self._fitted is not None:
            return self._fitted
        item_ids, own = self.bundle.policy.catalogue.item_ids, data.items["item_id"].to_list()
        if own == item_ids:
            self._fitted = data
        elif _changed_since(self.bundle, own):
            known = data.events.filter(pl.col("item_id").is_in(list(item_ids)))
            items = items_frame(self.bundle.items)
            self._fitted = Dataset(items, data.users, known, data.manifest).with_events(known)
        else:
            raise RequestError(
                "The data set's items are not those of the model's catalogue; give the data set of the run."
            )
        return self._fitted


def _changed_since(bundle: Bundle, item_ids: Sequence[str]) -> bool:
    """Whether a data set of these items is that of the run before items came and went, or lists the items of now."""
    recorded = bundle.facts.get("assortment")
    if recorded is None:
        return False
    now = bundle.policy.catalogue.item_ids
    return hash_of_ids(item_ids) == recorded.get("first_items") or set(item_ids) == set(now)
