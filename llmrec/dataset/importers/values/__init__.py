"""Readers of cells: one for each type, used by every way into a data set (CSV, JSON, Parquet, items to add)."""

from __future__ import annotations

from llmrec.dataset.importers.values.cells import Reading, read_numbers, read_text, read_whole
from llmrec.dataset.importers.values.ids import look_like_floats, near_miss, read_ids, without_zeros
from llmrec.dataset.importers.values.lists import read_categories
from llmrec.dataset.importers.values.prices import read_prices
from llmrec.dataset.importers.values.times import TIME_UNITS, read_times

__all__ = [
    "TIME_UNITS",
    "Reading",
    "look_like_floats",
    "near_miss",
    "read_categories",
    "read_ids",
    "read_numbers",
    "read_prices",
    "read_text",
    "read_times",
    "read_whole",
    "without_zeros",
]
