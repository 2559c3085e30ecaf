"""A shop in which the last event decides what comes next, and only its feedback tells which way.

After a view people look at another item of the kind, buy that one or put it into the cart; after a cart they put one more
of it there or buy it; after a purchase they look for the kind that goes with it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from llmrec.dataset.importers import import_dataset
from llmrec.dataset.store import Dataset
from llmrec.types import State

KINDS = ("Kettle", "Mug", "Tent", "Lantern")
"""Each goes with the other of its pair: kettle and mug, tent and lantern."""
MAKERS = ("Norvik", "Tamsin", "Orbita", "Lumo")

Last = Literal["view", "cart", "purchase"]


def kind_of(item: int) -> int:
    """The item's kind; items lie kind by kind."""
    return item // len(MAKERS)


def planted_shop(folder: Path, users: int, events: int = 16, seed: int = 0) -> Dataset:
    """The shop's log, written to `folder` as files of an own format and imported."""
    rng = np.random.default_rng(seed)
    titles = [f"{maker} {kind}" for kind in KINDS for maker in MAKERS]
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title"), *((f"p{i:03d}", title) for i, title in enumerate(titles))])
    rows = []
    for user in range(users):
        item, action = int(rng.integers(len(titles))), "view"
        for step in range(events):
            # a user's events within a quarter of an hour, users one after the other: test users are new ones
            rows.append((f"c{user}", f"p{item:03d}", 3600 * user + 60 * step, action))
            luck = rng.random()
            if action == "purchase":
                item, action = _of_kind(rng, kind_of(item) ^ 1), "view"
            elif action == "cart":
                action = "cart" if luck < 0.5 else "purchase"
            elif luck < 0.45:
                action = "cart" if luck < 0.25 else "purchase"
            else:
                item = _of_kind(rng, kind_of(item), other_than=item)
    with (folder / "events.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "time", "kind"), *rows])
    mapping = {
        "events": {"file": "events.csv"},
        "items": {"file": "items.csv"},
        "kinds": {"view": "click", "cart": "cart", "purchase": "conversion"},
        "repeat": "allow",
        "domain": "shop",
        "language": "en",
    }
    return import_dataset("table", folder, mapping=mapping)


def _of_kind(rng: np.random.Generator, kind: int, other_than: int = -1) -> int:
    items = [item for item in range(kind * len(MAKERS), (kind + 1) * len(MAKERS)) if item != other_than]
    return int(rng.choice(items))


def last_event(state: State) -> Last:
    """What the state's last event was."""
    words: dict[str, Last] = {"click": "view", "cart": "cart", "conversion": "purchase"}
    return words[state.history[-1].feedback]


def right(state: State, item: int) -> bool:
    """Whether the item is what the last event asks for."""
    last, event = state.history[-1].item, last_event(state)
    if event == "cart":
        return item == last
    return kind_of(item) == (kind_of(last) if event == "view" else kind_of(last) ^ 1)
