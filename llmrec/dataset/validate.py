"""Hard errors: what makes a data set unusable, refused with one sentence that names table, row, key and mend.

Rows are counted from 0. What merely looks odd is left to `check`. Two equal titles, very long descriptions and
chat markers in text are no errors: the catalogue tells equal titles apart and the text layer defuses the rest.
"""

from __future__ import annotations

import difflib

import polars as pl

from llmrec.dataset.schema import first_true, show
from llmrec.errors import DataError
from llmrec.types import EVENT_KINDS

SPLITS = ("train", "valid", "test")
LONGEST = {
    "item_id": 1_000,
    "user_id": 1_000,
    "title": 10_000,
    "brand": 10_000,
    "categories": 100_000,
    "description": 1_000_000,
    "profile": 1_000_000,
}
"""Characters of a text at most (of all categories together); prompts show far less of them."""
_VISIBLE = r"[^\s\p{C}]"


def validate_items(items: pl.DataFrame) -> None:
    """Refuses an empty catalogue, empty or repeated ids, titles without a visible character, and what is no text."""
    if items.is_empty():
        raise DataError("Table items is empty; a catalogue needs at least one item.")
    _ids(items, "items", "item_id")
    _texts(items, "items")
    row = first_true(~items["title"].fill_null("").str.contains(_VISIBLE))
    if row is not None:
        item = show(items["item_id"][row])
        raise DataError(f"{_at('items', row)}: item {item} has an empty title; give it one or drop the item.")


def validate_users(users: pl.DataFrame) -> None:
    """Refuses empty or repeated user ids, and profiles that are no text."""
    _ids(users, "users", "user_id")
    _texts(users, "users")


def validate_events(events: pl.DataFrame) -> None:
    """Refuses bad kinds, times, positions, propensities and splits; ids are looked up by `rows_of`."""
    known = events["kind"].is_in(EVENT_KINDS) & events["kind"].is_not_null()
    _refuse(events, "events", ~known, "kind", f"one of {', '.join(EVENT_KINDS)}")
    time = events["time"]
    _refuse(events, "events", time.is_null() | (time < 0), "time", "whole seconds since 1970, 0 or more")
    _refuse(events, "events", events["position"] < 0, "position", "0 or more (0 is the first place), or empty")
    chance = events["propensity"]
    _refuse(events, "events", (chance <= 0) | (chance > 1), "propensity", "above 0 and at most 1, or empty")
    bad_split = events["split"].is_not_null() & ~events["split"].is_in(SPLITS)
    _refuse(events, "events", bad_split, "split", f"one of {', '.join(SPLITS)}, or empty")


def validate_rows(rows: pl.DataFrame, items: pl.Series, users: pl.Series) -> None:
    """Refuses evaluation rows with a bad split or an item or user that is not in the tables."""
    _refuse(rows, "rows", rows["split"].is_null() | ~rows["split"].is_in(SPLITS), "split", f"one of {SPLITS}")
    _refuse(rows, "rows", rows["time"] < 0, "time", "whole seconds since 1970, 0 or more, or empty")
    _refuse(rows, "rows", rows["history"].is_null(), "history", "a list of item ids (it may be empty)")
    rows_of(rows["user_id"], users, "rows", "users")
    rows_of(rows["target"], items, "rows", "items")
    flat = rows.with_row_index("row").select("row", "history").explode("history", empty_as_null=False)
    missing = first_true(flat["history"].is_null() | ~flat["history"].is_in(items.implode()))
    if missing is not None:
        row, item = flat.row(missing)
        raise DataError(f"{_at('rows', row)}: 'history' names {_unknown(item, items, 'items')}")


def rows_of(ids: pl.Series, known: pl.Series, table: str, target: str) -> pl.Series:
    """Row number in table `target` (UInt32) of every id; a null or unknown id is a `DataError`."""
    numbers = pl.int_range(len(known), dtype=pl.UInt32, eager=True)
    found = ids.replace_strict(known, numbers, default=None, return_dtype=pl.UInt32)
    row = first_true(found.is_null())
    if row is not None:
        raise DataError(f"{_at(table, row)}: {ids.name!r} is {_unknown(ids[row], known, target)}")
    return found


def _unknown(value: str | None, known: pl.Series, target: str) -> str:
    if value is None:
        return f"empty; name a row of table {target} or drop this row."
    near = difflib.get_close_matches(value, known.head(2000).to_list(), n=1, cutoff=0.8)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{show(value)}, which table {target} does not have{hint}; add it to {target} or drop this row."


def _texts(frame: pl.DataFrame, table: str) -> None:
    """Refuses NUL bytes, which are no text, and texts that are longer than any that a person wrote."""
    for key, longest in LONGEST.items():
        if key not in frame.columns:
            continue
        texts = frame[key].list.join("") if frame[key].dtype == pl.List(pl.String) else frame[key]
        row = first_true(texts.str.contains("\0", literal=True))
        if row is not None:
            raise DataError(f"{_at(table, row)}: {key!r} holds a NUL byte, which is no text; take it out.")
        length = texts.str.len_chars()
        row = first_true(length > longest)
        if row is not None:
            raise DataError(
                f"{_at(table, row)}: {key!r} has {length[row]:,} characters, and {longest:,} are the most; cut it."
            )


def _ids(frame: pl.DataFrame, table: str, key: str) -> None:
    ids = frame[key]
    row = first_true(ids.is_null() | (ids == ""))
    if row is not None:
        raise DataError(f"{_at(table, row)}: {key!r} is empty; give every row an id.")
    row = first_true(~ids.is_first_distinct())
    if row is not None:
        first = first_true(ids == ids[row])
        raise DataError(
            f"{_at(table, row)}: {key!r} {show(ids[row])} stands in row {first} already; "
            "keep one row for each id (`unique` keeps the first)."
        )


def _refuse(frame: pl.DataFrame, table: str, bad: pl.Series, key: str, wanted: str) -> None:
    row = first_true(bad)
    if row is not None:
        who = "".join(f", {k} {show(frame[k][row])}" for k in ("user_id", "item_id") if k in frame.columns)
        raise DataError(f"{_at(table, row)}{who}: {key!r} is {show(frame[key][row])}, but it must be {wanted}.")


def _at(table: str, row: int) -> str:
    return f"Table {table}, row {row} (counted from 0)"
