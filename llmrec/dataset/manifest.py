"""The manifest of a data set: what it is, where it is from, and what its events mean.

What stands for a click and for a conversion in a data set is written as a short rule, a `Signal`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from llmrec.errors import DataError, RunError
from llmrec.files import read_json, write_json
from llmrec.types import EVENT_KINDS, EventKind

_RULE = re.compile(r"\s*(?P<kind>\w+)\s*(>=\s*(?P<least>\S+)\s*)?")
FORMAT = "llmrec-dataset"
VERSION = 1

Domain = Literal["shop", "film", "music", "news", "course", "social"]
Language = Literal["en", "zh"]
Repeat = Literal["allow", "exclude"]
_CHOICES = {"domain": get_args(Domain), "language": get_args(Language), "repeat": get_args(Repeat)}


@dataclass(frozen=True, slots=True)
class Signal:
    """Events of one `kind`, with a value of `at_least` or more where that is given; carts are clicks too.

    Written "click", "conversion", "rating" or "rating>=4"; `str` and `parse` are inverse to each other.
    """

    kind: EventKind
    at_least: float | None = None

    @classmethod
    def parse(cls, text: str) -> Signal:
        """Reads "<kind>" or "<kind>>=<number>"; raises `DataError` for anything else."""
        match = _RULE.fullmatch(text)
        kind = next((k for k in EVENT_KINDS if match and match["kind"] == k), None)
        if match is None or kind is None:
            kinds = ", ".join(EVENT_KINDS)
            raise DataError(f"Signal {text!r} is not <kind> or <kind>>=<number> with a kind of: {kinds}.")
        if match["least"] is None:
            return cls(kind)
        try:
            least = float(match["least"])
        except ValueError:
            least = math.nan
        if not math.isfinite(least):
            raise DataError(f"Signal {text!r} compares with {match['least']!r}; give a finite number after >=.")
        return cls(kind, least)

    def __str__(self) -> str:
        if self.at_least is None:
            return self.kind
        number = repr(self.at_least)
        return f"{self.kind}>={number.removesuffix('.0')}"

    def mask(self) -> pl.Expr:
        """A boolean expression over an events table, never null: a missing value does not reach a threshold."""
        # whoever puts an item into the cart has chosen it, as with a click
        of_kind = pl.col("kind").is_in(["click", "cart"]) if self.kind == "click" else pl.col("kind") == self.kind
        if self.at_least is None:
            return of_kind
        return of_kind & (pl.col("value") >= self.at_least).fill_null(False)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a data set says about itself; every value is checked, a bad one is a `DataError`.

    `click` and `conversion` are signal rules (see `Signal`). `proxy` is one sentence for reports, set where these
    are stand-ins (a rating for a click). `repeat` says whether items of the history may be recommended again.
    `counts` holds items, users, events and events by kind; `table_hashes` one SHA-256 a table, `content_hash` the
    one over all of them: equal hashes mean equal items, users, events and rows. `account` is what the import assumed
    and where its rows went (`importers.reading.Ledger.tree`); empty where there is none. `written` says which texts
    were not given but written, by whom, and from which events (`authorship`); empty where all are as they were given.
    `hub` is USER/NAME@COMMIT where the data set was fetched from the Hub and is as it was there.
    """

    name: str
    domain: str
    language: str
    source: str
    terms: str
    repeat: Repeat
    click: str
    conversion: str
    counts: dict[str, int]
    content_hash: str
    proxy: str = ""
    currency: str = ""
    table_hashes: dict[str, str] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)
    hub: str = ""

    def __post_init__(self) -> None:
        for key, choices in _CHOICES.items():
            value = getattr(self, key)
            if value not in choices:
                raise DataError(f"Manifest key {key!r} is {value!r}; choose one of {', '.join(choices)}.")
        for key in ("name", "source", "terms", "content_hash", "proxy", "currency", "hub"):
            if not isinstance(getattr(self, key), str):
                raise DataError(f"Manifest key {key!r} is {getattr(self, key)!r}, but it must be text.")
        if not self.name.strip():
            raise DataError("Manifest key 'name' is empty; give the data set a name.")
        for key in ("click", "conversion"):
            self.signal(key)

    def signal(self, which: str) -> Signal:
        """The parsed rule of "click" or "conversion"."""
        rule = {"click": self.click, "conversion": self.conversion}[which]
        try:
            return Signal.parse(rule)
        except (DataError, TypeError) as error:
            raise DataError(f"Manifest key {which!r} cannot be used: {error}") from None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes the manifest as JSON together with the format's name and version."""
    write_json(path, {"format": FORMAT, "version": VERSION, **dataclasses.asdict(manifest)})


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest strictly; a missing, broken, foreign or newer one is a `DataError` that names the file."""
    try:
        tree = read_json(path)
    except RunError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    _check_keys(path, tree)
    values = {key: value for key, value in tree.items() if key not in ("format", "version")}
    try:
        return Manifest(**values)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _check_keys(path: Path, tree: Any) -> None:
    """Refuses anything but this format, this version and exactly the known keys."""
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of an llmrec data set; make one with `llmrec data import`.")
    if tree.get("version") != VERSION:
        raise DataError(
            f"{path} has version {tree.get('version')!r} and this llmrec reads {VERSION}; import the data anew."
        )
    fields = {f.name: f for f in dataclasses.fields(Manifest)}
    for key in tree:
        if key not in fields and key not in ("format", "version"):
            near = difflib.get_close_matches(key, fields, n=1)
            mend = f"did you mean {near[0]!r}?" if near else "remove it."
            raise DataError(f"{path} has the unknown key {key!r}; {mend}")
    for name, spec in fields.items():
        optional = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        if name not in tree and not optional:
            raise DataError(f"{path} lacks the key {name!r}; import the data anew.")
    try:
        account_lines(tree.get("account", {}))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{path}: key 'account' is no account of an import; import the data anew.") from None
    if not isinstance(tree.get("written", {}), dict):
        raise DataError(f"{path}: key 'written' must map names to what was written; make the data set anew.")
    for key in ("counts", "table_hashes"):
        kind = int if key == "counts" else str
        value = tree.get(key, {})
        if not isinstance(value, dict) or not all(type(v) is kind for v in value.values()):
            raise DataError(f"{path}: key {key!r} must map names to {'whole numbers' if kind is int else 'text'}.")


def account_lines(tree: dict[str, Any]) -> list[str]:
    """The sentences of an account as `Ledger.tree` gives it, one a line."""
    lines = [f"Assumed: {text}" for text in tree.get("assumed", ())]
    for table, rows in tree.get("rows", {}).items():
        lines.append(f"{table}: {rows['in']:,} rows read, {rows['out']:,} kept.")
        for entry in (e for e in tree.get("added", ()) if e["table"] == table):
            lines.append(f"{table}: {entry['count']:,} added, {entry['rule']}.")
        for entry in (e for e in tree.get("removed", ()) if e["table"] == table):
            first = f" (first: {', '.join(entry['first'])})" if entry["first"] else ""
            lines.append(f"{table}: {entry['count']:,} left out, {entry['rule']}{first}.")
    return lines
