from __future__ import annotations

import pytest

from llmrec.config import WorldConfig
from llmrec.dataset.world import World, generate_world
from llmrec.simulator.environments import WorldUsers


@pytest.fixture(scope="session")
def world() -> World:
    return generate_world(WorldConfig(users=60, items=80, slates_per_user=4), 3)


@pytest.fixture(scope="session")
def people(world: World) -> WorldUsers:
    return WorldUsers.of(world)
