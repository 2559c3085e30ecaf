"""Common random numbers: runs repeat, users may be split over processes, and two policies meet the same luck."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrec.config import EnvironmentSettings
from llmrec.dataset.world.truth import WorldParameters, draw_truth
from llmrec.simulator.environments import DOMAINS, VectorRecEnv, WorldUsers

ITEMS = 60


def trace(users: int, offset: int = 0, turns: int = 50, places: int = 10, threads: int = 1) -> list[str]:
    """One hash a user of everything that was observed and paid in a run."""
    population = WorldUsers(draw_truth(500, ITEMS, WorldParameters(), 0), price_N=np.full(ITEMS, 9.0))
    settings = EnvironmentSettings(slate_size=places, turns=12, threads=threads, block=1024)
    env = VectorRecEnv(population, users, settings, dynamics=DOMAINS["shop"], offset=offset)
    observations, _ = env.reset(seed=5)
    seen = [np.zeros((users, 0))]
    for turn in range(turns):
        first = (7 * turn + np.arange(offset, offset + users)) % ITEMS
        slates = (first[:, None] + 3 * np.arange(places)) % ITEMS
        observations, reward, terminated, truncated, info = env.step(slates)
        seen.append(np.stack([reward, terminated, truncated, info["user"], info["days"]], axis=1))
        seen.append(observations["interest"][:, ::5].astype(float))
    rows = np.concatenate(seen, axis=1)
    env.close()
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]


def test_ten_thousand_users_fifty_turns_repeat_exactly() -> None:
    once = trace(10_000)
    assert trace(10_000, threads=2) == once  # threads change nothing either
    assert len(set(once)) > 9_900


def test_users_may_be_split() -> None:
    whole = trace(300, turns=20)
    assert trace(120, turns=20) + trace(180, offset=120, turns=20) == whole


@pytest.mark.parametrize("users", [60, 73, 146])  # 73 divides 2^33 + 9
def test_one_place_meets_everybody_in_turn(users: int) -> None:
    population = WorldUsers(draw_truth(users, ITEMS, WorldParameters(), 0))
    env = VectorRecEnv(population, 1, EnvironmentSettings(slate_size=2))
    met = [int(env.reset(seed=5 if not n else None)[1]["user"][0]) for n in range(users)]
    assert sorted(met) == list(range(users))


@pytest.mark.slow
def test_users_may_be_split_over_processes() -> None:
    root = Path(__file__).resolve().parents[3]
    code = "from tests.simulator.environments.test_luck import trace; print(*trace({}, offset={}), sep='\\n')"
    halves = [
        subprocess.Popen([sys.executable, "-c", code.format(*half)], cwd=root, stdout=subprocess.PIPE, text=True)
        for half in ((4_000, 0), (6_000, 4_000))
    ]
    split = [line for half in halves for line in half.communicate()[0].split()]
    assert split == trace(10_000)


def _run(seed: int) -> np.ndarray:
    population = WorldUsers(draw_truth(200, ITEMS, WorldParameters(), 0))
    env = VectorRecEnv(population, 100, EnvironmentSettings(slate_size=5, turns=8), dynamics=DOMAINS["film"])
    env.reset(seed=seed)
    return np.array([env.step(np.tile(np.arange(5), (100, 1)))[1] for _ in range(40)])


def test_two_policies_meet_the_same_users_with_the_same_luck() -> None:
    population = WorldUsers(draw_truth(200, ITEMS, WorldParameters(), 0))
    met: list[dict[tuple[int, int], tuple[int, int]]] = []
    for start in (0, 20):
        settings = EnvironmentSettings(slate_size=5, turns=8)
        env = VectorRecEnv(population, 100, settings, dynamics=DOMAINS["film"])
        env.reset(seed=3)
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for _ in range(40):
            for place in range(100):
                visit = (place, int(env.engine.episode_N[place]))
                found[visit] = (int(env.engine.user_N[place]), int(env.engine.key_N[place]))
            env.step(np.tile(np.arange(start, start + 5), (100, 1)))
        met.append(found)
    both = met[0].keys() & met[1].keys()
    assert len(both) > 300
    assert all(met[0][visit] == met[1][visit] for visit in both)
    assert len({key for _, key in met[0].values()}) == len(met[0])  # every visit has a luck of its own
    first = [user for (_, episode), (user, _) in met[0].items() if episode == 0]
    assert len(set(first)) == 100  # nobody is met twice before everybody was met


def test_the_seed_decides() -> None:
    np.testing.assert_array_equal(_run(1), _run(1))
    assert (_run(2) != _run(1)).any()


def test_common_luck_shrinks_the_noise_of_a_comparison() -> None:
    """A slightly worse slate (one place of five another): under common luck the difference has less variance."""
    population = WorldUsers(draw_truth(300, ITEMS, WorldParameters(), 0))
    slates = np.tile(np.arange(5), (300, 1))
    other = slates.copy()
    other[:, 4] = 9

    def rewards(shown: np.ndarray, seed: int) -> np.ndarray:
        env = VectorRecEnv(population, 300, EnvironmentSettings(slate_size=5))
        env.reset(seed=seed, options={"users": np.arange(300)})
        return env.step(shown)[1]

    common = np.var(rewards(slates, 1) - rewards(other, 1))
    assert common < 0.6 * np.var(rewards(slates, 1) - rewards(other, 2))


def test_an_unseeded_run_goes_on_and_a_seeded_one_begins_anew() -> None:
    population = WorldUsers(draw_truth(50, ITEMS, WorldParameters(), 0))
    env = VectorRecEnv(population, 10)
    _, first = env.reset(seed=1)
    _, second = env.reset()
    _, again = env.reset(seed=1)
    np.testing.assert_array_equal(first["user"], again["user"])
    assert (first["user"] != second["user"]).any()
    assert env.engine.episode_N.tolist() == [0] * 10
