"""Events to states: what was known about a user at a moment, and what the user then chose.

Everything here obeys one rule: a state at time t holds only events with time < t. Events with equal time are one
unordered set, so none of them is in another's state, and inside a history they are ordered by item index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

import numpy as np
import polars as pl

from llmrec.dataset.signals import Signal
from llmrec.dataset.split import Part, Split
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.seeding import numpy_stream
from llmrec.types import EVENT_KINDS, EventKind, Example, IntArray, Interaction, State

RANK: dict[EventKind, int] = {"impression": 0, "click": 1, "rating": 2, "conversion": 3}
_KIND_OF_RANK: dict[int, EventKind] = {rank: kind for kind, rank in RANK.items()}
_NOTHING = np.empty(0, dtype=np.int64)
_NOTHING.flags.writeable = False


def indexed(dataset: Dataset, events: pl.DataFrame) -> pl.DataFrame:
    """`events` with the item index as column `item` (Int64)."""
    index = pl.DataFrame({"item_id": dataset.items["item_id"], "item": np.arange(dataset.n_items, dtype=np.int64)})
    found = events.join(index, on="item_id", how="left", maintain_order="left")
    if found["item"].null_count():
        bad = found.filter(pl.col("item").is_null())["item_id"][0]
        raise DataError(f"Item {bad!r} stands in the events but not in the items; add it there or clean the data.")
    return found


def strongest(events: pl.DataFrame) -> pl.DataFrame:
    """One row for each (user, item, time): its strongest feedback (`rank`) and the value of that one.

    `events` has the column `item`; impressions are left out, they are no choice of the user. The rows come sorted
    by user, time and item.
    """
    chosen = events.filter(pl.col("kind") != "impression")
    ranked = chosen.select(
        "user_id", "item", "time", "value", pl.col("kind").replace_strict(RANK, return_dtype=pl.Int64).alias("rank")
    )
    by = ["user_id", "time", "item", "rank", "value"]
    ordered = ranked.sort(by, nulls_last=False)
    return ordered.unique(["user_id", "time", "item"], keep="last", maintain_order=True)


class History:
    """Every user's past, ready to be cut at any moment.

    Args:
        dataset: The data set, for items and profiles.
        max_events: How many of the last interactions a state keeps; 0 keeps none.
        events: Events to draw on instead of all of the data set's.
    """

    def __init__(self, dataset: Dataset, max_events: int, *, events: pl.DataFrame | None = None) -> None:
        self.max_events = max_events
        self._profiles = dict(zip(dataset.users["user_id"], dataset.users["profile"], strict=True))
        table = strongest(indexed(dataset, dataset.events if events is None else events))
        self._items: IntArray = table["item"].to_numpy()
        self._times: IntArray = table["time"].to_numpy()
        self._ranks: IntArray = table["rank"].to_numpy()
        self._values = table["value"].to_list()
        self._range = _ranges(table["user_id"])
        self._interactions: dict[str, tuple[Interaction, ...]] = {}
        self._firsts: dict[str, tuple[IntArray, IntArray]] = {}

    def state(self, user_id: str | None, before: int | None = None) -> State:
        """What is known of a user strictly before the time `before` (seconds; None: all there is).

        An unknown user, or None, gets an empty history: the cold start.
        """
        history: tuple[Interaction, ...] = ()
        profile = ""
        if user_id is not None:
            profile = self._profiles.get(user_id, "")
            count = self._count(user_id, before)
            if count and self.max_events:
                history = self._all(user_id)[max(0, count - self.max_events) : count]
        return State(user_id=user_id, profile=profile, history=history, time=before)

    def seen(self, user_id: str | None, before: int | None = None) -> IntArray:
        """Indices of all items that the user chose strictly before `before`, in order of first sight.

        Unlike `State.seen()` this is not bounded by `max_events`. The array is a read-only view.
        """
        if user_id is None or user_id not in self._range:
            return _NOTHING
        items, times = self._first_sights(user_id)
        return items if before is None else items[: np.searchsorted(times, before, side="left")]

    def last(self, user_id: str, item: int, before: int | None = None) -> Interaction | None:
        """The user's last choice of `item` strictly before `before` (seconds), or None."""
        count = self._count(user_id, before)
        past = self._all(user_id)[:count] if count else ()
        return next((i for i in reversed(past) if i.item == item), None)

    def _count(self, user_id: str, before: int | None) -> int:
        low, high = self._range.get(user_id, (0, 0))
        if before is None:
            return high - low
        return int(np.searchsorted(self._times[low:high], before, side="left"))

    def _all(self, user_id: str) -> tuple[Interaction, ...]:
        """All interactions of a user, made at first use: a state's history is a slice of them."""
        made = self._interactions.get(user_id)
        if made is None:
            low, high = self._range[user_id]
            columns = (self._items[low:high].tolist(), self._ranks[low:high].tolist(), self._times[low:high].tolist())
            rows = zip(*columns, self._values[low:high], strict=True)
            made = tuple(Interaction(item, _KIND_OF_RANK[rank], time, value) for item, rank, time, value in rows)
            self._interactions[user_id] = made
        return made

    def _first_sights(self, user_id: str) -> tuple[IntArray, IntArray]:
        made = self._firsts.get(user_id)
        if made is None:
            low, high = self._range[user_id]
            rows = np.sort(np.unique(self._items[low:high], return_index=True)[1])
            items = self._items[low:high][rows]
            items.flags.writeable = False
            made = self._firsts[user_id] = (items, self._times[low:high][rows])
        return made


