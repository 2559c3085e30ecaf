"""Amazon reviews of 2018 as MiniOneRec and ReRe cut them: items, the published valid and test rows, known events.

The published rows name their users by number and carry no times; the events name them as Amazon does. A row is the
next event of a user after a history of up to ten, so a user's rows taken together tell who it is; where exactly one
user fits, the row gets that user's id and the time of its event, else it keeps its published name and no time.

Times are days, and the published histories list the events of one day in the order of the file. Training on days as
unordered sets would teach nothing of what follows what within a day, and that is much of what the rows ask for;
so by default the order of the file counts as seconds within the day.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

import polars as pl

from llmrec.bounded import parse_json
from llmrec.dataset.importers.amazon import PROXY, TERMS
from llmrec.dataset.importers.reading import need_file, number, plain_text, read_csv_rows, read_json_lines
from llmrec.dataset.schema import SCHEMAS
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError

_PARTS = ("valid", "test")
_LONGEST = 10  # items of a published history
_EVENTS = {"user_id": pl.String, "item_id": pl.String, "time": pl.Int64, "value": pl.Float64, "split": pl.String}

Row = tuple[str, tuple[str, ...], str]  # part, history, target


def import_minionerec(
    source: Path, *, name: str = "amazon-industrial", order: Literal["published", "day"] = "published"
) -> Dataset:
    """Imports a folder with items, users (jsonl) and valid, test (csv), each plain or .gz.

    All events are kept as they are listed, repeated lines included: a user's events are what the published rows
    were cut from. An event that belongs to no published part counts to valid where it is earlier than all of test (it
    may then train what is judged on test), else its `split` is empty. Item ids are the published numbers.

    Args:
        source: the folder.
        name: what the data set is called.
        order: published: a user's n-th event of a day gets n - 1 seconds more than the day; day: all the same time.

    Raises:
        DataError: A file is missing, or a line is broken; named with its number.
    """
    if not source.is_dir():
        raise DataError(
            f"{source} is a file; give the folder that holds items.jsonl, users.jsonl, valid and test.csv."
        )
    items, id_of_asin = _read_items(need_file(source, "items.jsonl.gz", "items.jsonl"))
    events = _read_events(need_file(source, "users.jsonl.gz", "users.jsonl"), id_of_asin)
    events = _before_test(_in_order(events) if order == "published" else events)
    known = set(items["item_id"])
    published = [row for part in _PARTS for row in _read_rows(source, part, known)]
    return Dataset.build(
        items,
        None,
        events.with_columns(pl.lit("rating").alias("kind")),
        name=name,
        domain="shop",
        source="https://github.com/AkaliKong/MiniOneRec",
        terms=TERMS,
        repeat="allow",
        click="rating",
        conversion="rating>=4",
        proxy=PROXY,
        currency="USD",
        rows=_named(published, events),
    )


def _read_items(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    """Items in the order of their published numbers, and the number of each Amazon id."""
    rows: list[dict[str, object]] = []
    id_of_asin: dict[str, str] = {}
    for line, item in read_json_lines(path):
        if not isinstance(item.get("id"), int) or not isinstance(item.get("title"), str):
            raise DataError(f"{path}, line {line} needs a whole number 'id' and a text 'title'; mend that line.")
        item_id, asin = str(item["id"]), item.get("asin")
        if asin:  # some items have no Amazon id; they have no events either
            id_of_asin[str(asin)] = item_id
        description = list_text(str(item.get("description") or ""))
        brand = plain_text(str(item.get("brand") or ""))
        title = plain_text(item["title"]) or item["title"]
        rows.append({"item_id": item_id, "title": title, "description": description, "brand": brand})
    return pl.DataFrame(rows), id_of_asin


def list_text(text: str) -> str:
    """Plain text out of what looks like a printed Python list of strings; the parts stand in their order."""
    try:
        value = ast.literal_eval(text) if text.startswith("[") else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text.strip("[]").strip("'\"")  # cut in the middle of a string, or quoted badly
    parts = value if isinstance(value, list) else [value]
    return " ".join(plain_text(part) for part in parts if isinstance(part, str))


def _read_events(path: Path, id_of_asin: dict[str, str]) -> pl.DataFrame:
    rows: list[tuple[str, str, int, float, str | None]] = []
    for line, user in read_json_lines(path):
        name, events = user.get("user"), user.get("events")
        if not isinstance(name, str) or not isinstance(events, list):
            raise DataError(f"{path}, line {line} needs a text 'user' and a list 'events'; mend that line.")
        rows.extend((name, *_event(event, id_of_asin, path, line)) for event in events)
    return pl.DataFrame(rows, schema=_EVENTS, orient="row")


def _in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Events of a user and day a second apart, in the order of the table."""
    nth = pl.int_range(pl.len()).over("user_id", "time")
    return events.with_columns((pl.col("time") + nth).alias("time"))


