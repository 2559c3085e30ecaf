from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.simulator.behaviour import BehaviourModel
from llmrec.simulator.diagnostics import arm_test, bucket_of, bucket_report, item_popularity, user_activity
from llmrec.simulator.ensemble import Ensemble, fit_ensemble, fit_reward_and_judge
from llmrec.simulator.log import resampled_users
from llmrec.types import Prediction, State
from tests.simulator.planted import Impressions, planted

SHORT = SimulatorSettings(epochs=1, batch_size=512, members=2)


class Constant:
    def __init__(self, click: float, conversion: float = 0.5) -> None:
        self.click, self.conversion = click, conversion

    def predict(self, states, items_BK):
        return Prediction(np.full(items_BK.shape, self.click), np.full(items_BK.shape, self.conversion))

    def predict_all(self, states):
        return self.predict(states, np.zeros((len(states), 3)))


class ByItem(Constant):
    def __init__(self, click, conversion) -> None:
        self.table = np.array([click, conversion])

    def predict(self, states, items_BK):
        return Prediction(*self.table[:, np.asarray(items_BK)])


def test_spread_by_hand() -> None:
    ensemble = Ensemble([Constant(0.2, 0.5), Constant(0.6, 0.25)])
    found = ensemble.predict_with_spread([State()], np.zeros((1, 2), dtype=int))
    np.testing.assert_allclose(found.mean.click_BK, 0.4)
    np.testing.assert_allclose(found.mean.click_BK * found.mean.conversion_BK, (0.1 + 0.15) / 2)
    np.testing.assert_allclose(found.deviation.click_BK, 0.2 * 2**0.5)
    np.testing.assert_allclose(found.deviation.joint_BK, 0.025 * 2**0.5)
    alone = Ensemble([Constant(0.2)]).predict_with_spread([State()], np.zeros((1, 2), dtype=int))
    assert not alone.deviation.click_BK.any()


