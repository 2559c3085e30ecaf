"""A tiny shop as a place where sessions take place."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.adaptation.sessions import Sessions
from llmrec.adaptation.tasks import Place
from llmrec.dataset.impressions import Impressions
from llmrec.training.propensities import item_groups
from llmrec.types import State
from tests.training.conftest import COLOURS, shop

__all__ = ["shop"]

MU = np.array([0.03, 0.04, 0.18] * 4)


def slates(seed: int, users: int = 12, each: int = 2, places: int = 3, best: int = 0) -> Sessions:
    """Users shown slates by chance: of their colour one thing (`best`) is bought, the others are clicked."""
    random = np.random.default_rng(seed)
    states, rows, items, clicks, buys = [], [], [], [], []
    for user in range(users):
        for turn in range(each):
            colour = user % 4
            states.append(State(f"u{user}", f"likes {COLOURS[colour]}", time=10 + turn))
            shown = random.choice(12, size=places, replace=False, p=MU)
            # one thing of the user's colour at least, so that there is something to learn
            shown[0] = 3 * colour + int(random.integers(3))
            for item in shown:
                rows.append(len(states) - 1)
                items.append(int(item))
                clicks.append(item // 3 == colour)
                buys.append(item == 3 * colour + best)
    item_M = np.array(items)
    log = Impressions(
        states,
        np.array(rows),
        item_M,
        np.array(clicks, dtype=np.float32),
        np.array(buys, dtype=np.float32),
        np.tile(np.arange(places, dtype=np.float32), len(states)),
        MU[item_M].astype(np.float32),
        [np.array([], dtype=np.int64)] * len(states),
    )
    return Sessions(log)


def place_of(shop, sessions, name="shop", **more) -> Place:
    groups = item_groups(shop.items)
    return Place(name, shop.catalogue, shop.renderer, "allow", sessions, groups, shop.items, **more)


@pytest.fixture(scope="module")
def place(shop):
    return place_of(shop, slates(1))
