"""The conditional logit: coefficients by hand and by a planted truth, closed items, weights."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import RequestError
from llmrec.log_linear import fit_logit, logit_scores


def drawn(rows, items, c_F, seed=0):
    draw = np.random.default_rng(seed)
    x = [draw.normal(size=(rows, items)) * scale for scale in (1.0, 5.0)] + [draw.normal(size=items)]
    open_BN = draw.random((rows, items)) < 0.8
    score_BN = np.where(open_BN, logit_scores(x, np.array(c_F)), -np.inf) + draw.gumbel(size=(rows, items))
    return x, score_BN.argmax(1), open_BN


def test_it_finds_what_the_choices_were_drawn_from():
    c_F = [0.9, -0.2, 0.5]
    x, targets, open_BN = drawn(6000, 12, c_F)
    found = fit_logit(x, targets, open_BN)
    assert found == pytest.approx(c_F, abs=0.06)


def test_a_coefficient_is_held_at_its_least_value():
    # alone, the mark would repel (c = -log 3); held at 0 or above it says nothing
    marked, everything = np.array([0.0, 1.0]), np.ones((4, 2), dtype=bool)
    targets = np.array([0, 0, 0, 1])
    assert fit_logit([marked], targets, everything, penalty=1e-9) == pytest.approx([-np.log(3)], abs=1e-4)
    assert fit_logit([marked], targets, everything, penalty=1e-9, least_F=[0.0]).tolist() == [0.0]


def test_one_indicator_is_fitted_by_hand():
    # two items; item 1 is marked and chosen in 3 of 4 rows: c = log 3 without a penalty
    marked = np.array([0.0, 1.0])
    targets = np.array([1, 1, 1, 0])
    everything = np.ones((4, 2), dtype=bool)
    assert fit_logit([marked], targets, everything, penalty=1e-9) == pytest.approx([np.log(3)], abs=1e-4)
    weights = np.array([1.0, 1.0, 1.0, 9.0])
    assert fit_logit([marked], targets, everything, weights, penalty=1e-9) == pytest.approx([-np.log(3)], abs=1e-4)


def test_features_that_say_the_same_share_a_coefficient_and_closed_items_say_nothing():
    x, targets, open_BN = drawn(500, 8, [1.0, 0.0, 0.0])
    once = fit_logit(x[:1], targets, open_BN, penalty=1e-6)
    twice = fit_logit([x[0], x[0]], targets, open_BN, penalty=1e-6)
    assert twice == pytest.approx([once[0] / 2] * 2, abs=1e-3)
    broken = [np.where(open_BN, x[0], np.nan)]
    assert fit_logit(broken, targets, open_BN, penalty=1e-6) == pytest.approx(once, abs=1e-6)


def test_rows_whose_target_is_closed_are_left_out():
    x, targets, open_BN = drawn(300, 8, [1.0, 0.0, 0.0])
    kept = open_BN[np.arange(300), targets]
    assert kept.all()
    closed = open_BN.copy()
    closed[:50, :] = True
    closed[np.arange(50), targets[:50]] = False
    assert fit_logit(x, targets, closed) == pytest.approx(
        fit_logit([x[0][50:], x[1][50:], x[2]], targets[50:], open_BN[50:])
    )


def test_what_cannot_be_fitted_is_refused():
    x, targets, open_BN = drawn(5, 4, [1.0, 0.0, 0.0])
    with pytest.raises(RequestError, match="needs a feature"):
        fit_logit([], targets, open_BN)
    with pytest.raises(RequestError, match="not finite"):
        fit_logit([np.full((5, 4), np.inf)], targets, open_BN)
    with pytest.raises(RequestError, match="shape"):
        fit_logit([np.zeros((5, 3))], targets, open_BN)
    with pytest.raises(RequestError, match="target"):
        fit_logit(x, targets, np.zeros_like(open_BN))
