"""Who gained and who lost: the improved policy against SFT within groups of users and of items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from llmrec.evaluation.table import Cell, Comparison
from llmrec.pipeline.result import SFT, Finished
from llmrec.types import BoolArray, FloatArray, IntArray, State

HISTORY = (("no history", 0, 0), ("1 to 9 events", 1, 9), ("10 events or more", 10, None))
"""Groups of users by the events that their state holds: name, fewest and most."""
POPULARITY = (("item never seen in training", 0, 0), ("1 to 4 events", 1, 4), ("5 events or more", 5, None))
"""Groups of held-out events by how often training saw the item."""
SMALLEST = 30
"""Rows below which an interval says too little for a group to be shown."""

Bounds = tuple[str, int, int | None]


def group_tables(run: Finished) -> list[Comparison]:
    """NDCG by the user's history and by the item's popularity, and the judge's value by the user's history.

    A table with fewer than two groups of 30 rows is left out: it would say what the whole says.
    """
    metric = next(m for m in reversed(run.tables.ranking.metrics) if m.startswith("NDCG@"))
    examples = run.arena.examples
    users = [str(e.state.user_id) for e in examples]
    seen_N = _training_counts(run)
    popularity_M = np.array([seen_N[e.target] for e in examples], dtype=np.int64)
    ranking = {name: np.asarray(run.measured.ranking[name][metric]) for name in (SFT, run.after)}
    judged = {name: np.asarray(run.measured.deployed["judge"][name]["value"]) for name in (SFT, run.after)}
    history_M = _history([e.state for e in examples])
    draw: dict[str, Any] = {"samples": run.config.evaluation.bootstrap, "seed": run.config.seed}
    found = [
        _table(
            f"{metric} on held-out events by the user's history", ranking, _masks(HISTORY, history_M), users, draw
        ),
        _table(
            f"{metric} on held-out events by the item's events in training",
            ranking,
            _masks(POPULARITY, popularity_M),
            users,
            draw,
        ),
        _table(
            "Value of deployed slates as the judge expects it, by the user's history",
            judged,
            _masks(HISTORY, _history(run.arena.states)),
            None,
            draw,
        ),
    ]
    return [table for table in found if len(table.metrics) > 1]


def _table(
    title: str,
    values: Mapping[str, FloatArray],
    masks: Mapping[str, BoolArray],
    users: Sequence[str] | None,
    draw: dict[str, Any],
) -> Comparison:
    """The groups as columns; users of a group are drawn whole."""
    cells: dict[str, dict[str, Cell]] = {name: {} for name in values}
    small = 0
    for group, mask_M in masks.items():
        count = int(mask_M.sum())
        if count < SMALLEST:
            small += count > 0
            continue
        kept = None if users is None else [user for user, inside in zip(users, mask_M, strict=True) if inside]
        column = f"{group} ({count:,})"
        part = Comparison.of(
            "", {n: {column: v[mask_M]} for n, v in values.items()}, reference=SFT, users=kept, **draw
        )
        for name in values:
            cells[name][column] = part.cells[name][column]
    note = f"Groups of fewer than {SMALLEST} rows are left out." if small else ""
    return Comparison(title, cells, SFT, note=note)


def _masks(bounds: Sequence[Bounds], count_M: IntArray) -> dict[str, BoolArray]:
    return {n: (count_M >= low) & (count_M <= (np.inf if high is None else high)) for n, low, high in bounds}


def _history(states: Sequence[State]) -> IntArray:
    return np.array([len(state.history) for state in states], dtype=np.int64)


def _training_counts(run: Finished) -> IntArray:
    """How many clicks, ratings and conversions each item has in the training period, (N,)."""
    counts_N = np.zeros(run.data.dataset.n_items, dtype=np.int64)
    chosen = run.data.split.train.filter(pl.col("kind") != "impression")
    for item, count in chosen["item_id"].value_counts().iter_rows():
        counts_N[run.data.dataset.item_index[item]] = count
    return counts_N
