"""A leak of each kind is planted and caught; clean splits of random and real logs pass."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.dataset.examples import examples
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.evaluation.leaks import check_leaks
from llmrec.types import Example, Interaction, State

FOLDER = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-industrial"


def make(events: list[tuple[str, str, int]], **options: object) -> Dataset:
    table = pl.DataFrame(events, {"user_id": pl.String, "item_id": pl.String, "time": pl.Int64}, orient="row")
    items = pl.DataFrame({"item_id": list("abcd"), "title": list("abcd")})
    rule: dict[str, object] = {"click": "click", "conversion": "click", "repeat": "allow"}
    table = table.with_columns(pl.lit("click").alias("kind"))
    return Dataset.build(items, None, table, name="n", domain="shop", **(rule | options))  # type: ignore[arg-type]


LOG = [("u", "a", 1), ("v", "b", 2), ("u", "b", 3), ("v", "c", 4), ("u", "c", 5), ("v", "d", 6)]
DATA = make(LOG)
TRAIN = DATA.events.filter(pl.col("time") <= 4)
ROWS = [
    Example(State("u", history=(Interaction(0, "click", 1), Interaction(1, "click", 3)), time=5), 2),
    Example(State("v", history=(Interaction(1, "click", 2), Interaction(2, "click", 4)), time=6), 3),
]


def test_a_clean_split_passes_without_a_note() -> None:
    assert check_leaks(DATA, TRAIN, ROWS, "time") == ""


@pytest.mark.parametrize("split", ["time", "leave-last-out", "given"])
def test_a_test_event_in_training(split: str) -> None:
    leaked = DATA.events.filter(pl.col("time") != 5)
    message = r"1 of 2 held-out events are training events, .*user 'v', item 'd', time 6; take them out"
    with pytest.raises(DataError, match=message):
        check_leaks(DATA, leaked, ROWS, split)


def test_training_on_somebody_elses_future_under_a_global_cut() -> None:
    later = make([*LOG, ("w", "a", 5)]).events.filter((pl.col("time") <= 4) | (pl.col("user_id") == "w"))
    with pytest.raises(DataError, match=r"1 training events .*\(time 5\).*user 'w', item 'a', time 5; train on what"):
        check_leaks(DATA, later, ROWS, "time")
    note = check_leaks(DATA, later, ROWS, "leave-last-out")
    assert note == (
        "Leave-last-out is for comparison with papers: 1 of 2 rows are judged by weights that saw events of the "
        "same time or later."
    )
    assert check_leaks(DATA, later, ROWS, "given").startswith("The given split is not cut at one moment: 1 of 2")


@pytest.mark.parametrize("moment", [5, 9])
def test_training_on_the_users_own_future(moment: int) -> None:
    later = pl.concat([TRAIN, make([("u", "d", moment)]).events])
    with pytest.raises(DataError, match=rf"1 held-out .*user 'u', item 'c', time 5 .*goes on to time {moment}"):
        check_leaks(DATA, later, ROWS, "leave-last-out")
    assert "1 of them of their own user" in check_leaks(DATA, later, ROWS, "given")


@pytest.mark.parametrize(("item", "moment", "what"), [(2, 5, "its own target 'c'"), (3, 7, "the item 'd'")])
def test_a_state_that_knows_what_is_to_come(item: int, moment: int, what: str) -> None:
    past = (Interaction(item, "click", moment),)
    for state in (replace(ROWS[0].state, history=past), replace(ROWS[0].state, session=past)):
        with pytest.raises(DataError, match=rf"row 1 \(user 'u', time 5\) holds {what} of time {moment}"):
            check_leaks(DATA, TRAIN, [ROWS[1], replace(ROWS[0], state=state)], "time")


@pytest.mark.parametrize(("value", "leaks"), [(5.0, False), (1.0, True), (3.0, False)])
def test_a_state_that_tells_a_later_rating_under_an_earlier_time(value: float, leaks: bool) -> None:
    # u rated "a" twice: 5 at time 1, 1 at time 5, which is the target; nobody knows of a 3
    events = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "a"], "time": [1, 5], "value": [5.0, 1.0]})
    items = pl.DataFrame({"item_id": list("ab"), "title": list("ab")})
    rules = {"click": "rating", "conversion": "rating>=4", "repeat": "allow"}
    events = events.with_columns(pl.lit("rating").alias("kind"))
    data = Dataset.build(items, None, events, name="n", domain="shop", **rules)  # type: ignore[arg-type]
    state = State("u", history=(Interaction(0, "rating", 1, value),), time=5)
    train = data.events.filter(pl.col("time") < 5)
    if not leaks:
        assert check_leaks(data, train, [Example(state, 0)], "time") == ""
        return
    with pytest.raises(DataError, match=r"row 0 \(user 'u', time 5\) tells the value 1 of item 'a', .* at time 5"):
        check_leaks(data, train, [Example(state, 0)], "time")


def test_targets_outside_the_catalogue_and_unknown_splits() -> None:
    for target in (-1, 4):
        with pytest.raises(DataError, match=rf"row 0 \(user 'u'\) has the target {target}.*indices 0 to 3"):
            check_leaks(DATA, TRAIN, [replace(ROWS[0], target=target)], "time")
    with pytest.raises(ConfigError, match="choose one of time"):
        check_leaks(DATA, TRAIN, ROWS, "random")


def test_rows_without_user_or_time_are_counted() -> None:
    bare = [ROWS[0], Example(State(None, time=5), 1), Example(State("somebody"), 1)]
    assert check_leaks(DATA, TRAIN, bare, "given") == (
        "2 of 3 rows name no user or time, so their order was not checked."
    )


def test_long_names_are_cut_in_the_message() -> None:
    name = "x" * 500 + "\n\x1b[31m"
    data = make([(name, "a", 1), (name, "b", 2)])
    with pytest.raises(DataError) as caught:
        check_leaks(data, data.events, [Example(State(name, time=2), 1)], "time")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


logs = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 9)),
    min_size=2,
    max_size=25,
    unique=True,
)


@settings(max_examples=40)
@given(logs, st.sampled_from(["time", "leave-last-out"]))
def test_every_split_that_is_made_here_is_clean(events: list[tuple[str, str, int]], kind: str) -> None:
    if kind == "time" and len({e[2] for e in events}) < 2:
        return
    data = make(events)
    split = make_split(data, kind)  # type: ignore[arg-type]
    for part in ("valid", "test"):
        check_leaks(data, split.train, examples(data, split, part), kind)  # type: ignore[arg-type]
    rows = examples(data, split, "test")
    if len(rows):
        with pytest.raises(DataError):
            check_leaks(data, split.until("test"), rows, kind)


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is absent; set LLMREC_DATA to the real data")
def test_the_published_amazon_rows() -> None:
    data = import_dataset("amazon-minionerec", FOLDER)
    split = make_split(data, "given")
    test = examples(data, split, "test")
    begun = time.process_time()
    notes = [
        check_leaks(data, split.train, examples(data, split, "valid"), "given"),
        check_leaks(data, split.train, test, "given"),
        check_leaks(data, split.until("valid"), test, "given"),
    ]
    assert time.process_time() - begun < 2.0
    assert notes[0].startswith("The given split is not cut at one moment: 8 of 4486 rows")
    assert notes[1] == "15 of 4533 rows name no user or time, so their order was not checked."
    assert notes[2].endswith(notes[1])
    with pytest.raises(DataError, match="held-out events are training events"):
        check_leaks(data, split.until("test"), test, "given")
