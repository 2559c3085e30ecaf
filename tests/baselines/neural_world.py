"""A planted world for sequence models: the next item is a known function of the last one, or of the last two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl

from llmrec.dataset.store import Dataset
from llmrec.types import Interaction, State


def make_dataset(
    sequences: Sequence[Sequence[int]],
    n_items: int,
    *,
    times: Sequence[Sequence[int]] | None = None,
    repeat: Literal["allow", "exclude"] = "allow",
    titles: Sequence[str] | None = None,
) -> Dataset:
    """One user a sequence; times are 0, 1, ... unless given."""
    log = [
        {
            "user_id": f"u{u:04d}",
            "item_id": f"i{item}",
            "kind": "click",
            "time": at if times is None else times[u][at],
        }
        for u, sequence in enumerate(sequences)
        for at, item in enumerate(sequence)
    ]
    return Dataset.build(
        pl.DataFrame(
            {"item_id": [f"i{n}" for n in range(n_items)], "title": titles or [f"item {n}" for n in range(n_items)]}
        ),
        None,
        pl.DataFrame(log),
        name="planted",
        domain="shop",
        click="click",
        conversion="conversion",
        repeat=repeat,
    )


def state(*items: int) -> State:
    return State(history=tuple(Interaction(item, "click", at) for at, item in enumerate(items)))


def chain(
    order: int, n_items: int, users: int, length: int, rng: np.random.Generator
) -> tuple[list[list[int]], np.ndarray]:
    """Sequences in which the next item is `table[last]` or `table[last but one, last]`, and the table."""
    table = rng.integers(0, n_items, size=(n_items,) * order)
    sequences = []
    for _ in range(users):
        items = rng.integers(0, n_items, size=order).tolist()
        while len(items) < length:
            items.append(int(table[tuple(items[-order:])]))
        sequences.append(items)
    return sequences, table
