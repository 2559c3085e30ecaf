"""Systems on held-out events: figures by hand, sets, repeats by the manifest, groups, leaks and refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.evaluation.groups import GAP
from llmrec.evaluation.offline import Ranking, rank_systems, repeat_split
from llmrec.evaluation.table import Comparison
from llmrec.types import Example, IntArray, Interaction, Slate, State


class Always:
    def __init__(self, *items: int) -> None:
        self.items = items

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        return [Slate(self.items[:k], (0.0,) * len(self.items[:k]))] * len(states)


def make(repeat: str, events: list[tuple[str, str, int]] | None = None) -> Dataset:
    items = pl.DataFrame({"item_id": list("abcd"), "title": list("abcd"), "categories": [["x"], ["x"], ["y"], ["y"]]})
    schema = {"user_id": pl.String, "item_id": pl.String, "time": pl.Int64}
    table = pl.DataFrame(events or [("u", "a", 1)], schema, orient="row").with_columns(pl.lit("click").alias("kind"))
    rule = {"click": "click", "conversion": "click", "repeat": repeat}
    return Dataset.build(items, None, table, name="n", domain="shop", **rule)  # type: ignore[arg-type]


EXAMPLES = Examples([Example(State("u"), 1), Example(State("v"), 2)], [np.array([0]), np.array([], dtype=np.int64)])


def means(table: Comparison | None, system: str) -> dict[str, float]:
    assert table is not None
    return {metric: cell.mean for metric, cell in table.cells[system].items()}


def test_figures_by_hand() -> None:
    systems = {"x": Always(1, 0), "y": Always(2, 1, 3)}
    found = rank_systems(systems, EXAMPLES, make("exclude"), k=(1, 2), reference="x")
    x = means(found, "x")
    assert x["HR@1"] == x["HR@2"] == 0.5
    assert x["coverage@2"] == 0.5
    assert x["illegal"] == 0.25  # item 0 was seen by the first user
    assert found.cells["y"]["NDCG@2"].mean == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert found.cells["y"]["NDCG@2"].difference is not None
    assert found.repeats is None
    assert found.beyond is None
    assert not found.groups
    assert list(found.further()) == ["sets"]


def test_repeats_are_legal_where_the_manifest_allows_them() -> None:
    assert rank_systems({"x": Always(1, 0)}, EXAMPLES, make("allow"), k=(2,)).cells["x"]["illegal"].mean == 0


def test_cut_offs_fit_the_catalogue_or_are_refused() -> None:
    assert "NDCG@1" in rank_systems({"x": Always(1)}, EXAMPLES, make("allow")).metrics
    with pytest.raises(RequestError, match=r"at 9 was asked for, but the catalogue of 'n' has only 4; choose 1 to 4"):
        rank_systems({"x": Always(1)}, EXAMPLES, make("allow"), k=(1, 9))
    for k in ((), (0,)):
        with pytest.raises(RequestError, match="choose 1 to 4"):
            rank_systems({"x": Always(1)}, EXAMPLES, make("allow"), k=k)


def test_no_held_out_event_and_targets_outside() -> None:
    with pytest.raises(DataError, match="held-out"):
        rank_systems({"x": Always(1)}, Examples([], []), make("allow"))
    outside = Examples([EXAMPLES[0], Example(State("w"), 4)], EXAMPLES.seen)
    with pytest.raises(DataError, match=r"row 1 \(user 'w'\) has the target 4"):
        rank_systems({"x": Always(1)}, outside, make("allow"))
    with pytest.raises(RequestError, match="not among"):
        rank_systems({"x": Always(1)}, EXAMPLES, make("allow"), reference="z")


def test_targets_of_one_moment_are_one_set() -> None:
    rows = [Example(State("u", time=3), 0), Example(State("u", time=3), 2), Example(State("v", time=3), 3)]
    found = rank_systems(
        {"x": Always(2, 1)}, Examples(rows, [np.zeros(0, dtype=np.int64)] * 3), make("allow"), k=(2,)
    )
    sets = means(found.sets, "x")
    assert sets["recall@2"] == pytest.approx((0.5 + 0) / 2)
    assert sets["precision@2"] == pytest.approx((0.5 + 0) / 2)
    assert sets["MAP@2"] == pytest.approx((1 / 2 + 0) / 2)
    assert sets["HR@2"] == 0.5
    assert means(found, "x")["HR@2"] == pytest.approx(1 / 3)  # one row a target
    assert found.sets is not None
    assert found.sets.title.startswith("2 unordered sets of up to 2")


def test_rows_of_nobody_are_not_one_user() -> None:
    rows = Examples([Example(State(), n % 2) for n in range(40)], [np.zeros(0, dtype=np.int64)] * 40)
    interval = rank_systems({"x": Always(0)}, rows, make("allow"), k=(1,)).cells["x"]["HR@1"].interval
    assert interval is not None
    assert interval.low < 0.5 < interval.high


def test_repeats_stand_apart() -> None:
    seen = [np.array([1, 3]), np.array([0]), np.zeros(0, dtype=np.int64), np.array([2])]
    rows = Examples([Example(State(f"u{n}"), t) for n, t in enumerate([1, 2, 2, 2])], seen)
    assert repeat_split(rows).tolist() == [True, False, False, True]
    found = means(rank_systems({"x": Always(2)}, rows, make("allow"), k=(1,)).repeats, "x")
    assert found == {
        **{
            f"{m}@1, {part}": v
            for m in ("HR", "NDCG")
            for part, v in (("all", 0.75), ("had before", 0.5), ("new", 1))
        }
    }


LOG = [(user, item, 10 * t + u) for t, item in enumerate("abcbad") for u, user in enumerate("uvwxyz")]


def whole(repeat: str = "allow") -> tuple[Ranking, Dataset]:
    data = make(repeat, LOG)
    split = make_split(data)
    systems = {"popular": Always(0, 1), "other": Always(3, 2)}
    rows = examples(data, split, "test")
    return rank_systems(systems, rows, data, k=(1, 2), reference="popular", train=split.train), data


def test_all_tables_with_training_events() -> None:
    found, _ = whole()
    assert found.beyond is not None
    beyond = means(found.beyond, "popular")
    assert set(beyond) == {
        f"{name}@2"
        for name in (
            *("coverage", "Gini", "popularity", "percentile", "lift", "novelty", "serendipity", "diversity"),
            *("personalisation", "calibration"),
        )
    }
    assert beyond["coverage@2"] == 0.5
    assert beyond["Gini@2"] == pytest.approx(0.5)  # half of the items take all
    assert beyond["personalisation@2"] == 0
    assert found.beyond.cells["other"]["novelty@2"].difference is not None
    assert set(found.groups) == {"item training clicks", "taste"}  # all users have 3 to 9 events and no profile
    assert GAP not in found.groups["item training clicks"].table.metrics  # all groups are small
    names = list(found.further())
    assert names == ["sets", "repeats", "beyond", "by item training clicks", "by taste"]
    plain = json.loads(json.dumps(found.to_json()))
    assert list(plain["further"]) == names
    assert plain["further"]["by item training clicks"]["rows"] == found.groups["item training clicks"].rows
    assert found.select(["HR@1"]).to_json()["systems"]["popular"].keys() == {"HR@1"}


def test_a_planted_leak_stops_the_table() -> None:
    data = make("allow", LOG)
    split = make_split(data)
    rows = examples(data, split, "test")
    with pytest.raises(DataError, match="held-out events are training events"):
        rank_systems({"x": Always(1)}, rows, data, train=data.events)
    late = make_split(data, "leave-last-out")
    test = examples(data, late, "test")
    noted = rank_systems({"x": Always(1)}, test, data, train=late.train, split="leave-last-out")
    assert noted.note == ""  # every user's last event is later than all training events here
    past = (Interaction(1, "click", 99),)
    with pytest.raises(DataError, match="not strictly"):
        rank_systems(
            {"x": Always(1)}, Examples([Example(State("u", history=past, time=50), 2)], [np.array([1])]), data,
            train=split.train,
        )  # fmt: skip


def test_leave_last_out_says_that_weights_saw_later_events() -> None:
    data = make("allow", [("u", "a", 1), ("u", "b", 2), ("v", "a", 5), ("v", "c", 6), ("v", "d", 7)])
    split = make_split(data, "leave-last-out")
    test = examples(data, split, "test")
    found = rank_systems({"x": Always(1)}, test, data, train=split.train, split="leave-last-out")
    assert "1 of 2 rows are judged by weights that saw events of the same time or later" in found.note
    assert found.note in found.legend()
