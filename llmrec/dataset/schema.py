"""Column types of the tables, and casting to them with one clear sentence for the first value that does not fit."""

from __future__ import annotations

import difflib

import polars as pl

from llmrec.errors import DataError

DType = pl.DataType | type[pl.DataType]
TEXT_LIST = pl.List(pl.String)

SCHEMAS: dict[str, dict[str, DType]] = {
    "items": {
        "item_id": pl.String,
        "title": pl.String,
        "description": pl.String,
        "categories": TEXT_LIST,
        "brand": pl.String,
        "price": pl.Float64,
    },
    "users": {"user_id": pl.String, "profile": pl.String},
    "events": {
        "user_id": pl.String,
        "item_id": pl.String,
        "kind": pl.String,
        "time": pl.Int64,
        "value": pl.Float64,
        "position": pl.Int32,
        "propensity": pl.Float64,
        "session": pl.String,
        "split": pl.String,
        "order": pl.Int64,
    },
    "rows": {
        "split": pl.String,
        "user_id": pl.String,
        "history": TEXT_LIST,
        "target": pl.String,
        "time": pl.Int64,
    },
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "items": ("item_id", "title"),
    "users": ("user_id",),
    "events": ("user_id", "item_id", "kind", "time"),
    "rows": ("split", "user_id", "history", "target"),
}
LATER_COLUMNS = {"events": ("order",)}
"""Optional columns that older folders lack: where they hold nothing they are neither hashed nor written."""
_EMPTY_TEXT = ("description", "brand", "profile")
MISSING: tuple[str, ...] = (
    *("nan", "NaN", "NAN", "-nan", "-NaN", "NaT"),
    *("null", "Null", "NULL", "none", "None", "NONE", "nil", "NIL"),
    *("\\N", "n/a", "N/A", "NA", "#N/A", "#NA", "<NA>", "-", "--", "—", "–"),
    *("undefined", "(null)", "#VALUE!", "#REF!", "#NAME?", "#DIV/0!"),
)
"""Words that stand for a missing value, written so by tables of numbers, databases, spreadsheets and people.

Case counts: `Na` and `na` are words of languages. An empty cell is always missing.
"""


def without_empty_later(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """`frame` without those of `LATER_COLUMNS` that hold nothing: what is hashed and written."""
    return frame.drop(n for n in LATER_COLUMNS.get(table, ()) if frame[n].null_count() == frame.height)


def with_later(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """`frame` with those of `LATER_COLUMNS` that it lacks, empty; the inverse of `without_empty_later`."""
    missing = [name for name in LATER_COLUMNS.get(table, ()) if name not in frame.columns]
    return frame.with_columns(pl.lit(None, dtype=SCHEMAS[table][name]).alias(name) for name in missing)


def show(value: object, width: int = 60) -> str:
    """`repr` of an untrusted value, cut to `width` characters, for use in a message."""
    if isinstance(value, str) and len(value) > width:
        return f"{value[:width]!r}…"
    text = repr(value)
    return text if len(text) <= width else text[:width] + "…"


def first_true(mask: pl.Series) -> int | None:
    """Position of the first true value of a boolean series, or None."""
    return mask.fill_null(False).arg_true().first() if mask.any() else None  # type: ignore[return-value]


def cast_table(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """`frame` with exactly the columns and types of `table`; optional columns that are absent become empty.

    Raises:
        DataError: a missing or unknown column, or a value of another type, named with its row (counted from 0).
    """
    schema = SCHEMAS[table]
    _check_columns(frame.columns, table)
    columns = []
    for name, dtype in schema.items():
        if name in frame.columns:
            column = _cast_column(frame[name], dtype, table)
        else:
            column = pl.Series(name, [None], dtype=dtype).new_from_index(0, frame.height)
        if name in _EMPTY_TEXT:
            column = column.fill_null("")
        elif name == "categories":
            column = column.fill_null(pl.Series([[]], dtype=TEXT_LIST)).list.drop_nulls()
        columns.append(column.alias(name))
    return pl.DataFrame(columns).rechunk()


def _check_columns(columns: list[str], table: str) -> None:
    for name in REQUIRED[table]:
        if name not in columns:
            found = ", ".join(columns) or "none"
            raise DataError(f"Table {table} lacks the column {name!r} (it has: {found}); add it or map one to it.")
    for name in columns:
        if name not in SCHEMAS[table]:
            near = difflib.get_close_matches(name, SCHEMAS[table], n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"known columns: {', '.join(SCHEMAS[table])}."
            raise DataError(f"Table {table} has the unknown column {name!r}; {mend}")


def _cast_column(column: pl.Series, dtype: DType, table: str) -> pl.Series:
    if column.dtype == dtype and dtype != pl.Float64:  # numbers may be NaN or infinite
        return column
    if column.dtype == pl.Null:
        return column.cast(dtype)
    if dtype == pl.String:
        return _to_text(column, table)
    if dtype == pl.Float64:
        return _to_number(column, table)
    if dtype == TEXT_LIST:
        return _to_text_list(column, table)
    return _to_whole(column, dtype, table)


def _to_text(column: pl.Series, table: str) -> pl.Series:
    if column.dtype.is_integer() or column.dtype in (pl.Categorical, pl.Enum, pl.String):
        return column.cast(pl.String)
    raise DataError(
        f"Table {table}: column {column.name!r} holds {column.dtype}, but it must hold text; write values as text."
    )


def _to_text_list(column: pl.Series, table: str) -> pl.Series:
    if isinstance(column.dtype, pl.List) and (column.dtype.inner == pl.Null or column.dtype.inner == pl.Categorical):
        return column.cast(TEXT_LIST)
    raise DataError(
        f"Table {table}: column {column.name!r} holds {column.dtype}, but it must hold lists of text; split the text."
    )


def _to_number(column: pl.Series, table: str) -> pl.Series:
    _refuse_type(column, table, "numbers")
    column = _empty_is_null(column)
    number = column.cast(pl.Float64, strict=False)
    bad = (number.is_null() & column.is_not_null()) | ~number.is_finite().fill_null(True)
    _refuse_value(column, bad, table, "a finite number")
    return number


def _to_whole(column: pl.Series, dtype: DType, table: str) -> pl.Series:
    if column.name == "time" and column.dtype in (pl.Date, pl.Datetime):
        return column.dt.epoch("s").cast(dtype)
    _refuse_type(column, table, "whole numbers")
    column = _empty_is_null(column)
    whole = column.cast(dtype, strict=False)
    bad = whole.is_null() & column.is_not_null()
    if column.dtype.is_float() or column.dtype.is_decimal():
        bad = bad | (whole.cast(pl.Float64) != column.cast(pl.Float64)).fill_null(False)
    _refuse_value(column, bad, table, "a whole number")
    return whole


def _empty_is_null(column: pl.Series) -> pl.Series:
    """Text of numbers without the spaces around it, and null where nothing is left."""
    return column.str.strip_chars().replace("", None) if column.dtype == pl.String else column


def _refuse_type(column: pl.Series, table: str, wanted: str) -> None:
    if not column.dtype.is_numeric() and column.dtype != pl.String:
        raise DataError(f"Table {table}: column {column.name!r} holds {column.dtype}, but it must hold {wanted}.")


def _refuse_value(column: pl.Series, bad: pl.Series, table: str, wanted: str) -> None:
    row = first_true(bad)
    if row is not None:
        mend = "" if column.name in REQUIRED[table] else ", or empty (null) where it is unknown"
        raise DataError(
            f"Table {table}, row {row} (counted from 0): {column.name!r} is {show(column[row])}, "
            f"but it must be {wanted}{mend}."
        )
