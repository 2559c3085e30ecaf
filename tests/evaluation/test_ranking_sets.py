"""Metrics of sets of relevant items: by hand, by enumerating all orders of tied items, and by ranx."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.errors import RequestError
from llmrec.evaluation.ranking import RankingMetrics, ranking_metrics, score_metrics
from llmrec.evaluation.relevance import METRICS, score_set_metrics, set_metrics, target_sets
from llmrec.types import Example, Slate, State

INF = float("inf")


def textbook(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """The definitions, place by place, for one list."""
    hits = [item in relevant for item in ranked[:k]]
    found = [place for place, hit in enumerate(hits, start=1) if hit]
    return {
        "HR": float(bool(found)),
        "recall": len(found) / len(relevant),
        "precision": len(found) / k,
        "NDCG": sum(1 / math.log2(p + 1) for p in found)
        / sum(1 / math.log2(p + 1) for p in range(1, min(k, len(relevant)) + 1)),
        "MRR": 1 / found[0] if found else 0.0,
        "MAP": sum(sum(hits[:p]) / p for p in found) / min(k, len(relevant)),
    }


def by_enumeration(scores: list[float], relevant: set[int], k: int) -> dict[str, float]:
    """The mean of the definitions over all orders of the items that respect the scores."""
    levels = [[i for i, s in enumerate(scores) if s == level] for level in sorted(set(scores) - {-INF}, reverse=True)]
    orders = itertools.product(*(list(itertools.permutations(level)) for level in levels))
    found = [textbook([i for part in order for i in part], relevant, k) for order in orders]
    return {metric: float(np.mean([f[metric] for f in found])) for metric in METRICS}


def row(found: RankingMetrics, k: int, index: int = 0) -> dict[str, float]:
    return {metric: float(found.per_row[f"{metric}@{k}"][index]) for metric in METRICS}


def test_by_hand() -> None:
    found = set_metrics(np.array([[4, 0, 2, 9]]), [[0, 2, 7]], k=(1, 2, 4))
    assert row(found, 1) == dict.fromkeys(METRICS, 0.0)
    ideal2, ideal3 = 1 + 1 / math.log2(3), 1 + 1 / math.log2(3) + 0.5
    expected2 = {"HR": 1.0, "recall": 1 / 3, "precision": 0.5, "NDCG": 1 / math.log2(3) / ideal2, "MRR": 0.5}
    assert row(found, 2) == pytest.approx(expected2 | {"MAP": 0.5 / 2})
    expected4 = {"HR": 1.0, "recall": 2 / 3, "precision": 0.5, "NDCG": (1 / math.log2(3) + 0.5) / ideal3, "MRR": 0.5}
    assert row(found, 4) == pytest.approx(expected4 | {"MAP": (1 / 2 + 2 / 3) / 3})


def test_short_lists_divide_by_k_and_a_doubled_item_counts_once() -> None:
    short = set_metrics([Slate((5,), (0.0,)), Slate((1, 2, 5, 3), (0.0,) * 4)], [[5], [5]], k=(4,))
    assert short.per_row["precision@4"].tolist() == [0.25, 0.25]
    doubled = set_metrics(np.array([[5, 5, 5, 1]]), [[5, 1]], k=(4,))
    assert row(doubled, 4) == pytest.approx(textbook([5, -1, -1, 1], {5, 1}, 4))


scored = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([-INF, 0.0, 0.5, 1.0]), min_size=n, max_size=n),
        st.sets(st.integers(0, n - 1), min_size=1),
    )
)


@settings(max_examples=60)
@given(scored)
def test_tied_scores_are_worth_the_mean_over_all_orders(case: tuple[list[float], set[int]]) -> None:
    scores, relevant = case
    for k in range(1, len(scores) + 1):
        found = score_set_metrics(np.array([scores]), [sorted(relevant)], k=(k,))
        assert row(found, k) == pytest.approx(by_enumeration(scores, relevant, k), abs=1e-12)


@settings(max_examples=40)
@given(scored, st.randoms(use_true_random=False))
def test_names_of_items_do_not_matter_and_metrics_behave(case: tuple[list[float], set[int]], random: object) -> None:
    scores, relevant = case
    n = len(scores)
    order = list(range(n))
    random.shuffle(order)  # type: ignore[attr-defined]
    cutoffs = tuple(range(1, n + 1))
    found = score_set_metrics(np.array([scores]), [sorted(relevant)], k=cutoffs)
    moved = score_set_metrics(np.array([scores])[:, order], [[order.index(i) for i in relevant]], k=cutoffs)
    for name, values in found.per_row.items():
        assert values == pytest.approx(moved.per_row[name], abs=1e-12)
        assert -1e-12 <= values[0] <= 1 + 1e-12
    for metric in ("HR", "recall", "MRR"):
        steps = np.diff([found.per_row[f"{metric}@{k}"][0] for k in cutoffs])
        assert (steps >= -1e-12).all()
    for k in cutoffs:
        one = row(found, k)
        assert one["recall"] * len(relevant) == pytest.approx(one["precision"] * k)
        assert one["MRR"] <= one["HR"] + 1e-12


def test_one_relevant_item_is_the_metric_of_one_target() -> None:
    rng = np.random.default_rng(0)
    scores = np.where(rng.random((50, 20)) < 0.2, -INF, rng.integers(0, 5, (50, 20)).astype(float))
    targets = rng.integers(0, 20, 50)
    sets = score_set_metrics(scores, targets[:, None], k=(1, 4, 20))
    for name, values in score_metrics(scores, targets, k=(1, 4, 20)).per_row.items():
        assert sets.per_row[name] == pytest.approx(values, abs=1e-12)
    for k in (1, 4, 20):
        assert sets.per_row[f"recall@{k}"] == pytest.approx(sets.per_row[f"HR@{k}"])
        assert sets.per_row[f"precision@{k}"] == pytest.approx(sets.per_row[f"HR@{k}"] / k)
        assert sets.per_row[f"MAP@{k}"] == pytest.approx(sets.per_row[f"MRR@{k}"])
    lists = np.argsort(-rng.random((50, 20)), axis=1)[:, :10]
    for name, values in ranking_metrics(lists, targets).per_row.items():
        assert set_metrics(lists, targets[:, None]).per_row[name] == pytest.approx(values, abs=1e-12)


def test_targets_of_one_user_and_moment_are_one_set() -> None:
    rows = [
        Example(State("u", time=5), 3),
        Example(State("v", time=5), 3),
        Example(State("u", time=5), 1),
        Example(State("u", time=6), 2),
        Example(State("u"), 8),
        Example(State(None, time=5), 9),
    ]
    found = target_sets(rows)
    assert found.first_P.tolist() == [0, 1, 3, 4, 5]
    assert [items.tolist() for items in found.relevant] == [[1, 3], [3], [2], [8], [9]]


@pytest.mark.parametrize(
    ("relevant", "k", "message"),
    [
        ([[0], []], (1,), "Row 1 has no relevant item"),
        ([[0]], (1,), "do not fit"),
        ([], (1,), "no row to rank"),
        ([[0], [-1]], (1,), "row 1 is negative"),
        ([[0], [1]], (5,), "hold only 3"),
        ([[0], [1]], (), "No cut-off"),
    ],
)
def test_bad_requests(relevant: list[list[int]], k: tuple[int, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        set_metrics(np.array([[0, 1, 2], [2, 1, 0]]), relevant, k=k)


@pytest.mark.parametrize(
    ("scores", "relevant", "k", "message"),
    [
        ([[0.0, 1.0]], [[2]], (1,), "item index from 0 to 1"),
        ([[0.0, 1.0]], [[1]], (3,), "catalogue has only 2"),
        ([[0.0, np.nan]], [[1]], (1,), "NaN"),
        ([[0.0, 1.0]], [[1], [0]], (1,), "do not fit"),
        ([], [], (1,), "at least one row"),
    ],
)
def test_bad_scores(scores: list[list[float]], relevant: list[list[int]], k: tuple[int, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        score_set_metrics(np.array(scores), relevant, k=k)
