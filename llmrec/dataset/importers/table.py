"""Own tables, CSV, Parquet or JSON lines, with a mapping of their columns to llmrec's.

A folder may hold `mapping.yaml`; without one, files called items, events and users with llmrec's own column names
are taken as they are. Example of a mapping:

    name: my-shop
    domain: shop
    events: {file: log.csv, columns: {user_id: customer, item_id: sku, time: ts, kind: action}}
    items: {file: products.parquet, columns: {item_id: sku, title: name}}
    kinds: {view: click, buy: conversion, remove: ignore}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from llmrec.bounded import parse_yaml, read_document
from llmrec.config_tree import from_tree
from llmrec.dataset.importers.reading import ENDINGS, Ledger, RawTable, ReadOptions, read_table, shown_names
from llmrec.dataset.scales import default_signals
from llmrec.dataset.schema import REQUIRED, SCHEMAS, cast_table
from llmrec.dataset.store import Dataset
from llmrec.dataset.validate import validate_items
from llmrec.errors import DataError
from llmrec.types import EVENT_KINDS

_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_LATEST = 32_503_680_000  # the year 3000: later seconds are milliseconds taken for seconds


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """One file, relative to the mapping, and where llmrec's columns are found in it (the same names by default).

    `reading` says how it is written, before the mapping's own `reading`.
    """

    file: str
    columns: dict[str, str] = field(default_factory=dict)
    reading: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, kw_only=True)
class TableMapping:
    """How own tables become a data set.

    `kinds` maps the values of the kind column to impression, click, conversion, rating or ignore; without a kind
    column every event is a `default_kind` (by default rating where there are values, else click). `time_unit` is
    the unit of numeric times; ISO 8601 texts need none, and are UTC where they name no zone. `click` and
    `conversion` are signal rules; by default they follow from the kinds found. `reading` says how the files are
    written; what it leaves out is detected.
    """

    events: TableFile
    items: TableFile
    users: TableFile | None = None
    name: str = "own"
    domain: str = "shop"
    language: str = "en"
    source: str = ""
    terms: str = ""
    currency: str = ""
    repeat: Literal["allow", "exclude"] = "exclude"
    click: str | None = None
    conversion: str | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    default_kind: str | None = None
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    category_separator: str = "|"
    reading: ReadOptions = field(default_factory=ReadOptions)


def import_table(
    source: Path,
    mapping: TableMapping | Mapping[str, Any] | None = None,
    *,
    reading: ReadOptions | Mapping[str, ReadOptions] | None = None,
) -> Dataset:
    """Imports own tables; what was assumed and where every row went is the manifest's `account`.

    Args:
        source: A mapping (YAML), or the folder of the files.
        mapping: The mapping itself, if it is in no file; its paths are relative to `source`.
        reading: How the files are written, for all or by table ("events", "items", "users"); what is said here goes
            before the mapping's `reading`.

    Raises:
        ConfigError: The mapping has an unknown key or a bad value.
        DataError: A file, column or value is missing or cannot be used; named with file and line.
    """
    folder = source if source.is_dir() else source.parent
    plan = _mapping(source, mapping)
    options = _reading(plan, reading)
    ledger = Ledger(options["events"].skip_bad)
    events, _ = _events(folder, plan, options["events"], ledger)
    raw = _table(folder / plan.items.file, "items", plan.items.columns, options["items"], ledger)
    items = raw.frame
    ledger.rows("items", raw.rows_in, items.height)
    if "categories" in items.columns and items["categories"].dtype == pl.String:
        items = items.with_columns(_categories(items["categories"], plan.category_separator))
    users = None
    if plan.users is not None:
        raw = _table(folder / plan.users.file, "users", plan.users.columns, options["users"], ledger)
        ledger.rows("users", raw.rows_in, raw.frame.height)
        users = _cast(raw.frame, "users", plan.users.file)
    click, conversion, proxy = _signals(events, plan)
    dataset = Dataset.build(
        _cast(items, "items", plan.items.file),
        users,
        events,
        name=plan.name,
        domain=plan.domain,
        language=plan.language,
        source=plan.source,
        terms=plan.terms,
        repeat=plan.repeat,
        click=click,
        conversion=conversion,
        proxy=proxy,
        currency=plan.currency,
        add_missing_users=True,
    )
    dataset.manifest = dataclasses.replace(dataset.manifest, account=ledger.tree())
    return dataset


def read_items(path: Path, *, category_separator: str = "|") -> pl.DataFrame:
    """An items table under llmrec's own column names; other columns are left out.

    Raises:
        DataError: A file, column or value is missing or cannot be used; named with file and row.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a file of items (CSV, Parquet or JSON lines).")
    frame = read_table(path, table="items").frame
    for name in REQUIRED["items"]:
        if name not in frame.columns:
            raise DataError(f"{path} lacks the column {name!r} (it has: {shown_names(frame.columns)}); add it.")
    frame = frame.select(name for name in SCHEMAS["items"] if name in frame.columns)
    if frame.schema.get("categories") == pl.String:
        frame = frame.with_columns(_categories(frame["categories"], category_separator))
    items = _cast(frame, "items", str(path))
    try:
        validate_items(items)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return items


