"""Dates as people and programs write them, whole columns at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from llmrec.dataset.schema import show
from llmrec.errors import DataError

_CLOCK = (
    r"(?:(?:T|,?\s+)(?P<h>\d{1,2}):(?P<i>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9})\d*)?)?"
    r"\s*(?P<p>[AaPp]\.?[Mm]\.?)?\s*(?P<z>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?$"
)
_YEAR_FIRST = r"^(?P<y>\d{4})[-/.年](?P<a>\d{1,2})[-/.月](?P<b>\d{1,2})日?" + _CLOCK
_YEAR_LAST = r"^(?P<a>\d{1,2})[-/.](?P<b>\d{1,2})[-/.](?P<y>\d{4})" + _CLOCK
_NAMED = (
    r"^(?P<b>\d{1,2})[\s-](?P<a>[A-Za-z]{3,9})\.?,?[\s-](?P<y>\d{4})" + _CLOCK,
    r"^(?P<a>[A-Za-z]{3,9})\.?\s+(?P<b>\d{1,2}),?\s+(?P<y>\d{4})" + _CLOCK,
    r"^(?P<a>[A-Za-z]{3})\s+(?P<b>\d{1,2})\s+(?P<h>\d{1,2}):(?P<i>\d{2}):(?P<s>\d{2})"
    r"(?P<f>)(?P<p>)(?:\s+(?P<z>UTC|GMT|[+-]\d{4}))?\s+(?P<y>\d{4})$",
)
_USUAL = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:Z| UTC)?$"
_WEEKDAY = r"^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*\.?,?\s+"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FALLBACK = 100_000  # distinct texts that are tried one by one as ISO 8601 in its rarer forms
SHORTHANDS = ("ymd", "dmy", "mdy")


@dataclass(frozen=True)
class Instants:
    """(N) seconds since 1970 (UTC) and nanoseconds within the second; null where a text is no date."""

    seconds: pl.Series
    nanos: pl.Series
    notes: tuple[str, ...] = ()


def read_dates(text: pl.Series, written: str | None = None) -> Instants:
    """Dates of a column of text. Times without a zone are UTC.

    Args:
        text: (N) trimmed, null where missing.
        written: ymd, dmy or mdy for the order of year, month and day, a strptime format such as
            `%d.%m.%Y %H:%M`, or None to find it out.

    Raises:
        DataError: day and month cannot be told apart, or the format is none.
    """
    if written and written not in SHORTHANDS:
        return _by_format(text, written)
    if written in (None, "ymd") and text.str.contains(_USUAL).all():
        return _usual(text)
    if text.n_unique() * 2 < len(text):  # days and minutes repeat
        distinct = text.unique(maintain_order=True)
        found = read_dates(distinct, written)
        table = pl.DataFrame({"t": distinct, "seconds": found.seconds, "nanos": found.nanos})
        joined = text.to_frame("t").join(table, on="t", how="left", maintain_order="left")
        return Instants(joined["seconds"], joined["nanos"], found.notes)
    frame = pl.DataFrame({"t": text.str.replace(_WEEKDAY, "")})
    table = _matched(frame, _YEAR_FIRST) if written in (None, "ymd") else _nothing(len(text))
    notes: tuple[str, ...] = ()
    if _open(text, table) and written != "ymd":
        last, notes = _year_last(frame, written)
        table = _either(table, last)
    for pattern in _NAMED:
        if _open(text, table):
            table = _either(table, _matched(frame, pattern))
    if _open(text, table) and written is None:
        table = _either(table, _iso(text, table["seconds"].is_null()))
    return Instants(table["seconds"], table["nanos"], notes)


def _usual(text: pl.Series) -> Instants:
    """2024-05-01 12:30:00.123, the fast way."""
    whole = text.str.slice(0, 19).str.replace("T", " ", literal=True)
    nanos = text.str.extract(r"\.(\d+)").str.pad_end(9, "0").cast(pl.Int64)
    seconds = whole.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
    return Instants(seconds, nanos.fill_null(0))


def _open(text: pl.Series, found: pl.DataFrame) -> bool:
    return found["seconds"].null_count() > text.null_count()


def _nothing(length: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"seconds": [None] * length, "nanos": [None] * length}, {"seconds": pl.Int64, "nanos": pl.Int64}
    )


def _either(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([first[name].fill_null(second[name]) for name in ("seconds", "nanos")])


def _matched(frame: pl.DataFrame, pattern: str) -> pl.DataFrame:
    return _moments(_groups(frame, pattern))


def _groups(frame: pl.DataFrame, pattern: str) -> pl.DataFrame:
    return frame.select(pl.col("t").str.extract_groups(pattern)).unnest("t")


def _year_last(frame: pl.DataFrame, written: str | None) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """01.02.2024 and the like: which part is the month is decided by the column as a whole."""
    parts = _groups(frame, _YEAR_LAST)
    number = parts.select(pl.col("a").cast(pl.Int64), pl.col("b").cast(pl.Int64))
    rows = number["a"].is_not_null()
    if not rows.any():
        return _nothing(frame.height), ()
    first_is_day, second_is_day = bool((number["a"] > 12).any()), bool((number["b"] > 12).any())
    sample = frame["t"].filter(rows)[0]
    if written is not None:
        day_first = written == "dmy"
    elif first_is_day != second_is_day:
        day_first = first_is_day
    elif not first_is_day and "." in sample.split(" ")[0]:
        day_first = True  # nobody writes the month first with dots
    else:
        why = "no cell has" if not first_is_day else "in both places cells have"
        raise DataError(
            f"dates such as {show(sample, 30)} may put the day or the month first ({why} a number above 12); say "
            "--option time_format=dmy (day first) or time_format=mdy (month first)"
        )
    if day_first:
        parts = parts.rename({"a": "b", "b": "a"})
    note = f"dates such as {show(sample, 30)} read {'day' if day_first else 'month'} first (time_format)"
    return _moments(parts), (note,)


def _moments(parts: pl.DataFrame) -> pl.DataFrame:
    """Seconds and nanoseconds from the text parts y, a (month), b (day), h, i, s, f, p (am, pm), z (zone)."""
    month = pl.col("a").str.to_lowercase().str.slice(0, 3)
    names = {name: f"{number:02d}" for number, name in enumerate(_MONTHS, start=1)}
    hour = pl.col("h").cast(pl.Int64).fill_null(0)
    half = pl.col("p").str.to_lowercase().str.slice(0, 1)
    hour = pl.when(half == "p").then(hour % 12 + 12).when(half == "a").then(hour % 12).otherwise(hour)
    two = pl.col("b").str.pad_start(2, "0")
    date = pl.concat_str("y", month.replace(names).str.pad_start(2, "0"), two, separator="-")
    clock = pl.concat_str(
        hour.cast(pl.String).str.pad_start(2, "0"),
        pl.col("i").fill_null("00"),
        pl.col("s").fill_null("00"),
        separator=":",
    )
    moment = pl.concat_str(date, clock, separator=" ").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
    digits = pl.col("z").str.replace(":", "")
    away = digits.str.slice(1, 2).cast(pl.Int64, strict=False) * 3600
    away = away + digits.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0) * 60
    away = pl.when(digits.str.starts_with("-")).then(-away).when(digits.str.starts_with("+")).then(away).otherwise(0)
    nanos = pl.col("f").replace("", None).str.pad_end(9, "0").cast(pl.Int64).fill_null(0)
    return parts.select(seconds=moment.dt.epoch("s") - away, nanos=nanos).with_columns(
        pl.when(pl.col("seconds").is_not_null()).then("nanos").alias("nanos")
    )


def _by_format(text: pl.Series, written: str) -> Instants:
    if "%" not in written:
        raise DataError(
            f"time_format {show(written, 40)} is neither {', '.join(SHORTHANDS)} nor a format such as "
            "'%d.%m.%Y %H:%M'"
        )
    clock = any(part in written for part in ("%H", "%I", "%T", "%R", "%X", "%s"))
    try:
        if clock:
            moments = text.str.to_datetime(written, strict=False, time_unit="ns")
        else:
            moments = text.str.to_date(written, strict=False).cast(pl.Datetime("ns"))
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"time_format {show(written, 40)} cannot be used ({reason})") from None
    physical = moments.to_physical()
    return Instants(physical // 1_000_000_000, physical % 1_000_000_000)


def _iso(text: pl.Series, rows: pl.Series) -> pl.DataFrame:
    """The rarer forms of ISO 8601 (20240501T123000, 2024-W05-1), one distinct text at a time."""
    texts = text.filter(rows).drop_nulls().unique()
    known = [(t, *found) for t in texts.head(_FALLBACK) if (found := _one(t)) is not None]
    if not known:
        return _nothing(len(text))
    names, seconds, nanos = zip(*known, strict=True)
    return pl.DataFrame(
        [
            text.replace_strict(names, values, default=None, return_dtype=pl.Int64).alias(name)
            for name, values in (("seconds", seconds), ("nanos", nanos))
        ]
    )


def _one(text: str) -> tuple[int, int] | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    whole = moment.replace(microsecond=0)
    seconds = int((whole if whole.tzinfo else whole.replace(tzinfo=UTC)).timestamp())
    return seconds, moment.microsecond * 1000
