"""Membership inference: figures by hand, against scikit-learn, and a planted member."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from llmrec.evaluation.membership import auc_of, found_at, leak_of

FIGURES = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=12)


def test_by_hand():
    members, others = np.array([3.0, 1.0, 2.0]), np.array([2.0, 0.0])
    assert auc_of(members, others) == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 1) / 6)
    # no alarm of two is allowed at 5%, so the threshold is the largest of the others; a tie is not above it
    assert found_at(members, others) == pytest.approx(1 / 3)
    # one of twenty is: the threshold is the second largest
    assert found_at(np.array([18.5, 17.0]), np.arange(20.0)) == 0.5


@given(FIGURES, FIGURES)
def test_the_area_is_that_of_the_reference(members, others):
    label = [1] * len(members) + [0] * len(others)
    assert auc_of(np.array(members), np.array(others)) == pytest.approx(roc_auc_score(label, members + others))


@given(FIGURES, FIGURES)
def test_false_alarms_stay_below_what_is_allowed(members, others):
    del members
    for alarms in (0.05, 0.3):
        assert found_at(np.array(others), np.array(others), alarms) <= alarms


def test_nobody_is_found_where_there_is_nothing_to_find_and_everybody_where_there_is():
    random = np.random.default_rng(0)
    same = leak_of(random.normal(size=200), random.normal(size=200))
    assert same.auc.low < 0.5 < same.auc.high
    assert same.found.low < 0.05 < same.found.high
    told = leak_of(random.normal(8, 1, 50), random.normal(size=50))
    assert told.auc.low > 0.99
    assert told.found.low > 0.9
    assert leak_of(random.normal(size=30) * 0, np.zeros(30)).auc.mean == 0.5
    with pytest.raises(ValueError, match="two people"):
        leak_of(np.zeros(1), np.zeros(5))
