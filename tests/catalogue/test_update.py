"""An updated index equals one built anew, whatever comes and goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue.build import SameTokens, tree_arrays
from llmrec.catalogue.update import with_rows, without_items

END = 9
rows = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(lambda row: (*row, END))
several = st.lists(rows, min_size=1, max_size=16, unique=True)


def table(items):
    width = max(map(len, items))
    return np.array([[*row, *[-1] * (width - len(row))] for row in items], dtype=np.int32), np.array(
        list(map(len, items)), dtype=np.int32
    )


def assert_same(arrays, expected):
    assert sorted(arrays) == sorted(expected)
    for name, value in expected.items():
        assert arrays[name].dtype == value.dtype, name
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)


@settings(max_examples=150, deadline=None)
@given(several, st.data())
def test_added_rows_give_the_tree_built_anew(items, data):
    old = data.draw(st.integers(1, len(items)))
    new = items[old:]
    arrays = tree_arrays(*table(items[:old]))
    if new:
        assert_same(with_rows(arrays, *table(new)), tree_arrays(*table(items)))


@settings(max_examples=150, deadline=None)
@given(several, st.data())
def test_removed_items_give_the_tree_built_anew(items, data):
    gone = data.draw(st.sets(st.integers(0, len(items) - 1), max_size=len(items) - 1))
    left = [row for i, row in enumerate(items) if i not in gone]
    arrays = tree_arrays(*table(items))
    assert_same(
        without_items(arrays, np.array(sorted(gone, reverse=True), dtype=np.int64)), tree_arrays(*table(left))
    )


@settings(max_examples=60, deadline=None)
@given(several, several)
def test_rows_that_are_there_already_are_refused(items, new):
    arrays = tree_arrays(*table(items))
    common = sorted(set(items) & set(new))
    if not common:
        with_rows(arrays, *table(new))
        return
    with pytest.raises(SameTokens) as clash:
        with_rows(arrays, *table(new))
    assert items[clash.value.first] == new[clash.value.second - len(items)]


@pytest.mark.parametrize("new", [[(1, 2)], [(1, 2, 3, 4)], [(1,)], [(5, 6), (5, 6)], [(5,), (5, 6)]])
def test_rows_that_begin_others_are_refused(new):
    with pytest.raises(SameTokens):
        with_rows(tree_arrays(*table([(1, 2, 3), (7, 8)])), *table(new))
