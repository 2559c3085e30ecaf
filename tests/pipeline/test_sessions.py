"""Sessions in a run: what is refused before anything is made, and a tiny study from end to end."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from llmrec.config import RunConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.dataset.world.truth import examination_K
from llmrec.dataset.world.world import generate_world
from llmrec.errors import ConfigError, DataError
from llmrec.pipeline.algorithms import check_algorithm
from llmrec.pipeline.algorithms.sessions import last_states, session_choice, session_sizes, session_starts
from llmrec.pipeline.data import RunData
from llmrec.pipeline.recipes import demo_config
from llmrec.pipeline.result import GREEDY, RERANKED, SFT
from llmrec.pipeline.sft import targets
from llmrec.rewards import LoggedNext
from llmrec.studies.sessions import NEW, SESSIONS, run_sessions, session_config
from tests.overrides import given

TINY = [
    "world.users=120",
    "world.items=40",
    "world.slates_per_user=4",
    "model.nano_hidden=32",
    "model.nano_layers=1",
    "model.nano_pretrain_sequences=60",
    "sft.examples=120",
    "simulator.epochs=1",
    "simulator.members=1",
    "ppo.steps=2",
    "ppo.prompts=4",
    "ppo.minibatches=2",
    "ppo.save_every=1",
    "session.turns=2",
    "session.slate=4",
    "evaluation.users=6",
]


def of(*overrides):
    return RunConfig.read(None, given("session.turns=3", "session.slate=2", "ppo.draws=1", *overrides))


def test_the_recipe_starts_from_what_the_demo_starts_from():
    session, demo = session_config(3).tree(), demo_config(3).tree()
    for section in ("data", "world", "text", "identifiers", "model", "sft", "simulator", "reward"):
        assert session[section] == demo[section], section
    check_algorithm(session_config(3))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algorithm=grpo"], "grpo does not learn from"),
        (["algorithm=rlhf"], "set algorithm to ppo or reinforce"),
        (["dynamics.drift.enabled=true"], "dynamics.drift.enabled"),
        (["ppo.draws=8"], "ppo.draws' is 8"),
        (["session.gamma=2"], "session.gamma"),
        (["choice.fitted=true", "choice.model=cascade"], "'cascade' has no places to fit"),
        (["reward.terms={next_item: 1.0}"], "next_item' knows what the log says"),
        (["reward.terms={next_item_rank: 1.0}"], "next_item_rank' knows what the log says"),
    ],
)
def test_what_cannot_work_is_refused_at_once(overrides, words):
    with pytest.raises(ConfigError, match=words):
        check_algorithm(of(*overrides))


def test_sizes_carry_the_weights_of_the_reward():
    sizes = session_sizes(of("reward.conversion=5", "session.remembered_turns=2"))
    assert (sizes.turns, sizes.slate_size, sizes.remembered_turns) == (3, 2, 2)
    assert (sizes.click, sizes.conversion) == (1.0, 5.0)


def test_slates_begin_at_logged_choices_where_the_reward_knows_them():
    """Each of the states is one whose next item is known, also at the moment where simulated sessions begin."""
    sizes = {"world.users": 80, "world.items": 30, "session.slate": 3, "ppo.draws": 1, "ppo.steps": 5}
    config = RunConfig.read(None, {**sizes, "reward.terms": {"next_item_rank": 1.0}})
    check_algorithm(config)
    world = generate_world(config.world, seed=4)
    data = RunData(world.dataset, make_split(world.dataset, "time"), world)
    states, seen = session_starts(config, data)
    assert len(states) == len(seen) == 5 * config.improvement.prompts
    logged = LoggedNext(targets(config, data, "train", None).rows)
    found = logged.of([dataclasses.replace(state, time=10**10) for state in states], "next_item_rank")
    assert found == logged.of(states, "next_item_rank")
    assert all(found)
    plain = RunConfig.read(None, sizes)
    assert [s.time for s in session_starts(plain, data)[0]] == [s.time for s in last_states(plain, data, "train")[0]]


@pytest.mark.parametrize(("bias", "allowed"), [(1.0, 0.1), (0.0, 0.15)])
def test_the_examination_of_a_worlds_log_is_what_users_of_sessions_have(bias, allowed):
    overrides = {"world.users": 400, "world.items": 30, "world.position_bias": bias, "world.slate_size": 5}
    asked = {"session.turns": 2, "session.slate": 3, "ppo.draws": 1, "choice.model": "position"}
    config = RunConfig.read(None, overrides | asked | {"choice.fitted": True})
    world = generate_world(config.world, seed=4)
    data = RunData(world.dataset, make_split(world.dataset, "time"), world)
    found = session_choice(config, data)
    np.testing.assert_allclose(found.by_rank, examination_K(5, bias), atol=allowed)
    assert session_choice(RunConfig.read(None, overrides | asked), data) == RunConfig.read(None, asked).choice
    events = world.dataset.events.with_columns(pl.lit(None, pl.Int64).alias("position"))
    blind = Dataset(world.dataset.items, world.dataset.users, events, world.dataset.manifest)
    with pytest.raises(DataError, match="log carries no positions"):
        session_choice(config, RunData(blind, make_split(blind, "time")))


@pytest.mark.slow
def test_a_study_from_end_to_end_and_again_from_its_stages(tmp_path):
    found = run_sessions([0, 1], tmp_path / "a", given(*TINY), json_file=tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())["worlds"] == json.loads(json.dumps(found["worlds"]))
    for world in found["worlds"]:
        for arena in ("truth", "judge"):
            assert set(world[arena]["means"]) == {SFT, RERANKED, GREEDY, NEW, SESSIONS}
            assert all(np.isfinite(row["value"]) for row in world[arena]["means"].values())
            means, less = world[arena]["means"], world[arena]["differences"][RERANKED]["value"]
            assert less["mean"] == pytest.approx(means[SESSIONS]["value"] - means[RERANKED]["value"])
    again = run_sessions([0, 1], tmp_path / "a", given(*TINY))
    assert again["worlds"] == found["worlds"]


@pytest.mark.slow
def test_a_study_that_learns_all_weights(tmp_path):
    found = run_sessions([0], tmp_path, given(*TINY, "ppo.weights=full"))
    assert np.isfinite(found["worlds"][0]["truth"]["means"][SESSIONS]["value"])
