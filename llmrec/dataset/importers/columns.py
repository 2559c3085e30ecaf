"""Columns of a file, found by name, by name with a type behind it, or by place."""

from __future__ import annotations

import re

import polars as pl

from llmrec.dataset.importers.reading import RawTable
from llmrec.dataset.schema import SCHEMAS, show

_TYPED = re.compile(r"(.+):(?:token|float|token_seq|float_seq)")
SLOT = re.compile(r"\{([^{}]*)\}")
"""A column in a text that is filled: {name}."""


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


_ALIASES: dict[str, tuple[str, ...]] = {
    "user_id": ("user", "userid", "uid", "customer", "customerid", "visitorid", "member", "memberid", "reviewerid"),
    "item_id": ("item", "itemid", "iid", "product", "productid", "sku", "asin", "movieid", "isbn", "id", "articleid"),
    "time": ("timestamp", "ts", "date", "datetime", "at", "eventtime", "createdat", "invoicedate", "unixreviewtime"),
    "title": ("name", "itemname", "productname", "booktitle", "producttitle", "itemtitle"),
    "kind": ("event", "eventtype", "action", "behavior", "behaviortype", "type", "activity"),
}
