from __future__ import annotations

import pytest

from llmrec.config import WorldConfig
from llmrec.dataset.world import World, generate_world
from llmrec.simulator.environments import WorldUsers
from tests.training.conftest import Shop, make_shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    return make_shop()


@pytest.fixture(scope="session")
def world() -> World:
    return generate_world(WorldConfig(users=30, items=40, slates_per_user=4, slate_size=5), 3)


@pytest.fixture(scope="session")
def people(world: World) -> WorldUsers:
    return WorldUsers.of(world)
