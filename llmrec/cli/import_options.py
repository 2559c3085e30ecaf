"""The options of `llmrec data import` as an importer takes them, checked before anything is read."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from llmrec.config_tree import from_tree
from llmrec.dataset.importers.reading import ReadOptions, skip_share
from llmrec.dataset.schema import SCHEMAS
from llmrec.errors import ConfigError

_TABLES = ("events", "items", "users")


def pairs(texts: Iterable[str], flag: str, example: str) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary; anything else is a `ConfigError` that names the flag."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"{flag} {text!r} is not NAME=VALUE; write for example {flag} {example}.")
        found[name.strip()] = value.strip()
    return found


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
    texts = {name for name, hint, _ in fields if str in (hint, *typing.get_args(hint))}
    tree = {name: value if name in texts else _scalar(value) for name, value in options.items()}
    checked: Any = from_tree(dataclasses.make_dataclass("Options", fields), tree, "--option")
    return {name: getattr(checked, name) for name in tree}


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
    trees: dict[str, dict[str, Any]] = {table: {} for table in _TABLES}
    flags = [("header", True, header), ("header", False, no_header)]
    chosen = [(name, *_for_tables(value)) for name, values in texts.items() for value in values]
    chosen += [
        (name, tuple(filter(None, [table])) or _TABLES, flag) for name, flag, tables in flags for table in tables
    ]
    for name, tables, value in sorted(chosen, key=lambda entry: -len(entry[1])):  # one table goes before all
        for table in tables:
            if table not in trees:
                raise ConfigError(f"--{name} names the table {table[:40]!r}; choose of {', '.join(_TABLES)}.")
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
    return ((table,), value) if equals and table in _TABLES else (_TABLES, text)


def table_mapping(
    source: Path,
    items: Path | None,
    users: Path | None,
    columns: Mapping[str, str],
    kinds: Mapping[str, str],
    options: Mapping[str, str],
) -> dict[str, Any] | None:
    """The mapping of the table importer out of command-line options; None where `source` explains itself.

    `source` is the file of events, or the folder of its parts. A column "item_id" is renamed in every table that
    has it, "items.item_id" only in that one.

    Raises:
        ConfigError: a column that no table has, or no file of items.
    """
    itself = (source.is_dir() and items is None) or source.suffix in (".yaml", ".yml")
    if itself and not (items or users or columns or kinds or options):
        return None
    if itself or items is None:
        raise ConfigError(
            "Give the file of events as SOURCE and the file of items as --items FILE, or the path of a mapping.yaml "
            "without further options."
        )
    files = {"events": source, "items": items, "users": users}
    tree: dict[str, Any] = {name: _scalar(value) for name, value in options.items()}
    for table, file in files.items():
        if file is not None:
            tree[table] = {"file": str(file.resolve()), "columns": {}}
    for name, column in columns.items():
        for table, ours in _targets(name):
            if table in tree:
                tree[table]["columns"][ours] = column
    return {"name": source.stem, **tree, **({"kinds": dict(kinds)} if kinds else {})}


def _targets(name: str) -> list[tuple[str, str]]:
    """(table, column) pairs that a column name of the command line means."""
    table, dot, column = name.partition(".")
    if dot and column in SCHEMAS.get(table, {}):
        return [(table, column)]
    found = [(table, name) for table in _TABLES if name in SCHEMAS[table]]
    if not found:
        known = ", ".join(dict.fromkeys(column for table in _TABLES for column in SCHEMAS[table]))
        raise ConfigError(f"--map names the column {name!r}, which no table has; choose of {known}.")
    return found


def _scalar(text: str) -> object:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, str | int | float | bool) else text