def _reading(plan: TableMapping, given: ReadOptions | Mapping[str, ReadOptions] | None) -> dict[str, ReadOptions]:
    """How each table's file is written: what is given, before what its file says, before the mapping's own."""
    found = {}
    for table, file in (("events", plan.events), ("items", plan.items), ("users", plan.users)):
        above = given if isinstance(given, ReadOptions) or given is None else given.get(table)
        found[table] = plan.reading.with_given(file.reading if file else None).with_given(above)
    return found


def _mapping(source: Path, mapping: TableMapping | Mapping[str, Any] | None) -> TableMapping:
    if isinstance(mapping, TableMapping):
        return mapping
    if mapping is not None:
        return _plan(dict(mapping), "the mapping")
    path = source / "mapping.yaml" if source.is_dir() else source
    if path.is_file():
        if path.suffix not in (".yaml", ".yml"):
            raise DataError(f"{path} is no mapping; give a YAML file or the folder of the tables.")
        try:
            tree = parse_yaml(read_document(path))
        except (ValueError, OSError) as error:
            raise DataError(f"{path} is not YAML: {error}.") from None
        return _plan(tree, str(path))
    found = {table: _default_file(source, table) for table in ("events", "items", "users")}
    for table in ("events", "items"):
        if found[table] is None:
            raise DataError(f"{source} has neither mapping.yaml nor a file called {table}.csv (or .parquet, .jsonl).")
    files = {table: {"file": name} for table, name in found.items() if name is not None}
    return _plan({"name": source.resolve().name, **files}, str(source))


def _plan(tree: Any, origin: str) -> TableMapping:
    for table in ("events", "items"):
        section = tree.get(table) if isinstance(tree, dict) else None
        if not isinstance(section, dict) or "file" not in section:
            raise DataError(f"{origin} needs the key '{table}.file', the file that holds the {table}.")
    return from_tree(TableMapping, tree, origin)


def _default_file(folder: Path, table: str) -> str | None:
    names = [f"{table}{ending}{packed}" for ending in ENDINGS for packed in ("", ".gz")]
    found = next((name for name in names if (folder / name).is_file()), None)
    return found or (table if (folder / table).is_dir() else None)


def _table(path: Path, table: str, columns: dict[str, str], options: ReadOptions, ledger: Ledger) -> RawTable:
    """The mapped columns of a file, under llmrec's names."""
    unknown = [name for name in columns if name not in SCHEMAS[table]]
    if unknown:
        raise DataError(
            f"Mapping of {path}: {unknown[0]!r} is no column of {table}; choose of {', '.join(SCHEMAS[table])}."
        )
    raw = read_table(path, options, ledger, table)
    frame = raw.frame
    wanted = {}
    for name in SCHEMAS[table]:
        column = columns.get(name, name)
        if column in frame.columns:
            wanted[name] = column
        elif name in columns or (name in REQUIRED[table] and name != "kind"):
            raise DataError(
                f"{path} lacks the column {column!r} for {name!r} (it has: {shown_names(frame.columns)}); map "
                f"{name!r} to one of them."
            )
    frame = frame.select(pl.col(column).alias(name) for name, column in wanted.items())
    return dataclasses.replace(raw, frame=frame)


