"""Off-policy values against enumeration over all items, by hand, and on propensities that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import DataError, RequestError
from llmrec.evaluation.off_policy import importance_weights, off_policy_gain, off_policy_value


def test_by_hand():
    """mu = 1/2 each, pi = (0.8, 0.2): weights 1.6 and 0.4."""
    weight_M = importance_weights(np.log([0.8, 0.2, 0.8, 0.2]), np.full(4, 0.5))
    assert weight_M == pytest.approx([1.6, 0.4, 1.6, 0.4])
    found = off_policy_value(weight_M, np.array([1.0, 0.0, 0.0, 4.0]))
    assert found.ips == pytest.approx((1.6 + 1.6) / 4)
    assert found.value.mean == pytest.approx(3.2 / 4.0)
    assert found.effective_samples == pytest.approx(4.0**2 / (2 * 1.6**2 + 2 * 0.4**2))
    assert (found.rows, found.capped) == (4, 0.0)
    cut = off_policy_value(weight_M, np.array([1.0, 0.0, 0.0, 4.0]), cap=1.0)
    assert cut.value.mean == pytest.approx((1.0 + 0.4 * 4) / 2.8)
    assert cut.capped == 0.5


def test_it_finds_the_enumerated_value_and_the_interval_covers_it():
    """Three kinds of users, five items, true click rates known: E[sum_a pi(a) r(a)] is enumerated."""
    rng = np.random.default_rng(0)
    true_UA, mu_UA, pi_UA = rng.random((3, 5)), rng.dirichlet(np.ones(5), 3), rng.dirichlet(np.ones(5), 3)
    value = float((pi_UA * true_UA).sum(1).mean())
    inside, errors = 0, []
    for trial in range(60):
        kind_M = np.repeat(np.arange(3), 400)
        item_M = np.array([rng.choice(5, p=mu_UA[k]) for k in kind_M])
        reward_M = (rng.random(1200) < true_UA[kind_M, item_M]).astype(float)
        weight_M = importance_weights(np.log(pi_UA[kind_M, item_M]), mu_UA[kind_M, item_M])
        found = off_policy_value(weight_M, reward_M, samples=300, seed=trial)
        inside += found.value.low <= value <= found.value.high
        errors.append(found.ips - value)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(60)  # IPS is unbiased
    assert inside >= 50  # of 60 at 95%: fewer than 50 has a chance below 1e-4


def test_the_logging_policy_itself_is_worth_its_mean_reward():
    rng = np.random.default_rng(1)
    propensity_M, reward_M = rng.uniform(0.05, 1, 50), rng.random(50)
    weight_M = importance_weights(np.log(propensity_M), propensity_M)
    found = off_policy_value(weight_M, reward_M)
    assert found.value.mean == pytest.approx(reward_M.mean())
    assert found.ips == pytest.approx(reward_M.mean())
    assert found.effective_samples == pytest.approx(50)
    shifted = off_policy_value(weight_M, reward_M + 7.0)
    assert shifted.value.mean == pytest.approx(reward_M.mean() + 7.0)


def test_a_paired_gain_is_narrower_than_two_values_apart():
    rng = np.random.default_rng(2)
    weight_M, reward_M = rng.exponential(1.0, 800), rng.random(800)
    other_M = weight_M * rng.uniform(0.95, 1.05, 800)
    same = off_policy_gain(weight_M, weight_M, reward_M)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    gain = off_policy_gain(weight_M, other_M, reward_M)
    one, two = (off_policy_value(w, reward_M) for w in (weight_M, other_M))
    assert gain.mean == pytest.approx(one.value.mean - two.value.mean)
    assert gain.high - gain.low < 0.3 * (one.value.high - one.value.low)


def test_an_interval_over_users_is_wider_where_a_users_rows_say_the_same():
    rng = np.random.default_rng(3)
    reward_U = rng.random(40)
    reward_M, users = np.repeat(reward_U, 25), np.repeat(np.arange(40), 25).tolist()
    apart = off_policy_value(np.ones(1000), reward_M).value
    together = off_policy_value(np.ones(1000), reward_M, users=users).value
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_what_cannot_be_used_is_named():
    with pytest.raises(DataError, match=r"Impression 1 has the propensity 0.0"):
        importance_weights(np.log([0.5, 0.5]), np.array([0.5, 0.0]))
    with pytest.raises(DataError, match=r"Impression 0 has the propensity nan"):
        importance_weights(np.log([0.5]), np.array([np.nan]))
    with pytest.raises(DataError, match=r"Impression 0 has the log-probability 0.3"):
        importance_weights(np.array([0.3]), np.array([0.5]))
    left_out = importance_weights(np.array([-np.inf, 0.0]), np.array([0.5, 0.5]))
    assert left_out.tolist() == [0.0, 2.0]
    with pytest.raises(RequestError, match="shows nothing of what was logged"):
        off_policy_value(np.zeros(3), np.ones(3))
    with pytest.raises(RequestError, match="do not fit"):
        off_policy_value(np.ones(3), np.ones(2))
