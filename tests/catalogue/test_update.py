"""An updated index equals one built anew, whatever comes and goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue import Catalogue
from llmrec.catalogue.build import SameTokens, tree_arrays
from llmrec.catalogue.store import arrays_of
from llmrec.catalogue.update import with_rows, without_items
from llmrec.errors import CatalogueError
from tests.policy.tiny import byte_tokenizer

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


@settings(max_examples=100, deadline=None)
@given(several, st.data())
def test_added_rows_give_the_tree_built_anew(items, data):
    old = data.draw(st.integers(1, len(items)))
    new = items[old:]
    arrays = tree_arrays(*table(items[:old]))
    if new:
        assert_same(with_rows(arrays, *table(new)), tree_arrays(*table(items)))


@settings(max_examples=100, deadline=None)
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


TITLES = ["Alien", "Aliens", "The Thing", "Alien", "The Fly", "Her"]


TOKENIZER = byte_tokenizer()


def build(titles=TITLES, tokenizer=TOKENIZER, **options):
    return Catalogue.from_titles([f"i{n}" for n in range(len(titles))], titles, tokenizer, **options)


def assert_whole(catalogue):
    """Index, width and lengths are those of a catalogue made from the same rows at once."""
    arrays = arrays_of(catalogue.index)
    assert_same(arrays, tree_arrays(catalogue.tokens_NL, catalogue.lengths_N))
    assert catalogue.tokens_NL.shape == (len(catalogue), catalogue.lengths_N.max())
    assert (catalogue.lengths_N == (catalogue.tokens_NL >= 0).sum(1)).all()
    assert len(catalogue.titles) == len(catalogue.item_ids) == len(catalogue)


def test_added_titles_stand_behind_and_leave_the_old_ones_alone():
    old, tokenizer = build(), byte_tokenizer()
    new = old.added(
        ["n0", "n1", "n2", "n3"], ["Alien", "Alien (2)", "Solaris, a film by", "Solaris, a film by"], tokenizer
    )
    assert new.item_ids == (*old.item_ids, "n0", "n1", "n2", "n3")
    assert new.titles == (
        *old.titles,
        "Alien (3)",
        "Alien (2) (2)",
        "Solaris, a film by",
        "Solaris, a film by (2)",
    )
    assert [new.token_ids(i) for i in range(len(old))] == [old.token_ids(i) for i in range(len(old))]
    assert [tokenizer.decode(new.token_ids(i)[:-1]) for i in range(6, 10)] == [" " + t for t in new.titles[6:]]
    assert_whole(new)
    new.check_tokenizer(tokenizer)
    assert len(old) == 6
    assert_whole(old)


def test_removed_items_are_gone_and_adding_them_again_gives_the_same_content(tmp_path):
    old = build()
    less = old.removed(["i2", "i5"])
    assert less.item_ids == ("i0", "i1", "i3", "i4")
    assert less.titles == ("Alien", "Aliens", "Alien (2)", "The Fly")
    assert [less.token_ids(i) for i in range(4)] == [old.token_ids(i) for i in (0, 1, 3, 4)]
    assert_whole(less)
    assert_whole(old.removed(["i3"]))  # the longest
    assert less.added(["i5"], ["Her"], byte_tokenizer()).content_hash == old.removed(["i2"]).content_hash
    old.save(tmp_path)
    loaded = Catalogue.load(tmp_path).removed(["i5"]).added(["i5"], ["Her"], byte_tokenizer())
    assert loaded.content_hash == old.content_hash
    loaded.save(tmp_path)
    assert Catalogue.load(tmp_path).titles == old.titles


def test_given_sequences_are_added():
    tokenizer = byte_tokenizer()
    old = Catalogue.from_sequences(["a", "b"], ["x", "y"], [(3, 4), (3,)], tokenizer, scheme="semantic")
    new = old.with_sequences(["c"], ["z"], [(3, 4, 5)], tokenizer)
    whole = Catalogue.from_sequences(["a", "b", "c"], "xyz", [(3, 4), (3,), (3, 4, 5)], tokenizer, scheme="semantic")
    assert new.content_hash == whole.content_hash
    assert new.token_names.digest == whole.token_names.digest
    assert new.max_title_tokens == whole.max_title_tokens == 3
    assert_whole(new)
    with pytest.raises(CatalogueError, match="items 'b' and 'd' are the same"):
        old.with_sequences(["d"], ["z"], [(3,)])
    with pytest.raises(CatalogueError, match="by their tokens"):
        old.added(["d"], ["z"], tokenizer)


def test_bad_changes_are_refused():
    old, tokenizer = build(), byte_tokenizer()
    assert old.added([], [], tokenizer) is old.removed([]) is old
    with pytest.raises(CatalogueError, match="'i1' is in the catalogue already"):
        old.added(["n", "i1"], ["x", "y"], tokenizer)
    with pytest.raises(CatalogueError, match="'n' occurs twice"):
        old.added(["n", "n"], ["x", "y"], tokenizer)
    with pytest.raises(CatalogueError, match="'n' has an empty title"):
        old.added(["n"], [" "], tokenizer)
    with pytest.raises(CatalogueError, match="differently"):
        old.added(["n"], ["x"], byte_tokenizer(merges=(("T", "h"), ("h", "e"), ("Ġ", "Th"))))
    with pytest.raises(CatalogueError, match="use added"):
        old.with_sequences(["n"], ["x"], [(1,)])
    with pytest.raises(CatalogueError, match="'n' cannot be removed"):
        old.removed(["i0", "n"])
    with pytest.raises(CatalogueError, match="'i0' is to be removed twice"):
        old.removed(["i0", "i0"])
    with pytest.raises(CatalogueError, match="at least one"):
        old.removed([f"i{n}" for n in range(6)])


def test_no_room_for_a_number_beside_an_old_title_is_an_error():
    old = build(["abcdef"], max_title_tokens=3)
    with pytest.raises(CatalogueError, match="max_title_tokens = 3"):
        old.added(["n"], ["abcdeg"], byte_tokenizer())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("aAb (2)", min_size=1, max_size=8).filter(str.strip), min_size=2, max_size=12), st.data())
def test_any_mixture_of_changes_keeps_items_distinct_and_the_index_right(titles, data):
    cut = data.draw(st.integers(1, len(titles) - 1))
    catalogue = build(titles[:cut], TOKENIZER, max_title_tokens=7)
    catalogue = catalogue.added([f"n{i}" for i in range(len(titles) - cut)], titles[cut:], TOKENIZER)
    gone = data.draw(st.sets(st.sampled_from(list(catalogue.item_ids)), max_size=len(titles) - 1))
    catalogue = catalogue.removed(sorted(gone))
    assert_whole(catalogue)
    catalogue = catalogue.added(sorted(gone), titles[: len(gone)], TOKENIZER)
    assert_whole(catalogue)
    assert len({tuple(catalogue.token_ids(i)) for i in range(len(catalogue))}) == len(titles)


def test_titles_encoded_in_batches_are_those_encoded_at_once(monkeypatch):
    whole = build([f"film {n % 7}" for n in range(50)])
    monkeypatch.setattr("llmrec.catalogue.encode.BATCH", 8)
    batches = build([f"film {n % 7}" for n in range(50)])
    assert batches.content_hash == whole.content_hash
