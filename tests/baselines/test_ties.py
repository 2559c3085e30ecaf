"""A tie is worth the mean over all orders of the tied items; an excluded target is worth nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.baselines.ties import expected_gain, fair_top, ndcg_gain, target_places
from llmrec.errors import RequestError


@given(scores=st.lists(st.integers(0, 2), min_size=2, max_size=6), data=st.data(), k=st.integers(1, 6))
def test_expected_gain_equals_the_mean_over_every_order(scores: list[int], data: st.DataObject, k: int) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    gains = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda i: -scores[i])  # sorted is stable: `order` decides among equals
        place = ranked.index(target)
        gains.append(1 / np.log2(place + 2) if place < k else 0.0)
    places = target_places(np.array([scores], dtype=float), np.array([target]))
    assert expected_gain(*places, ndcg_gain(k))[0] == pytest.approx(np.mean(gains))


def test_excluded_target_gains_nothing_even_where_all_items_are_excluded() -> None:
    places = target_places(np.full((1, 3), -np.inf), np.array([1]))
    assert expected_gain(*places, np.ones(3))[0] == 0.0


def test_nan_and_targets_outside_are_refused() -> None:
    with pytest.raises(RequestError, match="NaN"):
        target_places(np.array([[0.0, np.nan]]), np.array([0]))
    with pytest.raises(RequestError, match="0 to 1"):
        target_places(np.zeros((1, 2)), np.array([2]))


def test_fair_top_orders_by_score_and_leaves_excluded_items_out() -> None:
    scores = np.array([[0.1, 0.9, -np.inf, 0.5], [-np.inf, -np.inf, 3.0, -np.inf]])
    top = fair_top(scores, 3, np.random.default_rng(0))
    assert top.tolist() == [[1, 3, 0], [2, -1, -1]]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_fair_top_gives_equal_scores_every_place_equally_often(k: int) -> None:
    rows = 20_000
    scores = np.tile([1.0, 1.0, 1.0, 0.0], (rows, 1))
    top = fair_top(scores, k, np.random.default_rng(0))
    share = np.array([(top[:, 0] == i).mean() for i in range(4)])
    assert share == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0], abs=0.015)
    assert all(len(set(row)) == k for row in top[:50].tolist())
