"""Columns of a file and rows of a table: columns by name, by name with a type behind it, or by place.

Rows of a file may not be those of a table: rows that list several, one property a row, ids of another file.
"""

from __future__ import annotations

import dataclasses
import re

import polars as pl

from llmrec.dataset.importers.mapping import Explode, Long, TableFile
from llmrec.dataset.importers.reading import Ledger, RawTable
from llmrec.dataset.importers.values.cells import as_text
from llmrec.dataset.schema import SCHEMAS, show
from llmrec.errors import DataError

_TYPED = re.compile(r"(.+):(?:token|float|token_seq|float_seq)")
SLOT = re.compile(r"\{([^{}]*)\}")
"""A column in a text that is filled: {name}."""
_ROW, _PROPERTY, _VALUE = "\0row", "\0property", "\0value"  # names that no file's column has


_ALIASES: dict[str, tuple[str, ...]] = {
    "user_id": ("user", "userid", "uid", "customer", "customerid", "visitorid", "member", "memberid", "reviewerid"),
    "item_id": ("item", "itemid", "iid", "product", "productid", "sku", "asin", "movieid", "isbn", "id", "articleid"),
    "time": ("timestamp", "ts", "date", "datetime", "at", "eventtime", "createdat", "invoicedate", "unixreviewtime"),
    "title": ("name", "itemname", "productname", "booktitle", "producttitle", "itemtitle"),
    "kind": ("event", "eventtype", "action", "behavior", "behaviortype", "type", "activity"),
}


def find_column(frame: pl.DataFrame, wanted: str) -> str | None:
    """The column called `wanted`, also with a type behind it (`item_id:token`), or at that place (from 1)."""
    if wanted in frame.columns:
        return wanted
    typed = next((c for c in frame.columns if (m := _TYPED.fullmatch(c)) and m[1] == wanted), None)
    if typed is None and wanted.isdecimal() and len(wanted) < 6 and 1 <= int(wanted) <= frame.width:
        return frame.columns[int(wanted) - 1]
    return typed


def bare_name(name: str) -> str:
    """A column's name without a type behind it."""
    return m[1] if (m := _TYPED.fullmatch(name)) else name


def lacks(raw: RawTable, name: str, missing: str) -> str:
    """The sentence for a file without the column `missing`, which is wanted for `name`."""
    there = ", ".join(show(c, 30)[1:-1] for c in raw.frame.columns[:12]) + (", …" if raw.frame.width > 12 else "")
    text = f"{raw.path} lacks the column {show(missing, 40)} for {name!r} (it has: {there})"
    names = map(bare_name, raw.frame.columns)
    if all(name not in columns for columns in SCHEMAS.values()):
        return f"{text}; name one of them in the mapping."
    near = next((c for c in names if _plain(c) in _ALIASES.get(name, ())), None)
    mend = f"{name}={near}" if near else f"{name}=YOURS"
    text += f"; map {name!r} to one of them, as with --map {mend}"
    return text + (", or add --order file if the order of the file is all there is." if name == "time" else ".")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower()[:60])


def reshaped(raw: RawTable, spec: TableFile, ledger: Ledger) -> tuple[RawTable, list[str]]:
    """`raw` with the rows that `spec` wants, one for each of the table, and the columns that were needed for it.

    Raises:
        DataError: A column is missing, or a pattern is none.
    """
    used: list[str] = []
    later = {name: pattern for name, pattern in spec.only.items() if find_column(raw.frame, name) is None}
    for name, pattern in spec.only.items():
        if name not in later:
            raw = _only(raw, name, pattern, used, ledger)
    if spec.explode is not None:
        raw = _exploded(raw, spec.explode, used, ledger)
    if spec.long is not None:
        raw = _wide(raw, spec, spec.long, used, ledger)
    for name, pattern in later.items():  # columns that the lists or properties bring
        raw = _only(raw, name, pattern, used, ledger)
    return raw, used


def _need(raw: RawTable, wanted: str, purpose: str, used: list[str]) -> str:
    found = find_column(raw.frame, wanted)
    if found is None:
        raise DataError(lacks(raw, purpose, wanted))
    used.append(found)
    return found


def _only(raw: RawTable, wanted: str, pattern: str, used: list[str], ledger: Ledger) -> RawTable:
    """The rows whose cell is wholly what the pattern says."""
    name = _need(raw, wanted, "only", used)
    try:
        fits = as_text(raw.frame[name]).str.contains(f"^(?:{pattern})$").fill_null(False)
    except pl.exceptions.PolarsError:
        raise DataError(f"{raw.path}: only {show(wanted, 40)} is {show(pattern, 60)}, which is no pattern.") from None
    return raw.leave_out(~fits, f"{wanted[:40]!r} is not {pattern[:40]!r}", ledger)


