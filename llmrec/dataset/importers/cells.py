"""The values of a table's cells: every column by the reader of its type, bad cells refused or counted by rule."""

from __future__ import annotations

import contextlib
import dataclasses

import polars as pl

from llmrec.dataset.importers.mapping import TableMapping
from llmrec.dataset.importers.reading import Ledger, RawTable, ReadOptions
from llmrec.dataset.importers.reading.options import SEPARATORS
from llmrec.dataset.importers.values import (
    Reading,
    read_categories,
    read_ids,
    read_numbers,
    read_prices,
    read_text,
    read_times,
    read_whole,
)
from llmrec.dataset.schema import MISSING, REQUIRED, show
from llmrec.dataset.validate import LONGEST, SPLITS
from llmrec.errors import DataError

_IDS = ("user_id", "item_id", "session")
_OURS = ("position", "propensity", "split")
"""Columns that files have in a sense of their own; unless mapped they are passed over if a cell does not fit."""
_ARTICLES = {"user_id": "a user", "item_id": "an item", "time": "a time", "kind": "a kind", "title": "a title"}
_EMPTIED = ("price", "categories")
"""Columns of items that may be empty: where bad rows are skipped, a bad cell is emptied and the item kept."""
_CELL, _BAD = "\0cell ", "\0bad "  # before names of columns that live only here
_VISIBLE = r"[^\s\p{C}]"


def understood(
    raw: RawTable, mapping: TableMapping, options: ReadOptions, asked: frozenset[str], ledger: Ledger
) -> tuple[RawTable, str]:
    """`raw` with the values of its cells (times in seconds, prices as numbers, ...), and the currency of its prices.

    Args:
        raw: Rows with llmrec's columns and the file's cells.
        mapping: How values are written.
        options: How the file is written.
        asked: The columns that were mapped, and so are meant.
        ledger: Takes what is assumed, and the bad rows.

    Raises:
        DataError: A column cannot be understood, or a cell is bad and bad rows are not skipped.
    """
    decimal = options.decimal or ("," if raw.decimal == "," else None)
    found: dict[str, Reading] = {}
    for column in raw.frame.get_columns():
        reading = _column(raw, column, mapping, decimal, column.name in asked, ledger)
        if reading is not None:
            found[column.name] = reading
    currency = next((reading.currency for reading in found.values() if reading.currency), "")
    typed = _typed(raw, found)
    for name, reading in found.items():
        if reading.bad.any():
            # All columns are read before any row is dropped, so rows and cells stay aligned while they are judged.
            typed = _judged(typed, name, reading.wanted, ledger)
    typed = _complete(typed, ledger)
    frame = typed.frame.drop(name for name in typed.frame.columns if name.startswith("\0"))
    return dataclasses.replace(typed, frame=frame), currency


def _column(
    raw: RawTable, column: pl.Series, mapping: TableMapping, decimal: str | None, asked: bool, ledger: Ledger
) -> Reading | None:
    """A column by its reader; None for one that is called like llmrec's and holds something else."""
    name = column.name
    # "position" and "split" are common names for other things; only who maps them means ours.
    optional = name in _OURS and not asked
    try:
        found = _read(column, mapping, decimal)
    except DataError as error:
        if not optional:
            raise DataError(f"{raw.path}, column {name!r}: {error}.") from None
        found = None
    if optional and (found is None or found.bad.any()):
        cell = column.drop_nulls()[0] if found is None else column[int(found.bad.arg_true()[0])]
        wanted = "of its type" if found is None else found.wanted
        ledger.assume(
            f"{raw.path.name}: the column {name!r} is passed over, since it holds {_shown(cell, 30)}, which is not "
            f"{wanted} (--map {name}={name} takes it all the same)."
        )
        return None
    for note in () if found is None else found.notes:
        ledger.assume(f"{raw.path.name}, {name}: {note}.")
    return found


def _typed(raw: RawTable, found: dict[str, Reading]) -> RawTable:
    """The values, and beside those of a column with bad cells its own cells and a mark of the bad ones."""
    columns = [reading.values.alias(name) for name, reading in found.items()]
    times = found.get("time")
    if times is not None and times.order is not None and "order" not in found:
        columns.append(times.order.alias("order"))
    for name, reading in found.items():
        if reading.bad.any() or (name in REQUIRED[raw.table] and reading.values.null_count()):
            columns += [raw.frame[name].alias(_CELL + name), reading.bad.alias(_BAD + name)]
    return dataclasses.replace(raw, frame=pl.DataFrame(columns))


