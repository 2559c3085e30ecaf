"""Tables that belong together: ids written alike, several files of one table, events of items that have a row.

What cannot be right about tables as a whole, though each cell can be read, is refused unless said to be right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from llmrec.dataset.importers.mapping import TableFile, TableMapping
from llmrec.dataset.importers.reading import Ledger, RawTable, ReadOptions, read_table
from llmrec.dataset.importers.reshape import find_column, lacks
from llmrec.dataset.importers.values import look_like_floats, near_miss, without_zeros
from llmrec.dataset.importers.values.cells import as_text
from llmrec.dataset.schema import REQUIRED, show
from llmrec.errors import DataError

_ENOUGH = 20  # rows from which on a pattern is no accident
_NEARLY_ALL = 0.98
_MOST = 0.9


def explained(raw: RawTable, spec: TableFile, folder: Path, reading: ReadOptions, ledger: Ledger) -> RawTable:
    """Cells in place of those that another file explains (`lookups`); null where it does not.

    Raises:
        DataError: A file or column is missing.
    """
    for lookup in spec.lookups:
        other = read_table(folder / lookup.file, reading.with_given(lookup.reading), ledger, "lookups")
        ledger.limit("lookups", other.rows_in)
        column = _column(raw, lookup.column)
        frame = other.frame.select(
            pl.lit(as_text(other.frame[_column(other, lookup.key)])).alias("key"),
            pl.col(_column(other, lookup.value)).alias("value"),
        )
        cells = pl.DataFrame({"key": as_text(raw.frame[column])})
        # A key that stands twice would multiply rows.
        known = frame.unique("key", keep="first")
        values = cells.join(known, on="key", how="left", maintain_order="left")["value"].alias(column)
        lost = values.null_count() - cells["key"].null_count()
        if lost > 0:
            first = cells["key"].filter(values.is_null() & cells["key"].is_not_null())[0]
            ledger.assume(
                f"{raw.path.name}: {lost:,} cells of {column[:40]!r} are not explained by {other.path.name} and "
                f"count as missing (the first is {show(first, 30)})."
            )
        raw = dataclasses.replace(raw, frame=raw.frame.with_columns(values))
    return raw


def _column(raw: RawTable, wanted: str) -> str:
    found = find_column(raw.frame, wanted)
    if found is None:
        raise DataError(lacks(raw, "lookups", wanted))
    return found


def same_ids(
    tables: list[RawTable], events: list[RawTable], key: str, ledger: Ledger
) -> tuple[list[RawTable], list[RawTable]]:
    """12.0 is 12 where all ids of both tables are whole numbers."""
    columns = [raw.frame[key] for raw in (*tables, *events)]
    # Only if all ids of both sides are whole numbers: "12.0" may be a name elsewhere.
    if not columns or not all(look_like_floats(column) for column in columns if len(column)):
        return tables, events

    def plain(raw: RawTable) -> RawTable:
        column, notes = without_zeros(raw.frame[key])
        for note in notes:
            ledger.assume(f"{raw.path.name}, {key}: {note}.")
        return dataclasses.replace(raw, frame=raw.frame.with_columns(column))

    return [plain(raw) for raw in tables], [plain(raw) for raw in events]


def joined(raws: list[RawTable], specs: Sequence[TableFile], ledger: Ledger) -> pl.DataFrame:
    """One row for each id: of the first file, with the columns that further files add."""
    if not raws:
        return pl.DataFrame({"user_id": []}, {"user_id": pl.String})
    key, thing = REQUIRED[raws[0].table][0], raws[0].table.removesuffix("s")
    found: pl.DataFrame | None = None
    for raw, spec in zip(raws, specs, strict=True):
        if found is None:
            found = _once(raw, key, spec.distinct, ledger)
            continue
        frame = _gathered(raw, key, ledger)
        known = int(frame[key].is_in(found[key].implode()).sum())
        ledger.remove("rows of a further file, put to those they describe", raw.table, [], known)
        ledger.remove(f"rows of a further file that describe no {thing}", raw.table, [], frame.height - known)
        found = found.join(frame, on=key, how="left", maintain_order="left", suffix="\0new")
        both = [name for name in found.columns if name.endswith("\0new")]
        found = found.with_columns(
            pl.coalesce(pl.col(name.removesuffix("\0new")), pl.col(name)).alias(name.removesuffix("\0new"))
            for name in both
        ).drop(both)
    assert found is not None
    return found


def _gathered(raw: RawTable, key: str, ledger: Ledger) -> pl.DataFrame:
    """One row for each id of a further file, with the categories of all its rows."""
    frame = _once(raw, key, True, ledger)
    if "categories" not in raw.frame.columns or frame.height == raw.frame.height:
        return frame
    parts = raw.frame.select(key, "categories").explode("categories").drop_nulls()
    lists = parts.group_by(key, maintain_order=True).agg(pl.col("categories").unique(maintain_order=True))
    return frame.drop("categories").join(lists, on=key, how="left", maintain_order="left")


def _once(raw: RawTable, key: str, distinct: bool, ledger: Ledger) -> pl.DataFrame:
    """The first row of each id; a second one with other values is bad unless only the first is wanted."""
    thing = raw.table.removesuffix("s")
    again = ~raw.frame[key].is_first_distinct()
    if not again.any():
        return raw.frame
    if distinct:
        return raw.leave_out(again, f"more rows of the same {thing}", ledger).frame
    equal = raw.frame.select(pl.struct(pl.all()).is_first_distinct().not_().alias("equal"))["equal"]
    raw = raw.leave_out(equal, f"the same row of {'an' if thing == 'item' else 'a'} {thing} again", ledger)
    again = ~raw.frame[key].is_first_distinct()
    # Reversed, so that the first row of each id wins.
    first = {value: row for row, value in reversed(list(enumerate(raw.frame[key])))} if again.any() else {}

    def why(row: int) -> str:
        value = raw.frame[key][row]
        return f"{key!r} {show(value, 40)} stands in {raw.place(first[value])} already, with other values"

    return raw.drop_bad(again, "an id of a row above, with other values", ledger, why).frame


def known_items(
    items: pl.DataFrame, events: list[RawTable], path: Path, plan: TableMapping, ledger: Ledger
) -> tuple[pl.DataFrame, list[RawTable]]:
    """Events of items that have a row, or rows for the items that events have."""
    known = items["item_id"]
    kept = []
    for raw in events:
        ids = raw.frame["item_id"]
        strange = ~ids.is_in(known.implode())
        if strange.any():
            if swapped(raw.frame["user_id"], ids, known) and not plan.accept_implausible:
                raise DataError(
                    f"{raw.path}: most of its users are items of {path.name} and most of its items are not; user_id "
                    "and item_id seem to have changed places (--accept-implausible if they have not)."
                )
            strangers = ids.filter(strange).unique(maintain_order=True)
            raw, items = _strangers(raw, strange, strangers, items, plan, ledger)
        kept.append(raw)
    return items, kept


def _strangers(
    raw: RawTable, strange: pl.Series, strangers: pl.Series, items: pl.DataFrame, plan: TableMapping, ledger: Ledger
) -> tuple[RawTable, pl.DataFrame]:
    if plan.unknown_items == "drop":
        return raw.leave_out(strange, "of an item that no row describes", ledger), items
    if plan.unknown_items == "add":
        new = strangers.filter(~strangers.is_in(items["item_id"].implode()))
        more = pl.DataFrame({"item_id": new, "title": new})
        ledger.add("known from events only (their id is their title)", "items", len(new))
        return raw, pl.concat([items, more], how="diagonal")
    hint = near_miss(strangers, items["item_id"])
    hint = f"; {hint}" if hint else ""

    def why(row: int) -> str:
        return (
            f"'item_id' is {show(raw.frame['item_id'][row], 40)}, which table items does not have (so are "
            f"{len(strangers):,} items of {int(strange.sum()):,} events){hint}; --option unknown_items=drop leaves "
            "such events out, and unknown_items=add takes the items with their id for a title"
        )

    return raw.drop_bad(strange, "of an item that no row describes", ledger, why), items


def check_plausible(items: pl.DataFrame, events: pl.DataFrame, items_path: Path, events_path: Path) -> None:
    """Refuses tables that were read in a wrong sense.

    Raises:
        DataError: Nearly every event has a user of its own, or nearly every category is one item's alone.
    """
    for text in (*_one_event_each(events, events_path), *_lone_categories(items, items_path)):
        raise DataError(f"{text}, or add --accept-implausible if it is right.")


def _one_event_each(events: pl.DataFrame, path: Path) -> Iterator[str]:
    if events.height < _ENOUGH:
        return
    users = events["user_id"].n_unique()
    if users > _NEARLY_ALL * events.height:
        yield (
            f"{path}: the {events.height:,} events have {users:,} different users, so that nobody has a history "
            f"(user_id is {show(events['user_id'][0], 30)} in the first row); map user_id to the column of users"
        )


def _lone_categories(items: pl.DataFrame, path: Path) -> Iterator[str]:
    if "categories" not in items.columns:
        return
    lists = items["categories"].drop_nulls()
    lists = lists.filter(lists.list.len() > 0)
    if len(lists) < _ENOUGH:
        return
    names = lists.explode(empty_as_null=False)
    distinct = names.n_unique()
    if distinct > _MOST * len(lists) and distinct > _MOST * len(names):
        yield (
            f"{path}: {len(lists):,} items have {distinct:,} different categories (such as {show(names[0], 40)}), so "
            "that hardly any two share one; map categories to another column, or say what divides them by --option "
            "category_separator="
        )


def swapped(user_ids: pl.Series, item_ids: pl.Series, items: pl.Series) -> bool:
    """Whether users and items have changed places: the users are items of the table, and the items are not."""
    known = items.implode()
    users = float(user_ids.is_in(known).mean() or 0)  # type: ignore[arg-type]
    # Both must hold: numbers from 1 up as ids of users and of items overlap by chance.
    return users > 0.5 and float(item_ids.is_in(known).mean() or 0) < 0.5  # type: ignore[arg-type]
