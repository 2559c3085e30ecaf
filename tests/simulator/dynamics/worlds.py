"""A small catalogue, everything switched on, and random slates with feedback."""

from __future__ import annotations

import dataclasses

import numpy as np

from llmrec.config import (
    BudgetSettings,
    DriftSettings,
    DynamicsSettings,
    NoveltySettings,
    PatienceSettings,
    ReturnSettings,
    SatiationSettings,
    TrustSettings,
)
from llmrec.simulator.dynamics import Dynamics, ItemTable

ITEMS, CATEGORIES, DIMENSIONS, PLACES = 40, 5, 4, 6
ALL_ON = DynamicsSettings(
    drift=DriftSettings(enabled=True, rate=0.2, decay=0.05, conversion=0.5),
    satiation=SatiationSettings(enabled=True, recovery=0.3, clicked=1.0, shown=0.1),
    novelty=NoveltySettings(enabled=True),
    trust=TrustSettings(enabled=True, gain=0.1, loss=0.4, threshold=0.4),
    budget=BudgetSettings(enabled=True, initial=60.0, income=3.0),
    patience=PatienceSettings(enabled=True),
    comeback=ReturnSettings(
        enabled=True, hazard_unsatisfied=0.1, hazard_satisfied=0.4, max_days=5, turns_per_day=3.0
    ),
)


def only(**sections) -> DynamicsSettings:
    """Settings with these sections on, by name, and the rest off."""
    return DynamicsSettings(**{k: dataclasses.replace(v, enabled=True) for k, v in sections.items()})


def catalogue(seed: int = 0) -> ItemTable:
    random = np.random.default_rng(seed)
    return ItemTable.of(
        random.integers(0, CATEGORIES, ITEMS),
        quality_N=random.random(ITEMS),
        price_N=random.random(ITEMS) * 20,
        vector_ND=random.standard_normal((ITEMS, DIMENSIONS)),
        categories=CATEGORIES,
    )


def world(settings: DynamicsSettings, users: int, seed: int = 0):
    dynamics = Dynamics(settings, catalogue(seed))
    home = np.random.default_rng(seed + 1).standard_normal((users, DIMENSIONS))
    return dynamics, dynamics.fresh(users, interest_BD=home)


def feedback(users: int, random: np.random.Generator, rate: float = 0.2, empty: float = 0.0):
    """Items, clicks, conversions and uniforms of one turn."""
    item_BK = random.integers(0, ITEMS, (users, PLACES))
    item_BK[random.random(item_BK.shape) < empty] = -1
    click_BK = (random.random(item_BK.shape) < rate) & (item_BK >= 0)
    return item_BK, click_BK, click_BK & (random.random(item_BK.shape) < 0.4), random.random((users, 2))
