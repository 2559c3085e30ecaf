"""The options of `llmrec data import` as an importer takes them, checked before anything is read."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from llmrec.config_tree import from_texts
from llmrec.dataset.importers.layouts import layout_tree
from llmrec.dataset.importers.mapping import TABLES, mapping_tree
from llmrec.dataset.importers.reading import ReadOptions, skip_share
from llmrec.dataset.schema import SCHEMAS, show
from llmrec.errors import ConfigError

Pairs = list[tuple[str, str]]


def pairs(texts: Iterable[str], flag: str, example: str) -> Pairs:
    """NAME=VALUE texts in their order; anything else is a `ConfigError` that names the flag."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"{flag} {show(text)} is not NAME=VALUE; write for example {flag} {example}.")
        found.append((name.strip(), value.strip()))
    return found


def once(found: Pairs, flag: str) -> dict[str, str]:
    """Pairs as a dictionary; a name with two values is a `ConfigError`."""
    made: dict[str, str] = {}
    for name, value in found:
        if made.get(name, value) != value:
            raise ConfigError(
                f"{flag} {show(name, 40)} is given twice, as {show(made[name], 40)} and {show(value, 40)}."
            )
        made[name] = value
    return made


def importer_options(importer: Callable[..., object], options: Mapping[str, str]) -> dict[str, Any]:
    """`options` converted to the types of the importer's keyword arguments.

    Raises:
        ConfigError: an option that the importer does not have, or a value of another type.
    """
    hints = typing.get_type_hints(importer)
    fields = []
    for name, parameter in list(inspect.signature(importer).parameters.items())[1:]:
        hint = str | None if Path in typing.get_args(hints[name]) else hints[name]
        fields.append((name, hint, dataclasses.field(default=parameter.default)))
    checked: Any = from_texts(dataclasses.make_dataclass("Options", fields), dict(options), "--option")
    return {name: getattr(checked, name) for name in options}


def read_options(
    texts: Mapping[str, Iterable[str]], header: Iterable[str], no_header: Iterable[str], skip_bad: str | None
) -> dict[str, ReadOptions] | None:
    """How the file of each table is written, as the command line says; None where it says nothing.

    Args:
        texts: Values by option; a value is for all tables, or for one as "items=;".
        header: Tables whose first line holds names; an empty text means all.
        no_header: Tables whose first line is data.
        skip_bad: The share of bad rows to drop; an empty text means the default.

    Raises:
        ConfigError: a value that no file can be written with.
    """
    trees: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    flags = [("header", True, header), ("header", False, no_header)]
    chosen: list[tuple[str, tuple[str, ...], Any]] = [
        (name, *_for_tables(value)) for name, values in texts.items() for value in values
    ]
    chosen += [
        (name, tuple(filter(None, [table])) or TABLES, flag) for name, flag, tables in flags for table in tables
    ]
    for name, tables, value in sorted(chosen, key=lambda entry: -len(entry[1])):  # one table goes before all
        for table in tables:
            if table not in trees:
                raise ConfigError(f"--{name} names the table {table[:40]!r}; choose of {', '.join(TABLES)}.")
            trees[table][name] = value
    try:
        share = skip_share(skip_bad)
    except ValueError:
        raise ConfigError(f"--skip-bad={skip_bad} is no share from 0 to 1, for example 0.05 or 5%.") from None
    found = {table: ReadOptions(**tree, skip_bad=share) for table, tree in trees.items()}
    return None if all(options == ReadOptions() for options in found.values()) else found


def _for_tables(text: str) -> tuple[tuple[str, ...], str]:
    """ "items=;" as (("items",), ";"), and ";" as (all tables, ";")."""
    table, equals, value = text.partition("=")
    return ((table,), value) if equals and table in TABLES else (TABLES, text)


def table_mapping(
    source: Path,
    items: Path | None,
    users: Path | None,
    columns: Pairs,
    kinds: Mapping[str, str],
    options: Mapping[str, str],
    layout: str | None = None,
) -> dict[str, Any] | None:
    """The mapping of the table importer out of command-line options; None where `source` explains itself.

    `source` holds a public data set in a known `layout`, or is the file of events, or a mapping or folder of tables
    that the options change. A column "item_id" is renamed in every table that has it, "items.item_id" only in that
    one; `profile=age` and `profile=city` are put together. Without a file of items they are found in the events,
    where `title` is mapped.

    Raises:
        ConfigError: a column that no table has, or no file of items.
    """
    itself = layout is not None or (source.is_dir() and items is None) or source.suffix in (".yaml", ".yml")
    if layout is not None:
        tree = layout_tree(layout, source)
    elif itself and not (items or users or columns or kinds or options):
        return None
    elif itself:
        tree = mapping_tree(source)
    else:
        tree = {"name": source.stem, "events": {"file": str(source.resolve())}}
        if items is None and not any(name in ("title", "items.title") for name, _ in columns):
            raise ConfigError(
                "Give the file of events as SOURCE and the file of items as --items FILE, or the path of a "
                "mapping.yaml; or map the titles to a column of the events, as with --map title=NAME."
            )
        tree["items"] = {"file": str((items or source).resolve()), "distinct": items is None}
    if users is None and not itself and any(name in ("profile", "users.profile") for name, _ in columns):
        users = source
    for table, file in (("items", items if itself else None), ("users", users)):
        if file is not None:
            tree[table] = {"file": str(file.resolve())}
    for table in ("items", "users"):
        if not itself and table in tree and tree[table]["file"] == tree["events"]["file"]:
            tree[table]["distinct"] = True
    _map_columns(tree, columns)
    return {**tree, **options, **({"kinds": {**tree.get("kinds", {}), **kinds}} if kinds else {})}


def _map_columns(tree: dict[str, Any], columns: Pairs) -> None:
    """Puts the columns of the command line into the first file of each table, in place of what stood there."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, column in columns:
        targets = [target for target in _targets(name) if target[0] in tree]
        if not targets:
            raise ConfigError(
                f"--map {show(name, 40)} is of users, and there is no file of users; give it by --users FILE."
            )
        for target in targets:
            found.setdefault(target, []).append(column)
    for (table, ours), names in found.items():
        first = tree[table][0] if isinstance(tree[table], list) else tree[table]
        first["columns"] = {**(first.get("columns") or {}), ours: list(dict.fromkeys(names))}


def _targets(name: str) -> list[tuple[str, str]]:
    """(table, column) pairs that a column name of the command line means."""
    table, dot, column = name.partition(".")
    if dot and table in TABLES and column in SCHEMAS.get(table, {}):
        return [(table, column)]
    found = [(table, name) for table in TABLES if name in SCHEMAS[table]]
    if not found:
        known = ", ".join(dict.fromkeys(column for table in TABLES for column in SCHEMAS[table]))
        raise ConfigError(f"--map names the column {show(name, 40)}, which no table has; choose of {known}.")
    return found
