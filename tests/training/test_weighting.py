"""What a logged choice counts in the warm start: by hand, and on a log whose frequencies are exactly the truth's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config import WeightingSettings
from llmrec.dataset.impressions import Impressions
from llmrec.errors import ConfigError, DataError
from llmrec.training.weighting import check_weighting, draw, inverse, weighted_examples
from llmrec.types import State

MU = np.array([0.7, 0.2, 0.1])
CLICK = np.array([0.2, 0.5, 0.4])
BUY = np.array([0.5, 0.2, 0.75])
GROUP = np.arange(3)


def planted(impressions: int = 1000, propensity: bool = True) -> Impressions:
    """One state a row; items are shown, clicked and bought exactly as often as they are expected to be."""
    items, clicks, buys = [], [], []
    for item in range(3):
        shown = round(impressions * MU[item])
        clicked, bought = round(shown * CLICK[item]), round(shown * CLICK[item] * BUY[item])
        items += [item] * shown
        clicks += [1.0] * clicked + [0.0] * (shown - clicked)
        buys += [1.0] * bought + [0.0] * (shown - bought)
    item_M = np.array(items)
    return Impressions(
        [State(f"u{row}") for row in range(len(items))],
        np.arange(len(items)),
        item_M,
        np.array(clicks, dtype=np.float32),
        np.array(buys, dtype=np.float32),
        np.zeros(len(items), dtype=np.float32),
        (MU[item_M] if propensity else np.full(len(items), np.nan)).astype(np.float32),
        [np.array([], dtype=np.int64)] * len(items),
    )


def drawn(kind, *, log=None, number=10_000, target="click", click=1.0, conversion=3.0, seed=0, **settings):
    return weighted_examples(
        planted() if log is None else log,
        WeightingSettings(kind=kind, **settings),
        number,
        target=target,
        click=click,
        conversion=conversion,
        group_N=GROUP,
        seed=seed,
    )


@pytest.mark.parametrize(
    ("kind", "weight_N"),
    [
        ("none", MU * CLICK),
        ("propensity", CLICK),
        ("value", MU * CLICK * (1 + 3 * BUY)),
        ("both", CLICK * (1 + 3 * BUY)),
    ],
)
def test_targets_are_distributed_as_the_definition_says(kind, weight_N):
    log, counts_N = planted(), np.zeros(3)
    for seed in range(50):
        found = drawn(kind, log=log, seed=seed)
        assert len(found) == 280  # as many as there are clicks, if fewer than asked for
        counts_N += np.bincount([example.target for example in found], minlength=3) / 50
    # the mean over seeds: a single draw rounds the expectation of each click up or down
    np.testing.assert_allclose(counts_N, 280 * weight_N / weight_N.sum(), atol=1.5)


def test_examples_keep_state_and_feedback_and_the_logs_order():
    log = planted()
    found = drawn("both", number=50)
    rows = [int(str(example.state.user_id)[1:]) for example in found]
    assert rows == sorted(rows)
    for row, example in zip(rows, found, strict=True):
        assert log.click_M[row] == 1
        assert example.target == log.item_M[row]
        assert example.feedback == ("conversion" if log.conversion_M[row] else "click")


def test_conversions_alone_may_be_the_target():
    found = drawn("propensity", target="conversion")
    assert {example.feedback for example in found} == {"conversion"}
    counts_N = np.bincount([example.target for example in found], minlength=3)
    np.testing.assert_allclose(counts_N, len(found) * CLICK * BUY / (CLICK * BUY).sum(), atol=8)


def test_the_same_seed_draws_the_same():
    assert drawn("both", number=40) == drawn("both", number=40)
    assert drawn("both", number=40) != drawn("both", number=40, seed=1)


def test_inverse_propensities_are_bounded_by_the_median():
    np.testing.assert_allclose(inverse(np.array([0.5, 0.25, 0.01]), clip=2.0), [2.0, 4.0, 8.0])
    np.testing.assert_allclose(inverse(np.array([0.5, 0.25, 0.01]), clip=100.0), [2.0, 4.0, 100.0])


def test_whole_expectations_are_met_exactly():
    for seed in range(20):
        rows = draw(np.array([1.0, 0.0, 2.0, 5.0]), 8, np.random.default_rng(seed))
        assert rows.tolist() == [0, 2, 2, 3, 3, 3, 3, 3]


@given(
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=30).filter(lambda weights: sum(weights) > 1e-6),
    st.integers(1, 60),
    st.integers(0, 2**16),
)
def test_counts_are_the_expectation_rounded(weights, number, seed):
    rows = draw(np.array(weights), number, np.random.default_rng(seed))
    assert len(rows) == number
    expected_E = number * np.array(weights) / np.sum(weights)
    assert (np.abs(np.bincount(rows, minlength=len(weights)) - expected_E) < 1 + 1e-6).all()


def test_fitted_propensities_stand_for_those_that_are_missing():
    found = drawn("propensity", log=planted(propensity=False), propensities="auto")
    counts_N = np.bincount([example.target for example in found], minlength=3)
    # what was shown is the same in all states, so counts are the propensities, save for one added to each
    np.testing.assert_allclose(counts_N, 280 * CLICK / CLICK.sum(), atol=12)


def test_what_cannot_be_weighed_is_said():
    with pytest.raises(DataError, match=r"no propensity.*set sft\.weighting\.propensities to fitted"):
        drawn("propensity", log=planted(propensity=False), propensities="logged")
    with pytest.raises(DataError, match=r"earned a reward; set 'sft\.weighting\.kind' to propensity"):
        drawn("value", click=0.0, conversion=0.0)
    log = planted()
    log.click_M[:] = 0
    with pytest.raises(DataError, match="nothing to imitate"):
        drawn("propensity", log=log)
    with pytest.raises(ConfigError, match=r"sft\.weighting\.clip"):
        check_weighting(WeightingSettings(clip=0.5))
