from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.dataset.split import make_split, split_at
from llmrec.errors import ConfigError, DataError
from tests.dataset.tiny import tiny


def _clicks(times, user="a"):
    return [(user, "vwxyz"[n % 5], "click", time) for n, time in enumerate(times)]


def _times(split):
    return [split.part(p)["time"].to_list() for p in ("train", "valid", "test")]


def test_time_split_by_hand():
    split = make_split(tiny(_clicks(range(10))))
    assert _times(split) == [[0, 1, 2, 3, 4, 5, 6], [7], [8, 9]]
    assert (split.cut_valid, split.cut_test, split.name) == (7, 8, "time")


def test_equal_times_move_together_to_the_nearer_side():
    # rank 8 of 10 falls into the group 5,5,5,5 (rows 5..8); its far border (row 9) is nearer than its near one (row 5)
    split = make_split(tiny(_clicks([0, 1, 2, 3, 4, 5, 5, 5, 5, 9])), valid_fraction=0)
    assert _times(split) == [[0, 1, 2, 3, 4, 5, 5, 5, 5], [], [9]]


def test_training_part_never_empty_under_ties():
    split = make_split(tiny(_clicks([0] * 9 + [7])))
    assert _times(split) == [[0] * 9, [], [7]]
    # rank 1 of 10 is nearest to the border before the first event, which would leave nothing to train on
    split = make_split(tiny(_clicks([0] * 5 + [1, 2, 3, 4, 5])), valid_fraction=0, test_fraction=0.9)
    assert _times(split) == [[0] * 5, [], [1, 2, 3, 4, 5]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=30).filter(lambda t: len(set(t)) > 1), st.data())
def test_time_split_is_ordered_and_complete(times, data):
    split = make_split(tiny(_clicks(times)), valid_fraction=data.draw(st.sampled_from([0.0, 0.1, 0.3])))
    train, valid, test = _times(split)
    assert sorted(train + valid + test) == sorted(times)
    assert train
    assert test
    assert max(train) < min(valid + test)
    assert max(train + valid) < min(test)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (-0.1, 0.2), (0.1, 0.0), (0.1, float("nan"))])
def test_fractions_that_leave_nothing(fractions):
    with pytest.raises(ConfigError, match="valid_fraction"):
        make_split(tiny(_clicks(range(10))), "time", *fractions)


def test_one_single_time_cannot_be_cut():
    with pytest.raises(DataError, match="leave-last-out"):
        make_split(tiny(_clicks([4, 4, 4])))


def test_no_events_and_unknown_kind():
    with pytest.raises(DataError, match="no events"):
        make_split(tiny([]))
    with pytest.raises(ConfigError, match="'random' is unknown"):
        make_split(tiny(_clicks([1, 2])), "random")
    with pytest.raises(ConfigError, match="swap"):
        split_at(tiny(_clicks([1, 2])).events, 5, 3)


def test_leave_last_out_by_hand():
    events = [
        *_clicks([1, 2, 3, 3], "a"),  # two events share the last time: both are test
        ("a", "z", "impression", 9),  # shown after the last choice: stays with the test part
        *_clicks([1, 5], "b"),  # two times: train and test, no valid
        *_clicks([4], "c"),  # one time: train only
        ("c", "v", "impression", 6),
    ]
    split = make_split(tiny(events), "leave-last-out")
    parts = [sorted(split.part(p).select("user_id", "kind", "time").iter_rows()) for p in ("train", "valid", "test")]
    assert parts[0] == [("a", "click", 1), ("b", "click", 1), ("c", "click", 4), ("c", "impression", 6)]
    assert parts[1] == [("a", "click", 2)]
    assert parts[2] == [("a", "click", 3), ("a", "click", 3), ("a", "impression", 9), ("b", "click", 5)]
    assert split.cut_test is None
    assert "split" in split.train.columns
    assert "_test" not in split.train.columns


def _labelled(parts, times):
    return [("a", "v", "click", t, None, None, None, None, p) for t, p in zip(times, parts, strict=True)]


def test_given_split_follows_the_column():
    events = _labelled(["train", "train", None, "valid", "test"], [1, 2, 3, 4, 9])
    split = make_split(tiny(events), "given")
    assert _times(split) == [[1, 2], [4], [9]]
    assert (split.cut_valid, split.cut_test) == (4, 9)
    mixed = make_split(tiny(_labelled(["train", "test", "train"], [1, 2, 3])), "given")
    assert (mixed.cut_valid, mixed.cut_test) == (None, None)


def test_given_split_without_labels():
    with pytest.raises(DataError, match="'split'"):
        make_split(tiny(_clicks([1, 2])), "given")


def test_counts():
    events = [*_clicks(range(6), "a"), ("b", "v", "click", 6), ("a", "v", "click", 7), *_clicks([8, 9], "c")]
    counts = make_split(tiny(events), valid_fraction=0.1).counts
    assert counts == {
        "train_events": 7,
        "train_users": 2,
        "valid_events": 1,
        "valid_users": 1,
        "valid_events_of_new_users": 0,
        "test_events": 2,
        "test_users": 1,
        "test_events_of_new_users": 2,
    }
