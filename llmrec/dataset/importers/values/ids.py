"""Ids: text that must stay apart or together exactly as the tables mean it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from llmrec.dataset.importers.values.cells import (
    WHOLE_FLOATS,
    Reading,
    as_text,
    none_bad,
    trimmed,
    without_missing,
)
from llmrec.dataset.schema import MISSING, show
from llmrec.errors import DataError

_FLOATS = r"^-?\d+(\.0*)?$"
_SCIENTIFIC = r"^-?\d(?:[.,]\d+)?[eE]\+\d+$"
_DIGITS = 6
"""What programs (not spreadsheets) write at least of a number, so that their 9e+05 is 900000 and nothing else."""
_WANTED = "an id in full: a spreadsheet or a float wrote it rounded, so that different ids became one"


def read_ids(column: pl.Series, words: Sequence[str] = MISSING) -> Reading:
    """Ids as text, trimmed; leading zeros stay. `12.0` stays too: see `look_like_floats` and `without_zeros`.

    1.2345678901e+10, which names every digit, is 12345678901, and 9e+05 of a program is 900000; 1.23457E+11 names
    twelve digits by six and is bad.
    """
    if column.dtype.is_nested():
        raise DataError(f"the cells are {column.dtype}, but they must be ids; name one a row (or explode the lists)")
    notes = trimmed(column)
    text, missing = without_missing(as_text(column), words)
    bad = none_bad(len(text))
    if column.dtype.is_float():
        # From 2^53 on neighbouring whole numbers share one double: two ids may have become one.
        bad = (column.abs() >= WHOLE_FLOATS).fill_null(False) | column.is_infinite().fill_null(False)
    elif column.dtype == pl.String and text.str.contains("+", literal=True).any():
        text, bad = _written_out(text)
    return Reading(text, bad, _WANTED, (*notes, *missing))


def _written_out(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Scientific notation written out where it names all digits; the others are bad."""
    name = text.name
    found = text.str.contains(_SCIENTIFIC).fill_null(False)
    mantissa = pl.col(name).str.extract(r"^(-?\d(?:[.,]\d+)?)[eE]").str.replace(r"[.,]", "")
    power = pl.col(name).str.extract(r"\+(\d+)$").cast(pl.Int64, strict=False)
    digits = mantissa.str.replace("-", "").str.len_chars()
    # A lower-case e and few digits: a program's shortest way of writing a round number, no digit of which is lost.
    short = pl.col(name).str.contains("e", literal=True) & (power < _DIGITS) & (digits <= power)
    mantissa = (
        pl.when(short).then(mantissa + pl.lit("0" * _DIGITS).str.slice(0, power + 1 - digits)).otherwise(mantissa)
    )
    frame = text.to_frame().with_columns(
        pl.Series("found", found), mantissa=mantissa, full=short | (digits == power + 1)
    )
    bad = frame.select(bad=pl.col("found") & ~pl.col("full").fill_null(False))["bad"]
    kept = frame.select(
        pl.when(~pl.col("found")).then(pl.col(name)).when(pl.col("full")).then(pl.col("mantissa")).alias(name)
    )[name]
    return kept, bad


def look_like_floats(ids: pl.Series) -> bool:
    """Whether every id is a whole number, so that 12 and 12.0 are one (a table of numbers with gaps writes 12.0)."""
    known = ids.drop_nulls()
    return len(known) > 0 and bool(known.str.contains(_FLOATS).all())


def without_zeros(ids: pl.Series) -> tuple[pl.Series, tuple[str, ...]]:
    """`12.0` as `12`, with a note; for columns that all `look_like_floats`."""
    points = ids.str.contains(".", literal=True).fill_null(False)
    if not points.any():
        return ids, ()
    plain = ids.str.replace(r"\.0*$", "")
    row = int(points.arg_true()[0])
    return plain, (f"{int(points.sum()):,} ids such as {show(ids[row], 30)} read as {show(plain[row], 30)}",)


def near_miss(strangers: pl.Series, known: pl.Series) -> str:
    """How the unknown ids `strangers` would be known if they were written otherwise; empty if no way helps."""
    ways: dict[str, Callable[[pl.Series], pl.Series]] = {
        "without '.0' at their end": lambda s: s.str.replace(r"\.0*$", ""),
        "without leading zeros": lambda s: s.str.replace(r"^0+(.)", "$1"),
        "in lower case": lambda s: s.str.to_lowercase(),
    }
    for how, change in ways.items():
        changed = change(strangers)
        found = changed.is_in(change(known).implode()) if len(known) else none_bad(len(changed))
        if found.any():
            first = strangers.filter(found)[0]
            return f"{int(found.sum()):,} of them would be known {how}, such as {show(first)}"
    return ""
