"""The mapping of own tables: which file and column is what, and how their values are written.

One strict parser for `mapping.yaml`, for `llmrec data import table` with its options, and for mappings in code: text
is read by the type of its key, so that `currency: NO` is Norway's and never false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmrec.bounded import SETTINGS, parse_yaml, read_document
from llmrec.config_tree import from_texts
from llmrec.dataset.importers.reading import ENDINGS, ReadOptions
from llmrec.dataset.schema import SCHEMAS, show
from llmrec.errors import ConfigError, DataError

TABLES = ("events", "items", "users")
Unit = Literal["s", "ms", "us", "ns", "min", "h", "d", "excel", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Explode:
    """A column whose cells list several rows: `N1-1 N2-0` is two, of the item N1 with 1 and of N2 with 0.

    `separator` stands between the elements, `divider` between the parts of one (the last ones where there are more);
    `into` names the parts as columns. Of a list of records the keys are the parts. `place` names a column for the
    place in the list, from 0.
    """

    column: str
    into: tuple[str, ...] = ()
    separator: str = " "
    divider: str = ""
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Long:
    """A file with one property of one item a row: the columns that hold the property's name and its value."""

    property: str = "property"
    value: str = "value"


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Another file that says what cells of `column` stand for: each becomes `value` of the row with that `key`."""

    column: str
    file: str
    key: str
    value: str
    reading: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """One file, relative to the mapping, and where llmrec's columns are found in it (the same names by default).

    Attributes:
        file: The file, or a folder of parts.
        columns: llmrec's column: the file's, by name or by place (from 1); several columns of `profile` or
            `categories` are put together.
        fill: llmrec's column: a text for all rows, in which {column} stands for a cell of the file.
        lookups: Cells that another file explains, in their order.
        only: Column: a pattern that its cells must be wholly; other rows are left out.
        explode: Rows that list several.
        long: Rows that each hold one property of an item or user.
        distinct: Of rows with the same id the first counts, as where items are found in a log.
        reading: How this file is written, where it differs from the others.
    """

    file: str
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fill: dict[str, str] = field(default_factory=dict)
    lookups: tuple[Lookup, ...] = ()
    only: dict[str, str] = field(default_factory=dict)
    explode: Explode | None = None
    long: Long | None = None
    distinct: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, kw_only=True)
class TableMapping:
    """How own tables become a data set.

    Attributes:
        events, items, users: Their files; the events of several files are put together, and items (users) of a
            second file add columns to those of the first.
        name, domain, language, source, terms, currency, repeat: As in the manifest.
        click, conversion: Signal rules; by default they follow from the kinds found.
        kinds: Value of the kind column: impression, click, cart, conversion, rating or ignore.
        default_kind: The kind of every event where there is no kind column (by default rating where there are
            values, else click).
        time_unit: Of numeric times: s, ms, us, ns, min, h, d (since 1970), excel (spreadsheet days), mixed (each by
            its own size). By default their size says it; a unit that is given is believed.
        time_format: How times in text are written: dmy, mdy, ymd, or a strptime format.
        order: "file": of events at one time the earlier in the file came first; without times that order is all.
        category_separator: Between categories in one cell; by default it is found out.
        missing: Words that stand for a missing value, instead of the usual ones.
        unknown_items: What becomes of events of items that no row describes: refuse (they are bad rows), drop, or
            add (the item's id is its title).
        accept_implausible: Take what looks wrong as a whole: times out of all years, a user for every row, ...
        reading: How the files are written.
    """

    events: tuple[TableFile, ...]
    items: tuple[TableFile, ...]
    users: tuple[TableFile, ...] = ()
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
    time_unit: Unit | None = None
    time_format: str | None = None
    order: Literal["time", "file"] = "time"
    category_separator: str | None = None
    missing: tuple[str, ...] | None = None
    unknown_items: Literal["refuse", "drop", "add"] = "refuse"
    accept_implausible: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)


def find_mapping(source: Path, mapping: TableMapping | Mapping[str, Any] | None = None) -> TableMapping:
    """The mapping given, or that of a YAML file, or the one that a folder's file names imply.

    Raises:
        ConfigError: An unknown key or a bad value.
        DataError: There is no mapping and no file of events and items, or the YAML cannot be read.
    """
    if isinstance(mapping, TableMapping):
        return mapping
    if mapping is not None:
        return plan(mapping, "the mapping")
    path = source / "mapping.yaml"
    return plan(mapping_tree(source), str(path if path.is_file() else source))


def mapping_tree(source: Path) -> dict[str, Any]:
    """The mapping in a YAML file, or the one that a folder's file names imply, before it is checked.

    Raises:
        DataError: There is no mapping and no file of events and items, or the YAML cannot be read.
    """
    path = source / "mapping.yaml" if source.is_dir() else source
    if path.is_file():
        if path.suffix not in (".yaml", ".yml"):
            raise DataError(f"{path} is no mapping; give a YAML file or the folder of the tables.")
        tree = _read_yaml(path)
        if not isinstance(tree, dict):
            raise DataError(f"{path} needs the key 'events.file', the file that holds the events.")
        return tree
    found = {table: _default_file(source, table) for table in TABLES}
    for table in ("events", "items"):
        if found[table] is None:
            raise DataError(f"{source} has neither mapping.yaml nor a file called {table}.csv (or .parquet, .jsonl).")
    files = {table: {"file": name} for table, name in found.items() if name is not None}
    return {"name": source.resolve().name, **files}


def _read_yaml(path: Path) -> Any:
    try:
        return parse_yaml(read_document(path, SETTINGS), texts=True)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not YAML: {error}.") from None


def plan(tree: Any, origin: str) -> TableMapping:
    """A mapping from nested dictionaries whose leaves may all be text; one file may stand for a list of one.

    Raises:
        ConfigError: An unknown key or a bad value.
        DataError: A table names no file.
    """
    if not isinstance(tree, Mapping):
        raise DataError(f"{origin} needs the key 'events.file', the file that holds the events.")
    tree = dict(tree)
    for table in TABLES:
        if table not in tree and table == "users":
            continue
        files = tree.get(table)
        files = files if isinstance(files, list | tuple) else [files]
        if not files or not all(isinstance(f, Mapping) and "file" in f for f in files):
            raise DataError(f"{origin} needs the key '{table}.file', the file that holds the {table}.")
        tree[table] = [_file(dict(f), table, origin) for f in files]
    made = from_texts(TableMapping, tree, origin)
    if made.default_kind == "ignore":
        raise ConfigError(f"Key 'default_kind' in {origin} is 'ignore', which would leave no event.")
    return made


def _file(tree: dict[str, Any], table: str, origin: str) -> dict[str, Any]:
    if "long" in tree and table == "events":
        raise ConfigError(f"Key 'events.long' in {origin} is for items and users; events stand one a row.")
    for key in ("columns", "fill"):
        section = tree.get(key) or {}
        if not isinstance(section, Mapping):
            raise ConfigError(f"Key '{table}.{key}' in {origin} is {show(section, 40)}, but it must have keys.")
        for name in section:
            if name not in SCHEMAS[table]:
                raise DataError(
                    f"Mapping of {show(str(tree['file']), 80)}: {show(str(name), 40)} is no column of {table}; "
                    f"choose of {', '.join(SCHEMAS[table])}."
                )
        tree[key] = dict(section)
    tree["columns"] = {
        name: [str(v) for v in found] if isinstance(found, list | tuple) else [str(found)]
        for name, found in tree["columns"].items()
    }
    for name, found in tree["columns"].items():
        if len(found) != 1 and name not in ("profile", "categories", "description"):
            raise ConfigError(
                f"{table}.columns.{name} in {origin} names {len(found)} columns; several are put together only for "
                "profile, categories and description."
            )
    return tree


def _default_file(folder: Path, table: str) -> str | None:
    names = [f"{table}{ending}{packed}" for ending in ENDINGS for packed in ("", ".gz")]
    found = next((name for name in names if (folder / name).is_file()), None)
    return found or (table if (folder / table).is_dir() else None)
