"""What cannot be right about tables as a whole, though each cell can be read: refused unless said to be right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from llmrec.dataset.schema import show
from llmrec.errors import DataError

_ENOUGH = 20  # rows from which on a pattern is no accident
_NEARLY_ALL = 0.98
_MOST = 0.9


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
    return users > 0.5 and float(item_ids.is_in(known).mean() or 0) < 0.5  # type: ignore[arg-type]
