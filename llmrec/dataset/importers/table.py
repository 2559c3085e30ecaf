"""Own tables, CSV, Parquet or JSON, with a mapping of their columns to llmrec's.

A folder may hold `mapping.yaml`; without one, files called items, events and users with llmrec's own column names
are taken as they are. Example of a mapping:

    name: my-shop
    domain: shop
    events: {file: log.csv, columns: {user_id: customer, item_id: sku, time: ts, kind: action}}
    items: {file: products.parquet, columns: {item_id: sku, title: name}}
    kinds: {view: click, buy: conversion, remove: ignore}

What the cells mean (units of times, words for missing values, marks in prices, lists) is found out column by column,
said in one line each, and can be overridden; what cannot be right is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from llmrec.dataset.importers.cells import understood
from llmrec.dataset.importers.joining import check_plausible, explained, joined, known_items, same_ids
from llmrec.dataset.importers.kinds import no_events, read_kinds
from llmrec.dataset.importers.layout import shaped
from llmrec.dataset.importers.mapping import TABLES, TableFile, TableMapping, find_mapping
from llmrec.dataset.importers.reading import Ledger, RawTable, ReadOptions, read_table
from llmrec.dataset.importers.unused import LeftOut
from llmrec.dataset.scales import default_signals
from llmrec.dataset.schema import MISSING, REQUIRED, cast_table
from llmrec.dataset.store import Dataset
from llmrec.dataset.validate import validate_items
from llmrec.errors import DataError

__all__ = ["TableFile", "TableMapping", "import_table", "read_items"]


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
    plan = find_mapping(source, mapping)
    above = {table: reading.get(table) if isinstance(reading, Mapping) else reading for table in TABLES}
    ledger = Ledger(plan.reading.with_given(above["events"]).skip_bad)
    left = LeftOut()
    items, currency = _files(folder, plan, "items", above["items"], left, ledger)
    users, _ = _files(folder, plan, "users", above["users"], left, ledger)
    events, _ = _files(folder, plan, "events", above["events"], left, ledger)
    for text in left.sentences():
        ledger.assume(text)
    events = [read_kinds(raw, plan, ledger) for raw in events]
    items, events = same_ids(items, events, "item_id", ledger)
    users, events = same_ids(users, events, "user_id", ledger)
    catalogue, people = joined(items, plan.items, ledger), joined(users, plan.users, ledger)
    catalogue, events = known_items(catalogue, events, items[0].path, plan, ledger)
    log = _log(events, plan, ledger)
    if log.is_empty():
        raise no_events(events[0])
    _close(ledger, {"items": (items, catalogue), "users": (users, people), "events": (events, log)})
    if not plan.accept_implausible:
        check_plausible(catalogue, log, items[0].path, events[0].path)
    click, conversion, proxy = _signals(log, plan)
    dataset = Dataset.build(
        cast_table(catalogue, "items"),
        None if people.is_empty() else people,
        log,
        name=plan.name,
        domain=plan.domain,
        language=plan.language,
        source=plan.source,
        terms=plan.terms,
        repeat=plan.repeat,
        click=click,
        conversion=conversion,
        proxy=proxy,
        currency=plan.currency or currency,
        add_missing_users=True,
    )
    dataset.manifest = dataclasses.replace(dataset.manifest, account=ledger.tree())
    return dataset


def read_items(
    path: Path,
    *,
    category_separator: str | None = None,
    options: ReadOptions | None = None,
    ledger: Ledger | None = None,
) -> pl.DataFrame:
    """An items table under llmrec's own column names; other columns are left out.

    Raises:
        DataError: A file, column or value is missing or cannot be used; named with file and line.
    """
    options = options or ReadOptions()
    ledger = Ledger(options.skip_bad, skippable=False) if ledger is None else ledger
    spec = TableFile(file=str(path), reading=options)
    plan = TableMapping(events=(), items=(spec,), category_separator=category_separator, reading=options)
    left = LeftOut()
    raws, _ = _files(path.parent, plan, "items", options, left, ledger)
    for text in left.sentences():
        ledger.assume(text)
    raws, _ = same_ids(raws, [], "item_id", ledger)
    found = joined(raws, plan.items, ledger)
    ledger.rows("items", raws[0].rows_in, found.height)
    items = cast_table(found, "items")
    try:
        validate_items(items)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return items


def _files(
    folder: Path, plan: TableMapping, table: str, above: ReadOptions | None, left: LeftOut, ledger: Ledger
) -> tuple[list[RawTable], str]:
    """The files of a table with their values understood, and the currency of their prices."""
    found, currency = [], ""
    for number, spec in enumerate(getattr(plan, table)):
        options = plan.reading.with_given(spec.reading).with_given(above)
        raw = read_table(folder / spec.file, options, ledger, table)
        raw = explained(raw, spec, folder, plan.reading, ledger)
        need = tuple(n for n in REQUIRED[table] if n != "kind" and not (n == "time" and plan.order == "file"))
        need = need[:1] if number and table != "events" else need
        words = MISSING if plan.missing is None else plan.missing
        table_, used = shaped(raw, spec, ledger, need, words)
        left.add(raw, used, set(table_.frame.columns))
        typed, money = understood(table_, plan, options, frozenset(spec.columns), ledger)
        currency = money or currency
        found.append(typed)
    return found, currency


def _log(events: list[RawTable], plan: TableMapping, ledger: Ledger) -> pl.DataFrame:
    """The events of all files, with the order of the file where it counts."""
    frame = pl.concat([raw.frame for raw in events], how="diagonal")
    if plan.order != "file" or frame.is_empty():
        return frame
    place = pl.int_range(1, frame.height + 1, eager=True, dtype=pl.Int64)
    if "time" in frame.columns:
        ledger.assume(f"{events[0].path.name}: events at one time happened in the order of the file (--order file).")
        return frame.with_columns(place.alias("order"))
    users = frame["user_id"]
    runs = int((users != users.shift()).sum()) + 1
    ledger.assume(
        f"{events[0].path.name}: there are no times; the n-th row counts as second n, so that only the order of the "
        "file means something, and elapsed times, hours and dates mean nothing (--order file)."
    )
    if runs <= users.n_unique() < frame.height and users.n_unique() > 1:
        ledger.assume(
            f"{events[0].path.name}: the rows stand user by user, so a split by time would put whole users into "
            "test; use data.split=leave-last-out."
        )
    return frame.with_columns(place.alias("time"))


def _close(ledger: Ledger, tables: dict[str, tuple[list[RawTable], pl.DataFrame]]) -> None:
    for table, (raws, frame) in tables.items():
        if raws:
            ledger.rows(table, sum(raw.rows_in for raw in raws), frame.height)


def _signals(events: pl.DataFrame, plan: TableMapping) -> tuple[str, str, str]:
    """Signal rules, given or by the kinds and the scale found, and what they stand for where they are stand-ins."""
    default = default_signals(events)
    rules = (str(default.click), str(default.conversion))
    click, conversion = plan.click or rules[0], plan.conversion or rules[1]
    proxy = default.proxy if (click, conversion) == rules else ""
    if not proxy and click != "click":
        proxy = f"No clicks are logged: {click!r} stands for a click and {conversion!r} for a conversion."
    return click, conversion, proxy
