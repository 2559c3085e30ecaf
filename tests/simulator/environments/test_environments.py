"""Both environments keep gymnasium's rules, and agree with a loop over users that knows no arrays."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import VectorEnv

from llmrec.config import (
    ChoiceSettings,
    DriftSettings,
    DynamicsSettings,
    EnvironmentSettings,
    PatienceSettings,
    ReturnSettings,
    RewardSettings,
)
from llmrec.dataset.world import World
from llmrec.rewards import ClickReward, ConversionReward, combine
from llmrec.simulator.environments import DOMAINS, RecEnv, VectorRecEnv, WorldUsers
from llmrec.simulator.environments.engine import _CONVERSION_SALT, without_repeats
from llmrec.simulator.feedback import keyed_uniforms
from llmrec.types import Feedback

PATIENT = DynamicsSettings(patience=PatienceSettings(enabled=True, leave_empty=0.3))


def _slates(env: VectorRecEnv, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    items, places = len(env.population.items), env.settings.slate_size
    return random.permuted(np.tile(np.arange(items), (env.num_envs, 1)), axis=1)[:, :places]


@pytest.mark.parametrize("domain", DOMAINS)
def test_registered_environments_pass_gymnasiums_checker(domain: str) -> None:
    env = gymnasium.make(f"llmrec/{domain.capitalize()}-v0", users=30, items=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_vector_environment_by_name() -> None:
    env = gymnasium.make_vec("llmrec/Film-v0", num_envs=5, users=30, items=40, slate_size=4, turns=3)
    assert isinstance(env, VectorEnv)
    observations, info = env.reset(seed=1)
    assert env.observation_space.contains(observations)
    for turn in range(8):
        observations, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observations)
        assert reward.shape == terminated.shape == truncated.shape == (5,)
        assert not (terminated & truncated).any()
        assert info["shown"].shape == (5, 4), turn


def test_observations_hold_nothing_hidden(world: World, people: WorldUsers) -> None:
    """Before the first turn a user is what the profile and the logged clicks tell, and nothing else."""
    env = VectorRecEnv(people, 60)
    observations, _ = env.reset(seed=0, options={"users": np.arange(60)})
    assert set(observations) == {"profile", "interest", "passed", "counts", "slate", "clicks", "conversions", "turn"}
    clicks = world.dataset.events.filter(world.dataset.events["kind"] == "click")
    for row in (0, 17):
        user = world.dataset.users["user_id"][row]
        items = [world.dataset.item_index[i] for i in clicks.filter(clicks["user_id"] == user)["item_id"]]
        expected = people.feature_NF[items].sum(axis=0) / (1 + len(items))
        np.testing.assert_allclose(observations["interest"][row], expected, atol=1e-6)
    assert (observations["slate"] == -1).all()
    assert (observations["turn"] == 0).all()


@pytest.mark.parametrize("block", [7, 2048])
def test_equals_a_loop_over_users(world: World, people: WorldUsers, block: int) -> None:
    """No dynamics, independent clicks: the turn by hand, from the world's own truth and the users' luck."""
    settings = EnvironmentSettings(slate_size=5, turns=4, block=block, decay=0.5)
    env = VectorRecEnv(people, 30, settings)
    users = np.arange(30)[::-1].copy()
    env.reset(seed=9, options={"users": users})
    ids = [world.dataset.users["user_id"][int(u)] for u in users]
    click, buy = world.expected_click_BN(ids), world.expected_conversion_BN(ids)
    past, count = people.past(users)
    liked, passed = past.astype(float), np.zeros_like(past, dtype=float)
    weight = np.stack([count, np.zeros(30)], axis=1)
    for turn in range(4):
        slates = _slates(env, turn)
        observations, reward, terminated, truncated, info = env.step(slates)
        clicks = np.zeros((30, 5))
        sold = np.zeros((30, 5))
        for n in range(30):
            key = env.engine.key_N[n : n + 1]
            luck = keyed_uniforms(key, turn, 5, 1)[0, :, 0]
            fortune = keyed_uniforms(key ^ _CONVERSION_SALT, turn, 5, 1)[0, :, 0]
            seen_liked, seen_passed = np.zeros(20), np.zeros(20)
            for k, item in enumerate(slates[n]):
                clicks[n, k] = luck[k] < click[n, item]
                sold[n, k] = clicks[n, k] and fortune[k] < buy[n, item]
                (seen_liked if clicks[n, k] else seen_passed)[:] += people.feature_NF[item]
            liked[n], passed[n] = 0.5 * liked[n] + seen_liked, 0.5 * passed[n] + seen_passed
            weight[n] = 0.5 * weight[n] + [clicks[n].sum(), 5 - clicks[n].sum()]
        np.testing.assert_array_equal(observations["clicks"], clicks)
        np.testing.assert_array_equal(observations["conversions"], sold)
        np.testing.assert_array_equal(observations["slate"], slates)
        np.testing.assert_allclose(observations["interest"], liked / (1 + weight[:, :1]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(observations["passed"], passed / (1 + weight[:, 1:]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(reward, clicks.sum(1) + 3 * sold.sum(1))
        np.testing.assert_array_equal(info["terms"]["conversion"], sold.sum(1))
        assert not terminated.any()
        assert truncated.all() == (turn == 3)


def test_reward_terms_are_those_of_the_reward(people: WorldUsers) -> None:
    """The default reward equals llmrec.rewards, and terms given as objects are used as they are."""
    settings = EnvironmentSettings(slate_size=6, click=2.0, conversion=5.0)
    terms = (ClickReward(2.0), ConversionReward(5.0))
    plain, given = VectorRecEnv(people, 20, settings), VectorRecEnv(people, 20, settings, terms=terms)
    for env in (plain, given):
        env.reset(seed=4)
    slates = _slates(plain, 0)
    observations, reward, _, _, info = plain.step(slates)
    _, other, _, _, told = given.step(slates)
    feedback = Feedback(observations["clicks"].astype(float), observations["conversions"].astype(float))
    np.testing.assert_allclose(reward, combine(terms, [], slates, feedback).total_BK.sum(axis=1))
    np.testing.assert_array_equal(reward, other)
    assert reward.sum() > 0
    for name in ("click", "conversion"):
        np.testing.assert_array_equal(info["terms"][name], told["terms"][name])
    assert RewardSettings().conversion == EnvironmentSettings().conversion


def test_terms_see_the_state_before_the_slate(people: WorldUsers) -> None:
    class Length:
        name, weight = "length", 1.0

        def __call__(self, states: Any, items_BK: np.ndarray, feedback: Feedback) -> np.ndarray:
            return np.array([[len(state.session)] * items_BK.shape[1] for state in states], dtype=float)

    env = VectorRecEnv(people, 3, EnvironmentSettings(slate_size=4), terms=[Length()])
    env.reset(seed=0)
    for turn in range(3):
        _, reward, _, _, _ = env.step(_slates(env, turn))
        assert reward.tolist() == [16.0 * turn] * 3  # 4 places, and 4 items a turn in the session


def test_next_step_autoreset(people: WorldUsers) -> None:
    env = VectorRecEnv(people, 40, EnvironmentSettings(slate_size=3, turns=6), dynamics=PATIENT)
    _, info = env.reset(seed=2)
    ended, users, played = np.zeros(40, bool), info["user"], np.zeros(40, int)
    for turn in range(25):
        observations, reward, terminated, truncated, info = env.step(_slates(env, turn))
        np.testing.assert_array_equal(info["reset"], ended)
        assert (reward[ended] == 0).all()
        assert not (terminated | truncated)[ended].any()
        assert (info["shown"][ended] == -1).all()
        assert (observations["slate"][ended] == -1).all()
        played = np.where(ended, 0, played + 1)
        np.testing.assert_allclose(observations["turn"][:, 0] * 6, played, atol=1e-5)
        assert (users == info["user"])[~ended].all()
        assert truncated[played == 6].sum() + terminated[played == 6].sum() == (played == 6).sum()
        ended, users = terminated | truncated, info["user"]
    assert env.engine.episode_N.min() >= 2


def test_disabled_autoreset_stands_still(people: WorldUsers) -> None:
    env = VectorRecEnv(people, 8, EnvironmentSettings(slate_size=3, turns=2), autoreset_mode="Disabled")
    env.reset(seed=2)
    env.step(_slates(env, 0))
    observations, _, _, truncated, _ = env.step(_slates(env, 1))
    assert truncated.all()
    again, reward, terminated, truncated, _ = env.step(_slates(env, 2))
    assert not np.any([reward, terminated, truncated])
    for name, values in observations.items():
        np.testing.assert_array_equal(values, again[name])
    mask = np.arange(8) < 3
    observations, _ = env.reset(options={"reset_mask": mask})
    assert (observations["turn"][mask] == 0).all()
    assert (observations["turn"][~mask] == 1).all()


def test_single_environment_equals_a_place_of_the_vector(people: WorldUsers) -> None:
    settings, dynamics = EnvironmentSettings(slate_size=4, turns=6), DOMAINS["shop"]
    choice = ChoiceSettings(model="dynamic-bayesian")
    many = VectorRecEnv(people, 9, settings, choice=choice, dynamics=dynamics, autoreset_mode="Disabled")
    one = RecEnv(people, settings, choice=choice, dynamics=dynamics)
    users = np.array([5, 2, 2, 8, 0, 40, 33, 21, 59])
    for row in (0, 5, 8):
        many.reset(seed=7, options={"users": users})
        one.reset(seed=7, options={"user": int(users[row])})
        for turn in range(6):
            slates = _slates(many, turn)
            all_seen, all_reward, all_gone, all_cut, _ = many.step(slates)
            seen, reward, gone, cut, _ = one.step(slates[row])
            assert (reward, gone, cut) == (all_reward[row], all_gone[row], all_cut[row])
            assert all((seen[name] == values[row]).all() for name, values in all_seen.items())
            if gone or cut:
                break


def test_users_who_come_back_do_not_end_the_episode(people: WorldUsers) -> None:
    dynamics = DynamicsSettings(
        patience=PatienceSettings(enabled=True, leave_full=0.5, leave_empty=0.9),
        comeback=ReturnSettings(enabled=True, hazard_unsatisfied=0.9, hazard_satisfied=0.95, max_days=300),
    )
    env = VectorRecEnv(people, 50, EnvironmentSettings(slate_size=3, turns=9), dynamics=dynamics)
    env.reset(seed=0)
    days = np.zeros(50)
    for turn in range(8):
        _, _, terminated, _, info = env.step(_slates(env, turn))
        assert not terminated.any()
        days += info["days"]
    assert days.mean() > 2
    times = np.array([state.time for state in info["states"]])
    np.testing.assert_array_equal(times - people.start, days * 86_400 + 8 * 60)


def test_drift_starts_from_the_worlds_own_interests(people: WorldUsers, world: World) -> None:
    """In the space of drift a user's place and an item's multiply to the affinity's part of the click's logit."""
    home = people.home_BD(np.arange(60))
    product = home @ people.items.vector_ND.T
    click = world.expected_click_BN(world.dataset.users["user_id"].to_list())
    logit = np.log(click / (1 - click))
    expected = logit - world.truth.appeal_N - world.parameters.click_bias
    np.testing.assert_allclose(product, expected, atol=1e-5)
    env = VectorRecEnv(people, 30, dynamics=DynamicsSettings(drift=DriftSettings(enabled=True, rate=0.5)))
    env.reset(seed=1)
    for turn in range(5):
        env.step(_slates(env, turn))
    assert np.abs(env.engine.people.interest_BD - env.engine.people.home_BD).mean() > 0.01


def test_repeats_are_shown_once() -> None:
    slates = np.array([[3, 1, 3, 3], [-1, -1, 2, 2], [0, 1, 2, 3]])
    assert without_repeats(slates).tolist() == [[3, 1, -1, -1], [-1, -1, 2, -1], [0, 1, 2, 3]]
