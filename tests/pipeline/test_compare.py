"""Planted systems in a run's comparison: who shows everybody the same, and what sampled negatives make of rates."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from llmrec.config import RunConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.pipeline.data import RunData
from llmrec.pipeline.measure import make_arena, make_tables, measure_run, varieties
from llmrec.pipeline.simulation import rates_note
from llmrec.pipeline.systems import TruthJudge
from llmrec.types import Slate

CONFIG = RunConfig.read(
    None, {"world.users": 600, "world.items": 40, "world.slates_per_user": 4, "evaluation.bootstrap": 50}
)


class Everybody:
    """Shows one list to everybody."""

    def recommend(self, states, k, *, seen=None):
        return [Slate(tuple(range(k)), (0.0,) * k) for _ in states]


class Each:
    """Shows everybody a list of their own."""

    def recommend(self, states, k, *, seen=None):
        random = np.random.default_rng(0)
        return [Slate(tuple(random.permutation(40)[:k].tolist()), (0.0,) * k) for _ in states]


@pytest.fixture(scope="module")
def world():
    return generate_world(CONFIG.world, 0)


def _arena(world, *, logged):
    dataset = world.dataset
    if not logged:
        dataset = dataset.with_events(dataset.events.filter(pl.col("kind") != "impression"))
    return make_arena(CONFIG, RunData(dataset, make_split(dataset, "time")), TruthJudge(world))


@pytest.mark.parametrize("logged", [True, False])
def test_rates_of_sampled_negatives_are_said_to_be_none(world, logged):
    arena = _arena(world, logged=logged)
    measured = measure_run(CONFIG, arena, {"SFT": Each(), "PPO": Everybody()})
    tables = make_tables(CONFIG, arena, measured, "SFT")
    said = "for each click 4 items that the user never touched were drawn"
    for table in (tables.deployed["judge"], tables.summary):
        assert (said in table.legend()) is not logged
    assert said not in tables.ranking.legend()  # held-out events are real ones


def test_the_system_that_shows_everybody_the_same_is_found(world):
    arena = _arena(world, logged=True)
    found = varieties(CONFIG, arena, measure_run(CONFIG, arena, {"SFT": Each(), "PPO": Everybody()}))
    assert (found["PPO"].distinct, found["PPO"].coverage, found["PPO"].overlap) == (1, 0.25, 1.0)
    assert found["PPO"].one_for_all
    assert found["SFT"].distinct == found["SFT"].users == len(arena.states)
    assert found["SFT"].overlap == pytest.approx(0.25, abs=0.03)
    assert not found["SFT"].one_for_all


def test_conversions_that_nobody_made_are_said_to_mean_nothing(world):
    dataset = world.dataset.with_events(world.dataset.events.filter(pl.col("kind") != "conversion"))
    split = make_split(dataset, "time")
    assert "No click of the training period was converted" in rates_note(CONFIG, RunData(dataset, split))
    whole = RunData(world.dataset, make_split(world.dataset, "time"))
    assert rates_note(CONFIG, whole) == ""
