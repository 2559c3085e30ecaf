"""Planted worlds with known right answers."""

from __future__ import annotations

import numpy as np
import polars as pl

from llmrec.dataset.store import Dataset
from llmrec.types import Interaction, State

DAY = 86400
CLASSIC = (
    *("random", "popularity", "recent-popularity", "covisitation-counts", "covisitation", "content"),
    *("item-knn", "user-knn", "als", "bpr", "ease", "linucb", "thompson"),
)


def dataset(
    log: list[tuple[str, int, int]], titles: list[str], repeat: str = "exclude", kind: str = "click"
) -> Dataset:
    """A data set of clicks (user, item index, time)."""
    schema = {"user_id": pl.String, "item_id": pl.String, "kind": pl.String, "time": pl.Int64}
    rows = [(user, f"i{item}", kind, time) for user, item, time in log]
    return Dataset.build(
        pl.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles}),
        None,
        pl.DataFrame(rows, schema=schema, orient="row"),
        name="planted",
        domain="shop",
        click="click",
        conversion="conversion",
        repeat=repeat,  # type: ignore[arg-type]
    )


def clusters(n_clusters: int = 3, size: int = 6, users: int = 30, clicks: int = 4, seed: int = 0) -> Dataset:
    """Every user clicks items of one cluster only; the items of a cluster share a word that no other has.

    Item n belongs to cluster n // size; user number u likes cluster u % n_clusters.
    """
    random = np.random.default_rng(seed)
    log = []
    for user in range(users):
        cluster = user % n_clusters
        chosen = random.choice(size, size=clicks, replace=False) + cluster * size
        log += [(f"u{user:03d}", int(item), DAY * (n + 1) + user) for n, item in enumerate(chosen)]
    words = ["garden", "kitchen", "office", "music", "travel"]
    titles = [f"{words[c]} thing {c}{chr(97 + n)}" for c in range(n_clusters) for n in range(size)]
    return dataset(log, titles)


def interactions(users: int, items: int, share: float, seed: int) -> tuple[Dataset, np.ndarray]:
    """Random clicks and the binary matrix (users, items) that they make; every user has at least one."""
    random = np.random.default_rng(seed)
    matrix = (random.random((users, items)) < share).astype(float)
    matrix[np.arange(users), random.integers(items, size=users)] = 1.0
    log = [(f"u{u:03d}", int(i), 1 + n) for n, (u, i) in enumerate(zip(*np.nonzero(matrix), strict=True))]
    return dataset(log, [f"title {n}" for n in range(items)]), matrix


def state(*items: int, user: str | None = None, time: int | None = None) -> State:
    return State(
        user_id=user, history=tuple(Interaction(item, "click", n) for n, item in enumerate(items)), time=time
    )
