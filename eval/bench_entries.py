"""Entries of eval/bench.yaml: what makes which figures of the benchmark pages, and whether they come out the same."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.config_tree import from_tree, read_yaml
from llmrec.errors import ConfigError, RequestError

PROGRAMS = {"python": [], "llmrec": ["-m", "llmrec.cli.main"], "pytest": ["-m", "pytest"]}
PLACES = ("data", "out", "json", "after")
DONE = "done"


@dataclass(frozen=True)
class Expect:
    """Figures of a page: names below the path `at` in the command's JSON; a list there stands for its mean.

    Texts are beginnings (of data hashes). With `quick` the quick command gives the same figures.
    """

    at: tuple[Any, ...] = ()
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    tolerance: float = 0.0
    quick: bool = False


@dataclass(frozen=True)
class Entry:
    """How one block of figures is made: the part of a page, a command and its minutes on two cores, or why none.

    `needs` are folders in LLMREC_DATA, `after` is the entry whose folder the command goes on from. `stale` says why
    figures that are not in `expect` cannot be compared although the command still runs.
    """

    id: str = ""
    page: str = ""
    part: str = ""
    command: str | None = None
    minutes: float | None = None
    quick: str | None = None
    needs: tuple[str, ...] = ()
    after: str | None = None
    expect: tuple[Expect, ...] = ()
    retired: str | None = None
    stale: str | None = None


@dataclass(frozen=True)
class Book:
    """The file's top level."""

    entries: tuple[dict[str, Any], ...] = ()


def read_book(path: Path) -> list[Entry]:
    """The entries of a YAML file, checked; raises `ConfigError`."""
    book: dict[str, Entry] = {}
    for place, tree in enumerate(from_tree(Book, read_yaml(path), str(path)).entries):
        entry = from_tree(Entry, tree, str(path), f"entries.{tree.get('id', place)}.")
        check(entry, book, path)
        book[entry.id] = entry
    return list(book.values())


def check(entry: Entry, before: Mapping[str, Entry], path: Path) -> None:
    """Refuses an entry that cannot be carried out, with the key to mend."""

    def wrong(key: str, mend: str) -> ConfigError:
        return ConfigError(f"Key 'entries.{entry.id}.{key}' in {path} {mend}")

    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.id) or entry.id in before:
        raise wrong("id", "must be lower-case letters, digits and dashes, and no earlier entry's.")
    if not entry.page or not entry.part:
        raise wrong("page" if entry.part else "part", "is missing; name the page and the part with these figures.")
    if (entry.command is None) == (entry.retired is None):
        raise wrong("command", "is needed, or 'retired' with the reason, and not both.")
    if entry.command is not None and entry.minutes is None:
        raise wrong("minutes", "is missing; give the command's minutes on two cores.")
    if entry.after is not None and entry.after not in before:
        raise wrong("after", f"is {entry.after!r}; name an entry that stands earlier in the file.")
    given = {"data": bool(entry.needs), "out": True, "json": True, "after": entry.after is not None}
    for key in ("command", "quick"):
        text = getattr(entry, key)
        if text is None:
            continue
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise wrong(key, f"cannot be divided into words ({error}); close its quotes.") from None
        if not words or words[0] not in PROGRAMS:
            raise wrong(key, f"must begin with one of {', '.join(PROGRAMS)}.")
        for name in re.findall(r"\{(\w*)\}", text):
            if not given.get(name):
                raise wrong(key, f"has {{{name}}}; known are {', '.join(PLACES)}, 'data' needs 'needs'.")
    if any("{json}" not in (entry.command or "") or not e.values for e in entry.expect):
        raise wrong("expect", "needs values, and a command that writes {json}.")


def compare(entry: Entry, figures: Any, quick: bool) -> list[dict[str, Any]]:
    """Expected and found, one row a figure; under quick settings only those that do not depend on them."""
    rows = []
    for expect in entry.expect if not quick else [e for e in entry.expect if e.quick]:
        for name, value in expect.values.items():
            found = found_at(figures, [*expect.at, name])
            if isinstance(value, str):
                same = isinstance(found, str) and found.startswith(value)
            else:
                same = isinstance(found, int | float) and math.isclose(
                    found, value, rel_tol=1e-12, abs_tol=expect.tolerance
                )
            path = " / ".join(map(str, [*expect.at, name]))
            row = {"figure": path, "expected": value, "tolerance": expect.tolerance, "found": found, "same": same}
            rows.append(row)
    return rows


def found_at(figures: Any, path: Sequence[Any]) -> Any:
    """What stands at a path of keys and places; the mean of a list of numbers; None where there is nothing."""
    try:
        for step in path:
            figures = figures[int(step)] if isinstance(figures, list) else figures[str(step)]
        return sum(figures) / len(figures) if isinstance(figures, list) else figures
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError):
        return None


def verdict(entry: Entry, record: Mapping[str, Any], quick: bool) -> str:
    """One phrase on a record."""
    if record["state"] != DONE:
        return f"failed: exit code {record['exit_code']}" + ("" if record["exit_code"] else ", no figures written")
    off = sum(not row["same"] for row in record["compared"])
    if record["compared"]:
        said = f"differs: {off} of {len(record['compared'])}" if off else f"same: {len(record['compared'])}"
        return said + ("; others are stale" if entry.stale else "")
    if entry.stale:
        return f"not compared ({entry.stale})"
    return "not compared (quick settings)" if quick else "not compared (times, or bounds of a test)"


def chosen(book: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """The named entries in the file's order, all of them without names."""
    for name in names:
        if name not in {entry.id for entry in book}:
            near = difflib.get_close_matches(name, [entry.id for entry in book], n=1)
            mend = f"did you mean {near[0]!r}?" if near else "--list shows them."
            raise RequestError(f"There is no entry {name!r}; {mend}")
    return [entry for entry in book if not names or entry.id in names]
