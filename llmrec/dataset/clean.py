"""Removing odd rows, never silently: each rule is named, counted and can be switched."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from llmrec.dataset.rules import Rule, now_seconds, removable
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.progress import track


@dataclass(frozen=True, slots=True)
class Removal:
    """What a rule removed: `count` rows of `table`. Removing an item or a user also removes what refers to it."""

    rule: str
    table: str
    count: int


def clean(
    dataset: Dataset, rules: set[str] | None = None, *, without: set[str] | None = None, now: int | None = None
) -> tuple[Dataset, list[Removal]]:
    """Applies removable rules one after the other, each to what the earlier ones left.

    Args:
        dataset: left as it is.
        rules: names of rules (see `llmrec.dataset.rules.RULES`); None takes those that are on by default.
        without: names of rules to leave out.
        now: the present in seconds since the epoch (None: the clock).

    Returns:
        The cleaned data set and one entry for every rule applied and table that it touched; a rule that found
        nothing is listed with count 0.

    Raises:
        ConfigError: a name that is no removable rule.
        DataError: a rule that would remove every event.
    """
    moment = now_seconds() if now is None else now
    removals: list[Removal] = []
    left = dataset
    for rule in track(removable(rules, without), "Cleaning"):
        before, left = left, _apply(rule, left, moment)
        removals += _removals(rule, before, left)
        if left.events.is_empty() and not before.events.is_empty():
            raise DataError(
                f"Rule {rule.name!r} would remove every event ({rule.meaning}); mend the data or leave the rule out."
            )
    return _rebuilt(left) if left is not dataset else dataset, removals


def _apply(rule: Rule, data: Dataset, now: int) -> Dataset:
    """The tables without the rows that the rule names and without what refers to these; the manifest is stale."""
    mask = rule.find(data, now)
    if not mask.any():
        return data
    items, users, events, rows = data.items, data.users, data.events, data.rows
    if rule.table == "events":
        return Dataset(items, users, events.filter(~mask), data.manifest, rows)
    key, row_key = ("item_id", "target") if rule.table == "items" else ("user_id", "user_id")
    gone = getattr(data, rule.table).filter(mask)[key].implode()
    events = events.filter(~pl.col(key).is_in(gone))
    rows = None if rows is None else rows.filter(~pl.col(row_key).is_in(gone))
    if rule.table == "items":
        items = items.filter(~mask)
    else:
        users = users.filter(~mask)
    return Dataset(items, users, events, data.manifest, rows)


def _removals(rule: Rule, before: Dataset, after: Dataset) -> list[Removal]:
    """One entry for the rule's own table, and one for every other table that lost rows by it."""
    found = []
    for table in ("items", "users", "events", "rows"):
        old, new = getattr(before, table), getattr(after, table)
        lost = 0 if old is None else old.height - new.height
        if lost or table == rule.table:
            found.append(Removal(rule.name, table, lost))
    return found


def _rebuilt(data: Dataset) -> Dataset:
    """The same tables checked, counted and hashed anew, under what the manifest says about them."""
    said = data.manifest
    return Dataset.build(
        data.items,
        data.users,
        data.events,
        name=said.name,
        domain=said.domain,
        language=said.language,
        source=said.source,
        terms=said.terms,
        repeat=said.repeat,
        click=said.click,
        conversion=said.conversion,
        proxy=said.proxy,
        currency=said.currency,
        rows=data.rows,
    )
