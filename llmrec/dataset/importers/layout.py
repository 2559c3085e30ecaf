"""From the rows of a file to those of a table: columns by name or place, filled, put together, one a property.

Cells stay as they are; `cells` reads their values.
"""

from __future__ import annotations

import dataclasses

import polars as pl

from llmrec.dataset.importers.mapping import TableFile
from llmrec.dataset.importers.reading import Ledger, RawTable
from llmrec.dataset.importers.reshape import SLOT, bare_name, find_column, lacks, reshaped
from llmrec.dataset.importers.values import look_like_floats, without_zeros
from llmrec.dataset.importers.values.cells import as_text, without_missing
from llmrec.dataset.schema import MISSING, SCHEMAS, TEXT_LIST
from llmrec.errors import DataError

_ASKED = ("order",)
"""Columns that a file's own name does not stand for: an `order` of one's own is the number of an order."""


def shaped(
    raw: RawTable, spec: TableFile, ledger: Ledger, need: tuple[str, ...], words: tuple[str, ...] = MISSING
) -> tuple[RawTable, list[str]]:
    """`raw` with llmrec's columns only, and the names of the file's columns that were used.

    Args:
        raw: The file's rows.
        spec: What is where.
        ledger: Takes rows that reshaping adds, puts together or leaves out.
        need: Columns that the table cannot do without.
        words: What stands for missing in cells that are put together.

    Raises:
        DataError: A column is missing.
    """
    places = [n for names in spec.columns.values() for n in names if n.isdecimal() and n not in raw.frame.columns]
    if raw.first_line == "guessed names" and places:
        raise DataError(
            f"{raw.path}: columns are mapped by their place ({places[0]}), and nothing tells whether its first line "
            "holds names or is data; say --header or --no-header."
        )
    raw, used = reshaped(raw, spec, ledger)
    columns: list[pl.Series] = []
    for name in SCHEMAS[raw.table]:
        if name in spec.fill:
            columns.append(_filled(raw, spec.fill[name], used).alias(name))
            continue
        asked = spec.columns.get(name)
        if asked is None and name in _ASKED:
            continue
        found = [find_column(raw.frame, wanted) for wanted in asked or (name,)]
        missing = next((w for w, f in zip(asked or (name,), found, strict=True) if f is None), None)
        if missing is None:
            names = [f for f in found if f is not None]
            used += names
            columns.append(_together(raw.frame.select(names), name, words).alias(name))
        elif asked or name in need:
            raise DataError(lacks(raw, name, missing))
    frame = pl.DataFrame(columns) if columns else pl.DataFrame()
    return dataclasses.replace(raw, frame=frame), used


def _together(frame: pl.DataFrame, name: str, words: tuple[str, ...]) -> pl.Series:
    """One column as it is; of several the cells that say something, with their columns' names for a profile."""
    if frame.width == 1:
        column = frame.to_series()
        named = name == "profile" and frame.columns[0] != "profile" and _is_fact(column)
        if not named:
            return column
    parts = []
    for column in frame.get_columns():
        text, _ = without_missing(as_text(column), words)
        text = without_zeros(text)[0] if look_like_floats(text) else text
        label = f"{bare_name(column.name).replace('_', ' ').strip()}: " if name == "profile" else ""
        parts.append(pl.select(pl.lit(label) + pl.lit(text)).to_series().alias(column.name))
    table = pl.DataFrame(parts)
    if name == "categories":
        return table.select(pl.concat_list(pl.all()).list.drop_nulls().cast(TEXT_LIST).alias(name)).to_series()
    joined = table.select(pl.concat_str(pl.all(), separator="; " if name == "profile" else " ", ignore_nulls=True))
    return joined.to_series()


def _is_fact(column: pl.Series) -> bool:
    """Whether cells say little without their column's name, such as 31 or M."""
    if column.dtype != pl.String:
        return True
    known = column.drop_nulls()
    return len(known) > 0 and bool((known.str.count_matches(r"\s") == 0).all())


def _filled(raw: RawTable, text: str, used: list[str]) -> pl.Series:
    """`text` with the cells of a row in the place of {column}; null where one of them is missing."""
    parts: list[pl.Expr] = []
    place = 0
    for match in SLOT.finditer(text):
        found = find_column(raw.frame, match[1])
        if found is None:
            raise DataError(lacks(raw, text[:40], match[1]))
        used.append(found)
        parts += [pl.lit(text[place : match.start()]), pl.lit(as_text(raw.frame[found]))]
        place = match.end()
    parts.append(pl.lit(text[place:]))
    if len(parts) == 1:
        return pl.repeat(text, raw.frame.height, dtype=pl.String, eager=True)
    return raw.frame.select(pl.concat_str(parts).alias("filled")).to_series()