def _rows(raw: RawTable, frame: pl.DataFrame, row: pl.Series) -> RawTable:
    """`raw` with other rows, each of which comes from the row `row` of it."""
    part = None if raw.part is None else raw.part.gather(row)
    return dataclasses.replace(raw, frame=frame, line=raw.line.gather(row), part=part)


def _exploded(raw: RawTable, spec: Explode, used: list[str], ledger: Ledger) -> RawTable:
    """One row for each element; a row without one is left out."""
    name = _need(raw, spec.column, "explode", used)
    column = raw.frame[name]
    if not isinstance(column.dtype, pl.List):
        text = as_text(column)
        blank = not spec.separator.strip()
        column = (text.str.extract_all(r"\S+") if blank else text.str.split(spec.separator)).alias(name)
    empty = column.list.len().fill_null(0) == 0
    raw = raw.leave_out(empty, f"an empty list in {spec.column[:40]!r}", ledger)
    frame = raw.frame.with_columns(column.filter(~empty)).with_row_index(_ROW).explode(name)
    ledger.add(f"listed together in {spec.column[:40]!r}", raw.table, frame.height - raw.frame.height)
    frame = frame.with_columns(_parts(frame[name], spec))
    if spec.place:
        frame = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over(_ROW).alias(spec.place))
    return _rows(raw, frame.drop(_ROW), frame[_ROW])


def _parts(cells: pl.Series, spec: Explode) -> list[pl.Series]:
    """The parts of every element: keys of a record, or what stands between dividers."""
    cells = cells.struct.json_encode() if cells.dtype == pl.Struct else as_text(cells)
    if cells.str.starts_with("{").all():
        found = [cells.to_frame("t").select(pl.col("t").str.json_path_match(f"$['{n}']")) for n in spec.into]
        return [frame.to_series().alias(name) for frame, name in zip(found, spec.into, strict=True)]
    columns = []
    for part in reversed(spec.into[1:] if spec.divider else ()):
        pattern = rf"^(.*){re.escape(spec.divider)}(.*?)$"
        both = cells.to_frame("t").select(pl.col("t").str.extract(pattern, g).alias(str(g)) for g in (1, 2))
        columns.append(both["2"].alias(part))
        cells = both["1"]
    return [*columns, cells.alias(spec.into[0])] if spec.into else columns


def _wide(raw: RawTable, spec: TableFile, long: Long, used: list[str], ledger: Ledger) -> RawTable:
    """One row for each id, with the last value of every property as a column."""
    key = f"{raw.table.removesuffix('s')}_id"
    names = (spec.columns.get(key, (key,))[0], long.property, long.value)
    id_, property_, value = (_need(raw, name, key, used) for name in names)
    frame = raw.frame.select(
        pl.col(id_), pl.lit(as_text(raw.frame[property_])).alias(_PROPERTY), pl.col(value).alias(_VALUE)
    )
    wanted = {n for columns in spec.columns.values() for n in columns} | set(SCHEMAS[raw.table])
    wanted |= {m for text in spec.fill.values() for m in SLOT.findall(text)}
    kept = frame.with_row_index(_ROW).filter(pl.col(_PROPERTY).is_in(sorted(wanted)))
    firsts = frame.with_row_index(_ROW).unique(id_, keep="first", maintain_order=True).select(id_, _ROW)
    wide = firsts
    for name in kept[_PROPERTY].unique(maintain_order=True):
        one = kept.filter(pl.col(_PROPERTY) == name).unique(id_, keep="last").select(id_, pl.col(_VALUE).alias(name))
        wide = wide.join(one, on=id_, how="left", maintain_order="left", nulls_equal=True)
    others = frame.filter(~pl.col(_PROPERTY).is_in(sorted(wanted)))[_PROPERTY].unique(maintain_order=True)
    if len(others):
        shown = ", ".join(show(name, 30) for name in others.head(8))
        ledger.assume(
            f"{raw.path.name}: left out {len(others):,} properties that nothing is mapped to, such as {shown}."
        )
    rest = raw.frame.height - wide.height
    ledger.remove("more rows of the same id, one property each", raw.table, [], rest)
    return _rows(raw, wide.drop(_ROW), wide[_ROW])
