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

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml

from llmrec.config_tree import from_tree
from llmrec.dataset.importers.reading import read_csv_rows, read_json_lines, read_lines
from llmrec.dataset.scales import default_signals
from llmrec.dataset.schema import REQUIRED, SCHEMAS, cast_table
from llmrec.dataset.store import Dataset
from llmrec.dataset.validate import validate_items
from llmrec.errors import DataError
from llmrec.types import EVENT_KINDS

_ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_LATEST = 32_503_680_000  # the year 3000: later seconds are milliseconds taken for seconds


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """One file, relative to the mapping, and where llmrec's columns are found in it (the same names by default)."""

    file: str
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableMapping:
    """How own tables become a data set.

    `kinds` maps the values of the kind column to impression, click, conversion, rating or ignore; without a kind
    column every event is a `default_kind` (by default rating where there are values, else click). `time_unit` is
    the unit of numeric times; ISO 8601 texts need none, and are UTC where they name no zone. `click` and
    `conversion` are signal rules; by default they follow from the kinds found.
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


def import_table(source: Path, mapping: TableMapping | Mapping[str, Any] | None = None) -> Dataset:
    """Imports own tables.

    Args:
        source: A mapping (YAML), or the folder of the files.
        mapping: The mapping itself, if it is in no file; its paths are relative to `source`.

    Raises:
        ConfigError: The mapping has an unknown key or a bad value.
        DataError: A file, column or value is missing or cannot be used; named with file and line.
    """
    folder = source if source.is_dir() else source.parent
    plan = _mapping(source, mapping)
    events, _ = _events(folder, plan)
    items = _table(folder / plan.items.file, "items", plan.items.columns)
    if "categories" in items.columns and items["categories"].dtype == pl.String:
        items = items.with_columns(_categories(items["categories"], plan.category_separator))
    users = None
    if plan.users is not None:
        users = _cast(_table(folder / plan.users.file, "users", plan.users.columns), "users", plan.users.file)
    click, conversion, proxy = _signals(events, plan)
    return Dataset.build(
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


def read_items(path: Path, *, category_separator: str = "|") -> pl.DataFrame:
    """An items table under llmrec's own column names; other columns are left out.

    Raises:
        DataError: A file, column or value is missing or cannot be used; named with file and row.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a file of items (CSV, Parquet or JSON lines).")
    frame = _read(path)
    for name in REQUIRED["items"]:
        if name not in frame.columns:
            raise DataError(f"{path} lacks the column {name!r} (it has: {', '.join(frame.columns)}); add it.")
    frame = frame.select(name for name in SCHEMAS["items"] if name in frame.columns)
    if frame.schema.get("categories") == pl.String:
        frame = frame.with_columns(_categories(frame["categories"], category_separator))
    items = _cast(frame, "items", str(path))
    try:
        validate_items(items)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return items


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
            tree = yaml.safe_load("\n".join(line for _, line in read_lines(path)))
        except yaml.YAMLError as error:
            raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
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
    names = [f"{table}{ending}{packed}" for ending in _ENDINGS for packed in ("", ".gz")]
    return next((name for name in names if (folder / name).is_file()), None)


def _table(path: Path, table: str, columns: dict[str, str]) -> pl.DataFrame:
    """The mapped columns of a file, under llmrec's names."""
    unknown = [name for name in columns if name not in SCHEMAS[table]]
    if unknown:
        raise DataError(
            f"Mapping of {path}: {unknown[0]!r} is no column of {table}; choose of {', '.join(SCHEMAS[table])}."
        )
    frame = _read(path)
    wanted = {}
    for name in SCHEMAS[table]:
        column = columns.get(name, name)
        if column in frame.columns:
            wanted[name] = column
        elif name in columns or (name in REQUIRED[table] and name != "kind"):
            raise DataError(
                f"{path} lacks the column {column!r} for {name!r} (it has: {', '.join(frame.columns)}); map {name!r} "
                "to one of them."
            )
    return frame.select(pl.col(column).alias(name) for name, column in wanted.items())


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} does not exist; mend the mapping or its place.")
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending == ".parquet":
        try:
            return pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())[:120]}).") from None
    if ending in (".csv", ".tsv"):
        return _read_csv(path, "\t" if ending == ".tsv" else ",")
    if ending in (".jsonl", ".ndjson", ".json"):
        return _read_json(path)
    raise DataError(f"{path} ends in {ending or 'nothing'}; known are {', '.join(_ENDINGS)}, also with .gz.")


def _read_csv(path: Path, separator: str) -> pl.DataFrame:
    """All columns as text; polars reads it, and where it cannot, a slower pass names the line."""
    text = "\n".join(line for _, line in read_lines(path)).encode()
    try:
        return pl.read_csv(text, separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        for _ in read_csv_rows(path, separator):
            pass
        raise DataError(f"{path} is not CSV with a header ({' '.join(str(error).split())[:120]}).") from None


def _read_json(path: Path) -> pl.DataFrame:
    """Numbers and texts as text, lists of text as lists; the casts to the schema come later."""
    rows = [row for _, row in read_json_lines(path)]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, list) for value in values):
            texts = [None if v is None else [str(t) for t in (v if isinstance(v, list) else [v])] for v in values]
            columns.append(pl.Series(name, texts, dtype=pl.List(pl.String)))
        else:
            columns.append(pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String))
    return pl.DataFrame(columns)


def _cast(frame: pl.DataFrame, table: str, file: str) -> pl.DataFrame:
    try:
        return cast_table(frame, table)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _categories(column: pl.Series, separator: str) -> pl.Series:
    parts = [[p.strip() for p in (text or "").split(separator) if p.strip()] for text in column]
    return pl.Series("categories", parts, dtype=pl.List(pl.String))


def _events(folder: Path, plan: TableMapping) -> tuple[pl.DataFrame, set[str]]:
    """The events with known kinds and times in seconds, and the kinds that occur."""
    path = folder / plan.events.file
    frame = _table(path, "events", plan.events.columns)
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
    kept = kept.filter(pl.col("kind") != "ignore")
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
