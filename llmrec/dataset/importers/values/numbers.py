"""Numbers: ratings, amounts, places, propensities."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from llmrec.dataset.importers.values.cells import Reading, without_missing
from llmrec.dataset.missing import MISSING
from llmrec.errors import DataError

_COMMA = r"^[+-]?\d*,\d+$"


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
