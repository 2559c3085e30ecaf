"""Soft rules about events: masks over events, items and users, vectorised for tens of millions of events."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from llmrec.dataset.store import Dataset

DAY = 86_400
_DATES = 100_000_000  # seconds; 1973: below it times are counted from some other start
_NOT_SECONDS = 100_000_000_000  # seconds; the year 5138
_SCALES = ((0, 1), (1, 5), (0.5, 5), (0, 5), (1, 7), (1, 10), (0, 10), (-1, 1), (-10, 10), (0, 100))
_SCALE_SHARE = 0.99
ROBOT_PER_MINUTE = 100
"""Chosen events a minute below which nobody is called a robot (a page of ratings is sent at once)."""
ROBOT_PER_DAY = 1000
"""Chosen events a day below which nobody is called a robot."""
_ROBOT_DEVIATIONS = 4.0


def time_unit(dataset: Dataset, now: int) -> pl.Series:
    """All events if the median time is no date in seconds."""
    return _none(dataset.events) | (_median_time(dataset) > _NOT_SECONDS)


def zero_time(dataset: Dataset, now: int) -> pl.Series:
    """Events at time 0 where times are dates (data sets that count from 0 are left alone)."""
    return (dataset.events["time"] == 0) & (_median_time(dataset) > _DATES)


def future_time(dataset: Dataset, now: int) -> pl.Series:
    """Events more than a day after `now`, unless the unit is wrong for all of them (see `time_unit`)."""
    return (dataset.events["time"] > now + DAY) & (_median_time(dataset) <= _NOT_SECONDS)


def duplicates(dataset: Dataset, now: int) -> pl.Series:
    """Events that equal an earlier one in every column."""
    # Every column is a sort key of the table, so equal events are neighbours.
    same = pl.all_horizontal(pl.all().eq_missing(pl.all().shift(1)))
    return dataset.events.select(same.alias("mask"))["mask"]


def rating_without_value(dataset: Dataset, now: int) -> pl.Series:
    """Ratings whose value is unknown."""
    return (dataset.events["kind"] == "rating") & dataset.events["value"].is_null()


def rating_outside_scale(dataset: Dataset, now: int) -> pl.Series:
    """Ratings outside the narrowest usual scale that holds at least 99% of them."""
    events = dataset.events
    ratings = events.filter(pl.col("kind") == "rating")["value"].drop_nulls()
    for low, high in sorted(_SCALES, key=lambda scale: scale[1] - scale[0]):
        if not ratings.is_empty() and (ratings.is_between(low, high).mean() or 0) >= _SCALE_SHARE:  # type: ignore[operator]
            return (events["kind"] == "rating") & ~events["value"].is_between(low, high).fill_null(True)
    return _none(events)


def superseded_rating(dataset: Dataset, now: int) -> pl.Series:
    """Ratings that the same user replaced by a later one of the same item."""
    last = pl.col("time").max().over("user_id", "item_id")
    rated = dataset.events.with_row_index("row").filter((pl.col("kind") == "rating") & pl.col("value").is_not_null())
    return _at(dataset.events, rated.filter(pl.col("time") < last)["row"])


def robot_users(dataset: Dataset, now: int) -> pl.Series:
    """Users with an impossible number of chosen events in their busiest minute or day.

    A user is named if the logarithm of that number lies more than 4 robust standard deviations (1.4826 times the
    median absolute deviation) above the median user's, and the number itself is above `ROBOT_PER_MINUTE` or
    `ROBOT_PER_DAY`. Impressions do not count: the system sent them. Minutes are judged only where times have
    seconds.
    """
    chosen = dataset.events.filter(pl.col("kind") != "impression").select("user_id", "time")
    found = _too_busy(chosen, DAY, ROBOT_PER_DAY)
    if (chosen["time"] % 60 != 0).any():
        found = pl.concat([found, _too_busy(chosen, 60, ROBOT_PER_MINUTE)])
    return dataset.users["user_id"].is_in(found.implode())


def _too_busy(chosen: pl.DataFrame, window: int, floor: int) -> pl.Series:
    counts = chosen.group_by("user_id", pl.col("time") // window).len()
    busiest = counts.group_by("user_id").agg(pl.col("len").max().cast(pl.Float64).log().alias("log"))
    median = busiest["log"].median()
    spread = (busiest["log"] - median).abs().median()
    limit = _number(median) + _ROBOT_DEVIATIONS * 1.4826 * _number(spread)
    return busiest.filter(pl.col("log") > max(limit, math.log(floor)))["user_id"]


def conversion_without_click(dataset: Dataset, now: int) -> pl.Series:
    """Conversions before the user's first click on the item, where the data has clicks at all."""
    return _without_cause(dataset.events, "conversion", "click")


