"""Intervals against scipy, closed forms and repeated sampling from a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llmrec.errors import RequestError
from llmrec.evaluation import significance
from llmrec.evaluation.significance import (
    Interval,
    bootstrap_interval,
    bootstrap_means,
    noninferiority_bound,
    paired_bootstrap,
    t_interval,
)


def test_bootstrap_is_close_to_the_normal_interval_of_a_large_sample() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, 4000)
    found = bootstrap_interval(values, samples=2000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)


def test_t_interval_equals_scipy() -> None:
    values = [0.1, 0.4, 0.35, 0.2, 0.5]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = t_interval(values, level=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_pairing_removes_what_both_systems_share() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 10, 500)
    found = paired_bootstrap(shared + 0.5 + rng.normal(0, 0.1, 500), shared)
    assert found.mean == pytest.approx(0.5, abs=0.02)
    assert found.above_zero
    assert found.high - found.low < 0.05
    assert not found.below_zero


def test_clustered_interval_is_as_wide_as_that_of_the_users() -> None:
    users = np.repeat(np.arange(50), 40)
    per_user = np.random.default_rng(2).normal(0, 1, 50)
    clustered = bootstrap_interval(per_user[users], users=users.tolist(), samples=4000)
    of_users = bootstrap_interval(per_user, samples=4000)
    rows = bootstrap_interval(per_user[users], samples=4000)
    assert clustered.high - clustered.low == pytest.approx(of_users.high - of_users.low, rel=0.08)
    assert rows.high - rows.low < 0.3 * (clustered.high - clustered.low)


def test_cover_of_the_truth_is_about_the_level() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        found = bootstrap_interval(rng.exponential(1.0, 80), samples=300, seed=trial, level=0.9)
        inside += found.low <= 1.0 <= found.high
    assert 0.82 <= inside / 200 <= 0.96


def test_seed_and_name_decide_and_chunks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random(60)
    first = bootstrap_interval(values, seed=5)
    assert first == bootstrap_interval(values, seed=5)
    assert first != bootstrap_interval(values, seed=6)
    assert first != bootstrap_interval(values, seed=5, name=("other",))
    monkeypatch.setattr(significance, "CELLS", 500)
    assert first == bootstrap_interval(values, seed=5)


def test_noninferiority() -> None:
    rng = np.random.default_rng(5)
    reference = rng.random(5000)
    equal = noninferiority_bound(reference.copy(), reference)
    assert (equal.relative, equal.low) == (0.0, 0.0)
    assert equal.not_inferior(0.03)
    worse = noninferiority_bound(0.9 * reference, reference)
    assert (worse.relative, worse.low) == pytest.approx((-0.1, -0.1))
    assert not worse.not_inferior(0.03)
    noisy = noninferiority_bound(rng.random(5000), reference)
    assert noisy.low < noisy.relative


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "at least one row"),
        ([1.0, np.nan], [1.0, 1.0], "Row 1 of the first system"),
        ([1.0], [1.0, 2.0], "same rows"),
    ],
)
def test_bad_values(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        paired_bootstrap(np.array(a), np.array(b))


def test_other_errors() -> None:
    with pytest.raises(RequestError, match="more seeds"):
        t_interval([1.0])
    with pytest.raises(RequestError, match="users"):
        bootstrap_interval(np.ones(3), users=["a"])
    with pytest.raises(RequestError, match="above 0"):
        noninferiority_bound(np.ones(3), np.zeros(3))


@pytest.mark.parametrize(
    ("low", "high", "figure", "mark"),
    [
        (0.01, 0.03, 0.5, "▲"),
        (-0.03, -0.01, 0.5, "▼"),
        (-0.01, 0.03, 0.5, ""),
        (4e-7, 6e-7, 0.5, ""),  # below a millionth of 0.5
        (6e-7, 8e-7, 0.5, "▲"),
        (-8e-7, -6e-7, -0.5, "▼"),
        (-8e-7, -6e-7, 1.0, ""),
        (1e-300, 1e-299, 0.0, "▲"),
        (0.0, 0.0, 0.0, ""),
    ],
)
def test_a_mark_needs_more_than_the_rounding_of_the_figure(low, high, figure, mark):
    assert Interval((low + high) / 2, low, high).mark(figure) == mark


def test_replicas_add_the_variance_of_what_measures_to_that_of_who_is_met() -> None:
    """An error of 0.03 that all users share, and 400 users of deviation 1: variances 0.03 ** 2 + 1 / 400."""
    random = np.random.default_rng(0)
    values_B = random.normal(size=400)
    replicas_RB = values_B + random.normal(0.0, 0.03, (500, 1))
    found_S = bootstrap_means(values_B, replicas_RB, samples=20_000)
    wanted = np.sqrt(replicas_RB.mean(axis=1).var() + values_B.var() / 400)
    assert found_S.std() == pytest.approx(wanted, rel=0.02)
    interval = bootstrap_interval(values_B, samples=20_000, replicas_RB=replicas_RB)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * wanted, rel=0.04)
    # a replicate that says what the measure says changes nothing, draw by draw
    same = bootstrap_means(values_B, np.tile(values_B, (3, 1)), samples=300, seed=4, name=("m",))
    np.testing.assert_allclose(same, bootstrap_means(values_B, samples=300, seed=4, name=("m",)), atol=1e-12)


def test_replicas_of_two_systems_are_paired_replicate_by_replicate() -> None:
    """What a replicate believes of both cancels; users with several rows stay together."""
    random = np.random.default_rng(1)
    a_B, b_B = random.normal(size=(2, 60))
    users = np.repeat(np.arange(20), 3)
    shift_R1 = random.normal(size=(40, 1))
    both = (a_B + shift_R1, b_B + shift_R1)
    found = paired_bootstrap(a_B, b_B, users=users, replicas=both, seed=2)
    plain = paired_bootstrap(a_B, b_B, users=users, seed=2)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))
    with pytest.raises(RequestError, match="one shape"):
        paired_bootstrap(a_B, b_B, replicas=(both[0], both[1][:3]))
    with pytest.raises(RequestError, match=r"shape \(R, 60\)"):
        bootstrap_interval(a_B, replicas_RB=both[0][:, :5])