def _ranges(users: pl.Series) -> dict[str, tuple[int, int]]:
    """First and last + 1 row of each user in a column that is sorted by user."""
    runs = users.rle().struct.unnest()
    lengths = runs["len"].cast(pl.Int64)
    ends = lengths.cum_sum()
    return {user: (low, high) for user, low, high in zip(runs["value"], ends - lengths, ends, strict=True)}


@dataclass(frozen=True)
class Examples(Sequence[Example]):
    """Examples with, for each, all items that its user had chosen before (item indices; may exceed the history).

    `dropped_repeats` counts targets left out because the data set excludes repeats and the user had seen them.
    """

    rows: list[Example]
    seen: list[IntArray] = field(repr=False)
    dropped_repeats: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return Examples(self.rows[index], self.seen[index], self.dropped_repeats)
        return self.rows[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.rows)


def examples(
    dataset: Dataset,
    split: Split,
    part: Part,
    *,
    signal: Literal["click", "conversion"] = "click",
    history_events: int = 20,
    limit: int | None = None,
    seed: int = 0,
) -> Examples:
    """One example for each (user, time, item) of `part` with a positive event, ordered by time, user and item.

    The state of a training example draws on training events only; one of valid or test may also hold the user's
    earlier events of its own part. Targets that share user and time share one state. With the split "given" and
    rows given by the data, valid and test are those rows.

    Args:
        dataset: The data set.
        split: Its split.
        part: Which part's events are the targets.
        signal: Targets are clicks (conversions among them are marked in `feedback`) or conversions alone.
        history_events: How many interactions a state keeps.
        limit: Keep a uniform sample of this many.
        seed: The run's seed, for the sample.
    """
    if split.name == "given" and dataset.rows is not None and part != "train":
        return _from_rows(dataset, split, part, history_events, limit, seed)
    events = indexed(dataset, split.until(part))
    history = History(dataset, history_events, events=events.drop("item"))
    targets = target_events(dataset, indexed(dataset, split.part(part)))
    if signal == "conversion":
        targets = targets.filter(pl.col("conversion"))
    else:
        targets = targets.filter(pl.col("click"))
    total = targets.height
    if dataset.manifest.repeat == "exclude" and part != "train":
        first = strongest(events).group_by("user_id", "item").agg(pl.col("time").min().alias("first"))
        repeat = (pl.col("first") < pl.col("time")).fill_null(False)
        targets = targets.join(first, on=["user_id", "item"], how="left").filter(~repeat)
    dropped = total - targets.height
    targets = targets.sort("time", "user_id", "item")
    chosen = targets[sample(targets.height, limit, seed, "examples", part, signal)]
    return _build(history, chosen, dropped)