def click_without_impression(dataset: Dataset, now: int) -> pl.Series:
    """Clicks before the first impression of the item to the user, where the data has impressions at all."""
    return _without_cause(dataset.events, "click", "impression")


def _without_cause(events: pl.DataFrame, effect: str, cause: str) -> pl.Series:
    pair = ["user_id", "item_id"]
    first = events.filter(pl.col("kind") == cause).group_by(pair).agg(pl.col("time").min().alias("first"))
    if first.is_empty():
        return _none(events)
    effects = events.with_row_index("row").filter(pl.col("kind") == effect).select("row", "time", *pair)
    joined = effects.join(first, on=pair, how="left")
    return _at(events, joined.filter(pl.col("first").is_null() | (pl.col("first") > pl.col("time")))["row"])


def missing_propensity(dataset: Dataset, now: int) -> pl.Series:
    """Impressions without a propensity where others have one."""
    return _partly_missing(dataset.events, "propensity")


def missing_position(dataset: Dataset, now: int) -> pl.Series:
    """Impressions without a position where others have one."""
    return _partly_missing(dataset.events, "position")


def _partly_missing(events: pl.DataFrame, column: str) -> pl.Series:
    shown = events["kind"] == "impression"
    known = events[column].is_not_null()
    return shown & ~known if (shown & known).any() else _none(events)


def shared_session(dataset: Dataset, now: int) -> pl.Series:
    """Events of a session id that more than one user has."""
    sessions = dataset.events.filter(pl.col("session").is_not_null()).group_by("session")
    shared = sessions.agg(pl.col("user_id").n_unique()).filter(pl.col("user_id") > 1)["session"]
    return _in(dataset.events["session"], shared)


def long_session(dataset: Dataset, now: int) -> pl.Series:
    """Events of sessions that last longer than a day."""
    sessions = dataset.events.filter(pl.col("session").is_not_null()).group_by("session")
    length = sessions.agg((pl.col("time").max() - pl.col("time").min()).alias("length"))
    return _in(dataset.events["session"], length.filter(pl.col("length") > DAY)["session"])


def equal_time(dataset: Dataset, now: int) -> pl.Series:
    """Chosen events (no impressions) that share user and time with one about another item."""
    rows = dataset.events.with_row_index("row").filter(pl.col("kind") != "impression")
    items = pl.col("item_id").n_unique().over("user_id", "time")
    return _at(dataset.events, rows.filter(items > 1)["row"])


def cold_items(dataset: Dataset, now: int) -> pl.Series:
    """Items in no event and in no evaluation row."""
    used = dataset.events["item_id"].unique()
    if dataset.rows is not None:
        used = pl.concat([used, dataset.rows["target"], dataset.rows["history"].explode().rename("item_id")])
    return ~_in(dataset.items["item_id"], used)


def cold_users(dataset: Dataset, now: int) -> pl.Series:
    """Users in no event and in no evaluation row."""
    used = dataset.events["user_id"].unique()
    if dataset.rows is not None:
        used = pl.concat([used, dataset.rows["user_id"]])
    return ~_in(dataset.users["user_id"], used)


def _median_time(dataset: Dataset) -> float:
    return _number(dataset.events["time"].median())


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _none(frame: pl.DataFrame) -> pl.Series:
    return pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)


def _at(frame: pl.DataFrame, rows: pl.Series) -> pl.Series:
    """The mask that is true at row numbers `rows`."""
    mask = np.zeros(frame.height, np.bool_)
    mask[rows.to_numpy()] = True
    return pl.Series(mask)


def _in(values: pl.Series, wanted: pl.Series) -> pl.Series:
    return values.is_in(wanted.drop_nulls().implode()).fill_null(False)
