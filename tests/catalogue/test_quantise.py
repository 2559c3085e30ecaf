"""Balanced residual k-means against exact assignment, planted clusters and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from llmrec.catalogue.identifiers.quantise import (
    balanced_assignment,
    balanced_kmeans,
    capacity_of,
    fitted_prices,
    nearest_codes,
    reconstructed,
    residual_kmeans,
)


def squared(vectors, centres):
    return ((vectors[:, None] - centres[None]) ** 2).sum(-1)


def exact_cost(vectors, centres, capacity):
    """Least total squared distance under the capacity: each centre stands `capacity` times in the square problem."""
    cost = squared(vectors, centres)
    row, column = linear_sum_assignment(np.repeat(cost, capacity, axis=1))
    return cost[row, column // capacity].sum()


def priced(vectors, centres):
    cost = (squared(vectors, centres) - (vectors**2).sum(1, keepdims=True)).astype(np.float32)
    return fitted_prices(cost, 1.05 * len(vectors) / len(centres), np.zeros(len(centres), np.float32), steps=48)


@pytest.mark.parametrize("seed", range(6))
def test_assignment_to_fitted_centres_costs_at_most_1_percent_more_than_the_exact_one(seed):
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(240, 5)) + 2 * rng.normal(size=(4, 5))[rng.integers(4, size=240)]).astype(np.float32)
    centres, _ = balanced_kmeans(vectors, 12, seed=seed)
    capacity = capacity_of(240, 12)
    code = balanced_assignment(vectors, centres, capacity, priced(vectors, centres))
    assert np.bincount(code, minlength=12).max() <= capacity
    assert squared(vectors, centres)[np.arange(240), code].sum() <= 1.01 * exact_cost(vectors, centres, capacity)


@pytest.mark.parametrize("seed", range(6))
def test_assignment_to_centres_that_do_not_fit_costs_at_most_2_percent_more(seed):
    """Heavy tails and centres that are mere vectors: unconstrained, half of the vectors would go to one of them."""
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(150, 6)) * rng.gamma(1, 1, size=(150, 1))).astype(np.float32)
    centres = vectors[rng.choice(150, 10, replace=False)]
    capacity = capacity_of(150, 10)
    code = balanced_assignment(vectors, centres, capacity, priced(vectors, centres))
    assert np.bincount(code, minlength=10).max() <= capacity
    assert squared(vectors, centres)[np.arange(150), code].sum() <= 1.02 * exact_cost(vectors, centres, capacity)


def test_a_full_cluster_keeps_those_to_whom_leaving_costs_most():
    vectors = np.array([[0.0], [1.0], [2.0]], dtype=np.float32)  # all nearest to the centre at 0
    centres = np.array([[0.0], [10.0]], dtype=np.float32)
    assert balanced_assignment(vectors, centres, 2).tolist() == [0, 0, 1]  # 2 is the least far from 10


def test_too_little_room_is_refused():
    with pytest.raises(ValueError, match="2 clusters of 1 cannot hold 3 vectors"):
        balanced_assignment(np.zeros((3, 1), np.float32), np.zeros((2, 1), np.float32), 1)


def test_planted_clusters_of_equal_size_are_found():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(8), 30)
    vectors = (20 * np.eye(8)[truth] + rng.normal(size=(240, 8))).astype(np.float32)
    _, code = balanced_kmeans(vectors, 8, seed=3)
    assert len({(t, c) for t, c in zip(truth, code, strict=True)}) == 8


@given(st.integers(1, 40), st.integers(1, 4), st.integers(2, 12), st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_promises_hold_for_any_vectors(n, levels, codes, kinds, seed):
    """Fewer vectors than codes, and vectors that are all equal, too."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(kinds, 3)).astype(np.float32)[rng.integers(kinds, size=n)]
    made = residual_kmeans(vectors, levels, codes, seed=seed)
    size = min(n, codes)
    assert made.codes_NL.shape == (n, levels)
    assert made.codebooks_LKD.shape == (levels, size, 3)
    assert 0 <= made.codes_NL.min() <= made.codes_NL.max() < size
    for column in made.codes_NL.T:
        assert np.bincount(column).max() <= capacity_of(n, size)
    again = residual_kmeans(vectors, levels, codes, seed=seed)
    assert np.array_equal(made.codes_NL, again.codes_NL)
    assert np.array_equal(made.codebooks_LKD, again.codebooks_LKD)


def test_each_level_explains_more_and_the_centres_are_the_residuals_means():
    vectors = np.random.default_rng(1).normal(size=(500, 6)).astype(np.float32)
    made = residual_kmeans(vectors, 3, 16, seed=0)
    left, sizes = vectors.copy(), [1.0]
    for code, book in zip(made.codes_NL.T, made.codebooks_LKD, strict=True):
        for k in np.unique(code):
            assert np.allclose(book[k], left[code == k].mean(0), atol=1e-5)
        left = left - book[code]
        sizes.append((left**2).sum() / (vectors**2).sum())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.3
    assert np.allclose(vectors - reconstructed(made.codes_NL, made.codebooks_LKD), left, atol=1e-5)


def test_new_vectors_get_the_nearest_centre_level_by_level():
    rng = np.random.default_rng(2)
    books, new = rng.normal(size=(3, 7, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    for vector, codes in zip(new, nearest_codes(new, books), strict=True):
        for book, code in zip(books, codes, strict=True):
            assert code == min(range(7), key=lambda k: float(((vector - book[k]) ** 2).sum()))
            vector = vector - book[code]


def test_seeds_differ_and_masses_of_equal_vectors_are_spread():
    vectors = np.random.default_rng(3).normal(size=(300, 4)).astype(np.float32)
    one, other = (residual_kmeans(vectors, 1, 8, seed=seed).codes_NL for seed in (0, 1))
    assert not np.array_equal(one, other)
    same = residual_kmeans(np.ones((6000, 2), np.float32), 1, 64, seed=0).codes_NL[:, 0]
    assert np.bincount(same).max() <= capacity_of(6000, 64)
