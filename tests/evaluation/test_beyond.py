"""Measures beyond accuracy: by hand, against plain loops and as properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmrec.dataset.store import Dataset
from llmrec.evaluation import beyond
from llmrec.evaluation.beyond import (
    ItemFacts,
    beyond_accuracy,
    categories,
    exposure,
    gini,
    intra_list_distance,
    list_mean,
    miscalibration,
    past_mean,
    personalisation,
    serendipity,
)
from llmrec.types import Interaction, State


def make() -> tuple[Dataset, ItemFacts]:
    items = pl.DataFrame(
        {
            "item_id": list("abcde"),
            "title": ["red shoe", "red shoe", "blue hat", "blue coat", "zzz"],
            "categories": [["x"], ["x", "y"], ["y"], ["z"], []],
        }
    )
    clicks = [("u", "a"), ("v", "a"), ("w", "a"), ("u", "b"), ("v", "b"), ("u", "c"), ("u", "c")]
    events = pl.DataFrame(
        {"user_id": [u for u, _ in clicks], "item_id": [i for _, i in clicks], "kind": "click", "time": range(7)}
    )
    data = Dataset.build(items, None, events, name="n", domain="shop", click="click", conversion="click")
    return data, ItemFacts.of(data, data.events)


def test_facts_by_hand() -> None:
    _, facts = make()
    assert facts.count_N.tolist() == [3, 2, 2, 0, 0]
    assert facts.users_N.tolist() == [3, 2, 1, 0, 0]
    assert facts.share_N == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    assert facts.percentile_N == pytest.approx([0.9, 0.6, 0.6, 0.2, 0.2])
    assert facts.surprisal_N == pytest.approx([0, math.log2(4 / 3), 1, 2, 2])
    assert facts.category_NC.toarray().tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert categories([["p", "p", ""], []]).toarray().tolist() == [[1], [0]]


def test_lists_by_hand() -> None:
    _, facts = make()
    lists = np.array([[0, 2], [3, -1], [-1, -1]])
    past = facts.past([State(history=(Interaction(1, "click", 0), Interaction(3, "click", 1))), State(), State()])
    found = beyond_accuracy(lists, facts, past, np.array([2, 3, 0]), None, ["u", "v", "w"])
    assert found["coverage@2"] == 3 / 5
    assert found["popularity@2"] == pytest.approx([2 / 3, 0, math.nan], nan_ok=True)
    assert found["percentile@2"] == pytest.approx([0.75, 0.2, math.nan], nan_ok=True)
    assert found["lift@2"] == pytest.approx([0.75 - 0.4, math.nan, math.nan], nan_ok=True)
    assert found["novelty@2"] == pytest.approx([0.5, 2, math.nan], nan_ok=True)
    assert np.isnan(found["diversity@2"][1:]).all()  # type: ignore[index]
    # p = (1/4, 1/4, 1/2) over x, y, z; q = (1/2, 1/2, 0)
    mixed = [0.99 * 0.5 + 0.01 * 0.25, 0.99 * 0.5 + 0.01 * 0.25, 0.01 * 0.5]
    divergence = sum(p * math.log(p / q) for p, q in zip([0.25, 0.25, 0.5], mixed, strict=True))
    assert found["calibration@2"] == pytest.approx([divergence, math.nan, math.nan], nan_ok=True)


def test_gini_of_known_shares() -> None:
    assert gini(np.array([5.0, 5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0.0, 0, 0, 8])) == pytest.approx(0.75)
    assert gini(np.array([1.0, 3])) == pytest.approx(0.25)
    assert gini(np.zeros(3)) == 0
    assert exposure(np.array([[0, 2], [2, -1], [9, 2]]), 3).tolist() == [1, 0, 3]


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 100)))
def test_gini_is_half_the_relative_mean_difference(amount: np.ndarray) -> None:
    if amount.sum() < 1e-3:
        return
    pairs = np.abs(amount[:, None] - amount[None, :]).sum() / (2 * len(amount) * amount.sum())
    assert gini(amount) == pytest.approx(pairs, abs=1e-9)
    assert gini(amount[::-1] * 7) == pytest.approx(gini(amount), abs=1e-9)


def test_diversity_against_a_loop_and_without_kept_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    dense = rng.random((12, 6)) * (rng.random((12, 6)) < 0.4)
    norm = np.linalg.norm(dense, axis=1, keepdims=True)
    text = np.divide(dense, norm, out=np.zeros_like(dense), where=norm > 0)
    lists = np.argsort(-rng.random((30, 12)), axis=1)[:, :5]
    lists[np.arange(5)[None, :] >= rng.integers(0, 6, 30)[:, None]] = -1
    expected = []
    for row in lists:
        pairs = list(itertools.combinations(row[row >= 0], 2))
        expected.append(np.mean([1 - text[i] @ text[j] for i, j in pairs]) if pairs else math.nan)
    for kept in (12, 0):
        monkeypatch.setattr(beyond, "DENSE_ITEMS", kept)
        facts = ItemFacts(np.ones(12), np.ones(12), 1, sp.csr_matrix(text), sp.csr_matrix((12, 0)))
        assert (facts.cosine_NN is None) == (kept == 0)
        assert intra_list_distance(lists, facts) == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_calibration_is_zero_for_the_own_shares_and_worst_for_none_of_them() -> None:
    genre = categories([["x"], ["x"], ["y"], ["y"], ["z"]])
    past = sp.csr_matrix([[1.0, 0, 1, 0, 0]] * 3)
    found = miscalibration(np.array([[1, 3], [4, -1], [0, 1]]), past, genre)
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found[1] == pytest.approx(math.log(100))
    assert found[0] < found[2] < found[1]


def test_serendipity_against_the_popular_lists() -> None:
    count = np.array([9.0, 8, 7, 7, 1, 0])
    lists = np.array([[0, 4], [4, 0], [3, 1], [2, 5]])
    # first two places by popularity: 0 and 1
    assert serendipity(lists, np.array([0, 4, 3, 5]), count, None).tolist() == [0, 1, 1, 1]
    # for a user who has seen 0 and 1 they are 2 and 3, tied
    seen = [np.array([0, 1])] * 4
    assert serendipity(lists, np.array([4, 4, 3, 5]), count, seen).tolist() == [1, 1, 0, 1]
    assert serendipity(lists, np.array([1, 1, 1, 1]), count, None).tolist() == [0, 0, 0, 0]


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_a_list_by_popularity_has_no_serendipity_however_its_ties_fall(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 4, 8).astype(float)
    seen = [rng.choice(8, rng.integers(0, 4), replace=False) for _ in range(6)]
    lists = np.full((6, k), -1)
    for row, items in enumerate(seen):
        order = [i for i in sorted(range(8), key=lambda i: (-count[i], rng.random())) if i not in items]
        lists[row, : len(order[:k])] = order[:k]
    targets = np.array([rng.choice(np.setdiff1d(np.arange(8), items)) for items in seen])
    assert not serendipity(lists, targets, count, seen).any()


def test_personalisation() -> None:
    same, other = [[0, 1]] * 4, [[0, 1], [2, 3]] * 2
    assert personalisation(np.array(same), list("uvwx")) == 0
    assert personalisation(np.array(other), ["u", "v", "u", "v"]) == 1
    assert personalisation(np.array([[0, 1], [1, 2]]), ["u", "v"]) == pytest.approx(2 / 3)
    assert personalisation(np.array([[0, -1], [0, 1]]), ["u", "v"]) == pytest.approx(1 / 2)
    assert personalisation(np.array([[-1, -1], [-1, -1]]), ["u", "v"]) == 0
    assert personalisation(np.array(same), ["u"] * 4) is None
    lists = np.argsort(np.random.default_rng(0).random((60, 20)), axis=1)[:, :5]
    distances = [1 - len({*a} & {*b}) / len({*a} | {*b}) for a, b in itertools.combinations(lists.tolist(), 2)]
    assert personalisation(lists, range(60), pairs=40_000) == pytest.approx(np.mean(distances), abs=0.005)


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_the_numbering_of_items_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 9
    text, genre = rng.random((n, 4)), rng.random((n, 3))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    count, users = rng.integers(0, 9, n).astype(float), rng.integers(0, 5, n).astype(float)
    lists, past = np.argsort(rng.random((6, n)), axis=1)[:, :4], rng.integers(0, 3, (6, n)).astype(float)
    targets, names = rng.integers(0, n, 6), rng.integers(0, 4, 6).tolist()
    new = rng.permutation(n)  # item i is called new[i]
    old = np.argsort(new)
    one, two = (
        beyond_accuracy(
            new_lists,
            ItemFacts(count[order], users[order], 9, sp.csr_matrix(text[order]), sp.csr_matrix(genre[order])),
            sp.csr_matrix(past[:, order]),
            new_targets,
            None,
            names,
        )
        for new_lists, new_targets, order in ((lists, targets, np.arange(n)), (new[lists], new[targets], old))
    )
    assert list(one) == list(two)
    for name, value in one.items():
        assert value == pytest.approx(two[name], nan_ok=True, abs=1e-6)


def test_means_over_lists_and_histories() -> None:
    value = np.array([1.0, 2, 4])
    assert list_mean(value, np.array([[0, 2], [1, -1]])).tolist() == [2.5, 2]
    assert past_mean(value, sp.csr_matrix([[2.0, 0, 1], [0, 0, 0]])) == pytest.approx([2, math.nan], nan_ok=True)
