"""Does a figure rest on what its system could not have known? A check that fails loudly.

Five things must not be, whatever the split: a held-out event among the training events, a state that holds something
not strictly earlier than its moment, a state that tells feedback which its user gave no earlier than that (whatever
time the state says), a training event of a user at or after the moment at which that same user is judged, and, under
the global cut in time, a training event of anybody at or after the first moment of the test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from llmrec.dataset.schema import show
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.types import Example

SPLITS = ("time", "leave-last-out", "given")


def check_leaks(dataset: Dataset, train: pl.DataFrame, examples: Sequence[Example], split: str) -> str:
    """Refuses figures that would rest on the future.

    Events are the same when user, item and time are. With the split "given" the data themselves draw the border, so
    training events after a row's moment are said in the note instead of refused, and rows without user or time
    (published rows may have neither) can only be checked by their states.

    Args:
        dataset: for the ids of item indices.
        train: all events that the weights or counts learnt from, in the columns of `Dataset.events`.
        examples: the held-out rows.
        split: "time", "leave-last-out" or "given".

    Returns:
        A sentence for the note of a table, where the split lets training look past a row's moment; else "".

    Raises:
        DataError: a leak, named with user, item, time and how to mend it, or a target outside the catalogue.
        ConfigError: an unknown split.
    """
    if split not in SPLITS:
        raise ConfigError(f"Split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    check_targets(dataset, examples)
    _check_states(dataset, examples)
    _refuse_told_feedback(dataset, examples)
    rows = _rows(dataset, examples)
    timed = rows.drop_nulls(["user_id", "time"])
    # Rows without user or time cannot be placed against training; their states were checked above.
    if train.is_empty() or timed.is_empty():
        return _unchecked(rows, timed)
    _refuse_same_event(train, timed)
    if split == "time":
        _refuse_late_training(train, timed)
    own = _own_future(train, timed)
    if split != "given" and own.height:
        _refuse_own_future(own)
    later = timed.filter(pl.col("time") <= train["time"].max())
    return " ".join(filter(None, [_note(split, timed, later, own), _unchecked(rows, timed)]))


def check_targets(dataset: Dataset, examples: Sequence[Example]) -> None:
    """Refuses (`DataError`) rows whose target is no item of the catalogue."""
    for row, example in enumerate(examples):
        if not 0 <= example.target < dataset.n_items:
            raise DataError(
                f"Held-out row {row} (user {show(example.state.user_id)}) has the target {example.target}, but the "
                f"catalogue of {dataset.manifest.name!r} has the item indices 0 to {dataset.n_items - 1}."
            )


def _check_states(dataset: Dataset, examples: Sequence[Example]) -> None:
    checked: set[int] = set()  # targets of one moment share their state
    for row, example in enumerate(examples):
        state = example.state
        if state.time is None or id(state) in checked:
            continue
        checked.add(id(state))
        for past in (*state.history, *state.session):
            if past.time >= state.time:
                what = "its own target" if past.item == example.target else "the item"
                raise DataError(
                    f"The state of held-out row {row} (user {show(state.user_id)}, time {state.time}) holds {what} "
                    f"{show(dataset.items['item_id'][past.item])} of time {past.time}, which is not strictly "
                    "earlier; build states from what happened before (llmrec.dataset.history.History)."
                )


def _refuse_told_feedback(dataset: Dataset, examples: Sequence[Example]) -> None:
    """Refuses values in a state that stand in the log, but of this user and item at the state's moment or later only.

    A state may name an earlier time than that of the event which it was filled from, so times alone do not show it.
    """
    told = _told(dataset, examples)
    # The earliest time at which the user gave this value on this item: if even that is not before the moment, the
    # state knows the future.
    given = dataset.events.drop_nulls("value").group_by("user_id", "item_id", "value").agg(pl.col("time").min())
    late = told.join(given, on=["user_id", "item_id", "value"], how="inner", maintain_order="left")
    late = late.filter(pl.col("time") >= pl.col("moment"))
    if late.height:
        row, user, item, value, moment, time = late.row(0)
        raise DataError(
            f"The state of held-out row {row} (user {show(user)}, time {moment}) tells the value {value:g} of item "
            f"{show(item)}, which the user gave at time {time}, not strictly earlier; build states from what "
            "happened before (llmrec.dataset.history.History)."
        )


def _told(dataset: Dataset, examples: Sequence[Example]) -> pl.DataFrame:
    """Every value that a state with user and time tells: row, user_id, item_id, value, moment."""
    ids = dataset.items["item_id"].to_list()
    checked: set[int] = set()
    rows: list[tuple[int, str, str, float, int]] = []
    for row, example in enumerate(examples):
        state = example.state
        if state.user_id is None or state.time is None or id(state) in checked:
            continue
        checked.add(id(state))
        rows += [
            (row, state.user_id, ids[past.item], past.value, state.time)
            for past in (*state.history, *state.session)
            if past.value is not None
        ]
    schema = {"row": pl.Int64, "user_id": pl.String, "item_id": pl.String, "value": pl.Float64, "moment": pl.Int64}
    return pl.DataFrame(rows, schema, orient="row")


def _rows(dataset: Dataset, examples: Sequence[Example]) -> pl.DataFrame:
    targets = np.fromiter((e.target for e in examples), dtype=np.int64, count=len(examples))
    columns = {
        "user_id": pl.Series([e.state.user_id for e in examples], dtype=pl.String),
        "item_id": dataset.items["item_id"].gather(targets),
        "time": pl.Series([e.state.time for e in examples], dtype=pl.Int64),
    }
    return pl.DataFrame(columns)


def _refuse_same_event(train: pl.DataFrame, timed: pl.DataFrame) -> None:
    same = timed.join(train.select("user_id", "item_id", "time").unique(), on=["user_id", "item_id", "time"])
    if same.height:
        raise DataError(
            f"{same.height} of {timed.height} held-out events are training events, the first one {_event(same)}; "
            "take them out of what is trained on."
        )


def _refuse_late_training(train: pl.DataFrame, timed: pl.DataFrame) -> None:
    # Under the global cut anybody's later event is a leak: what others chose tomorrow tells what is in fashion.
    first = int(timed["time"].to_numpy().min())
    late = train.filter(pl.col("time") >= first)
    if late.height:
        raise DataError(
            f"{late.height} training events are not earlier than the first held-out state (time {first}), the first "
            f"of them {_event(late)}; train on what happened before, or name the split that was made."
        )


def _own_future(train: pl.DataFrame, timed: pl.DataFrame) -> pl.DataFrame:
    """The held-out rows at or before whose user's last training event, with that event's time as `last`."""
    # Weights that saw a user's later events know where the user went; that is worse than seeing others' later events.
    last = train.group_by("user_id").agg(pl.col("time").max().alias("last"))
    return timed.join(last, on="user_id", how="inner", maintain_order="left").filter(pl.col("last") >= pl.col("time"))


def _refuse_own_future(own: pl.DataFrame) -> None:
    raise DataError(
        f"{own.height} held-out events lie at or before a training event of their own user, the first one "
        f"{_event(own)} (that user's training goes on to time {own['last'][0]}); train on what each user did before."
    )


def _note(split: str, timed: pl.DataFrame, later: pl.DataFrame, own: pl.DataFrame) -> str:
    if split == "time" or not later.height:
        return ""
    purpose = "Leave-last-out is for comparison with papers" if split == "leave-last-out" else "The given split"
    verb = ":" if split == "leave-last-out" else " is not cut at one moment:"
    users = f", {own.height} of them of their own user" if own.height else ""
    return (
        f"{purpose}{verb} {later.height} of {timed.height} rows are judged by weights that saw events of the same "
        f"time or later{users}."
    )


def _unchecked(rows: pl.DataFrame, timed: pl.DataFrame) -> str:
    left = rows.height - timed.height
    return f"{left} of {rows.height} rows name no user or time, so their order was not checked." if left else ""


def _event(rows: pl.DataFrame) -> str:
    user, item, time = rows.select("user_id", "item_id", "time").row(0)
    return f"of user {show(user)}, item {show(item)}, time {time}"
