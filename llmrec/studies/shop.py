"""A newcomer's shop: a log of views, carts and purchases as a shop would export it, with habits that can be learnt.

Every product is of a kind, and each kind goes with one other (the neighbour in the list below). A user cares for a
few pairs of kinds, likes one maker more than others, and comes in short visits over half a year. After a view people
look at another product of the kind, put that one into the cart, buy it, or leave; after a cart they buy it; after a
purchase they look for the kind that goes with it. Within a kind products are as popular as Zipf's law has it.

The log is written as plain CSV files with column names of its own, so a run on it is a run on data of one's own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llmrec.dataset.importers import import_dataset
from llmrec.dataset.store import Dataset
from llmrec.files import new_file
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray

PAIRS = (
    ("Kettle", "Mug"), ("Tent", "Lantern"), ("Notebook", "Fountain Pen"), ("Guitar", "Amplifier"),
    ("Camera", "Tripod"), ("Bicycle", "Helmet"), ("Desk", "Office Chair"), ("Cat Bed", "Cat Toy"),
    ("Running Shoe", "Sport Sock"), ("Skillet", "Spatula"), ("Yoga Mat", "Foam Roller"), ("Rod", "Tackle Box"),
    ("Easel", "Brush Set"), ("Drill", "Screw Set"), ("Pillow", "Blanket"), ("Backpack", "Water Bottle"),
    ("Razor", "Shaving Foam"), ("Keyboard", "Mouse"), ("Telescope", "Star Map"), ("Spade", "Seed Box"),
    ("Teapot", "Tea Tin"), ("Sewing Machine", "Thread Box"), ("Board Game", "Dice Set"), ("Grill", "Charcoal"),
    ("Aquarium", "Fish Food"), ("Violin", "Rosin"),
)  # fmt: skip
"""Kinds of products; each goes with the other of its pair."""
KINDS = tuple(kind for pair in PAIRS for kind in pair)
MAKERS = ("Norvik", "Tamsin", "Orbita", "Lumo", "Casell", "Dovry", "Helm & Co", "Pirano")
"""One product a kind is of each maker: there are K x M products, kind by kind."""
START, DAYS, MINUTE = 1_735_689_600, 180, 60
"""The first second of 2025, and for how many days the log goes on."""
MAPPING = {
    "events": {
        "file": "events.csv",
        "columns": {"user_id": "customer", "item_id": "sku", "time": "at", "kind": "action"},
    },
    "items": {
        "file": "items.csv",
        "columns": {"item_id": "sku", "title": "name", "categories": "department", "price": "price"},
    },
    "kinds": {"view": "click", "cart": "cart", "purchase": "conversion"},
    "repeat": "allow",
    "domain": "shop",
    "language": "en",
}
"""How `import_dataset` reads the files."""


def import_shop(folder: Path, *, seed: int = 0, users: int = 1500) -> Dataset:
    """The shop of that seed, written to `folder` (`write_shop`) and imported."""
    write_shop(folder, seed=seed, users=users)
    return import_dataset("table", folder, mapping=MAPPING)


def saved_shop(folder: Path, seed: int) -> Path:
    """The folder of the shop of that seed as a data set, made where it is not there.

    Args:
        folder: of all shops; the CSV files stand in csv-SEED, the data set in data-SEED.
        seed: of the shop.
    """
    place = folder / f"data-{seed}"
    if not place.is_dir():
        import_shop(folder / f"csv-{seed}", seed=seed).save(place)
    return place


def write_shop(folder: Path, *, seed: int = 0, users: int = 1500) -> None:
    """Writes items.csv (sku, name, department, price) and events.csv (customer, sku, at, action) to `folder`.

    Args:
        folder: made if it is not there.
        seed: of the whole shop.
        users: how many customers; each has some 17 events.
    """
    rng = numpy_stream(seed, "shop", "products")
    price_K = np.exp(rng.normal(3.0, 0.8, len(KINDS)))
    price_KM = price_K[:, None] * np.exp(rng.normal(0.0, 0.25, (len(KINDS), len(MAKERS))))
    ranks_KM = np.argsort(rng.random((len(KINDS), len(MAKERS))), axis=1)
    popular_KM = 1.0 / (1.0 + ranks_KM)
    items = [
        (_sku(kind, maker), f"{MAKERS[maker]} {KINDS[kind]}", f"{PAIRS[kind // 2][0]}s and more", f"{price:.2f}")
        for (kind, maker), price in np.ndenumerate(price_KM)
    ]
    _write(folder / "items.csv", ("sku", "name", "department", "price"), items)
    events = [event for user in range(users) for event in _events(user, seed, popular_KM)]
    # as logs are: by time, everybody's events among each other
    events.sort(key=lambda row: (row[2], row[0]))
    _write(folder / "events.csv", ("customer", "sku", "at", "action"), events)


def _events(user: int, seed: int, popular_KM: FloatArray) -> list[tuple[str, str, int, str]]:
    """One customer's log, from a stream of their own."""
    rng = numpy_stream(seed, "shop", "customer", user)
    cares_P = np.zeros(len(PAIRS))
    cares_P[rng.choice(len(PAIRS), 3, replace=False)] = rng.dirichlet(np.full(3, 1.5))
    taste_M = np.exp(1.2 * rng.normal(size=len(MAKERS)))
    rows = []
    for day in np.sort(rng.uniform(0, DAYS, 2 + rng.poisson(4))):
        time = START + int(day * 86400)
        pair = int(rng.choice(len(PAIRS), p=0.9 * cares_P + 0.1 / len(PAIRS)))
        kind = 2 * pair + int(rng.integers(2))
        maker, action = _maker(rng, popular_KM[kind] * taste_M), "view"
        while True:
            rows.append((f"c{user:05d}", _sku(kind, maker), time, action))
            time += int(rng.integers(1, 5)) * MINUTE
            luck = rng.random()
            if action == "cart":
                if luck > 0.6:
                    break
                action = "purchase"
            elif action == "purchase":
                if luck > 0.7:
                    break
                kind ^= 1
                maker, action = _maker(rng, popular_KM[kind] * taste_M), "view"
            elif luck < 0.25:
                action = "cart"
            elif luck < 0.35:
                action = "purchase"
            elif luck < 0.75:
                maker = _maker(rng, popular_KM[kind] * taste_M, other_than=maker)
            else:
                break
    return rows


def _maker(rng: np.random.Generator, weight_M: FloatArray, other_than: int | None = None) -> int:
    weight_M = weight_M.copy()
    if other_than is not None:
        weight_M[other_than] = 0.0
    return int(rng.choice(len(weight_M), p=weight_M / weight_M.sum()))


def _sku(kind: int, maker: int) -> str:
    return f"p{kind * len(MAKERS) + maker:03d}"


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with new_file(path) as place, place.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
