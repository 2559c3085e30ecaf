"""Small data sets for the tests of this room."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from llmrec.dataset.store import Dataset

SCHEMA = {"user_id": pl.String, "item_id": pl.String, "kind": pl.String, "time": pl.Int64, "value": pl.Float64}
SCHEMA |= {
    "position": pl.Int32,
    "propensity": pl.Float64,
    "session": pl.String,
    "split": pl.String,
    "order": pl.Int64,
}


def tiny(events: list[tuple], *, users: str = "abc", items: str = "vwxyz", rows=None, **options) -> Dataset:
    """A data set from events (user, item, kind, time[, value[, position[, propensity[, session[, split[, order]]]]]])."""
    table = [(*event, *[None] * (len(SCHEMA) - len(event))) for event in events]
    settings = {"name": "tiny", "domain": "shop", "click": "click", "conversion": "conversion", **options}
    return Dataset.build(
        pl.DataFrame({"item_id": list(items), "title": [f"Title {i}" for i in items]}),
        pl.DataFrame({"user_id": list(users), "profile": [f"Profile of {u}." for u in users]}),
        pl.DataFrame(table, schema=SCHEMA, orient="row"),
        rows=rows,
        **settings,
    )


def real_data(name: str) -> Path:
    """The folder of a real data set, or a skip."""
    root = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"no real data at {root / name}; set LLMREC_DATA to a folder that holds {name}")
    return (root / name).resolve()
