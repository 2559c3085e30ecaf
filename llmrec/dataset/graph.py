"""A knowledge graph about the items: triples (head, relation, tail) from a CSV, or of the items' own attributes.

    head,relation,tail
    i17,directed by,Agnès Varda
    i17,sequel of,i4

Heads and tails that are item ids are items, everything else is an entity; entities may have triples of their own. All
of it is a stranger's text.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec.bounded import read_document
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.printing import one_line, short_line
from llmrec.types import Item

COLUMNS = ("head", "relation", "tail")
LONGEST = 500
"""Characters of one name, at most."""


@dataclass(frozen=True, slots=True)
class Triple:
    """`head` stands in `relation` to `tail`; both are item ids or names of entities."""

    head: str
    relation: str
    tail: str


def read_triples(path: Path, items: Sequence[Item] = ()) -> tuple[Triple, ...]:
    """The triples of a CSV file with the columns head, relation and tail, each once, in its order.

    Args:
        path: the file.
        items: the catalogue; where it is given, one of the triples must name an item.

    Raises:
        DataError: the file cannot be read, lacks a column, has a row that is no triple, or names no item.
    """
    try:
        # strict: an open quotation mark would otherwise swallow the rest of the file as one name
        rows = csv.reader(read_document(path).splitlines(), strict=True)
        header = [name.strip().lower() for name in next(rows, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}; give a CSV with the columns {', '.join(COLUMNS)}.")
        at = [header.index(name) for name in COLUMNS]
        found: dict[Triple, None] = {}
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{path}, line {rows.line_num}: {len(row)} cells where the header has {len(header)}.")
            triple = Triple(*(row[n].strip() for n in at))
            if not all((triple.head, triple.relation, triple.tail)):
                raise DataError(
                    f"{path}, line {rows.line_num}: a triple needs head, relation and tail; one is empty."
                )
            if max(map(len, (triple.head, triple.relation, triple.tail))) > LONGEST:
                raise DataError(f"{path}, line {rows.line_num}: a name is longer than {LONGEST} characters.")
            found[triple] = None
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} cannot be read as CSV: {one_line(reason, 160)}.") from None
    if not found:
        raise DataError(f"{path} holds no triples.")
    ids = {item.item_id for item in items}
    if items and not any(triple.head in ids or triple.tail in ids for triple in found):
        first = next(iter(found))
        raise DataError(
            f"{path} names no item of the data set (its first head is {short_line(first.head)!r}); use item ids."
        )
    return tuple(found)


def attribute_triples(items: Sequence[Item]) -> tuple[Triple, ...]:
    """What the items' own attributes say as triples: categories and brand."""
    return tuple(
        triple
        for item in items
        for triple in (
            *(Triple(item.item_id, "category", name) for name in item.categories if name),
            *([Triple(item.item_id, "brand", item.brand)] if item.brand else []),
        )
    )


def facts_of(item: Item, triples: Sequence[Triple], titles: dict[str, str]) -> str:
    """What the triples say of one item, in a sentence for its card: "Directed by: X, Y. Sequel of: Alien."

    Args:
        item: whose heads they are; where it is the tail nothing is said.
        triples: those of this item.
        titles: of items that are tails, by id.
    """
    by_relation: dict[str, list[str]] = {}
    for triple in triples:
        if triple.head == item.item_id:
            by_relation.setdefault(triple.relation, []).append(titles.get(triple.tail, triple.tail))
    said = (f"{relation[:1].upper()}{relation[1:]}: {', '.join(tails)}." for relation, tails in by_relation.items())
    return " ".join(said)


def with_facts(dataset: Dataset, triples: Sequence[Triple]) -> Dataset:
    """The data set with each item's triples at the head of its description, where item cards tell them.

    `text.card.description` decides how much of it a state shows. Everything that reads descriptions sees them, too.
    """
    items = dataset.item_list
    titles = {item.item_id: item.title for item in items}
    own: dict[str, list[Triple]] = {}
    for triple in triples:
        own.setdefault(triple.head, []).append(triple)
    told = [" ".join(filter(None, (facts_of(i, own.get(i.item_id, ()), titles), i.description))) for i in items]
    table = dataset.items.with_columns(pl.Series("description", told, dtype=pl.String))
    fields = ("name", "domain", "language", "source", "terms", "repeat", "click", "conversion", "proxy")
    manifest = {name: getattr(dataset.manifest, name) for name in fields}
    return Dataset.build(table, dataset.users, dataset.events, **manifest)
