"""Ranking metrics against values by hand, scikit-learn and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import ndcg_score

from llmrec.errors import RequestError
from llmrec.evaluation.ranking import coverage, illegal_share, ranking_metrics, score_metrics, slates_to_items
from llmrec.types import Slate

LISTS = np.array([[7, 3, 5], [1, 2, -1], [4, 0, 9]])


def test_values_by_hand() -> None:
    found = ranking_metrics(LISTS, [3, 8, 9], k=(1, 2, 3))
    assert found.per_row["HR@1"].tolist() == [0, 0, 0]
    assert found.per_row["HR@2"].tolist() == [1, 0, 0]
    assert found.per_row["NDCG@2"] == pytest.approx([0.6309298, 0, 0])  # 1 / log2(3)
    assert found.per_row["NDCG@3"] == pytest.approx([0.6309298, 0, 0.5])
    assert found.per_row["MRR@3"] == pytest.approx([0.5, 0, 1 / 3])
    assert found.means["MRR@3"] == pytest.approx(5 / 18)


def test_slates_of_unequal_length() -> None:
    slates = [Slate((7, 3, 5), (0.0, -1.0, -2.0)), Slate((1,), (0.0,))]
    assert slates_to_items(slates).tolist() == [[7, 3, 5], [1, -1, -1]]
    assert slates_to_items(slates, 2).tolist() == [[7, 3], [1, -1]]
    assert ranking_metrics(slates, [5, 1], k=(3,)).per_row["HR@3"].tolist() == [1, 1]


scores_and_targets = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, (3, n), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        arrays(np.int64, (3,), elements=st.integers(0, n - 1)),
    )
)


@given(scores_and_targets)
def test_ndcg_of_scores_equals_scikit_learn_with_its_averaged_ties(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = case
    k = min(5, scores.shape[1])
    truth = np.eye(scores.shape[1])[targets]
    ours = score_metrics(scores, targets, k=(k,)).means[f"NDCG@{k}"]
    assert ours == pytest.approx(ndcg_score(truth, scores, k=k))


@given(scores_and_targets)
def test_metrics_are_shares_that_grow_with_k_and_are_ordered(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = case
    cutoffs = tuple(range(1, scores.shape[1] + 1))
    found = score_metrics(scores, targets, k=cutoffs).per_row
    for metric in ("HR", "NDCG", "MRR"):
        values = np.stack([found[f"{metric}@{k}"] for k in cutoffs])
        assert values.min() >= 0
        assert values.max() <= 1 + 1e-12
        assert (np.diff(values, axis=0) >= -1e-12).all()
    for k in cutoffs:
        assert (found[f"MRR@{k}"] <= found[f"NDCG@{k}"] + 1e-12).all()
        assert (found[f"NDCG@{k}"] <= found[f"HR@{k}"] + 1e-12).all()
    assert found[f"HR@{cutoffs[-1]}"] == pytest.approx(np.ones(3))


def test_list_and_score_metrics_agree_without_ties() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.random((40, 30)), rng.integers(0, 30, 40)
    lists = np.argsort(-scores, axis=1)[:, :10]
    from_lists, from_scores = ranking_metrics(lists, targets), score_metrics(scores, targets)
    assert list(from_lists.means) == list(from_scores.means)
    assert list(from_lists.means.values()) == pytest.approx(list(from_scores.means.values()))


def test_all_tied_scores_are_worth_chance() -> None:
    assert score_metrics(np.zeros((1, 50)), [3], k=(10,)).means["HR@10"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("lists", "targets", "k", "message"),
    [
        (LISTS, [1, 2, 3], (5,), "hold only 3"),
        (LISTS, [1, 2, 3], (0,), "choose 1 to 3"),
        (LISTS, [1, 2], (1,), "do not fit"),
        (LISTS, [1, -1, 3], (1,), "row 1 is negative"),
        (LISTS[:0], [], (1,), "do not fit"),
    ],
)
def test_bad_requests(lists: np.ndarray, targets: list[int], k: tuple[int, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ranking_metrics(lists, targets, k=k)


def test_cutoff_beyond_the_catalogue() -> None:
    with pytest.raises(RequestError, match="catalogue has only 4"):
        score_metrics(np.zeros((1, 4)), [0], k=(5,))


def test_coverage_counts_items_of_the_catalogue_among_the_first_k() -> None:
    assert coverage(LISTS, 10, k=1) == pytest.approx(0.3)
    assert coverage(LISTS, 10, k=10) == pytest.approx(0.8)
    assert coverage(LISTS, 5, k=10) == pytest.approx(1.0)


def test_illegal_share_counts_foreign_excluded_and_repeated_items() -> None:
    assert illegal_share(LISTS, 10) == 0
    assert illegal_share(LISTS, 9) == pytest.approx(1 / 8)
    assert illegal_share(LISTS, 10, excluded=[[3], [-1], [9, 4]]) == pytest.approx(3 / 8)
    assert illegal_share(np.array([[2, 2, 2]]), 10) == pytest.approx(2 / 3)
    assert illegal_share(np.array([[-1, -1]]), 10) == 0
    with pytest.raises(RequestError, match="excluded"):
        illegal_share(LISTS, 10, excluded=[])