def test_a_member_of_ones_own_must_predict_probabilities_and_cannot_be_saved(tmp_path) -> None:
    for bad in (1.2, -0.1, float("nan")):
        with pytest.raises(DataError, match=r"predicts click = .*; a probability lies in 0\.\.1"):
            Ensemble([Constant(0.2), Constant(bad)]).disagreement([State()], np.zeros((1, 1), dtype=int))
    with pytest.raises(RunError, match="Member 0 is a Constant"):
        Ensemble([Constant(0.2)]).save(tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_a_bootstrap_draws_whole_users() -> None:
    log = planted(users=40).log(np.arange(40), 6, 1)
    found = resampled_users(log, 3, 0)
    times = np.bincount(found.state_row_M, minlength=40)
    assert times.sum() == 240
    assert set(times.tolist()) <= set(range(0, 60, 6))
    assert (times == 0).any()
    row = int(np.argmax(times))
    for name in ("item_M", "click_M"):
        once = getattr(log, name)[log.state_row_M == row]
        here = getattr(found, name)[found.state_row_M == row].reshape(6, -1)
        np.testing.assert_array_equal(here, np.repeat(once[:, None], times[row] // 6, axis=1))
    np.testing.assert_array_equal(found.item_M, resampled_users(log, 3, 0).item_M)
    assert not np.array_equal(times, np.bincount(resampled_users(log, 3, 1).state_row_M, minlength=40))


def test_members_on_other_users_disagree_more_than_by_their_seeds_alone() -> None:
    world = planted(users=100)
    log, asked, spread = world.log(np.arange(100), 20, 7), np.tile(np.arange(24), (60, 1)), {}
    for bootstrap in (False, True):
        settings = SimulatorSettings(epochs=4, batch_size=256, members=3, bootstrap=bootstrap, learning_rate=2e-2)
        ensemble = fit_ensemble(world.items, log, architecture="logistic", seed=1, settings=settings)
        spread[bootstrap] = ensemble.predict_with_spread(world.states[:60], asked).deviation.click_BK.mean()
    assert spread[True] > 1.2 * spread[False] > 0


def test_reward_and_judge_by_settings_must_differ() -> None:
    world = planted(users=60)
    log = world.log(np.arange(60), 10, 1)
    settings = dataclasses.replace(SHORT, reward_architecture="logistic", judge_architecture="gru")
    reward, judge = fit_reward_and_judge(world.items, log, seed=0, settings=settings)
    assert isinstance(reward.members[0], BehaviourModel)
    assert (reward.members[0].architecture, judge.architecture) == ("logistic", "gru")
    with pytest.raises(ConfigError, match="another architecture than the reward"):
        fit_reward_and_judge(
            world.items, log, seed=0, settings=dataclasses.replace(settings, judge_architecture="logistic")
        )


def test_buckets_by_hand() -> None:
    np.testing.assert_array_equal(bucket_of(np.array([0, 1, 2, 3, 4, 5, 6, 0])), [0, 1, 1, 2, 2, 3, 3, 0])
    np.testing.assert_array_equal(bucket_of(np.array([0, 7, 7, 7])), [0, 1, 1, 1])
    np.testing.assert_array_equal(bucket_of(np.zeros(2, dtype=int)), [0, 0])


def test_figures_by_bucket_by_hand() -> None:
    people = [State(user_id=u) for u in "ab"]
    train = Impressions(people, np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([1.0, 1, 0]), np.zeros(3))
    held_out = Impressions(
        [State(user_id="b"), State(user_id="a")], np.array([0, 1, 1]), np.array([0, 2, 1]), np.eye(3)[1], np.zeros(3)
    )
    np.testing.assert_array_equal(user_activity(held_out, train), [0, 2, 2])
    np.testing.assert_array_equal(item_popularity(held_out, train, 3), [1, 0, 1])
    report = bucket_report(Constant(0.25), held_out, train, n_items=3)
    assert report["user_activity"]["none"]["events"] == 1
    assert report["user_activity"]["few"]["rate"] == 0.5
    assert report["user_activity"]["few"]["calibration_error"] == pytest.approx(0.5 - 0.25)  # ties: one bin
    assert report["item_popularity"]["none"]["log_loss"] == pytest.approx(-np.log(0.25))
    assert report["item_popularity"]["few"]["from"] == report["item_popularity"]["few"]["to"] == 1
    (only,) = report["user_activity"]["few"]["reliability"]
    assert (only["predicted"], only["observed"], only["count"]) == (0.25, 0.5, 2)
    assert (only["low"], only["high"]) == (0.5, 0.5)  # both are of one user, who is drawn whole


def _half(random: np.random.Generator, click, conversion, size: int = 3000) -> Impressions:
    states = [State(user_id=f"u{u}") for u in range(size)]
    arm = random.integers(0, 2, size)
    c = random.random(size) < np.array(click)[arm]
    v = c & (random.random(size) < np.array(conversion)[arm])
    return Impressions(states, np.arange(size), arm, c.astype(float), v.astype(float))


def test_arms_are_compared_with_the_right_size_and_power() -> None:
    """A model that repeats its own half is refused in 5% of the trials; one that is off, nearly always."""
    click, conversion, random = [0.2, 0.1], [0.1, 0.2], np.random.default_rng(0)
    refused = wrong = 0
    for _ in range(60):
        one, other = (_half(random, click, conversion) for _ in range(2))
        shown = np.bincount(one.item_M)
        rates = np.bincount(one.item_M, one.click_M) / shown
        model = ByItem(rates, np.bincount(one.item_M, one.conversion_M) / (rates * shown))
        refused += arm_test(model, other, shown).p_value < 0.05
        wrong += arm_test(ByItem([0.15, 0.15], [0.1, 0.2]), other, shown).p_value < 0.05
    assert refused <= 9  # more has a chance of 1 in 800
    assert wrong > 50


def test_arm_statistic_by_hand() -> None:
    states = [State(user_id=f"u{u}") for u in range(8)]
    half = Impressions(states, np.arange(8), np.repeat([0, 1], 4), np.tile([1.0, 1, 0, 0], 2), np.zeros(8))
    found = arm_test(ByItem([0.5, 0.25], [0.0, 0.0]), half, np.array([4, 4]))
    # arm 0 agrees; arm 1: (3, 1) against (2, 2), so expected (2.5, 1.5): 4 * 0.25 / ... = 2 (0.25/2.5 + 0.25/1.5)
    assert found.statistic == pytest.approx(2 * (0.25 / 2.5 + 0.25 / 1.5))
    assert found.degrees == 2  # no conversion anywhere leaves one degree an arm
    np.testing.assert_allclose(found.observed_A3, [[0.5, 0.5, 0.0]] * 2)
    with pytest.raises(DataError, match="An arm has no impression"):
        arm_test(ByItem([0.5, 0.25, 0.1], [0.0] * 3), half, np.array([4, 4, 4]))
