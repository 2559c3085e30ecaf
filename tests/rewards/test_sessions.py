"""Terms in an environment of sessions: slates of a turn, states of the moment before it."""

from __future__ import annotations

import numpy as np

from llmrec.config import EnvironmentSettings, RewardSettings, WorldConfig
from llmrec.dataset.world import generate_world
from llmrec.rewards import RewardContext, make_terms
from llmrec.simulator.environments import VectorRecEnv, WorldUsers


def test_terms_follow_a_session():
    world = generate_world(WorldConfig(users=20, items=40, slates_per_user=2), 3)
    people = WorldUsers.of(world)
    settings = RewardSettings(terms={"repetition": 1.0, "diversity": 1.0, "calibration": 1.0})
    terms = make_terms(settings, RewardContext.of(world.dataset, world.dataset.events, slate_size=3))
    env = VectorRecEnv(people, 5, EnvironmentSettings(slate_size=3, turns=3), terms=terms)
    env.reset(seed=0)
    slate = np.tile([0, 1, 2], (5, 1))
    _, _, _, _, first = env.step(slate)
    _, _, _, _, second = env.step(slate)
    _, _, _, _, third = env.step(np.tile([0, -1, 2], (5, 1)))
    assert (second["terms"]["repetition"] == -3).all()  # all three were shown in the turn before
    assert (third["terms"]["repetition"] == -2).all()
    assert (first["terms"]["repetition"] >= second["terms"]["repetition"]).all()
    np.testing.assert_allclose(first["terms"]["diversity"], second["terms"]["diversity"])
    assert ((first["terms"]["calibration"] >= 0) & (first["terms"]["calibration"] <= 1)).all()
