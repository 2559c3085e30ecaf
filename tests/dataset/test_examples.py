"""What a state holds, pinned by hand: only events strictly earlier, one unordered set where times are equal."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import polars as pl
import pytest

from llmrec.dataset.examples import History, examples
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split, split_at
from llmrec.errors import DataError
from llmrec.types import Interaction
from tests.dataset.tiny import tiny

V, W, X, Y, Z = range(5)


def _whole(dataset):
    return split_at(dataset.events, 10**6, 10**6)


def test_state_is_strictly_earlier_and_oldest_first():
    history = History(tiny([("a", "x", "click", 3), ("a", "v", "click", 1), ("a", "w", "click", 2)]), 20)
    assert [i.item for i in history.state("a", 3).history] == [V, W]
    assert [i.item for i in history.state("a").history] == [V, W, X]
    assert history.state("a", 3).time == 3
    assert history.state("a", 3).profile == "Profile of a."
    assert history.state("a", 1).history == ()


def test_history_keeps_the_last_ones_and_seen_keeps_all():
    history = History(tiny([("a", item, "click", t) for t, item in enumerate("vwxvy")]), 2)
    assert [i.item for i in history.state("a", 4).history] == [X, V]
    assert history.seen("a", 4).tolist() == [V, W, X]
    assert history.seen("a").tolist() == [V, W, X, Y]
    assert history.seen("a", 0).tolist() == []
    assert History(tiny([("a", "v", "click", 1)]), 0).state("a").history == ()


def test_impressions_are_not_history_and_feedback_is_the_strongest():
    events = [
        ("a", "v", "impression", 1),
        ("a", "w", "impression", 2),
        ("a", "w", "click", 2),
        ("a", "w", "conversion", 2, 9.5),
        ("a", "x", "rating", 3, 4.0),
        ("a", "x", "click", 3),
        ("a", "w", "click", 4),
    ]
    history = History(tiny(events), 20).state("a").history
    assert history == (
        Interaction(W, "conversion", 2, 9.5),
        Interaction(X, "rating", 3, 4.0),
        Interaction(W, "click", 4, None),
    )


def test_cold_start():
    history = History(tiny([("a", "v", "click", 1)]), 20)
    for user in ("b", "stranger", None):
        assert history.state(user, 5).history == ()
        assert len(history.seen(user, 5)) == 0
    assert history.state("b").profile == "Profile of b."
    assert history.state("stranger").profile == ""


def test_targets_that_share_a_time_share_a_state_and_do_not_see_each_other():
    dataset = tiny([("a", "v", "click", 1), ("a", "z", "click", 2), ("a", "w", "click", 2)])
    found = examples(dataset, _whole(dataset), "train")
    assert [(e.target, [i.item for i in e.state.history]) for e in found] == [(V, []), (W, [V]), (Z, [V])]
    assert found[1].state is found[2].state


def test_one_target_for_click_and_conversion_of_one_impression():
    events = [
        ("a", "v", "impression", 1),
        ("a", "v", "click", 1),
        ("a", "v", "conversion", 1),
        ("b", "w", "click", 2),
    ]
    dataset = tiny(events)
    clicks = examples(dataset, _whole(dataset), "train")
    assert [(e.target, e.feedback) for e in clicks] == [(V, "conversion"), (W, "click")]
    bought = examples(dataset, _whole(dataset), "train", signal="conversion")
    assert [(e.target, e.feedback) for e in bought] == [(V, "conversion")]


def test_rules_with_a_threshold():
    events = [("a", "v", "rating", 1, 5.0), ("a", "w", "rating", 2, 3.0), ("a", "x", "rating", 3, 1.0)]
    dataset = tiny(events, click="rating>=2", conversion="rating>=4")
    found = examples(dataset, _whole(dataset), "train")
    assert [(e.target, e.feedback) for e in found] == [(V, "conversion"), (W, "click")]
    assert [i.value for i in History(dataset, 9).state("a").history] == [5.0, 3.0, 1.0]


@pytest.mark.parametrize(("repeat", "targets", "dropped"), [("exclude", [W], 1), ("allow", [V, W], 0)])
def test_repeats_in_the_test_part(repeat, targets, dropped):
    events = [("a", "v", "click", 1), ("a", "v", "click", 5), ("a", "w", "click", 6)]
    dataset = tiny(events, repeat=repeat)
    found = examples(dataset, split_at(dataset.events, 5, 5), "test", history_events=0)
    assert [e.target for e in found] == targets
    assert found.dropped_repeats == dropped
    assert found.seen[-1].tolist() == [V]  # although the state itself keeps no history


def test_test_states_hold_earlier_test_events_and_training_states_do_not_reach_beyond():
    dataset = tiny([("a", "v", "click", 1), ("a", "w", "click", 5), ("a", "x", "click", 6)])
    split = split_at(dataset.events, 5, 5)
    assert [i.item for i in examples(dataset, split, "test")[1].state.history] == [V, W]
    # parts that are not cut by time: training states draw on training events alone
    labelled = [("a", "v", "click", 1, None, None, None, None, "test"), ("a", "w", "click", 2, *[None] * 4, "train")]
    mixed = tiny(labelled)
    assert examples(mixed, make_split(mixed, "given"), "train")[0].state.history == ()


def test_limit_is_a_reproducible_uniform_sample():
    dataset = tiny([("a", "vwxyz"[t % 5], "click", t) for t in range(40)], repeat="allow")
    split = _whole(dataset)
    first = examples(dataset, split, "train", limit=10, seed=3)
    assert [e.state.time for e in first] == [
        e.state.time for e in examples(dataset, split, "train", limit=10, seed=3)
    ]
    assert len(first) == len(first.seen) == 10
    counts = np.zeros(40)
    for seed in range(100):
        for example in examples(dataset, split, "train", limit=10, seed=seed):
            counts[example.state.time] += 1
    # 100 draws of 10 out of 40: each is expected 25 times with a standard deviation of 4.3
    assert counts.min() > 8
    assert counts.max() < 45


def test_slices_are_examples():
    dataset = tiny([("a", "v", "click", 1), ("a", "w", "click", 2)])
    found = examples(dataset, _whole(dataset), "train")
    assert [e.target for e in found[1:]] == [W]
    assert found[1:].seen[0].tolist() == [V]


def _rows(time):
    table = {"split": ["valid", "test"], "user_id": ["a", "b"], "history": [["w", "v"], []], "target": ["x", "v"]}
    return pl.DataFrame({**table, "time": pl.Series([time, None], dtype=pl.Int64)})


@pytest.mark.parametrize(("time", "values", "times"), [(9, [None, 5.0], [3, 3]), (None, [None, None], [0, 0])])
def test_rows_given_by_the_data(time, values, times):
    events = [("a", "v", "rating", 3, 5.0, None, None, None, "train"), ("a", "w", "rating", 11, 1.0)]
    dataset = tiny(events, click="rating", conversion="rating>=4", rows=_rows(time))
    split = make_split(dataset, "given")
    valid = examples(dataset, split, "valid")
    assert [(e.target, [i.item for i in e.state.history], e.state.user_id) for e in valid] == [(X, [W, V], "a")]
    assert [i.value for i in valid[0].state.history] == values
    assert [i.time for i in valid[0].state.history] == times
    assert valid.seen[0].tolist() == [W, V]
    test = examples(dataset, split, "test")
    assert [(e.target, e.state.history) for e in test] == [(V, ())]
    assert [e.target for e in examples(dataset, split, "train")] == [V]


REPEATS = [
    # history, target, what the state must hold: (item, time, value)
    (["v"], "v", [(V, 6, 1.0)]),  # the target repeats the only item of the history
    (["v", "w", "v"], "x", [(V, 3, 5.0), (W, 4, 2.0), (V, 6, 1.0)]),  # an item twice: each place has its own event
    (["w", "v"], "v", [(W, 4, 2.0), (V, 6, 1.0)]),
    (["y", "v"], "x", [(Y, 6, None), (V, 6, 1.0)]),  # "y" shares the target's time; it lies before the place after it
]


@pytest.mark.parametrize(("history", "target", "held"), REPEATS)
def test_a_given_history_tells_only_what_is_strictly_earlier(history, target, held):
    made = [("v", 3, 5.0), ("w", 4, 2.0), ("v", 6, 1.0), ("y", 9, 4.0), ("v", 9, 4.0), ("v", 12, 2.0)]
    events = [("a", item, "rating", time, value) for item, time, value in made]
    table = {"split": ["test"], "user_id": ["a"], "history": [history], "target": [target], "time": [9]}
    dataset = tiny(events, click="rating", conversion="rating>=4", repeat="allow", rows=pl.DataFrame(table))
    (example,) = examples(dataset, _whole_given(dataset), "test")
    assert [(i.item, i.time, i.value) for i in example.state.history] == held


def _whole_given(dataset):
    return dataclasses.replace(_whole(dataset), name="given")


def test_unknown_item():
    dataset = tiny([("a", "v", "click", 1)])
    with pytest.raises(DataError, match="'q' stands in the events"):
        History(dataset, 5, events=dataset.events.with_columns(item_id=pl.lit("q")))


def _table(found):
    columns = (found.state_row_M, found.item_M, found.click_M, found.conversion_M)
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]


def test_logged_impressions_slate_by_slate():
    events = [
        ("a", "v", "impression", 1, None, 0, 0.5, "s"),
        ("a", "w", "impression", 1, None, 1, 0.25, "s"),
        ("a", "w", "click", 1, None, None, None, "s"),
        ("a", "x", "conversion", 1),  # bought, never shown: no impression
        ("a", "y", "impression", 7, None, 0, 0.5, "t"),
        ("a", "y", "click", 9, None, None, None, "t"),  # came later, told by its session
        ("a", "y", "conversion", 12, None, None, None, "t"),
        ("b", "z", "impression", 8),
        ("b", "z", "conversion", 8),  # bought without a click: not a conversion of the impression
        ("b", "z", "click", 9),  # no session and another time: it follows the impression within the window
    ]
    dataset = tiny(events)
    found = impressions(dataset, _whole(dataset), "train")
    assert _table(found) == [(0, V, 0, 0), (0, W, 1, 0), (1, Y, 1, 1), (2, Z, 1, 0)]
    at_once = impressions(dataset, _whole(dataset), "train", link_window=0)
    assert _table(at_once) == [(0, V, 0, 0), (0, W, 1, 0), (1, Y, 1, 1), (2, Z, 0, 0)]
    assert found.position_M[:3].tolist() == [0, 1, 0]
    assert found.propensity_M[:2].tolist() == [0.5, 0.25]
    assert math.isnan(found.position_M[3])
    assert math.isnan(found.propensity_M[3])
    assert [s.time for s in found.states] == [1, 7, 8]
    assert found.user_ids == ["a", "a", "b"]
    assert [i.item for i in found.states[1].history] == [W, X]
    assert [s.tolist() for s in found.seen] == [[], [W, X], []]


def test_a_late_click_belongs_to_the_latest_slate_of_the_session():
    shown = [("a", "v", "impression", t, None, 0, None, "s") for t in (1, 5)]
    dataset = tiny([*shown, ("a", "v", "click", 6, None, None, None, "s")])
    assert _table(impressions(dataset, _whole(dataset), "train")) == [(0, V, 0, 0), (1, V, 1, 0)]


def test_a_click_after_the_end_of_the_part_is_not_used():
    shown = [("a", "v", "impression", 1, None, 0, None, "s"), ("a", "v", "click", 6, None, 0, None, "s")]
    dataset = tiny(shown)
    assert _table(impressions(dataset, split_at(dataset.events, 6, 6), "train")) == [(0, V, 0, 0)]


def test_drawn_negatives_are_never_touched_items():
    events = [("a", "v", "rating", 1, 5.0), ("a", "w", "rating", 1, 2.0), ("b", "x", "rating", 2, 4.0)]
    dataset = tiny([*events, ("c", "v", "rating", 9, 4.0)], click="rating", conversion="rating>=4")
    found = impressions(dataset, split_at(dataset.events, 9, 9), "train", negatives=300)
    table = _table(found)
    assert sorted(row for row in table if row[2]) == [(0, V, 1, 1), (0, W, 1, 0), (1, X, 1, 1)]
    drawn = np.array([row[:2] for row in table if not row[2]])
    for state, free in ((0, {X, Y, Z}), (1, {V, W, Y, Z})):
        counts = np.bincount(drawn[drawn[:, 0] == state, 1], minlength=5)
        assert set(np.flatnonzero(counts)) == free
        expected = counts.sum() / len(free)  # 600 over three, 300 over four items: uniform within five deviations
        assert np.abs(counts[list(free)] - expected).max() < 5 * expected**0.5
    assert np.isnan(found.position_M).all()
    again = impressions(dataset, split_at(dataset.events, 9, 9), "train", negatives=300)
    assert _table(again) == table


def test_a_user_who_touched_everything_gets_no_negatives():
    dataset = tiny([("a", item, "click", 1) for item in "vwxyz"])
    found = impressions(dataset, _whole(dataset), "train")
    assert found.click_M.tolist() == [1] * 5


def test_limit_keeps_slates_whole():
    events = [("a", item, "impression", t, None, p) for t in range(9) for p, item in enumerate("vwx")]
    dataset = tiny(events)
    found = impressions(dataset, _whole(dataset), "train", limit=4, seed=1)
    assert len(found.states) == 4
    assert np.bincount(found.state_row_M).tolist() == [3] * 4
    assert found.position_M.tolist() == [0, 1, 2] * 4
