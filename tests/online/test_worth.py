"""Item worths: against the dense likelihood, on planted logs, and what was never shown."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from llmrec.online.worth import ItemWorth


def planted(seed, rows=400, items=12, slope=0.2, spread=0.3, noise=0.5):
    random = np.random.default_rng(seed)
    item_M = random.integers(0, items - 1, rows)  # the last one is never shown
    log_prob_M = random.normal(-3, 1, rows)
    worth_N = random.normal(0, spread, items)
    reward_M = 1.5 + slope * log_prob_M + worth_N[item_M] + random.normal(0, noise, rows)
    return item_M, log_prob_M, reward_M, worth_N


def dense(item_M, log_prob_M, reward_M, items):
    """Maximum likelihood with the M x M covariance, and the conditional means of the normal distribution."""
    x_MP = np.column_stack([np.ones(len(item_M)), log_prob_M])
    shown_MN = np.eye(items)[item_M]

    def cost(z):
        level, slope, log_tau, log_sigma = z
        cov_MM = np.exp(2 * log_tau) * shown_MN @ shown_MN.T + np.exp(2 * log_sigma) * np.eye(len(item_M))
        return -multivariate_normal.logpdf(reward_M - x_MP @ [level, slope], cov=cov_MM)

    found = minimize(cost, np.array([reward_M.mean(), 0.0, -1.0, -1.0]), method="L-BFGS-B")
    level, slope, log_tau, log_sigma = found.x
    tau, sigma = np.exp(2 * log_tau), np.exp(2 * log_sigma)
    cov_MM = tau * shown_MN @ shown_MN.T + sigma * np.eye(len(item_M))
    worth_N = tau * shown_MN.T @ np.linalg.solve(cov_MM, reward_M - x_MP @ [level, slope])
    return level, slope, tau / sigma, worth_N


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_maximum_of_the_dense_likelihood(seed):
    item_M, log_prob_M, reward_M, _ = planted(seed, rows=120)
    level, slope, ratio, worth_N = dense(item_M, log_prob_M, reward_M, 12)
    found = ItemWorth.fit(item_M, log_prob_M, reward_M, 12)
    assert found.slope == pytest.approx(slope, abs=2e-3)
    assert found.level == pytest.approx(level, abs=1e-2)
    assert found.ratio == pytest.approx(ratio, rel=0.05)
    assert found.item_N == pytest.approx(worth_N, abs=5e-3)


def test_a_planted_log_is_found_again():
    item_M, log_prob_M, reward_M, worth_N = planted(3, rows=20_000)
    found = ItemWorth.fit(item_M, log_prob_M, reward_M, 12)
    assert found.slope == pytest.approx(0.2, abs=0.02)
    gone = found.item_N[:-1] - worth_N[:-1]
    assert gone - gone.mean() == pytest.approx(np.zeros(11), abs=0.05)
    assert found.item_N[-1] == 0.0
    assert found(["state"] * 2, np.array([[0, 11], [3, -1]])).shape == (2, 2)
    assert found(["state"], np.array([[5]]))[0, 0] == found.item_N[5]


def test_items_that_are_all_alike_are_worth_nothing_beside_the_policy():
    item_M, log_prob_M, reward_M, _ = planted(4, rows=5000, spread=0.0)
    found = ItemWorth.fit(item_M, log_prob_M, reward_M, 12)
    rest_M = reward_M - found.level - found.slope * log_prob_M
    mean_N = np.bincount(item_M, rest_M, 12)[:-1] / np.bincount(item_M, minlength=12)[:-1]
    # drawn to nothing from means that are luck alone: a standard error is 0.5 / sqrt(5000 / 11)
    assert (np.abs(found.item_N[:-1]) < 0.7 * np.abs(mean_N)).all()
    assert np.abs(found.item_N).max() < 3 * 0.0235
    assert found.slope == pytest.approx(0.2, abs=0.02)


def test_rewards_that_are_all_equal_and_a_single_row_give_numbers():
    for rows in (1, 50):
        item_M, log_prob_M = np.arange(rows) % 3, -np.arange(rows, dtype=np.float64)
        found = ItemWorth.fit(item_M, log_prob_M, np.full(rows, 0.5), 3)
        assert np.isfinite(found.item_N).all()
        assert np.isfinite([found.slope, found.level, found.ratio]).all()
        assert np.abs(found.item_N).max() < 1e-6


def test_without_log_probabilities_it_is_the_means_drawn_together():
    item_M, _, reward_M, _ = planted(5, rows=3000, slope=0.0)
    found = ItemWorth.fit(item_M, np.zeros(3000), reward_M, 12)
    assert found.slope == pytest.approx(0.0, abs=1e-9)
    count_N = np.bincount(item_M, minlength=12)[:-1]
    mean_N = np.bincount(item_M, reward_M, 12)[:-1] / count_N
    drawn_N = (mean_N - found.level) * found.ratio * count_N / (1 + found.ratio * count_N)
    assert found.item_N[:-1] == pytest.approx(drawn_N, abs=1e-9)
