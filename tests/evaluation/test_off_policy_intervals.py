"""Intervals of ratios against the textbook, by properties, and by their coverage in a planted world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmrec.errors import RequestError
from llmrec.evaluation.off_policy import Ratio, ratio_interval
from llmrec.evaluation.off_policy.estimators import ips, snips
from llmrec.studies.off_policy.coverage import Tally, clopper_pearson

ROWS = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=40)


@given(ROWS)
def test_the_interval_of_a_mean_is_students(values):
    found = ratio_interval(Ratio.mean(np.array(values)))
    if np.std(values) > 1e-6:
        wanted = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_the_ratios_error_is_the_delta_methods():
    """Var(A / B) from the covariance matrix of the two means and the gradient (1, -V) / mean(B)."""
    rng = np.random.default_rng(0)
    over, under = rng.normal(2, 1, 50), rng.uniform(0.5, 2, 50)
    value = over.mean() / under.mean()
    slope = np.array([1.0, -value]) / under.mean()
    error = np.sqrt(slope @ np.cov(over, under) @ slope / 50)
    found = ratio_interval(Ratio(over, under), level=0.9)
    assert found.mean == pytest.approx(value)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.95, 49) * error)


@pytest.mark.parametrize("method", ["student", "bootstrap-t", "percentile"])
def test_users_are_the_units_and_a_constant_only_shifts(method):
    rng = np.random.default_rng(1)
    weight, reward = rng.exponential(1.0, 90), rng.random(90)
    users = np.repeat(np.arange(30), 3).tolist()
    found = ratio_interval(snips(weight, reward), users=users, method=method, samples=300)
    sums = Ratio((weight * reward).reshape(30, 3).sum(axis=1), weight.reshape(30, 3).sum(axis=1))
    by_hand = ratio_interval(sums, method=method, samples=300)
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))
    far = ratio_interval(snips(weight, reward + 1e7), users=users, method=method, samples=300)
    assert (far.low - 1e7, far.high - 1e7) == pytest.approx((found.low, found.high), abs=1e-6)
    assert found.low < found.mean < found.high


def test_a_difference_is_paired():
    rng = np.random.default_rng(2)
    weight, reward = rng.exponential(1.0, 200), rng.random(200)
    same = ratio_interval(snips(weight, reward), snips(weight, reward))
    assert (same.mean, same.low, same.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    other = weight * rng.uniform(0.9, 1.1, 200)
    for make in (ips, snips):
        gain = ratio_interval(make(weight, reward), make(other, reward))
        psi = [make(w, reward) for w in (weight, other)]
        assert gain.mean == pytest.approx(psi[0].value - psi[1].value)
    by_rows = ratio_interval(Ratio.mean((weight - other) * reward))
    assert ratio_interval(ips(weight, reward), ips(other, reward)).low == pytest.approx(by_rows.low)


def test_bootstrap_t_leans_to_the_long_tail():
    values = np.random.default_rng(3).lognormal(0, 1.5, 60)
    found = ratio_interval(Ratio.mean(values), method="bootstrap-t", samples=2000)
    assert found.high - found.mean > 1.5 * (found.mean - found.low)


def test_what_has_no_interval_is_named():
    with pytest.raises(RequestError, match="at least two users"):
        ratio_interval(Ratio.mean(np.ones(3)), users=["a"] * 3)
    with pytest.raises(RequestError, match="3 rows need 3 users"):
        ratio_interval(Ratio.mean(np.ones(3)), users=["a"])
    with pytest.raises(RequestError, match="shows nothing"):
        ratio_interval(Ratio(np.zeros(3), np.zeros(3)))
    with pytest.raises(RequestError, match="Row 1 of an estimate"):
        ratio_interval(Ratio.mean(np.array([1.0, np.nan, 2.0])))


def test_the_tally_counts_and_its_interval_is_exact():
    assert clopper_pearson(0, 10)[0] == 0.0
    assert clopper_pearson(10, 10)[1] == 1.0
    low, high = clopper_pearson(7, 10)
    assert stats.binom.sf(6, 10, low) == pytest.approx(0.025)
    assert stats.binom.cdf(7, 10, high) == pytest.approx(0.025)
    tally = Tally("a", truth=0.5)
    for mean in (0.5, 0.9):
        tally.add(np.ones(400), {"IPS": Ratio.mean(mean + 0.1 * np.tile([1.0, -1.0], 200))})
    found = tally.summary()
    assert found["estimators"]["IPS"]["coverage"] == 0.5
    assert found["estimators"]["IPS"]["rmse"] == pytest.approx(np.sqrt(0.16 / 2))
    noisy = Tally("b", truth=0.5)
    for _ in range(2):
        noisy.add(np.ones(400), {"IPS": Ratio.mean(np.full(400, 0.9))}, truth_error=0.21)  # 1.96 x 0.21 > 0.4
    assert noisy.summary()["estimators"]["IPS"]["coverage"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["student", "bootstrap-t"])
def test_coverage_in_a_planted_world_of_users(method):
    """Users of 1 to 6 rows whose rewards share the user's taste; the value is the mean over rows, known by integration."""
    rng = np.random.default_rng(4)
    hits = {"IPS": 0, "SNIPS": 0}
    mu, pi, quality = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), np.array([0.2, 0.5, 0.8])
    for trial in range(1000):
        rows = rng.integers(1, 7, size=150)
        users = np.repeat(np.arange(150), rows)
        taste = rng.normal(0, 0.5, 150)[users]
        item = rng.choice(3, size=len(users), p=mu)
        reward = quality[item] + taste + rng.normal(0, 0.3, len(users))
        weight = (pi / mu)[item]
        for name, ratio in (("IPS", ips(weight, reward)), ("SNIPS", snips(weight, reward))):
            found = ratio_interval(ratio, users=users.tolist(), method=method, samples=400, seed=trial)
            hits[name] += found.low <= pi @ quality <= found.high
    assert all(925 <= count <= 975 for count in hits.values()), hits
