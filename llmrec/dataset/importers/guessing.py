"""Which column of a table is what, by its name: for tables that come from code, where one can be asked at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from llmrec.dataset.schema import REQUIRED, SCHEMAS, show
from llmrec.errors import DataError

KNOWN: Mapping[str, tuple[str, ...]] = {
    "user_id": ("user", "userid", "customer", "customerid", "visitor", "visitorid", "reviewerid", "uid"),
    "item_id": (
        "item",
        "itemid",
        "product",
        "productid",
        "sku",
        "asin",
        "parentasin",
        "article",
        "articleid",
        "movieid",
    ),
    "time": ("timestamp", "ts", "datetime", "eventtime", "unixtime", "date", "createdat"),
    "kind": ("event", "eventtype", "action", "behavior", "behaviour", "type"),
    "value": ("rating", "score", "stars"),
    "position": ("rank", "place"),
    "session": ("sessionid",),
    "title": ("name", "itemname", "productname", "producttitle", "itemtitle"),
    "description": ("text", "details"),
    "categories": ("category", "genres", "genre", "tags"),
    "brand": ("manufacturer", "vendor"),
    "price": ("unitprice", "listprice"),
    "profile": ("bio", "about"),
}
"""Names by which tables call llmrec's columns, small and without separators."""


def guessed_columns(names: Iterable[str], table: str, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """llmrec's columns of `table` that are there: each with the table's own name of it.

    A column called as llmrec calls it is that; else one of a known other name, if there is one alone.

    Args:
        names: of the table's columns.
        table: events, items or users.
        given: what a person has said; it goes before any guess.

    Raises:
        DataError: a column that is needed is not there, one that was given is not, or two could be meant.
    """
    there = list(names)
    found: dict[str, str] = {}
    for ours, theirs in (given or {}).items():
        if ours not in SCHEMAS[table]:
            raise DataError(
                f"columns names {show(ours, 40)}, which is no column of {table}; choose of "
                f"{', '.join(SCHEMAS[table])}."
            )
        if theirs not in there:
            raise DataError(f"Table {table} has no column {show(theirs, 40)} ({_said(there)}); look at columns.")
        found[ours] = theirs
    for ours in SCHEMAS[table]:
        if ours in found:
            continue
        if ours in there:
            found[ours] = ours
            continue
        taken = set(found.values()) | set(SCHEMAS[table])
        like = [name for name in there if _plain(name) in (_plain(ours), *KNOWN.get(ours, ())) and name not in taken]
        if len(like) > 1:
            raise DataError(
                f"Table {table} has {len(like)} columns that could be {ours!r} ({_said(like)}); say which: "
                f"columns={{{ours!r}: {like[0]!r}}}."
            )
        if like:
            found[ours] = like[0]
    for ours in REQUIRED[table]:
        if ours not in found and ours not in ("time", "kind"):  # which the importer can do without
            raise DataError(
                f"Table {table} has no column for {ours!r} ({_said(there)}); name it: columns={{{ours!r}: ...}}."
            )
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _said(names: list[str]) -> str:
    return "it has: " + (", ".join(show(name, 40) for name in names[:12]) or "none")
