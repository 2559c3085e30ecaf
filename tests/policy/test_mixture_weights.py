"""Weights of mixtures: the best of the grid for each group, with the ties of the lists."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmrec.errors import RequestError
from llmrec.policy.mixture import Mixture
from llmrec.policy.mixture_weights import ONE_OF_EACH, SHARES, fit, weight_grid
from tests.policy.test_language_policy import STATES
from tests.policy.test_mixture import SEEN, WHOLE, B, N, kinds, parity, second, tied, truth, whole  # noqa: F401


def ndcg(slate, target):
    return 1 / np.log2(slate.items_K.index(target) + 2) if target in slate.items_K else 0.0


@pytest.mark.parametrize("names", [["one", "second"], ["both", "tied"], ["tied", "second"], ["one", "two", "tied"]])
def test_every_figure_of_the_grid_is_that_of_the_lists(kinds, names):  # noqa: F811
    targets = [int(np.setdiff1d(np.arange(N), seen)[b % 2]) for b, seen in enumerate(SEEN)]
    mixture = Mixture([kinds[name] for name in names], items=WHOLE, depth=N)
    fitted = fit(mixture, STATES, targets, k=3, batch_size=2)
    for weights_P, figure in zip(fitted.grid_WP[::8], fitted.ndcg_W[::8], strict=True):
        slates = mixture.changed(weights=weights_P).recommend(STATES, 3)
        assert figure == pytest.approx(np.mean([ndcg(s, t) for s, t in zip(slates, targets, strict=True)]))
    first = int(np.flatnonzero(fitted.ndcg_W >= fitted.ndcg_W.max())[0])
    assert fitted.mixture.weights_GP.tolist() == [fitted.grid_WP[first].tolist()]
    assert fitted.ndcg == pytest.approx(fitted.ndcg_W.max())
    turned = fit(mixture.changed(parts=mixture.parts[::-1]), STATES, targets, k=3)
    if "one" in names and len(names) == 2:  # whatever the order of the parts, the shares are the policy's
        assert turned.grid_WP.tolist() == fitted.grid_WP[:, ::-1].tolist()


def test_the_fit_finds_who_is_right_and_ties_go_to_the_policy(kinds, whole):  # noqa: F811
    right = [int(truth(whole, ["one"], [1], b)[0].argmax()) for b in range(B)]
    other = [next(i for i in range(N) if i not in SEEN[b] and i != right[b]) for b in range(B)]

    def oracle(states):
        return np.eye(N)[other[: len(states)]]

    assert fit(Mixture([kinds["one"], oracle]), STATES, right, k=1).mixture.weights_GP[0, 0] == 1.0
    fitted = fit(Mixture([kinds["one"], oracle]), STATES, other, k=1)
    assert fitted.ndcg == 1.0
    assert fitted.mixture.weights_GP[0, 0] < 1.0
    assert dict(zip(ONE_OF_EACH, fitted.ndcg_W, strict=True))[1.0] == 0.0
    even = fit(Mixture([kinds["one"], lambda states: np.ones((len(states), N))]), STATES, right, k=1)
    assert even.mixture.weights_GP[0, 0] == 1.0


def test_weights_are_found_for_each_group_by_itself(kinds, whole):  # noqa: F811
    names = ["one", "two", "second"]
    parts = [truth(whole, names, [0.4, 0.3, 0.3], b)[1] for b in range(B)]
    # even states choose what the first policy likes best, odd ones what the second score likes best
    favourites = [int(parts[b][0 if b % 2 == 0 else 2].argmax()) for b in range(B)]
    mixture = Mixture([kinds[name] for name in names], group=parity, depth=N)
    fitted = fit(mixture, STATES, favourites, groups=3, k=1)
    assert fitted.ndcg_G[:2].tolist() == [1.0, 1.0]
    assert fitted.rows_G.tolist() == [(B + 1) // 2, B // 2, 0]
    assert [slate.items_K[0] for slate in fitted.mixture.recommend(STATES, 1)] == favourites
    pooled = fit(mixture.changed(group=None), STATES, favourites, k=1)
    assert fitted.mixture.weights_GP[2].tolist() == pooled.mixture.weights_GP[0].tolist()  # a group without a row


@pytest.mark.parametrize(("parts", "units"), [(1, 1), (2, 20), (3, 20), (4, 10)])
def test_parts_of_one_kind_share_the_whole_evenly(parts, units):
    grid_WP = weight_grid(0, parts)
    assert np.array_equal(grid_WP, weight_grid(parts, 0))
    assert len(grid_WP) == math.comb(units + parts - 1, parts - 1)


@pytest.mark.parametrize(("policies", "scores"), [(1, 1), (2, 0), (0, 3), (2, 1), (3, 1), (2, 2), (1, 3)])
def test_the_grid_lies_on_the_simplex_once_each_with_all_corners(policies, scores):
    grid_WP = weight_grid(policies, scores)
    assert grid_WP.sum(1) == pytest.approx(np.ones(len(grid_WP)))
    assert (grid_WP >= 0).all()
    assert len(np.unique(grid_WP.round(9), axis=0)) == len(grid_WP)
    if policies and scores > 1:
        ours, others = (n * (n + 1) // 2 for n in (policies, scores))  # halves, or all to one
        assert len(grid_WP) == ours + others + (len(SHARES) - 2) * ours * others
    for corner_P in np.eye(policies + scores):
        assert (np.abs(grid_WP - corner_P).max(1) < 1e-12).any()


def test_what_cannot_be_fitted(kinds):  # noqa: F811
    mixture = Mixture([kinds["one"], second])
    with pytest.raises(RequestError, match="3 states and 1 targets"):
        fit(mixture, STATES[:3], [0])
    with pytest.raises(RequestError, match="0 states"):
        fit(mixture, [], [])
    with pytest.raises(RequestError, match="do not fit 2 parts"):
        fit(mixture, STATES, [1] * B, grid=np.eye(3))
    with pytest.raises(RequestError, match="group 7"):
        fit(mixture.changed(group=lambda state: 7, weights=None), STATES, [1] * B, groups=2)


@pytest.mark.parametrize(("policies", "scores"), [(1, 2), (1, 4), (2, 3)])
def test_a_fine_grid_has_every_choice_that_there_is_without_a_policy(policies, scores):
    fine = weight_grid(policies, scores, fine=True)
    assert fine.sum(1) == pytest.approx(np.ones(len(fine)))
    without = {tuple(row) for row in fine[(fine[:, :policies] == 0).all(1)][:, policies:].round(12)}
    assert without == {tuple(row) for row in weight_grid(0, scores).round(12)}
    coarse = {tuple(row) for row in weight_grid(policies, scores).round(12)}
    assert coarse <= {tuple(row) for row in fine.round(12)}
    assert sorted({float(row.sum()) for row in fine[:, :policies].round(12)}) == pytest.approx(sorted(SHARES))