def _before_test(events: pl.DataFrame) -> pl.DataFrame:
    """Events of no part that are earlier than the first of test as events of valid."""
    first = events.filter(pl.col("split") == "test")["time"].min()
    early = pl.col("split").is_null() & (pl.col("time") < first)
    return events.with_columns(pl.when(early).then(pl.lit("valid")).otherwise("split").alias("split"))


def _event(event: Any, id_of_asin: dict[str, str], path: Path, line: int) -> tuple[str, int, float, str | None]:
    if not isinstance(event, dict):
        raise DataError(f"{path}, line {line}: an event is {str(event)[:60]!r}, not an object with keys.")
    item_id = id_of_asin.get(str(event.get("asin")))
    if item_id is None:
        raise DataError(
            f"{path}, line {line}: item {str(event.get('asin'))[:60]!r} is not in the items file; add it."
        )
    part = event.get("split")
    time = int(number(event.get("ts", ""), path, line, "ts"))
    rating = number(event.get("rating", ""), path, line, "rating")
    return item_id, time, rating, part if part in ("train", *_PARTS) else None


def _read_rows(source: Path, part: str, known: set[str]) -> list[tuple[str, Row]]:
    """The published rows of a part, each with its published user."""
    path = need_file(source, f"{part}.csv.gz", f"{part}.csv")
    rows: list[tuple[str, Row]] = []
    for line, row in read_csv_rows(path, ("user_id", "history_item_id", "item_id")):
        history, target = _history(row["history_item_id"], path, line), row["item_id"]
        for item_id in (*history, target):
            if item_id not in known:
                raise DataError(f"{path}, line {line}: item {item_id[:60]!r} is not in the items file; add it there.")
        rows.append((row["user_id"], (part, history, target)))
    return rows


def _history(text: str, path: Path, line: int) -> tuple[str, ...]:
    try:
        numbers = parse_json(text)
    except ValueError:
        numbers = None
    if not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
        raise DataError(f"{path}, line {line}: history_item_id is {text[:60]!r}, not a list of whole numbers.")
    return tuple(map(str, numbers))


def _named(published: list[tuple[str, Row]], events: pl.DataFrame) -> pl.DataFrame:
    """The rows as a table, with user ids and times of the events they were cut from where that is certain."""
    times = _possible(events)
    rows_of: dict[str, list[Row]] = defaultdict(list)
    for name, row in published:
        rows_of[name].append(row)
    user_of = {}
    for name, rows in rows_of.items():
        fitting = set.intersection(*(set(times.get(row, {})) for row in rows))
        user_of[name] = fitting.pop() if len(fitting) == 1 else name
    shared = {user for user, count in Counter(user_of.values()).items() if count > 1}
    table = []
    for name, row in published:
        user = name if user_of[name] in shared else user_of[name]
        part, history, target = row
        table.append((part, user, list(history), target, times.get(row, {}).get(user)))
    return pl.DataFrame(table, schema=SCHEMAS["rows"], orient="row")


def _possible(events: pl.DataFrame) -> dict[Row, dict[str, int]]:
    """For each possible row, the users whose events hold it, with the time of its target."""
    found: dict[Row, dict[str, int]] = defaultdict(dict)
    for (user,), group in events.group_by(["user_id"], maintain_order=True):
        items, times, parts = (group[c].to_list() for c in ("item_id", "time", "split"))
        for n, part in enumerate(parts):
            if part in _PARTS:
                found[part, tuple(items[max(0, n - _LONGEST) : n]), items[n]].setdefault(str(user), times[n])
    return found