def target_events(dataset: Dataset, events: pl.DataFrame) -> pl.DataFrame:
    """One row for each (user, item, time) of `events` with `click` and `conversion` by the data set's rules."""
    manifest = dataset.manifest
    marks = events.with_columns(
        Signal.parse(manifest.click).mask().alias("click"),
        Signal.parse(manifest.conversion).mask().alias("conversion"),
    )
    marked = marks.filter(pl.col("click") | pl.col("conversion"))
    return marked.group_by("user_id", "item", "time").agg(pl.col("click", "conversion").any())


def sample(count: int, limit: int | None, seed: int, *name: object) -> IntArray:
    """Rows of a uniform sample of at most `limit` out of `count`, in order."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(numpy_stream(seed, *name).choice(count, size=limit, replace=False)).astype(np.int64)


def _build(history: History, targets: pl.DataFrame, dropped: int) -> Examples:
    rows: list[Example] = []
    seen: list[IntArray] = []
    key: tuple[str, int] | None = None
    columns = targets.select("user_id", "time", "item", "conversion").iter_rows()
    for user_id, time, item, conversion in columns:
        if (user_id, time) != key:
            key = (user_id, time)
            state, known = history.state(user_id, time), history.seen(user_id, time)
        rows.append(Example(state, item, "conversion" if conversion else "click"))
        seen.append(known)
    return Examples(rows, seen, dropped)


def _from_rows(
    dataset: Dataset, split: Split, part: Part, history_events: int, limit: int | None, seed: int
) -> Examples:
    """Rows as the data gives them; ratings and times of their history are looked up where the user is known."""
    assert dataset.rows is not None
    table = dataset.rows.filter(pl.col("split") == part)
    history = History(dataset, history_events)
    kind = Signal.parse(dataset.manifest.click).kind
    exclude = dataset.manifest.repeat == "exclude"
    rows: list[Example] = []
    seen: list[IntArray] = []
    for user_id, past_ids, target_id, time in table.select("user_id", "history", "target", "time").iter_rows():
        past = [_index(dataset, i) for i in past_ids]
        target = _index(dataset, target_id)
        known = np.array(list(dict.fromkeys(past)), dtype=np.int64)
        if exclude and target in known:
            continue
        kept = past[max(0, len(past) - history_events) :]
        interactions = tuple(_interaction(history, user_id, item, time, kind) for item in kept)
        profile = history.state(user_id, time).profile
        rows.append(Example(State(user_id, profile, interactions, time=time), target))
        seen.append(known)
    dropped = table.height - len(rows)
    keep = sample(len(rows), limit, seed, "examples", part, "rows").tolist()
    return Examples([rows[i] for i in keep], [seen[i] for i in keep], dropped)


def _interaction(history: History, user_id: str, item: int, time: int | None, kind: EventKind) -> Interaction:
    if time is None:
        return Interaction(item, kind, 0)
    found = history.last(user_id, item, time + 1)  # the row says it is past, even where both share a day
    if found is None:
        return Interaction(item, kind, time - 1)
    return Interaction(item, found.feedback, min(found.time, time - 1), found.value)


def _index(dataset: Dataset, item_id: str) -> int:
    index = dataset.item_index.get(item_id)
    if index is None:
        raise DataError(f"Item {item_id!r} stands in the evaluation rows but not in the items; add it there.")
    return index


assert set(RANK) == set(EVENT_KINDS)
