"""What every reader of cells shares: its result, words for what is missing, cells as text; and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from llmrec.dataset.schema import MISSING, show
from llmrec.errors import DataError

WHOLE_FLOATS = 2**53
"""From here on a float skips whole numbers, so that different ids may have become one."""
_COMMA = r"^[+-]?\d*,\d+$"


@dataclass(frozen=True)
class Reading:
    """A column as it was understood.

    Attributes:
        values: (N) the values; null where a cell is missing or bad.
        bad: (N) whether a cell holds something that cannot be read.
        wanted: What a cell must be, for the message about the first bad one.
        notes: What was assumed, one short text each.
        order: (N) for times the nanoseconds within their second, where any has some.
        currency: For prices the currency that the cells name.
    """

    values: pl.Series
    bad: pl.Series
    wanted: str
    notes: tuple[str, ...] = ()
    order: pl.Series | None = None
    currency: str = ""


def none_bad(length: int) -> pl.Series:
    """(N) false: every cell could be read."""
    return pl.repeat(False, length, dtype=pl.Boolean, eager=True)


def as_text(column: pl.Series) -> pl.Series:
    """A column of any plain type as trimmed text; whole floats become whole numbers, lists of text one text.

    Raises:
        DataError: The cells are of a type that is no text, such as records.
    """
    dtype = column.dtype
    if dtype == pl.String:
        return column.str.strip_chars()
    if dtype.is_float():
        return _float_text(column)
    if dtype == pl.List(pl.String):
        return column.list.join(" ", ignore_nulls=True).str.strip_chars()
    if dtype == pl.Boolean:
        return column.cast(pl.String)
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration):
        raise DataError(f"the cells are {dtype}, but they must be text; write them as text")
    return column.cast(pl.String)


def _float_text(column: pl.Series) -> pl.Series:
    column = column.fill_nan(None)
    whole = column.cast(pl.Int64, strict=False)
    safe = (whole.cast(column.dtype) == column) & (column.abs() < WHOLE_FLOATS)
    frame = pl.DataFrame({"whole": whole, "value": column, "safe": safe})
    text = pl.when("safe").then(pl.col("whole").cast(pl.String)).otherwise(pl.col("value").cast(pl.String))
    return frame.select(text.alias(column.name))[column.name]


def without_missing(column: pl.Series, words: Sequence[str] = MISSING) -> tuple[pl.Series, tuple[str, ...]]:
    """Text with null for every empty cell and every one of `words`, and a note that counts the words."""
    gone = column.is_in(["", *words]).fill_null(False)
    if not gone.any():
        return column, ()
    counted = column.filter(gone & (column != "")).value_counts(sort=True)
    kept = column.to_frame().select(pl.when(~gone).then(pl.col(column.name)))[column.name]
    if counted.is_empty():
        return kept, ()
    named = ", ".join(f"{show(word, 12)} ({count:,})" for word, count in counted.head(4).iter_rows())
    return kept, (f"{named} taken for missing (--missing names other words)",)


def trimmed(column: pl.Series) -> tuple[str, ...]:
    """A note about white space that `as_text` takes off the cells of `column`."""
    if column.dtype != pl.String:
        return ()
    count = int((column.str.len_bytes() != column.str.strip_chars().str.len_bytes()).sum())
    return (f"white space around {count:,} cells left out",) if count else ()


def read_text(column: pl.Series, words: Sequence[str] = MISSING) -> Reading:
    """Text for people (titles, brands): trimmed, with null for what is missing."""
    text, notes = without_missing(as_text(column), words)
    return Reading(text, none_bad(len(text)), "text", notes)


def read_numbers(column: pl.Series, words: Sequence[str] = MISSING, *, decimal: str | None = None) -> Reading:
    """Finite numbers; a comma is their decimal mark where `decimal` says so or where no cell has a point.

    Raises:
        DataError: The cells are of a type that holds no numbers; without its place.
    """
    dtype = column.dtype
    if dtype.is_numeric():
        number = column.cast(pl.Float64)
        gaps = int(number.is_nan().sum())
        number = number.fill_nan(None)
        notes: tuple[str, ...] = (f"NaN ({gaps:,}) taken for missing",) if gaps else ()
        bad = number.is_infinite().fill_null(False)
        return Reading(_kept(number, bad), bad, "a finite number", notes)
    if dtype == pl.Boolean:
        return Reading(column.cast(pl.Float64), column.is_null() & False, "a finite number")
    if dtype == pl.Null:
        return Reading(column.cast(pl.Float64), column.is_not_null(), "a finite number")
    if dtype not in (pl.String, pl.Categorical) and not isinstance(dtype, pl.Enum):
        raise DataError(f"the cells are {dtype}, but they must be numbers")
    text, notes = without_missing(column.cast(pl.String).str.strip_chars(), words)
    number = text.cast(pl.Float64, strict=False)
    if number.null_count() > text.null_count():
        commas = text.str.contains(_COMMA).fill_null(False)
        points = text.str.contains(".", literal=True).fill_null(False)
        if commas.any() and (decimal == "," or (decimal is None and not points.any())):
            number = text.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
            notes = (*notes, "',' is the decimal mark (--decimal)")
    bad = (number.is_null() & text.is_not_null()) | (~number.is_finite()).fill_null(False)
    return Reading(_kept(number, bad), bad, "a finite number", notes)


def read_whole(column: pl.Series, words: Sequence[str] = MISSING) -> Reading:
    """Whole numbers (`3.0` is 3); a fraction is bad."""
    found = read_numbers(column, words)
    fraction = (found.values != found.values.round(0)).fill_null(False)
    bad = found.bad | fraction
    return Reading(_kept(found.values, bad).cast(pl.Int64, strict=False), bad, "a whole number", found.notes)


def _kept(values: pl.Series, bad: pl.Series) -> pl.Series:
    if not bad.any():
        return values
    frame = pl.DataFrame({"value": values, "bad": bad})
    return frame.select(pl.when(~pl.col("bad")).then("value").alias(values.name))[values.name]
