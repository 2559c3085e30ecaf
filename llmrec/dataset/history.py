"""Every user's past, cut at any moment: a state at time t holds only events with time < t.

Inside a history, events of equal time stand in their `order` where the data know it. Where they do not, they are one
unordered set and stand before those that are known, by item index.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import polars as pl

from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.types import EventKind, IntArray, Interaction, State

RANK: dict[EventKind, int] = {"impression": 0, "click": 1, "cart": 2, "rating": 3, "conversion": 4}
"""The strongest feedback of an item at a moment is the one that a state tells."""
_KIND_OF_RANK: dict[int, EventKind] = {rank: kind for kind, rank in RANK.items()}


def indexed(dataset: Dataset, events: pl.DataFrame) -> pl.DataFrame:
    """`events` with the item index as column `item` (Int64)."""
    index = pl.DataFrame({"item_id": dataset.items["item_id"], "item": np.arange(dataset.n_items, dtype=np.int64)})
    found = events.join(index, on="item_id", how="left", maintain_order="left")
    if found["item"].null_count():
        bad = found.filter(pl.col("item").is_null())["item_id"][0]
        raise DataError(f"Item {bad!r} stands in the events but not in the items; add it there or clean the data.")
    return found


def strongest(events: pl.DataFrame) -> pl.DataFrame:
    """One row for each (user, item, time): its strongest feedback (`rank`), the value and the `order` of that one.

    `events` has the column `item`; impressions are left out, they are no choice of the user. Each user's rows stand
    together, sorted by time, order and item.
    """
    chosen = events.filter(pl.col("kind") != "impression")
    user = pl.col("user_id").cast(pl.Categorical).to_physical().alias("user")  # sorts faster than text
    rank = pl.col("kind").replace_strict(RANK, return_dtype=pl.Int64).alias("rank")
    ranked = chosen.select(user, "user_id", "item", "time", "value", "order", rank)
    ordered = ranked.sort("user", "time", "item", "rank", "value", "order", nulls_last=False)
    group = [pl.col(name) for name in ("user", "time", "item")]
    # The table is sorted with the strongest last, so a group's last row is its maximum: no group-by over millions of
    # groups.
    is_last = pl.any_horizontal(column != column.shift(-1) for column in group).fill_null(True)
    last = ordered.filter(is_last)
    if last["order"].null_count() < last.height:
        last = last.sort("user", "time", "order", "item", nulls_last=False)
    return last.drop("user")


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Pauses the cyclic garbage collector: millions of new objects without cycles make it scan in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Timeline:
    """Items by user and time, with a binary search for how many of a user's lie strictly before a moment.

    Args:
        table: Columns user_id, time, item; each user's rows together, sorted by time.
    """

    def __init__(self, table: pl.DataFrame) -> None:
        runs = table["user_id"].rle().struct.unnest()
        lengths = runs["len"].cast(pl.Int64).to_numpy()
        ends = np.cumsum(lengths, dtype=np.int64)
        starts: IntArray = ends - lengths
        self.items: IntArray = np.array(table["item"].to_numpy(), dtype=np.int64)
        self.items.flags.writeable = False
        self.times: IntArray = table["time"].to_numpy()
        self._users = np.repeat(np.arange(len(lengths)), lengths)
        self._starts = np.append(starts, len(self.items))  # the last one is an empty run, for unknown users
        self._row = {user: row for row, user in enumerate(runs["value"])}

    def rows(self, user_id: str | None, before: int | None = None) -> tuple[int, int]:
        """First and last + 1 row of what the user did strictly before `before` (None: at any time)."""
        row = self._row.get(user_id, -1) if user_id is not None else -1
        if row < 0:
            return 0, 0
        low, high = int(self._starts[row]), int(self._starts[row + 1])
        return low, high if before is None else low + int(np.searchsorted(self.times[low:high], before, side="left"))

    def rows_B(self, user_ids: Sequence[str], before_B: IntArray) -> tuple[IntArray, IntArray]:
        """`rows` for many users and moments at once: two arrays of shape (B,)."""
        row_B = np.fromiter((self._row.get(u, -1) for u in user_ids), dtype=np.int64, count=len(user_ids))
        start_B = self._starts[row_B]
        if not len(self.times):
            return start_B, start_B
        # one sorted key for (user, time): users are `span` apart, farther than any two times
        first, last = int(self.times.min()), int(self.times.max()) + 1
        span = last - first + 1
        key = self._users * span + (self.times - first)
        wanted_B = row_B * span + (np.clip(before_B, first, last) - first)
        end_B = np.searchsorted(key, wanted_B, side="left")
        return start_B, np.where(row_B < 0, start_B, end_B).astype(np.int64)


class History:
    """Every user's past, ready to be cut at any moment.

    Args:
        dataset: The data set, for items and profiles.
        max_events: How many of the last interactions a state keeps; 0 keeps none.
        events: Events to draw on instead of all of the data set's.
    """

    def __init__(self, dataset: Dataset, max_events: int, *, events: pl.DataFrame | None = None) -> None:
        self.max_events = max_events
        self._profiles: dict[str, str] = dict(zip(dataset.users["user_id"], dataset.users["profile"], strict=True))
        self._table = strongest(indexed(dataset, dataset.events if events is None else events))
        self._columns = [self._table[name].to_numpy() for name in ("item", "rank", "time")]
        self._values = self._table["value"].to_list()
        self._choices = Timeline(self._table)
        self._interactions: dict[str, tuple[Interaction, ...]] = {}

    def state(self, user_id: str | None, before: int | None = None) -> State:
        """What is known of a user strictly before the time `before` (seconds; None: all there is).

        An unknown user, or None, gets an empty history: the cold start.
        """
        low, end = self._choices.rows(user_id, before)
        return self._state(user_id, before, end - low)

    def states(self, user_ids: Sequence[str], before_B: IntArray) -> tuple[list[State], list[IntArray]]:
        """`state` and `seen` for many users and moments (shape (B,)) at once."""
        low_B, end_B = self._choices.rows_B(user_ids, before_B)
        first_B, last_B = self._first_sights.rows_B(user_ids, before_B)
        counts, moments = (end_B - low_B).tolist(), before_B.tolist()
        items = self._first_sights.items
        with no_collection():
            states = [self._state(u, t, n) for u, t, n in zip(user_ids, moments, counts, strict=True)]
            seen = [items[low:high] for low, high in zip(first_B.tolist(), last_B.tolist(), strict=True)]
        return states, seen

    def counts(self, user_ids: Sequence[str], before_B: IntArray) -> IntArray:
        """How many interactions of each user lie strictly before each moment: (B,)."""
        low_B, end_B = self._choices.rows_B(user_ids, before_B)
        return end_B - low_B

    def whole(self, user_id: str) -> tuple[Interaction, ...]:
        """All interactions of a user, oldest first, whatever `max_events` is."""
        return self._all(user_id)

    def profile(self, user_id: str) -> str:
        """The user's profile; empty for one who is unknown."""
        return self._profiles.get(user_id, "")

    def seen(self, user_id: str | None, before: int | None = None) -> IntArray:
        """Indices of all items that the user chose strictly before `before`, in order of first sight.

        Unlike `State.seen()` this is not bounded by `max_events`. The array is a read-only view.
        """
        low, end = self._first_sights.rows(user_id, before)
        return self._first_sights.items[low:end]

    def last(self, user_id: str, item: int, before: int | None = None) -> Interaction | None:
        """The user's last choice of `item` strictly before `before` (seconds), or None."""
        low, end = self._choices.rows(user_id, before)
        past = self._all(user_id)[: end - low] if end > low else ()
        return next((i for i in reversed(past) if i.item == item), None)

    def _state(self, user_id: str | None, before: int | None, count: int) -> State:
        if user_id is None:
            return State(time=before)
        # A state is a slice of one tuple a user, so a thousand states of a user hold their interactions once.
        history = self._all(user_id)[max(0, count - self.max_events) : count] if count and self.max_events else ()
        return State(user_id, self.profile(user_id), history, time=before)

    def _all(self, user_id: str) -> tuple[Interaction, ...]:
        """All interactions of a user, made at first use: a state's history is a slice of them."""
        made = self._interactions.get(user_id)
        if made is None:
            low, high = self._choices.rows(user_id)
            rows = zip(*(column[low:high].tolist() for column in self._columns), self._values[low:high], strict=True)
            made = tuple(Interaction(item, _KIND_OF_RANK[rank], time, value) for item, rank, time, value in rows)
            self._interactions[user_id] = made
        return made

    @cached_property
    def _first_sights(self) -> Timeline:
        return Timeline(self._table.unique(["user_id", "item"], keep="first", maintain_order=True))
