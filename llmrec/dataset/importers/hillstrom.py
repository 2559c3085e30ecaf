"""Hillstrom's e-mail experiment (MineThatData, 2008): 64,000 customers, three arms drawn at random, visit to spend.

The arms become the items of a small catalogue and each customer one impression: the only open log here that holds a
real funnel (an e-mail or none was sent, the site was visited, something was bought) under a known propensity.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from llmrec.dataset.importers.reading import need_file, number, read_csv_rows
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.seeding import numpy_stream

SOURCE = "https://blog.minethatdata.com/2008/03/minethatdata-e-mail-analytics-and-data.html"
TERMS = "No licence is stated; published by Kevin Hillstrom as an open challenge, to be cited."
PUBLISHED = 1205971200
"""20 March 2008, UTC: the data names no moments, so every event bears the day of its publication."""
PUBLISHED_AS = "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"
ARMS = {
    "Mens E-Mail": ("mens-email", "E-mail with men's merchandise"),
    "Womens E-Mail": ("womens-email", "E-mail with women's merchandise"),
    "No E-Mail": ("no-email", "No e-mail"),
}
SHARES = (0.4, 0.1, 0.5)
"""Customers in train, valid and test: one half is fitted, the other compared."""

_COLUMNS = (
    *("recency", "history_segment", "history", "mens", "womens", "zip_code", "newbie", "channel"),
    *("segment", "visit", "conversion", "spend"),
)
_FLAGS = ("mens", "womens", "newbie", "visit", "conversion")
_EVENTS = {
    **{"user_id": pl.String, "item_id": pl.String, "kind": pl.String, "value": pl.Float64, "split": pl.String},
}


def import_hillstrom(source: Path, *, name: str = "hillstrom", seed: int = 0) -> Dataset:
    """Imports the experiment from its CSV file (plain or .gz), or from the folder that holds it.

    A visit is a click, a purchase a conversion with the amount spent as its value. Every impression has propensity
    1/3 and place 0. The customers are shared out at random to train, valid and test (column `split`, see `SHARES`).

    Args:
        source: The file or its folder.
        name: Name of the data set.
        seed: Seed of the shares.

    Raises:
        DataError: A column is missing, or a line is broken; named with its number.
    """
    path = source if source.is_file() else need_file(source, "hillstrom.csv.gz", "hillstrom.csv", PUBLISHED_AS)
    users: list[dict[str, str]] = []
    events: list[tuple[str, str, str, float | None]] = []
    for line, row in _rows(path):
        user_id = str(len(users) + 1)
        users.append({"user_id": user_id, "profile": _profile(row)})
        arm = ARMS[row["segment"]][0]
        events.append((user_id, arm, "impression", None))
        if row["visit"] == "1":
            events.append((user_id, arm, "click", None))
        if row["conversion"] == "1":
            events.append((user_id, arm, "conversion", number(row["spend"], path, line, "spend")))
    if not users:
        raise DataError(f"{path} holds no customer; fetch it again.")
    parts = numpy_stream(seed, "hillstrom", "split").choice(("train", "valid", "test"), size=len(users), p=SHARES)
    table = [(*event, str(parts[int(event[0]) - 1])) for event in events]
    return Dataset.build(
        pl.DataFrame([{"item_id": item_id, "title": title} for item_id, title in ARMS.values()]),
        pl.DataFrame(users),
        pl.DataFrame(table, schema=_EVENTS, orient="row").with_columns(
            time=pl.lit(PUBLISHED), position=pl.lit(0), propensity=pl.lit(1 / len(ARMS))
        ),
        name=name,
        domain="shop",
        source=SOURCE,
        terms=TERMS,
        repeat="allow",
        click="click",
        conversion="conversion",
        currency="USD",
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for line, row in read_csv_rows(path, _COLUMNS, description=f"Reading {path.name}"):
        if row["segment"] not in ARMS:
            raise DataError(f"{path}, line {line}: segment is {row['segment'][:60]!r}, not one of {', '.join(ARMS)}.")
        for flag in _FLAGS:
            if row[flag] not in ("0", "1"):
                raise DataError(f"{path}, line {line}: {flag} is {row[flag][:60]!r}, but it must be 0 or 1.")
        if row["conversion"] > row["visit"]:
            raise DataError(f"{path}, line {line}: a conversion without a visit; mend that line.")
        yield line, row


def _profile(row: dict[str, str]) -> str:
    """For example "Last order 10 months ago. Spent $100 - $200 in a year. Buys women's goods. …"."""
    goods = " and ".join(f"{who}'s goods" for who, flag in (("men", "mens"), ("women", "womens")) if row[flag] == "1")
    area = {"Surburban": "suburban"}.get(row["zip_code"], row["zip_code"].lower())
    channel = {"Multichannel": "by several channels"}.get(row["channel"], f"by {row['channel'].lower()}")
    spent = row["history_segment"].partition(") ")[2] or row["history_segment"]
    ago = "1 month" if row["recency"] == "1" else f"{row['recency']} months"
    return (
        f"Last order {ago} ago. Spent {spent} in a year. Buys {goods or 'other goods'}. "
        f"Lives in a {area} area. Orders {channel}. {'New' if row['newbie'] == '1' else 'Old'} customer."
    )
