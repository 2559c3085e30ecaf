"""Several policies and a second score with weights by group, against enumeration of the whole catalogue."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmrec.errors import RequestError
from llmrec.policy.ensemble import EnsemblePolicy
from llmrec.policy.fusion import FusedPolicy
from llmrec.policy.mixture import Items, MixturePolicy, find_parts, mean_scorer
from llmrec.policy.mixture_weights import SHARES, fit_mixture, simplex_grid
from tests.policy.test_ensemble import ALL, SEEN, B, N, make, second
from tests.policy.test_language_policy import STATES

WEIGHTS = np.array([[0.5, 0.2, 0.3], [0.0, 0.1, 0.9]])


@pytest.fixture(scope="module")
def policies():
    """Two models; the second writes items by codes. Neither gives nearly all its mass to seen items, which float32 rounds."""
    return make(1), make(2, codes=True)


@pytest.fixture(scope="module")
def parts_PBN(policies):
    """Each part over the allowed items, by enumeration."""
    parts = [p.log_prob(STATES, ALL).detach().double().exp().numpy() for p in policies] + [second(STATES)]
    for part_BN in parts:
        for b, seen in enumerate(SEEN):
            part_BN[b, seen] = 0.0
        part_BN /= part_BN.sum(1, keepdims=True)
    return np.stack(parts)


def parity(state):
    """A group for the tests."""
    return STATES.index(state) % 2


@pytest.mark.parametrize("batch_size", [2, 64])
def test_with_all_items_as_candidates_the_list_is_that_of_the_full_mixture(policies, parts_PBN, batch_size):
    mixture = MixturePolicy(policies, [second], WEIGHTS, parity, depth=N)
    slates = mixture.recommend(STATES, N, batch_size=batch_size)
    for b, slate in enumerate(slates):
        exact_N = WEIGHTS[b % 2] @ parts_PBN[:, b]
        allowed = [i for i in range(N) if i not in SEEN[b]]
        assert list(slate.items_K) == sorted(allowed, key=lambda i, e=exact_N: -e[i])
        assert np.exp(slate.log_probs_K) == pytest.approx(exact_N[list(slate.items_K)], rel=1e-4)
        assert np.exp(slate.log_probs_K).sum() == pytest.approx(1.0, abs=1e-4)


def test_few_candidates_have_exact_probabilities(policies, parts_PBN):
    found = find_parts(policies, [second], STATES, 2, beams=N)
    for b in range(B):
        items = [i for i in found.items_BC[b].tolist() if i >= 0]
        union = {int(i) for part_BN in parts_PBN for i in np.argsort(-part_BN[b])[:2]}
        assert items == sorted(union)
        assert found.parts_PBC[:, b, : len(items)] == pytest.approx(parts_PBN[:, b, items], rel=1e-4)
        assert (found.parts_PBC[:, b, len(items) :] == 0).all()


def test_two_scores(policies, parts_PBN):
    def even(states):
        return np.ones((len(states), N))

    weights_P = np.array([0.2, 0.1, 0.3, 0.4])
    mixture = MixturePolicy(policies, [second, even], weights_P[None], depth=N)
    for b, slate in enumerate(mixture.recommend(STATES, 4)):
        allowed_N = np.array([i not in SEEN[b] for i in range(N)])
        exact_N = weights_P[:3] @ parts_PBN[:, b] + weights_P[3] * allowed_N / allowed_N.sum()
        best = sorted(np.flatnonzero(allowed_N).tolist(), key=lambda i, e=exact_N: -e[i])[:4]
        assert list(slate.items_K) == best
        assert np.exp(slate.log_probs_K) == pytest.approx(exact_N[best], rel=1e-4)


def test_one_policy_and_one_group_is_the_fused_policy(policies):
    fused = FusedPolicy(policies[0], second, 0.4, depth=3).recommend(STATES, 3)
    mixed = MixturePolicy(policies[:1], [second], np.array([[0.4, 0.6]]), depth=3).recommend(STATES, 3)
    for mine, other in zip(mixed, fused, strict=True):
        assert mine.items_K == other.items_K
        assert mine.log_probs_K == pytest.approx(other.log_probs_K, abs=1e-6)


def test_an_ensemble_may_be_a_part(policies, parts_PBN):
    raw_PBN = np.stack([p.log_prob(STATES, ALL).detach().double().exp().numpy() for p in policies])
    mean_BN = raw_PBN.mean(0)
    for b, seen in enumerate(SEEN):
        mean_BN[b, seen] = 0.0
    exact_BN = 0.6 * mean_BN / mean_BN.sum(1, keepdims=True) + 0.4 * parts_PBN[2]
    whole = EnsemblePolicy(policies, depth=N)
    for b, slate in enumerate(MixturePolicy([whole], [second], np.array([[0.6, 0.4]]), depth=N).recommend(STATES, 4)):
        assert list(slate.items_K) == np.argsort(-exact_BN[b], kind="stable")[: len(slate.items_K)].tolist()
        assert np.exp(slate.log_probs_K) == pytest.approx(exact_BN[b, list(slate.items_K)], rel=1e-4)


def test_a_state_that_the_second_score_knows_nothing_of_is_ranked_by_the_policies(policies, parts_PBN):
    def silent(states):
        return np.zeros((len(states), N))

    mixture = MixturePolicy(policies, [silent], np.array([[0.25, 0.25, 0.5]]), depth=N)
    for b, slate in enumerate(mixture.recommend(STATES, 4)):
        mean_N = parts_PBN[:2, b].mean(0)
        assert list(slate.items_K) == np.argsort(-mean_N, kind="stable")[:4].tolist()


def test_weights_are_found_for_each_group_by_itself(policies, parts_PBN):
    # even states choose what the first policy likes best, odd ones what the second score likes best
    favourites = [int(parts_PBN[0 if b % 2 == 0 else 2, b].argmax()) for b in range(B)]
    fitted = fit_mixture(policies, [second], STATES, favourites, parity, 3, k=1, depth=N)
    assert fitted.ndcg_G[:2].tolist() == [1.0, 1.0]
    assert fitted.rows_G.tolist() == [(B + 1) // 2, B // 2, 0]
    mixture = MixturePolicy(policies, [second], fitted.weights_GP, parity, depth=N)
    assert [slate.items_K[0] for slate in mixture.recommend(STATES, 1)] == favourites
    pooled = fit_mixture(policies, [second], STATES, favourites, k=1, depth=N)
    assert fitted.weights_GP[2].tolist() == pooled.weights_GP[0].tolist()  # a group without a row
    assert pooled.ndcg_G[0] <= 1.0


def test_the_ndcg_of_a_fit_is_that_of_the_lists(policies):
    targets = [int(np.setdiff1d(np.arange(N), seen)[b % 2]) for b, seen in enumerate(SEEN)]
    fitted = fit_mixture(policies, [second], STATES, targets, k=3, depth=N)
    slates = MixturePolicy(policies, [second], fitted.weights_GP, depth=N).recommend(STATES, 3)
    gains = [
        1 / np.log2(s.items_K.index(t) + 2) if t in s.items_K else 0.0 for s, t in zip(slates, targets, strict=True)
    ]
    assert fitted.ndcg_G[0] == pytest.approx(np.mean(gains))


@pytest.mark.parametrize("hidden", [True, False])
def test_scores_alone_are_a_mixture_too(parts_PBN, hidden):
    """Against enumeration; with one silent score, whose states have the mean of the others."""

    def other(states):
        return np.exp(-np.arange(len(states) * N).reshape(len(states), N) % 7)

    def silent(states):
        return np.zeros((len(states), N))

    raw_PBN = np.stack([second(STATES), other(STATES)])
    if hidden:
        for b, seen in enumerate(SEEN):
            raw_PBN[:, b, seen] = 0.0
    raw_PBN /= raw_PBN.sum(2, keepdims=True)
    exact_BN = 0.5 * raw_PBN[0] + 0.3 * raw_PBN[1] + 0.2 * raw_PBN.mean(0)
    items = Items(N, "exclude" if hidden else "allow")
    mixture = MixturePolicy([], [second, other, silent], np.array([[0.5, 0.3, 0.2]]), depth=N, items=items)
    for b, slate in enumerate(mixture.recommend(STATES, 4)):
        assert list(slate.items_K) == np.argsort(-exact_BN[b], kind="stable")[:4].tolist()
        assert np.exp(slate.log_probs_K) == pytest.approx(exact_BN[b, list(slate.items_K)])
    targets = raw_PBN[1].argmax(1).tolist()
    fitted = fit_mixture([], [second, other], STATES, targets, k=1, depth=N, items=items)
    assert fitted.ndcg_G[0] == 1.0
    assert fitted.weights_GP.shape == (1, 2)
    assert fitted.weights_GP.sum() == pytest.approx(1.0)


def test_an_ensemble_of_scores_is_the_mean_of_their_distributions():
    def skewed(states):
        return np.tile(np.r_[np.zeros(N - 1), 8.0], (len(states), 1))

    mean_BN = mean_scorer([second, skewed])(STATES)
    own_BN = second(STATES) / second(STATES).sum(1, keepdims=True)
    assert mean_BN == pytest.approx(0.5 * own_BN + 0.5 * np.eye(N)[np.full(B, N - 1)])


@pytest.mark.parametrize(("parts", "units"), [(1, 1), (2, 20), (3, 20), (4, 10)])
def test_parts_of_one_kind_share_the_whole_evenly(parts, units):
    grid_WP = simplex_grid(0, parts)
    assert np.array_equal(grid_WP, simplex_grid(parts, 0))
    assert len(grid_WP) == math.comb(units + parts - 1, parts - 1)
    assert grid_WP.sum(1) == pytest.approx(np.ones(len(grid_WP)))
    assert grid_WP.min() >= 0


@pytest.mark.parametrize(("n_policies", "n_scores"), [(1, 1), (2, 1), (3, 1), (2, 2), (1, 3)])
def test_the_grid_lies_on_the_simplex_once_each_with_all_corners(n_policies, n_scores):
    grid_WP = simplex_grid(n_policies, n_scores)
    assert grid_WP.sum(1) == pytest.approx(np.ones(len(grid_WP)))
    assert (grid_WP >= 0).all()
    assert len(np.unique(grid_WP.round(9), axis=0)) == len(grid_WP)
    ours, others = (n * (n + 1) // 2 for n in (n_policies, n_scores))  # halves, or all to one
    assert len(grid_WP) == ours + others + (len(SHARES) - 2) * ours * others
    for corner_P in np.eye(n_policies + n_scores):
        assert (np.abs(grid_WP - corner_P).max(1) < 1e-12).any()


def test_mixtures_that_cannot_be(policies):
    with pytest.raises(RequestError, match="without a policy needs items"):
        MixturePolicy([], [second], np.array([[1.0]]))
    with pytest.raises(RequestError, match="but its policies have"):
        MixturePolicy(policies, [second], WEIGHTS, items=Items(N + 1, "exclude"))
    with pytest.raises(RequestError, match="do not fit 2 policies"):
        MixturePolicy(policies, [second], np.array([[0.5, 0.5]]))
    for weights in ([0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]):
        with pytest.raises(RequestError, match="sum 1"):
            MixturePolicy(policies, [second], np.array([weights]))
    with pytest.raises(RequestError, match="Policy 1 of the mixture has other items"):
        MixturePolicy([policies[0], make(4, ids=[str(i) for i in reversed(range(N))])], [second], WEIGHTS)
    with pytest.raises(RequestError, match="Policy 1 of the mixture says 'allow'"):
        MixturePolicy([policies[0], make(4, repeat="allow")], [second], WEIGHTS)
    with pytest.raises(RequestError, match="group 7"):
        MixturePolicy(policies, [second], WEIGHTS, lambda state: 7).recommend(STATES, 2)
    with pytest.raises(RequestError, match="3 states and 1 targets"):
        fit_mixture(policies, [second], STATES[:3], [0])
    with pytest.raises(RequestError, match="something to mix"):
        fit_mixture([], [], STATES, [0] * B)
    assert MixturePolicy(policies, [second], WEIGHTS).recommend([], 2) == []
