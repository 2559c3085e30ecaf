"""How far lists differ between users, by hand and on planted lists."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmrec.evaluation.variety import Change, Variety
from llmrec.types import Slate


def _of(rows, n_items=100, k=None):
    return Variety.of([Slate(tuple(row), (0.0,) * len(row)) for row in rows], n_items, k or max(map(len, rows)))


def test_three_users_by_hand():
    found = _of([[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 4, 5]])
    assert (found.users, found.distinct, found.commonest) == (3, 2, pytest.approx(2 / 3))
    assert found.coverage == pytest.approx(0.06)
    assert found.overlap == pytest.approx((1 + 0.5 + 0.5) / 3, abs=0.02)  # 10,000 drawn pairs
    assert not found.one_for_all
    assert str(found).startswith("2 different lists for 3 users, coverage@4 6.0%, two users share 6")


def test_the_overlap_is_the_mean_over_pairs_of_users():
    random = np.random.default_rng(3)
    rows = [random.choice(30, size=5, replace=False).tolist() for _ in range(40)]
    pairs = [len(set(a) & set(b)) / 5 for a, b in itertools.combinations(rows, 2)]
    assert _of(rows).overlap == pytest.approx(np.mean(pairs), abs=4 * np.std(pairs) / 100)


def _planted(share, users=200):
    """`share` of the users get one list, the others one of their own."""
    same = round(share * users)
    return [list(range(10))] * same + [[10 + (3 * u + j) % 290 for j in range(10)] for u in range(users - same)]


@pytest.mark.parametrize(("share", "named"), [(1.0, True), (0.95, True), (0.9, True), (0.85, False), (0.2, False)])
def test_one_list_for_nearly_everybody(share, named):
    assert _of(_planted(share), 300).one_for_all is named


def test_lists_that_differ_in_one_place_of_twenty_are_one_list():
    rows = [[*range(19), 20 + user % 80] for user in range(80)]
    found = _of(rows)
    assert found.distinct == 80
    assert found.commonest == pytest.approx(1 / 80)
    assert found.one_for_all


def test_small_catalogues_and_single_users_are_not_blamed():
    random = np.random.default_rng(0)
    assert not _of([random.permutation(11)[:10].tolist() for _ in range(100)], n_items=11).one_for_all
    assert _of([list(range(10))] * 100, n_items=11).one_for_all
    assert not _of([list(range(10))] * 100, n_items=10).one_for_all
    assert not _of([list(range(10))], n_items=300).one_for_all


def test_short_and_empty_lists():
    found = _of([[0, 1], [0], []], k=2)
    assert found.distinct == 3
    assert found.overlap == pytest.approx((0.5 + 0 + 0) / 3, abs=0.02)
    assert _of([[], []], k=3).overlap == 1.0


def _change(before, after, counts):
    lists = [[Slate(tuple(row), (0.0,) * len(row)) for row in rows] for rows in (before, after)]
    return Change.of(*lists, np.array(counts, dtype=float), 3)


def test_a_change_for_three_users_by_hand():
    """Of 20 items the tenth that is chosen most are items 4 and 7."""
    counts = [1] * 20
    counts[4], counts[7] = 9, 5
    found = _change([[4, 7, 1], [4, 1, 2], [7, 4]], [[4, 1, 2], [1, 4, 2], [0, 1]], counts)
    assert found.other_top == 2
    # 4 and 1 stay, then all three, then none; lists that are short have short comparisons
    assert found.stayed == pytest.approx((2 + 3 + 0) / 3)
    assert found.popular == (pytest.approx(5 / 8), pytest.approx(2 / 8))
    said = found.sentence("SFT", "PPO")
    assert "For people, from SFT to PPO: 2 of 3 see another item at the top, " in said
    assert "1.7 of the 3 items" in said
    assert "takes 25% of the places instead of 62%" in said


def test_no_change_is_said_to_be_none():
    same = [[0, 1, 2], [2, 1, 0]]
    assert "nothing changes from SFT to PPO" in _change(same, same, [1, 2, 3]).sentence("SFT", "PPO")
    assert "0 of 2 see another item at the top" in _change(same, [[0, 2, 3], [2, 1, 0]], [1] * 4).sentence("A", "B")