def _read(column: pl.Series, mapping: TableMapping, decimal: str | None) -> Reading:
    name = column.name
    words = MISSING if mapping.missing is None else mapping.missing
    if name in _IDS or name == "kind":
        return _not_too_long(read_ids(column, words), name)
    if name == "time":
        return read_times(
            column,
            unit=mapping.time_unit,
            written=mapping.time_format,
            words=words,
            plausible=not mapping.accept_implausible,
        )
    if name == "price":
        return read_prices(column, words, decimal=decimal, currency=mapping.currency)
    if name == "categories":
        return read_categories(column, words, separator=_sign(mapping.category_separator))
    if name == "value":
        return _value(column, words, decimal)
    if name == "propensity":
        found = read_numbers(column, words, decimal=decimal)
        return _within(
            found, (found.values <= 0) | (found.values > 1), "a probability above 0 and at most 1, or empty"
        )
    if name in ("position", "order"):
        found = read_whole(column, words)
        outside = (
            (found.values < 0) | (found.values >= 2**31) if name == "position" else found.values.is_null() & False
        )
        return _within(found, outside, "a whole number from 0 on (0 is the first place), or empty")
    found = read_text(column, words)
    if name == "split":
        lower = found.values.str.to_lowercase()
        lower = lower.replace({"validation": "valid", "val": "valid", "dev": "valid", "training": "train"})
        wanted = f"one of {', '.join(SPLITS)}, or empty"
        return _within(dataclasses.replace(found, values=lower), ~lower.is_in(SPLITS), wanted)
    return _not_too_long(found, name)


def _not_too_long(found: Reading, name: str) -> Reading:
    if name not in LONGEST:
        return found
    long = (found.values.str.len_chars() > LONGEST[name]).fill_null(False)
    if not long.any():
        return found
    return _within(found, long, f"text of at most {LONGEST[name]:,} characters")


def _sign(separator: str | None) -> str | None:
    """The separator itself: "space" is a space, as for files."""
    return None if separator is None else SEPARATORS.get(separator.lower(), separator)


def _value(column: pl.Series, words: tuple[str, ...], decimal: str | None) -> Reading:
    """A rating as a number, or an amount as people write prices."""
    found = read_numbers(column, words, decimal=decimal)
    if not found.bad.any():
        return found
    with contextlib.suppress(DataError):
        amounts = read_prices(column, words, decimal=decimal)
        # Values are ratings or amounts, which the name does not tell: the reader that understands more cells has it.
        return amounts if amounts.bad.sum() < found.bad.sum() else found
    return found


def _within(found: Reading, outside: pl.Series, wanted: str) -> Reading:
    bad = found.bad | outside.fill_null(False)
    return dataclasses.replace(found, bad=bad, wanted=wanted)


def _judged(raw: RawTable, name: str, wanted: str, ledger: Ledger) -> RawTable:
    """Rows with a bad cell refused or dropped; a bad cell that may be empty is emptied where rows are skipped."""
    mark = raw.frame[_BAD + name]
    if ledger.skip_bad is not None and raw.table == "items" and name in _EMPTIED and mark.any():
        rows = mark.arg_true()
        if len(rows) > max(ledger.most(raw.frame.height), 1):
            raise DataError(
                f"{_sentence(raw, name, wanted, int(rows[0]))}, and so in {len(rows):,} rows; mend the column."
            )
        ledger.assume(
            f"{raw.path.name}: {name} is left empty in {len(rows):,} rows whose cell is not {wanted} (first: "
            f"{raw.place(int(rows[0]))}, {_shown(raw.frame[_CELL + name][int(rows[0])], 30)})."
        )
        emptied = raw.frame.with_columns(pl.when(~pl.col(_BAD + name)).then(name).alias(name))
        return dataclasses.replace(raw, frame=emptied)
    return raw.drop_bad(mark, f"{name} cannot be read", ledger, lambda row: _cell(raw, name, wanted, row))


def _sentence(raw: RawTable, name: str, wanted: str, row: int) -> str:
    return f"{raw.where(row)}: {_cell(raw, name, wanted, row)}"


def _cell(raw: RawTable, name: str, wanted: str, row: int) -> str:
    return f"{name!r} is {_shown(raw.frame[_CELL + name][row], 40)}, but it must be {wanted}"


def _shown(cell: object, width: int) -> str:
    return show(cell.to_list() if isinstance(cell, pl.Series) else cell, width)


def _complete(raw: RawTable, ledger: Ledger) -> RawTable:
    """Without the rows that lack what a row needs."""
    for name in REQUIRED[raw.table]:
        if name not in raw.frame.columns:
            continue
        gone = raw.frame[name].is_null()
        if name == "title":
            gone = gone | ~raw.frame[name].str.contains(_VISIBLE).fill_null(False)
        thing = _ARTICLES[name]
        raw = raw.drop_bad(gone, f"without {thing}", ledger, lambda row, n=name, r=raw: _lacking(r, n, row))  # type: ignore[misc]
    return raw


def _lacking(raw: RawTable, name: str, row: int) -> str:
    others = (key for key in ("user_id", "item_id") if key in raw.frame.columns and key != name)
    who = ", ".join(f"{key} {show(raw.frame[key][row], 30)}" for key in others)
    cell = raw.frame[_CELL + name if _CELL + name in raw.frame.columns else name][row]
    said = "is empty"
    if cell is not None and not (isinstance(cell, str) and not cell.strip()):
        word = raw.frame[name][row] is None
        why = "a word for missing (--missing names other words)" if word else "of which nothing can be seen"
        said = f"is {_shown(cell, 30)}, {why}"
    return f"{name!r} {said}{f', of {who}' if who else ''}"
