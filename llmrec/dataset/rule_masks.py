"""What soft rules find: masks over events, items and users, vectorised for tens of millions of events."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from llmrec.dataset.scales import rating_scale
from llmrec.dataset.schema import MISSING
from llmrec.dataset.store import Dataset
from llmrec.dataset.validate import rows_of
from llmrec.types import BoolArray, IntArray

DAY = 86_400
_DATES = 100_000_000  # seconds; 1973: below it times are counted from some other start
_NOT_SECONDS = 100_000_000_000  # seconds; the year 5138
ROBOT_PER_MINUTE = 100
"""Chosen events a minute below which nobody is called a robot (a page of ratings is sent at once)."""
ROBOT_PER_DAY = 1000
"""Chosen events a day below which nobody is called a robot."""
_ROBOT_DEVIATIONS = 4.0
LONG_TITLE = 300
"""Characters; a title is decoded token by token, so a long one makes every recommendation slow."""
LONG_TEXT = 20_000
"""Characters of a description; prompts show only its beginning."""

_CONTROL = r"[\p{Cc}\p{Cf}--[\t\n\r\u{200c}\u{200d}]]"  # joiners belong to emoji and to Persian and Indic script
_MARKUP = r"(?i)<\|[^|<>]{0,60}\|>|</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(#\d+|#x[0-9a-f]+|[a-z]{2,8});|\[/?INST\]"


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
    """Events that equal an earlier one in every column but `order` (rows of a file differ in that at least)."""
    events = dataset.events.drop("order")
    if dataset.events["order"].null_count() < events.height:
        return ~events.select(pl.struct(pl.all()).is_first_distinct().alias("mask"))["mask"]
    # Every column is a sort key of the table, so equal events are neighbours.
    same = pl.all_horizontal(pl.all().eq_missing(pl.all().shift(1)))
    return events.select(same.alias("mask"))["mask"]


def rating_without_value(dataset: Dataset, now: int) -> pl.Series:
    """Ratings whose value is unknown."""
    return (dataset.events["kind"] == "rating") & dataset.events["value"].is_null()


def rating_outside_scale(dataset: Dataset, now: int) -> pl.Series:
    """Ratings outside their scale, where they have one with two ends (see `rating_scale`)."""
    events = dataset.events
    scale = rating_scale(events.filter(pl.col("kind") == "rating")["value"])
    if scale is None or not scale.bounded:
        return _none(events)
    return (events["kind"] == "rating") & ~events["value"].is_between(scale.low, scale.high).fill_null(True)


def superseded_rating(dataset: Dataset, now: int) -> pl.Series:
    """Ratings that the same user replaced by a later one of the same item."""
    rated = _coded(dataset).filter((pl.col("kind") == "rating") & pl.col("value").is_not_null())
    pair = (pl.col("user") * dataset.n_items + pl.col("item")).alias("pair")
    rated = rated.select("row", "time", pair).sort("pair", "time")
    starts, lengths = _runs(rated["pair"])
    time = rated["time"].to_numpy()
    last = np.repeat(time[starts + lengths - 1], lengths)
    return _at(dataset.events, rated["row"].filter(pl.Series(time < last)))


def robot_users(dataset: Dataset, now: int) -> pl.Series:
    """Users with an impossible number of chosen events in their busiest minute or day.

    A user is named if the logarithm of that number lies more than 4 robust standard deviations (1.4826 times the
    median absolute deviation) above the median user's, and the number itself is above `ROBOT_PER_MINUTE` or
    `ROBOT_PER_DAY`. Impressions do not count: the system sent them. Minutes are judged only where times have
    seconds.
    """
    chosen = _coded(dataset).filter(pl.col("kind") != "impression")
    found = _too_busy(chosen, DAY, ROBOT_PER_DAY)
    if (chosen["time"] % 60 != 0).any():
        found = pl.concat([found, _too_busy(chosen, 60, ROBOT_PER_MINUTE)])
    return _at(dataset.users, found)


def _too_busy(chosen: pl.DataFrame, window: int, floor: int) -> pl.Series:
    """User rows whose fullest window of so many seconds holds far more events than the median user's and `floor`."""
    # User and window in one number, which sorts as one column of integers.
    windows = (pl.col("time") // window).clip(0, 2**36 - 1)
    runs = chosen.select((pl.col("user") * 2**36 + windows).sort().rle().alias("run")).unnest("run")
    per_user = runs.group_by(pl.col("value") // 2**36).agg(pl.col("len").max())
    # In logarithms: activity is spread over orders of magnitude. The median and its absolute deviation are not moved
    # by the few robots themselves.
    busiest = per_user.with_columns(pl.col("len").cast(pl.Float64).log().alias("log"))
    median = _number(busiest["log"].median())
    spread = _number((busiest["log"] - median).abs().median())
    limit = max(median + _ROBOT_DEVIATIONS * 1.4826 * spread, math.log(floor))
    return busiest.filter(pl.col("log") > limit)["value"]


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
    """Chosen events (no impressions) that share user, time and `order` with one about another item.

    Where an order is unknown, it is so for all events of that user and time.
    """
    rows = _coded(dataset).filter(pl.col("kind") != "impression")
    starts, lengths = _runs(rows.select(pl.struct("time", "user").rle_id().alias("run"))["run"])  # sorted that way
    if not len(starts):
        return _none(dataset.events)
    several = np.repeat(_several(rows["item"], starts), lengths)
    order = dataset.events["order"].gather(rows["row"])
    if order.null_count() < len(order):
        placed = np.repeat(np.logical_and.reduceat(order.is_not_null().to_numpy(), starts), lengths)
        runs, within = _runs(rows.select(pl.struct("time", "user", order).rle_id().alias("run"))["run"])
        # Known order settles events of one time, unless two of them share a place in it too.
        several &= ~placed | np.repeat(_several(rows["item"], runs), within)
    return _at(dataset.events, rows["row"].filter(pl.Series(several)))


def _several(items: pl.Series, starts: IntArray) -> BoolArray:
    """Whether each run of `items` (from one of `starts` to the next) holds different ones."""
    item = items.to_numpy()
    several: BoolArray = np.maximum.reduceat(item, starts) != np.minimum.reduceat(item, starts)
    return several


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


def _coded(dataset: Dataset) -> pl.DataFrame:
    """row, user (row in users), item (item index), kind, time and value of every event; numbers group fast."""
    events = dataset.events
    return events.select("kind", "time", "value").with_columns(
        pl.int_range(pl.len()).alias("row"),
        rows_of(events["user_id"], dataset.users["user_id"], "events", "users").cast(pl.Int64).alias("user"),
        rows_of(events["item_id"], dataset.items["item_id"], "events", "items").cast(pl.Int64).alias("item"),
    )


def _runs(values: pl.Series) -> tuple[IntArray, IntArray]:
    """Starts and lengths of the runs of equal neighbours."""
    lengths = values.rle().struct.field("len").to_numpy().astype(np.int64)
    return np.cumsum(lengths) - lengths, lengths


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


def equal_titles(dataset: Dataset, now: int) -> pl.Series:
    """Items that share their title with another one."""
    return dataset.items["title"].is_duplicated()


def missing_items(dataset: Dataset, now: int) -> pl.Series:
    """Items whose id or title is a word for a missing value, such as nan."""
    return dataset.items["title"].str.strip_chars().is_in(MISSING) | dataset.items["item_id"].is_in(MISSING)


def missing_users(dataset: Dataset, now: int) -> pl.Series:
    """Users whose id is a word for a missing value."""
    return dataset.users["user_id"].is_in(MISSING)


def empty_description(dataset: Dataset, now: int) -> pl.Series:
    """Items without a description."""
    return dataset.items["description"].str.strip_chars() == ""


def long_text(dataset: Dataset, now: int) -> pl.Series:
    """Items with a title or description of unusual length."""
    items = dataset.items
    return (items["title"].str.len_chars() > LONG_TITLE) | (items["description"].str.len_chars() > LONG_TEXT)


def item_control_characters(dataset: Dataset, now: int) -> pl.Series:
    """Items whose title or description holds control or invisible characters other than tab and newline."""
    return _in_item(dataset, _CONTROL)


def item_markup(dataset: Dataset, now: int) -> pl.Series:
    """Items whose title or description holds HTML tags, HTML entities or chat markers."""
    return _in_item(dataset, _MARKUP)


def negative_price(dataset: Dataset, now: int) -> pl.Series:
    """Items with a price below 0."""
    return (dataset.items["price"] < 0).fill_null(False)


def user_control_characters(dataset: Dataset, now: int) -> pl.Series:
    """Users whose profile holds control or invisible characters."""
    return dataset.users["profile"].str.contains(_CONTROL)


def user_markup(dataset: Dataset, now: int) -> pl.Series:
    """Users whose profile holds HTML or chat markers."""
    return dataset.users["profile"].str.contains(_MARKUP)


def _in_item(dataset: Dataset, pattern: str) -> pl.Series:
    return dataset.items["title"].str.contains(pattern) | dataset.items["description"].str.contains(pattern)
