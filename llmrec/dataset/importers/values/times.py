"""Times: which unit or way of writing a column has, found out from its values, and seconds since 1970 out of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from llmrec.dataset.importers.values.cells import Reading, as_text, without_missing
from llmrec.dataset.importers.values.dates import Instants, read_dates
from llmrec.dataset.schema import MISSING, show
from llmrec.errors import DataError

_UNITS = {
    "s": ("seconds", 1_000_000_000),
    "ms": ("milliseconds", 1_000_000),
    "us": ("microseconds", 1_000),
    "ns": ("nanoseconds", 1),
    "min": ("minutes", 60_000_000_000),
    "h": ("hours", 3_600_000_000_000),
    "d": ("days", 86_400_000_000_000),
}
"""Name and length in nanoseconds of the units that count from 1970."""
_DIGITS = {
    "date": ("dates such as 20240130", 8),
    "minute": ("moments such as 202401302359", 12),
    "second": ("moments such as 20240130235959", 14),
}
_NAMES = {"excel": "spreadsheet days", **{k: v[0] for k, v in (*_UNITS.items(), *_DIGITS.items())}, "": "no dates"}
TIME_UNITS = (*_UNITS, "excel", "mixed")
_FIRST = 631_152_000  # 1990-01-01: no log of a recommender is older
_YEAR_3000 = 32_503_680_000
_NEARLY = 0.95
_COUNTED = 10_000_000  # below this numbers are a count and no dates of any unit
_DAY_0 = 25_569  # 1970-01-01 as a spreadsheet counts days
_NUMBER = r"^[+-]?\d+(?:[.,]\d*)?$"
_ROUNDED = r"^[+-]?\d(?:[.,]\d+)?[eE]\+?\d+$"


def read_times(
    column: pl.Series,
    *,
    unit: str | None = None,
    written: str | None = None,
    words: Sequence[str] = MISSING,
    plausible: bool = True,
    now: float | None = None,
) -> Reading:
    """Whole seconds since 1970 and the order within a second, from numbers, dates or text.

    Without `unit` the size of the numbers says it: seconds, milli-, micro- or nanoseconds, dates written as one
    number, spreadsheet days; and all rows must agree. Numbers below ten million that are none of these are taken for
    a running count of seconds. A cell outside of 1990 to the end of next year is bad.

    Args:
        column: (N) cells of any type.
        unit: One of `TIME_UNITS`, which then is believed; "mixed" reads each row by its own size.
        written: How text is written, see `read_dates`.
        words: What stands for missing.
        plausible: Whether times outside of the plausible years are bad.
        now: The present in seconds since 1970 (None: the clock).

    Raises:
        DataError: The column as a whole cannot be understood; without its place.
    """
    latest = (time.time() if now is None else now) + 366 * 86_400
    if column.dtype.is_temporal():
        found = _temporal(column)
        return _judged(found, column.null_count(), column, plausible, latest, ())
    if column.dtype == pl.Boolean or (column.dtype.is_nested()):
        raise DataError(f"the cells are {column.dtype}, but they must be times")
    text, notes = without_missing(as_text(column), words)
    numeric = text.str.contains(_NUMBER) | text.str.contains(_ROUNDED)
    share = float(numeric.drop_nulls().mean() or 0.0)  # type: ignore[arg-type]
    if written is None and share >= 0.5:
        return _numbers(text, numeric.fill_null(False), unit, plausible, latest, notes)
    found = read_dates(text, written)
    return _judged(found, text.null_count(), text, plausible, latest, (*notes, *found.notes))


def _temporal(column: pl.Series) -> Instants:
    if column.dtype not in (pl.Date, pl.Datetime):
        raise DataError(f"the cells are {column.dtype}, but they must be dates with or without a time")
    unit = getattr(column.dtype, "time_unit", None)
    physical = column.to_physical().cast(pl.Int64)
    if unit is None:
        return Instants(physical * 86_400, physical * 0)
    each = 1_000_000_000 // _UNITS[unit][1]
    return Instants(physical // each, (physical % each) * _UNITS[unit][1])


def _judged(
    found: Instants, missing: int, cells: pl.Series, plausible: bool, latest: float, notes: tuple[str, ...]
) -> Reading:
    """Dates that name their year: bad are those of no year in which there were logs."""
    seconds = found.seconds.alias("time")
    bad = seconds.is_null() & cells.is_not_null()
    if seconds.null_count() == len(cells) > missing:
        raise DataError(
            f"{show(cells.drop_nulls()[0], 40)} is neither a number nor a date (2024-05-01T12:30:00); say how it is "
            "written by --option time_format=, such as %d.%m.%Y %H:%M"
        )
    known = seconds.drop_nulls()
    if plausible and len(known):
        if known.median() < _FIRST:  # type: ignore[operator]
            raise DataError(f"most times lie before 1990 (the first is {_day(known[0])}); {_BELIEVE}")
        bad = bad | (seconds <= 0).fill_null(False) | (seconds > latest).fill_null(False)
    else:
        bad = bad | ((seconds < 0) | (seconds >= _YEAR_3000)).fill_null(False)
    wanted = (
        f"a date of 1970 to {_year(latest)} written as the other rows are" if plausible else "a date from 1970 on"
    )
    return _reading(Instants(seconds, found.nanos), bad, wanted, notes)


_BELIEVE = "give the right column, or say --accept-implausible if they are right"


def _reading(found: Instants, bad: pl.Series, wanted: str, notes: tuple[str, ...]) -> Reading:
    frame = pl.DataFrame({"time": found.seconds, "order": found.nanos, "bad": bad})
    kept = frame.select(pl.when(~pl.col("bad")).then(pl.col(name)).alias(name) for name in ("time", "order"))
    finer = bool((kept["order"] > 0).any())
    if finer:
        notes = (*notes, "times are finer than a second: their parts keep the order within it")
    return Reading(kept["time"], bad, wanted, notes, order=kept["order"] if finer else None)


def _numbers(
    text: pl.Series, numeric: pl.Series, unit: str | None, plausible: bool, latest: float, notes: tuple[str, ...]
) -> Reading:
    frame = _parts(text)
    here = text.is_not_null()
    rounded = text.str.contains(_ROUNDED).fill_null(False) & frame["whole"].is_null()
    if int(rounded.sum()) * 2 > int(here.sum()):
        raise DataError(
            f"{show(text.filter(rounded)[0], 30)} is a time that a spreadsheet rounded; export it with all digits"
        )
    sizes = _sizes(frame["whole"], latest)
    known = sizes.filter(here & numeric)
    main = unit or _main(known, frame["whole"].filter(numeric), text, plausible)
    if main == "count":
        return _counted(frame, text, notes)
    bad = here & (~numeric | frame["whole"].is_null())
    if main == "mixed":
        bad = bad | (here & (sizes == ""))
        names = ", ".join(f"{_NAMES[k]} ({n:,})" for k, n in known.value_counts(sort=True).iter_rows() if k)
        notes = (*notes, f"each time read by its own size: {names}")
    elif unit or not plausible:  # believed, whatever the sizes say
        sizes = pl.repeat(main, len(text), dtype=pl.String, eager=True)
    else:
        bad = bad | (here & (sizes != main))
    if main not in ("mixed", unit):
        notes = (*notes, f"times are {_NAMES[main]} (--option time_unit says otherwise)")
    found = _moments(frame, sizes)
    outside = (found.seconds < 0) | (found.seconds >= (latest if plausible else _YEAR_3000))
    bad = bad | outside.fill_null(False) | (found.seconds.is_null() & here)
    return _reading(found, bad, _wanted(main, main == unit, latest, known), notes)


def _wanted(main: str, given: bool, latest: float, known: pl.Series) -> str:
    if given:
        return f"{_NAMES.get(main, main)} since 1970, up to {_year(latest)}; leave time_unit out to find the unit"
    if main == "mixed":
        return f"a number that is a time of 1990 to {_year(latest)} in some unit"
    share = float((known == main).mean() or 0)  # type: ignore[arg-type]
    return (
        f"a time of 1990 to {_year(latest)} as {_NAMES[main]}, as {min(share, 0.999):.1%} of the column are; "
        "--option time_unit=mixed reads each row by its own size"
    )


def _parts(text: pl.Series) -> pl.DataFrame:
    """(N) `whole` part and `rest` as billionths of a unit; both null where the text is no number in full."""
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == text.null_count():
        return pl.DataFrame({"whole": whole, "rest": pl.repeat(0, len(text), dtype=pl.Int64, eager=True)})
    cell = pl.col("t")
    exact = cell.str.contains(_ROUNDED) & (
        cell.str.extract(r"^[+-]?(\d(?:[.,]\d+)?)[eE]").str.replace(r"[.,]", "").str.len_chars()
        > cell.str.extract(r"[eE]\+?(\d+)$").cast(pl.Int64, strict=False)
    )
    written = pl.when(exact).then(
        cell.str.replace(",", ".").cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
    )
    return pl.DataFrame({"t": text}).select(
        whole=cell.str.extract(r"^([+-]?\d+)(?:[.,]\d*)?$").cast(pl.Int64, strict=False).fill_null(written),
        rest=cell.str.extract(r"[.,](\d{1,9})\d*$").str.pad_end(9, "0").cast(pl.Int64).fill_null(0),
    )


def _sizes(whole: pl.Series, latest: float) -> pl.Series:
    """(N) the unit in which a number is a plausible time; "" where there is none. No two units overlap."""
    number = pl.col("whole")
    last_year = _year(latest)
    found: Any = pl.when(number.is_between(_FIRST, int(latest))).then(pl.lit("s"))
    for unit in ("ms", "us", "ns"):
        each = 1_000_000_000 // _UNITS[unit][1]
        found = found.when(number.is_between(_FIRST * each, int(latest) * each)).then(pl.lit(unit))
    found = found.when(number.is_between(_FIRST // 86_400 + _DAY_0, int(latest) // 86_400 + _DAY_0)).then(
        pl.lit("excel")
    )
    for kind, (_, width) in _DIGITS.items():
        day = number // 10 ** (width - 8)
        right = (day // 100 % 100).is_between(1, 12) & (day % 100).is_between(1, 31)
        found = found.when(right & (day // 10_000).is_between(1990, last_year)).then(pl.lit(kind))
    frame = pl.DataFrame({"whole": whole})
    return frame.select(size=found.otherwise(pl.lit("")))["size"]


def _main(sizes: pl.Series, whole: pl.Series, text: pl.Series, plausible: bool) -> str:
    """The unit that nearly all rows have, or "count" for small numbers that only count."""
    counts = dict(sizes.value_counts(sort=True).iter_rows())
    main = str(next(iter(counts), ""))
    small = float(((whole >= 0) & (whole < _COUNTED)).fill_null(False).mean() or 0)  # type: ignore[arg-type]
    days = main == "excel" and counts[main] >= _NEARLY * len(sizes)  # else a part of a long count
    if main in ("", "excel") and not days and small >= _NEARLY:
        return "count"
    if main == "" and not plausible:
        return "s"
    if main == "" or counts[main] < 0.5 * len(sizes):
        first = show(text.drop_nulls()[0], 30)
        mixture = ", ".join(f"{_NAMES[name]} ({n:,})" for name, n in list(counts.items())[:4])
        raise DataError(
            f"times such as {first} are no dates, and in no unit since 1970 of the years from 1990 on (found: "
            f"{mixture}); give the right column, or say the unit by --option time_unit=s"
        )
    return main


def _counted(frame: pl.DataFrame, text: pl.Series, notes: tuple[str, ...]) -> Reading:
    outside = ((frame["whole"] < 0) | (frame["whole"] >= _COUNTED)).fill_null(True)
    bad = text.is_not_null() & outside
    known = frame["whole"].filter(~outside)
    if len(known):
        notes = (
            *notes,
            f"times such as {known[0]} are no dates: taken for a running count of seconds, so that only "
            "their order means something (--option time_unit=d, h, min or s says what they count)",
        )
    return _reading(
        Instants(frame["whole"].alias("time"), frame["rest"]), bad, "a small number from 0 on, as the others", notes
    )


def _moments(frame: pl.DataFrame, sizes: pl.Series) -> Instants:
    """Seconds and nanoseconds of numbers whose unit is known a row."""
    whole, rest, size = pl.col("whole"), pl.col("rest"), pl.col("size")
    seconds: Any = pl.when(False).then(whole)
    nanos: Any = pl.when(False).then(whole)
    for unit, (_, length) in _UNITS.items():
        if length >= 1_000_000_000:
            each = length // 1_000_000_000
            part = rest * each
            value, finer = whole * each + part // 1_000_000_000, part % 1_000_000_000
        else:
            each = 1_000_000_000 // length
            value, finer = whole // each, whole % each * length + rest * length // 1_000_000_000
        seconds, nanos = seconds.when(size == unit).then(value), nanos.when(size == unit).then(finer)
    day = (whole - _DAY_0) * 86_400 + (rest * 86_400 + 500_000_000) // 1_000_000_000
    seconds = seconds.when(size == "excel").then(day)
    for kind, (_, width) in _DIGITS.items():
        seconds = seconds.when(size == kind).then(_from_digits(whole, width))
    made = frame.with_columns(size=sizes).select(
        time=seconds.otherwise(None), nanos=nanos.otherwise(pl.lit(0, dtype=pl.Int64))
    )
    return Instants(made["time"], made["nanos"])


def _from_digits(whole: pl.Expr, width: int) -> pl.Expr:
    text = whole.cast(pl.String).str.slice(0, width).str.pad_end(14, "0")
    right = whole.cast(pl.String).str.len_chars() == width
    moment = pl.when(right).then(text).str.to_datetime("%Y%m%d%H%M%S", strict=False)
    return moment.dt.epoch("s")


def _year(seconds: float) -> int:
    return datetime.fromtimestamp(seconds, UTC).year


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return "outside of all years"
