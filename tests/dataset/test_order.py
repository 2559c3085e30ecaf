"""The place among events of the same second: histories follow it, states still hold only earlier seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmrec.baselines.base import positives
from llmrec.baselines.neural.sequences import Sequences
from llmrec.dataset import Dataset
from llmrec.dataset.check import check
from llmrec.dataset.examples import History, examples
from llmrec.dataset.split import split_at
from llmrec.errors import DataError
from llmrec.types import Interaction
from tests.dataset.tiny import tiny

V, W, X, Y, Z = range(5)
BLANK = (None,) * 5  # value, position, propensity, session, split


def _shuffled(order: bool = True) -> Dataset:
    """User a takes y, v, x in one second and w a second later; the table has the second's rows the other way round."""
    placed = [
        ("a", "x", "click", 5, *BLANK, 9),
        ("a", "v", "click", 5, *BLANK, 4),
        ("a", "y", "click", 5, *BLANK, -1),
    ]
    return tiny([("a", "w", "click", 6), *(placed if order else [event[:4] for event in placed])])


def test_a_history_follows_the_order_within_a_second():
    assert [i.item for i in History(_shuffled(), 9).state("a").history] == [Y, V, X, W]
    assert [i.item for i in History(_shuffled(order=False), 9).state("a").history] == [V, X, Y, W]
    assert [i.item for i in History(_shuffled(), 2).state("a", 6).history] == [V, X]
    assert History(_shuffled(), 9).seen("a").tolist() == [Y, V, X, W]


def test_states_hold_earlier_seconds_only_however_well_the_order_is_known():
    dataset = _shuffled()
    rows = examples(dataset, split_at(dataset.events, 10, 10), "train")
    assert {(row.state.time, row.target): [i.item for i in row.state.history] for row in rows} == {
        (5, V): [],
        (5, X): [],
        (5, Y): [],
        (6, W): [Y, V, X],
    }


def test_an_item_stands_where_its_strongest_feedback_of_the_second_does():
    events = [
        ("a", "v", "click", 5, *BLANK, 1),
        ("a", "w", "click", 5, *BLANK, 2),
        ("a", "v", "conversion", 5, 3.0, *BLANK[1:], 3),
        ("a", "x", "click", 5),  # of unknown order: before the known ones
    ]
    found = History(tiny(events), 9).state("a").history
    assert found == (Interaction(X, "click", 5), Interaction(W, "click", 5), Interaction(V, "conversion", 5, 3.0))


def test_baselines_read_events_in_order_and_shuffle_only_unknown_ones():
    dataset = _shuffled()
    rows = positives(dataset, dataset.events)
    assert rows["item"].to_list() == [Y, V, X, W]
    stream = np.random.default_rng(0)
    for sequences in (Sequences(rows, 5), Sequences(rows, 5).before(10)):
        assert all(sequences.shuffled_ties(stream).item_M.tolist() == [Y, V, X, W] for _ in range(20))
    loose = Sequences(positives(dataset, _shuffled(order=False).events), 5)
    assert len({tuple(loose.shuffled_ties(stream).item_M) for _ in range(100)}) == 6


def test_a_folder_keeps_the_order_and_one_without_any_is_as_before(tmp_path: Path):
    for name, dataset in (("with", _shuffled()), ("without", _shuffled(order=False))):
        dataset.save(tmp_path / name)
        back = Dataset.load(tmp_path / name)
        assert back.events.equals(dataset.events)
        assert ("order" in pl.read_parquet_schema(tmp_path / name / "events.parquet")) == (name == "with")
    assert _shuffled().manifest.content_hash != _shuffled(order=False).manifest.content_hash


def test_a_changed_order_is_noticed(tmp_path: Path):
    _shuffled().save(tmp_path / "d")
    path = tmp_path / "d" / "events.parquet"
    pl.read_parquet(path).drop("order").write_parquet(path)
    with pytest.raises(DataError, match=r"events\.parquet is not what manifest\.json describes"):
        Dataset.load(tmp_path / "d")
    assert "order" not in json.loads((tmp_path / "d" / "manifest.json").read_text())["counts"]


def _rules(dataset: Dataset) -> dict[str, int]:
    return {finding.rule: finding.count for finding in check(dataset, now=10**9)}


def test_equal_time_is_a_remark_only_where_no_order_is_known():
    assert _rules(_shuffled(order=False))["equal-time"] == 3
    assert "equal-time" not in _rules(_shuffled())
    half = tiny([("a", "x", "click", 5, *BLANK, 1), ("a", "v", "click", 5), ("b", "v", "click", 5, *BLANK, 1)])
    assert _rules(half)["equal-time"] == 2
    tied = [("a", "x", "click", 5, *BLANK, 1), ("a", "v", "click", 5, *BLANK, 1), ("a", "y", "click", 5, *BLANK, 2)]
    assert _rules(tiny(tied))["equal-time"] == 2


def test_doubled_rows_are_found_although_their_places_differ():
    doubled = [
        ("a", "x", "click", 5, *BLANK, 1),
        ("a", "v", "click", 5, *BLANK, 2),
        ("a", "x", "click", 5, *BLANK, 3),
    ]
    assert _rules(tiny(doubled))["duplicate-events"] == 1
    assert "duplicate-events" not in _rules(tiny(doubled[:2]))


def test_an_order_is_a_whole_number():
    frame = pl.DataFrame({"user_id": ["a"], "item_id": ["v"], "kind": ["click"], "time": [1], "order": ["first"]})
    with pytest.raises(
        DataError, match=r"row 0 \(counted from 0\): 'order' is 'first', but it must be a whole number"
    ):
        tiny([]).with_events(frame)
