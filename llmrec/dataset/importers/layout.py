"""From the rows of a file to those of a table: columns by name or place, filled, put together, one a property.

Cells stay as they are; `cells` reads their values.
"""

from __future__ import annotations

import dataclasses
import re

import polars as pl

from llmrec.dataset.importers.mapping import Explode, Long, TableFile
from llmrec.dataset.importers.reading import Ledger, RawTable
from llmrec.dataset.importers.values import MISSING, look_like_floats, without_zeros
from llmrec.dataset.importers.values.cells import as_text, without_missing
from llmrec.dataset.schema import SCHEMAS, TEXT_LIST, show
from llmrec.errors import DataError

_TYPED = re.compile(r"(.+):(?:token|float|token_seq|float_seq)")
_ASKED = ("order",)
"""Columns that a file's own name does not stand for: an `order` of one's own is the number of an order."""
_ROW, _PROPERTY, _VALUE = "\0row", "\0property", "\0value"  # names that no file's column has
_SLOT = re.compile(r"\{([^{}]*)\}")


def shaped(
    raw: RawTable, spec: TableFile, ledger: Ledger, need: tuple[str, ...], words: tuple[str, ...] = MISSING
) -> tuple[RawTable, list[str]]:
    """`raw` with llmrec's columns only, and the names of the file's columns that were used.

    Args:
        raw: The file's rows.
        spec: What is where.
        ledger: Takes rows that `explode` and `long` add and put together.
        need: Columns that the table cannot do without.
        words: What stands for missing in cells that are put together.

    Raises:
        DataError: A column is missing.
    """
    if spec.explode is not None:
        raw = _exploded(raw, spec.explode, ledger)
    if spec.long is not None:
        raw = _wide(raw, spec, spec.long, ledger)
    columns: list[pl.Series] = []
    used: list[str] = []
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
            raise DataError(_lacks(raw, name, missing))
    frame = pl.DataFrame(columns) if columns else pl.DataFrame()
    return dataclasses.replace(raw, frame=frame), used


def find_column(frame: pl.DataFrame, wanted: str) -> str | None:
    """The column called `wanted`, also with a type behind it (`item_id:token`), or at that place (from 1)."""
    if wanted in frame.columns:
        return wanted
    typed = next((c for c in frame.columns if (m := _TYPED.fullmatch(c)) and m[1] == wanted), None)
    if typed is None and wanted.isdecimal() and len(wanted) < 6 and 1 <= int(wanted) <= frame.width:
        return frame.columns[int(wanted) - 1]
    return typed


def _lacks(raw: RawTable, name: str, missing: str) -> str:
    there = ", ".join(show(c, 30)[1:-1] for c in raw.frame.columns[:12]) + (", …" if raw.frame.width > 12 else "")
    text = f"{raw.path} lacks the column {show(missing, 40)} for {name!r} (it has: {there})"
    names = (m[1] if (m := _TYPED.fullmatch(c)) else c for c in raw.frame.columns)
    near = next((c for c in names if _plain(c) in _ALIASES.get(name, ())), None)
    mend = f"{name}={near}" if near else f"{name}=YOURS"
    text += f"; map {name!r} to one of them, as with --map {mend}"
    return text + (", or add --order file if the order of the file is all there is." if name == "time" else ".")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower()[:60])


_ALIASES: dict[str, tuple[str, ...]] = {
    "user_id": ("user", "userid", "uid", "customer", "customerid", "visitorid", "member", "memberid", "reviewerid"),
    "item_id": ("item", "itemid", "iid", "product", "productid", "sku", "asin", "movieid", "isbn", "id", "articleid"),
    "time": ("timestamp", "ts", "date", "datetime", "at", "eventtime", "createdat", "invoicedate", "unixreviewtime"),
    "title": ("name", "itemname", "productname", "booktitle", "producttitle", "itemtitle"),
    "kind": ("event", "eventtype", "action", "behavior", "behaviortype", "type", "activity"),
}


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
        label = f"{column.name.replace('_', ' ').strip()}: " if name == "profile" else ""
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
    for match in _SLOT.finditer(text):
        found = find_column(raw.frame, match[1])
        if found is None:
            raise DataError(_lacks(raw, text[:40], match[1]))
        used.append(found)
        parts += [pl.lit(text[place : match.start()]), pl.lit(as_text(raw.frame[found]))]
        place = match.end()
    parts.append(pl.lit(text[place:]))
    if len(parts) == 1:
        return pl.repeat(text, raw.frame.height, dtype=pl.String, eager=True)
    return raw.frame.select(pl.concat_str(parts).alias("filled")).to_series()