def _cast(frame: pl.DataFrame, table: str, file: str) -> pl.DataFrame:
    try:
        return cast_table(frame, table)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _categories(column: pl.Series, separator: str) -> pl.Series:
    parts = [[p.strip() for p in (text or "").split(separator) if p.strip()] for text in column]
    return pl.Series("categories", parts, dtype=pl.List(pl.String))


def _events(folder: Path, plan: TableMapping, options: ReadOptions, ledger: Ledger) -> tuple[pl.DataFrame, set[str]]:
    """The events with known kinds and times in seconds, and the kinds that occur."""
    path = folder / plan.events.file
    raw = _table(path, "events", plan.events.columns, options, ledger)
    frame = raw.frame
    if "kind" not in frame.columns:
        kind = plan.default_kind or ("rating" if "value" in frame.columns else "click")
        frame = frame.with_columns(pl.lit(kind).alias("kind"))
    known: dict[str, str] = {**{kind: kind for kind in EVENT_KINDS}, **plan.kinds}
    for kind in frame["kind"].unique().to_list():
        if known.get(kind) not in (*EVENT_KINDS, "ignore"):
            raise DataError(
                f"{path}: kind {kind!r} is not known; map it under 'kinds' to {', '.join(EVENT_KINDS)} or ignore."
            )
    kept = frame.with_columns(
        pl.col("kind").replace_strict(known, return_dtype=pl.String), _times(frame["time"], path, plan)
    )
    raw = dataclasses.replace(raw, frame=kept).leave_out(kept["kind"] == "ignore", "of kind ignore", ledger)
    kept = raw.frame
    ledger.rows("events", raw.rows_in, kept.height)
    return _cast(kept, "events", plan.events.file), set(kept["kind"].unique())


def _times(column: pl.Series, path: Path, plan: TableMapping) -> pl.Series:
    """Whole seconds since 1970 out of numbers, dates or ISO 8601 texts."""
    if column.dtype in (pl.Date, pl.Datetime):
        return column.dt.epoch("s").alias("time")
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() == column.null_count():
        whole = column.cast(pl.Int64, strict=False)  # a nanosecond count is too long for a float
        seconds = whole.fill_null(numbers.cast(pl.Int64, strict=False)) // _UNITS[plan.time_unit]
        late = (seconds > _LATEST).arg_true()
        if len(late):
            raise DataError(
                f"{path}, row {int(late[0])} (counted from 0): time {column[int(late[0])]} lies beyond the year "
                "3000; say 'time_unit: ms' (or us, ns)."
            )
        return seconds.alias("time")
    return pl.Series("time", [_iso(text, path, row) for row, text in enumerate(column)], dtype=pl.Int64)


def _iso(text: str | None, path: Path, row: int) -> int:
    try:
        moment = datetime.fromisoformat((text or "").strip())
    except ValueError:
        raise DataError(
            f"{path}, row {row} (counted from 0): time {(text or '')[:40]!r} is neither a number "
            "nor ISO 8601 (2024-05-01T12:30:00)."
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() // 1)


def _signals(events: pl.DataFrame, plan: TableMapping) -> tuple[str, str, str]:
    """Signal rules, given or by the kinds and the scale found, and what they stand for where they are stand-ins."""
    default = default_signals(events)
    rules = (str(default.click), str(default.conversion))
    click, conversion = plan.click or rules[0], plan.conversion or rules[1]
    proxy = default.proxy if (click, conversion) == rules else ""
    if not proxy and click != "click":
        proxy = f"No clicks are logged: {click!r} stands for a click and {conversion!r} for a conversion."
    return click, conversion, proxy
