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
    separator: str | None,
    quote: str | None,
    decimal: str | None,
    encoding: str | None,
    header: bool | None,
    skip_bad: str | None,
) -> ReadOptions | None:
    """How the files are written, as the command line says; None where it says nothing.

    Raises:
        ConfigError: a value that no file can be written with.
    """
    try:
        share = skip_share(skip_bad)
    except ValueError:
        raise ConfigError(f"--skip-bad={skip_bad} is no share from 0 to 1, for example 0.05 or 5%.") from None
    options = ReadOptions(
        separator=separator, quote=quote, decimal=decimal, encoding=encoding, header=header, skip_bad=share
    )
    return None if options == ReadOptions() else options


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
