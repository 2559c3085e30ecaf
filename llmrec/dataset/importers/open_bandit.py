"""Open Bandit (Saito, Aihara, Matsutani and Narita 2021): impressions of a fashion shop with their true propensities.

Two policies, uniformly random and Bernoulli Thompson sampling, chose what three places showed. Layout:
`POLICY/CAMPAIGN/CAMPAIGN.csv` (or .gz) with `item_context.csv` beside it; POLICY is random or bts, CAMPAIGN men,
women or all.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

import polars as pl

from llmrec.dataset.importers.reading import find_file, need_file, number, read_csv_rows
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError

SOURCE = "https://research.zozo.com/data.html"
TERMS = "CC BY 4.0; cite Saito et al. 2021."
PROXY = "Open Bandit logs no purchase: a click stands for a conversion too."
PLACES = 3
_COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score")
_ITEM_FEATURES = tuple(f"item_feature_{k}" for k in range(4))
_USER_FEATURES = tuple(f"user_feature_{k}" for k in range(4))
_EVENTS = {"user_id": pl.String, "item_id": pl.String, "kind": pl.String, "time": pl.Int64}
_EVENTS |= {"position": pl.Int64, "propensity": pl.Float64}


def import_open_bandit(
    source: Path,
    *,
    name: str = "open-bandit",
    policy: Literal["random", "bts"] = "random",
    campaign: Literal["men", "women", "all"] = "men",
) -> Dataset:
    """Imports the impressions of one policy in one campaign.

    The data names no users, so every impression is a user of its own whose profile is the group of the hashed
    features; hashes are numbered in the order in which they appear. Places count from 0.

    Args:
        source: The folder of both policies, or the one that holds item_context.csv.
        name: Name of the data set.
        policy: Who chose what was shown.
        campaign: Of which campaign.

    Raises:
        DataError: A file or column is missing, or a line is broken; named with its number.
    """
    if source.is_file():
        raise DataError(f"{source} is a file; give the folder that holds random/ and bts/.")
    folder = source if find_file(source, "item_context.csv") else source / policy / campaign
    if not folder.is_dir():
        there = ", ".join(sorted(p.name for p in source.iterdir())[:12]) or "nothing"
        raise DataError(f"{source} has no folder {policy}/{campaign} (it has: {there}).")
    items = _items(need_file(folder, "item_context.csv"))
    path = need_file(folder, f"{campaign}.csv.gz", f"{campaign}.csv")
    levels: dict[tuple[str, str], int] = {}
    users: list[dict[str, str]] = []
    events: list[tuple[str, str, str, int, int, float]] = []
    known = {str(item["item_id"]) for item in items}
    for line, row in _rows(path):
        item_id = f"i{row['item_id']}"
        if item_id not in known:
            raise DataError(f"{path}, line {line}: item {row['item_id'][:60]!r} is not in item_context.csv; mend it.")
        user_id = f"v{len(users)}"
        users.append({"user_id": user_id, "profile": _group(row, levels)})
        where = (_moment(row["timestamp"], path, line), int(row["position"]) - 1, float(row["propensity_score"]))
        events.append((user_id, item_id, "impression", *where))
        if row["click"] == "1":
            events.append((user_id, item_id, "click", *where))
    if not events:
        raise DataError(f"{path} holds no impression; fetch it again.")
    return Dataset.build(
        pl.DataFrame(items),
        pl.DataFrame(users),
        pl.DataFrame(events, schema=_EVENTS, orient="row"),
        name=name,
        domain="shop",
        source=SOURCE,
        terms=TERMS,
        repeat="allow",
        click="click",
        conversion="click",
        proxy=PROXY,
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for line, row in read_csv_rows(path, (*_COLUMNS, *_USER_FEATURES), description=f"Reading {path.name}"):
        if row["click"] not in ("0", "1"):
            raise DataError(f"{path}, line {line}: click is {row['click'][:60]!r}, but it must be 0 or 1.")
        if row["position"] not in map(str, range(1, PLACES + 1)):
            raise DataError(
                f"{path}, line {line}: position is {row['position'][:60]!r}, but it must be 1 to {PLACES}."
            )
        chance = number(row["propensity_score"], path, line, "propensity_score")
        if not 0 < chance <= 1:
            raise DataError(
                f"{path}, line {line}: propensity_score is {chance:g}, but it must be above 0 and at most 1; "
                "leave that impression out."
            )
        yield line, row


def _items(path: Path) -> list[dict[str, object]]:
    levels: dict[tuple[str, str], int] = {}
    items: list[dict[str, object]] = []
    for line, row in read_csv_rows(path, ("item_id", *_ITEM_FEATURES)):
        number(row[_ITEM_FEATURES[0]], path, line, _ITEM_FEATURES[0])
        kinds = [f"feature {k}: {_level(levels, column, row)}" for k, column in enumerate(_ITEM_FEATURES) if k]
        items.append({"item_id": f"i{row['item_id']}", "title": f"Garment {row['item_id']}", "categories": kinds})
    if not items:
        raise DataError(f"{path} holds no item; fetch it again.")
    return items


def _group(row: dict[str, str], levels: dict[tuple[str, str], int]) -> str:
    return "Visitor of the group " + "-".join(str(_level(levels, column, row)) for column in _USER_FEATURES) + "."


def _level(levels: dict[tuple[str, str], int], column: str, row: dict[str, str]) -> int:
    """The number of a hashed value of a column, in the order of first sight."""
    own = sum(1 for seen, _ in levels if seen == column)
    return levels.setdefault((column, row[column]), own)


def _moment(text: str, path: Path, line: int) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise DataError(f"{path}, line {line}: timestamp is {text[:60]!r}, but it must be a moment with its zone.")
    return int(found.timestamp())
