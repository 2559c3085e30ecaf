"""Events to examples: what was known about a user at a moment, and what the user then chose.

A state holds only what happened strictly earlier (see `History`). Targets that share user and time, known order or
not, are one set with one state: none of them is in another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

import numpy as np
import polars as pl

from llmrec.dataset.history import History, indexed, no_collection, strongest
from llmrec.dataset.manifest import Signal
from llmrec.dataset.split import Part, Split
from llmrec.dataset.store import Dataset
from llmrec.dataset.withheld import Withheld
from llmrec.errors import DataError
from llmrec.seeding import numpy_stream
from llmrec.types import EventKind, Example, IntArray, Interaction, State

__all__ = ["Examples", "History", "examples"]


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
    withheld: Withheld | None = None,
    new_items: bool = False,
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
        withheld: What was taken out of `dataset` and `split`. No state holds it, but users had seen those items.
        new_items: The targets are the withheld events of `part` with an item of its set, not those of `split`.
    """
    if new_items and withheld is None:
        raise DataError("New items were asked for, but no items are withheld; set 'data.withheld.test'.")
    if split.name == "given" and dataset.rows is not None and part != "train":
        table = withheld.asked_rows(part) if withheld is not None and new_items else dataset.rows
        return _from_rows(dataset, table.filter(pl.col("split") == part), part, history_events, limit, seed)
    events = indexed(dataset, split.until(part))
    history = History(dataset, history_events, events=events.drop("item"))
    sights = history
    asked = split.part(part)
    if withheld is not None:
        # Whether an item may still be recommended is a rule about what its user has; a state is what a system reads.
        events = pl.concat([events, indexed(dataset, withheld.events.until(part))])
        sights = History(dataset, 0, events=events.drop("item"))
        asked = withheld.asked(part) if new_items else asked
    targets = target_events(dataset, indexed(dataset, asked))
    if signal == "conversion":
        targets = targets.filter(pl.col("conversion"))
    else:
        targets = targets.filter(pl.col("click"))
    total = targets.height
    if dataset.manifest.repeat == "exclude" and part != "train":
        # A repeat is judged by all that the user did before, not by what still stands in the state.
        first = strongest(events).group_by("user_id", "item").agg(pl.col("time").min().alias("first"))
        repeat = (pl.col("first") < pl.col("time")).fill_null(False)
        targets = targets.join(first, on=["user_id", "item"], how="left").filter(~repeat)
    dropped = total - targets.height
    targets = targets.sort("time", "user_id", "item")
    chosen = targets[sample(targets.height, limit, seed, "examples", part, signal)]
    return _build(history, sights, chosen, dropped)


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
    # In the order of time, as without a limit: what is fitted on them may depend on order.
    return np.sort(numpy_stream(seed, *name).choice(count, size=limit, replace=False)).astype(np.int64)


def state_rows(rows: pl.DataFrame) -> tuple[list[str], IntArray, IntArray]:
    """Users and times of the distinct states of `rows` (sorted by time and user), and each row's state."""
    keys = rows.select("time", "user_id").unique(maintain_order=True).with_row_index("state_row")
    found = rows.join(keys, on=["time", "user_id"], how="left", maintain_order="left")["state_row"]
    return keys["user_id"].to_list(), keys["time"].to_numpy(), found.cast(pl.Int64).to_numpy()


def _build(history: History, sights: History, targets: pl.DataFrame, dropped: int) -> Examples:
    """Examples whose states are cut from `history`, and what their users had seen from `sights`."""
    users, times, state_row = state_rows(targets)
    states, seen = history.states(users, times)
    if sights is not history:
        seen = sights.states(users, times)[1]
    columns = (state_row.tolist(), targets["item"].to_list(), targets["conversion"].to_list())
    with no_collection():
        rows = [
            Example(states[row], item, "conversion" if conversion else "click")
            for row, item, conversion in zip(*columns, strict=True)
        ]
    return Examples(rows, [seen[row] for row in columns[0]], dropped)


def _from_rows(
    dataset: Dataset, table: pl.DataFrame, part: Part, history_events: int, limit: int | None, seed: int
) -> Examples:
    """Rows as the data gives them; ratings and times of their history are looked up where the user is known."""
    history = History(dataset, history_events)
    unknown = Signal.parse(dataset.manifest.click).kind
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
        interactions = _interactions(history, user_id, kept, time, unknown)
        profile = history.state(user_id, time).profile
        rows.append(Example(State(user_id, profile, interactions, time=time), target))
        seen.append(known)
    dropped = table.height - len(rows)
    keep = sample(len(rows), limit, seed, "examples", part, "rows").tolist()
    return Examples([rows[i] for i in keep], [seen[i] for i in keep], dropped)


def _interactions(
    history: History, user_id: str, items: Sequence[int], time: int | None, unknown: EventKind
) -> tuple[Interaction, ...]:
    """The interactions of a given history, with what the events say of each strictly before `time`.

    The n-th last place of an item is the n-th last of the user's events with it. Where there is none (it shares the
    target's time, or the events do not hold it) the place has the feedback `unknown`, no value, and the time of the
    place after it or, at the end, a second before `time`. Without `time` nothing can be looked up.
    """
    if time is None:
        return tuple(Interaction(item, unknown, 0) for item in items)
    following, before = time - 1, dict.fromkeys(items, time)
    found: list[Interaction] = []
    for item in reversed(items):
        # From the end backwards, so that the n-th last place of an item meets the n-th last event with it.
        event = history.last(user_id, item, before[item])
        found.append(event or Interaction(item, unknown, following))
        if event is not None:
            before[item] = following = event.time
    return tuple(reversed(found))


def _index(dataset: Dataset, item_id: str) -> int:
    index = dataset.item_index.get(item_id)
    if index is None:
        raise DataError(f"Item {item_id!r} stands in the evaluation rows but not in the items; add it there.")
    return index
