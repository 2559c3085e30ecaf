from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from llmrec.config import SimulatorSettings
from llmrec.simulator.behaviour import BehaviourModel, fit_behaviour
from tests.simulator.planted import Impressions, Planted, planted

SETTINGS = SimulatorSettings(epochs=8, batch_size=512, members=2)


@dataclass(frozen=True)
class Fitted:
    world: Planted
    train: Impressions
    held_out: Impressions
    models: dict[str, BehaviourModel]


@pytest.fixture(scope="session")
def fitted() -> Fitted:
    world = planted()
    train, held_out = world.log(np.arange(500), 60, 1), world.log(np.arange(500, 600), 60, 2)
    models = {
        name: fit_behaviour(world.items, train, architecture=name, seed=3, settings=SETTINGS)
        for name in ("factorised", "crossed")
    }
    return Fitted(world, train, held_out, models)