def _rows(raw: RawTable, frame: pl.DataFrame, row: pl.Series) -> RawTable:
    """`raw` with other rows, each of which comes from the row `row` of it."""
    part = None if raw.part is None else raw.part.gather(row)
    return dataclasses.replace(raw, frame=frame, line=raw.line.gather(row), part=part)


def _exploded(raw: RawTable, spec: Explode, ledger: Ledger) -> RawTable:
    """One row for each element; a row without one is left out."""
    name = find_column(raw.frame, spec.column)
    if name is None:
        raise DataError(_lacks(raw, "explode", spec.column))
    column = raw.frame[name]
    if not isinstance(column.dtype, pl.List):
        text = as_text(column)
        column = (text.str.split(spec.separator) if spec.separator.strip() else text.str.extract_all(r"\S+")).alias(
            name
        )
    empty = column.list.len().fill_null(0) == 0
    raw = raw.leave_out(empty, f"an empty list in {spec.column[:40]!r}", ledger)
    frame = raw.frame.with_columns(column.filter(~empty)).with_row_index(_ROW).explode(name)
    ledger.add(f"listed together in {spec.column[:40]!r}", raw.table, frame.height - raw.frame.height)
    cells = frame[name]
    for part in reversed(spec.into[1:] if spec.divider else ()):
        pattern = rf"^(.*){re.escape(spec.divider)}(.*?)$"
        both = cells.to_frame("t").select(pl.col("t").str.extract(pattern, g).alias(str(g)) for g in (1, 2))
        frame = frame.with_columns(both["2"].alias(part))
        cells = both["1"]
    if spec.into:
        frame = frame.with_columns(cells.alias(spec.into[0]))
    return _rows(raw, frame.drop(_ROW), frame[_ROW])


def _wide(raw: RawTable, spec: TableFile, long: Long, ledger: Ledger) -> RawTable:
    """One row for each id, with the last value of every property as a column."""
    key = f"{raw.table.removesuffix('s')}_id"
    names = [spec.columns.get(key, (key,))[0], long.property, long.value]
    found = [find_column(raw.frame, name) for name in names]
    for name, there in zip(names, found, strict=True):
        if there is None:
            raise DataError(_lacks(raw, key, name))
    id_, property_, value = (f or "" for f in found)
    frame = raw.frame.select(
        pl.col(id_), pl.lit(as_text(raw.frame[property_])).alias(_PROPERTY), pl.col(value).alias(_VALUE)
    )
    wanted = {n for columns in spec.columns.values() for n in columns} | set(SCHEMAS[raw.table])
    wanted |= {m for text in spec.fill.values() for m in _SLOT.findall(text)}
    kept = frame.with_row_index(_ROW).filter(pl.col(_PROPERTY).is_in(sorted(wanted)))
    firsts = frame.with_row_index(_ROW).unique(id_, keep="first", maintain_order=True).select(id_, _ROW)
    wide = firsts
    for name in kept[_PROPERTY].unique(maintain_order=True):
        one = kept.filter(pl.col(_PROPERTY) == name).unique(id_, keep="last").select(id_, pl.col(_VALUE).alias(name))
        wide = wide.join(one, on=id_, how="left", maintain_order="left", nulls_equal=True)
    rest = raw.frame.height - wide.height
    ledger.remove("more rows of the same id, one property each", raw.table, [], rest)
    return _rows(raw, wide.drop(_ROW), wide[_ROW])
