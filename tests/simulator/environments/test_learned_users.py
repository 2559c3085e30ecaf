"""Users learned from a log: carried state equals reading the history again, and any architecture will do."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import DynamicsSettings, EnvironmentSettings, PatienceSettings, SimulatorSettings, TrustSettings
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.world import World
from llmrec.errors import ConfigError, DataError
from llmrec.simulator.behaviour import fit_behaviour
from llmrec.simulator.ensemble import Ensemble
from llmrec.simulator.environments import DOMAINS, LearnedUsers, VectorRecEnv
from llmrec.types import State

DYNAMICS = DynamicsSettings(trust=TrustSettings(enabled=True), patience=PatienceSettings(enabled=True))


@pytest.fixture(scope="module")
def fitted(world: World) -> tuple[Ensemble, list[State]]:
    log = impressions(world.dataset, make_split(world.dataset, "time"), "train")
    fit = SimulatorSettings(epochs=1)
    members = [fit_behaviour(world.dataset, log, architecture="gru", seed=s, settings=fit) for s in (0, 1)]
    return Ensemble(members), list({state.user_id: state for state in log.states}.values())[:25]


def _run(people: LearnedUsers, count: int = 40, turns: int = 12) -> tuple[list[np.ndarray], VectorRecEnv]:
    env = VectorRecEnv(people, count, EnvironmentSettings(slate_size=5, turns=5, block=16), dynamics=DYNAMICS)
    env.reset(seed=1)
    random, seen = np.random.default_rng(0), []
    for _ in range(turns):
        slates = random.permuted(np.tile(np.arange(80), (count, 1)), axis=1)[:, :5]
        observations, reward, *_ = env.step(slates)
        seen += [observations["clicks"], observations["conversions"], reward]
    return seen, env


def test_carried_state_equals_reading_the_history_again(fitted: tuple[Ensemble, list[State]], world: World) -> None:
    ensemble, states = fitted
    fast, slow = (LearnedUsers(ensemble, states, world.dataset) for _ in range(2))
    assert fast.carries
    slow._first = None
    quick, env = _run(fast)
    plain, twin = _run(slow)
    for a, b in zip(quick, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sum(part.sum() for part in quick[2::3]) > 0
    items = np.tile(np.arange(10), (40, 1))
    for a, b in zip(
        fast.respond(env.engine.hidden, env.engine.user_N, items, items[:, 0]),
        slow.respond(twin.engine.hidden, env.engine.user_N, items, items[:, 0]),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_clicks_change_what_follows(fitted: tuple[Ensemble, list[State]], world: World) -> None:
    ensemble, states = fitted
    people = LearnedUsers(ensemble.members[0], states, world.dataset)
    users, items = np.arange(5), np.tile(np.arange(6), (5, 1))
    hidden = people.begin(users)
    before = people.respond(hidden, users, items, users)[0].copy()
    clicks = np.zeros((5, 6), dtype=bool)
    clicks[1, [0, 3]] = True
    people.observe(hidden, items, clicks, np.zeros_like(clicks))
    after = people.respond(hidden, users, items, users)[0]
    assert (before[1] != after[1]).any()
    np.testing.assert_array_equal(before[[0, 2, 3, 4]], after[[0, 2, 3, 4]])
    np.testing.assert_allclose(people.respond(people.begin(users), users, items, users)[0], before)


def test_other_architectures_read_histories(world: World) -> None:
    log = impressions(world.dataset, make_split(world.dataset, "time"), "train")
    fit = SimulatorSettings(epochs=1)
    model = fit_behaviour(world.dataset, log, architecture="factorised", seed=0, settings=fit)
    people = LearnedUsers(model, log.states[:10], world.dataset)
    assert not people.carries
    seen, env = _run(people, count=12, turns=4)
    assert env.observation_space.contains(env._observations())
    state = env.engine.lazy_states()[3]
    assert state.user_id == log.states[int(env.engine.user_N[3])].user_id
    assert len(seen) == 12


def test_what_learned_users_cannot_do(fitted: tuple[Ensemble, list[State]], world: World) -> None:
    ensemble, states = fitted
    people = LearnedUsers(ensemble, states, world.dataset)
    with pytest.raises(ConfigError, match="switch it off"):
        VectorRecEnv(people, 2, dynamics=DOMAINS["film"]).reset()
    with pytest.raises(DataError, match="no user to meet"):
        LearnedUsers(ensemble, [], world.dataset)
