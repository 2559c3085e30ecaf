"""Groups of rows: who is in which, means by hand, gaps with intervals that hold over all pairs; the fast bootstrap."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from llmrec.dataset.examples import Examples
from llmrec.errors import RequestError
from llmrec.evaluation.beyond import ItemFacts
from llmrec.evaluation.groups import FEW, GAP, families, group_table, profile_groups
from llmrec.evaluation.resampling import Resampler
from llmrec.evaluation.significance import bootstrap_interval, paired_bootstrap
from llmrec.evaluation.table import Comparison
from llmrec.text.profiles import profile_facts
from llmrec.types import Example, Interaction, State


@pytest.mark.parametrize(
    ("profile", "facts"),
    [
        ("A 24-year-old man; occupation: technician.", {"gender": "man", "age": "under 25", "occupation": "technician"}),
        ("An 8-year-old person.", {"age": "under 25"}),
        ("A woman, 25-34 years old; occupation: academic/educator.", {"gender": "woman", "age": "25-34", "occupation": "academic/educator"}),
        ("A household of 2 adults no kids; aged 65+; income 35-49K; homeowner; married.", {"age": "50+", "income": "35-49K"}),
        ("A man aged 20-30; lives in a rural place; very interested in fashion.", {"gender": "man", "age": "under 25"}),
        ("A man aged over 60; lives in a rural place.", {"gender": "man", "age": "50+"}),
        ("54, nurse from Boston. Likes gardening and yoga.", {"age": "50+"}),
        ("A 44-year-old woman who has a 3-year-old son.", {"gender": "woman", "age": "35-49"}),
        ("Has a 3-year-old cat; job: chef.", {"job": "chef"}),
        ("gender: F; age: 31", {"gender": "woman", "age": "31"}),
        ("职业：教师；喜欢看书。", {"职业": "教师"}),
        ("", {}),
        ("Likes comedies: a man of 50 told me so, and much more that nobody asked for at all", {"gender": "man"}),
    ],
)  # fmt: skip
def test_profiles_as_importers_write_them(profile: str, facts: dict[str, str]) -> None:
    assert profile_facts(profile) == facts


def test_values_of_a_profile_are_bounded() -> None:
    jobs = [f"A 30-year-old man; occupation: job {n % 9 if n % 9 < 3 else n}." for n in range(90)]
    groups = profile_groups(jobs)
    assert set(groups) == {"occupation"}  # one gender and one age make no groups
    assert len(groups["occupation"]) == 7
    assert sum(int(kept.sum()) for kept in groups["occupation"].values()) == 90
    assert int(groups["occupation"]["job 0"].sum()) == 10
    assert profile_groups([f"name: {n}" for n in range(90)]) == {}
    assert profile_groups(["", "x"]) == {}


def test_hostile_profiles_do_not_stall() -> None:
    for text in ("a:" * 5000, "1" * 50_000, "aged " * 9000, "; ".join(["k: v"] * 4000), "-year-old" * 3000):
        profile_facts(text)


def rows() -> tuple[Examples, ItemFacts]:
    past = [0, 1, 2, 3, 9, 10, 12]
    examples = [
        Example(State(f"u{n}", history=tuple(Interaction(n % 4, "click", t) for t in range(n))), n % 4) for n in past
    ]
    seen = [np.zeros(0, dtype=np.int64)] * 6 + [np.arange(4)]
    seen[1] = np.arange(3)  # the state was cut: three items are known
    count = np.array([0.0, 1, 4, 5])
    return Examples(examples, seen), ItemFacts(count, count, 9, sp.csr_matrix((4, 1)), sp.csr_matrix((4, 0)))


def test_who_is_in_which_group() -> None:
    found = families(*rows())
    history = {name: np.flatnonzero(kept).tolist() for name, kept in found["user history"].items()}
    assert history == {"none": [0], "1-2": [2], "3-9": [1, 3, 4], "10+": [5, 6]}
    items = {name: np.flatnonzero(kept).tolist() for name, kept in found["item training clicks"].items()}
    assert items == {"none": [0, 6], "1-4": [1, 2, 4, 5], "5+": [3]}
    taste = found["taste"]
    assert not np.any([kept[0] for kept in taste.values()])  # without history there is no taste
    assert sum(int(kept.sum()) for kept in taste.values()) == 6
    assert set(found) == {"user history", "item training clicks", "taste"}


def test_means_by_hand_and_small_groups() -> None:
    rng = np.random.default_rng(0)
    value = np.concatenate([rng.random(100) + 1, rng.random(50), rng.random(5) + 9])
    groups = {
        "a": np.arange(155) < 100,
        "b": (np.arange(155) >= 100) & (np.arange(155) < 150),
        "c": np.arange(155) >= 150,
    }
    found = group_table("t", {"x": value, "y": value / 2}, groups, Resampler(155), name="n", reference="x")
    cell = found.table.cells["x"]
    assert cell["a"].mean == pytest.approx(value[:100].mean())
    assert cell["c"].mean == pytest.approx(value[150:].mean())
    assert found.rows == {"a": 100, "b": 50, "c": 5}
    assert found.table.cells["y"]["b"].difference is not None
    assert found.table.cells["y"]["b"].difference.mean == pytest.approx(-value[100:150].mean() / 2)
    # c is far ahead, but five rows are too few to speak of a gap
    assert found.between == {"x": ("b", "a"), "y": ("b", "a")}
    assert cell[GAP].mean == pytest.approx(value[:100].mean() - value[100:150].mean())
    assert cell[GAP].interval is not None
    assert cell[GAP].interval.above_zero
    assert "few" in found.table.labels["c"]
    assert found.table.note == f"Fewer than {FEW} rows: c."
    same = group_table("t", {"x": value % 0.5}, {g: groups[g] for g in "ab"}, Resampler(155), name="n")
    assert same.table.note == "The interval of the largest gap holds 0 for: x."
    alone = group_table("t", {"x": value}, {"a": groups["a"], "c": groups["c"]}, Resampler(155), name="n")
    assert GAP not in alone.table.cells["x"]


def test_a_gap_of_nothing_is_found_rarely_though_the_groups_are_picked() -> None:
    """Six equal groups: the interval of the picked pair may exclude 0 in some 5% of the worlds, not in 40%."""
    wrong = 0
    for world in range(60):
        rng = np.random.default_rng(world)
        value, group = rng.random(360), np.arange(360) % 6
        groups = {str(g): group == g for g in range(6)}
        found = group_table("t", {"x": value}, groups, Resampler(360, samples=400, seed=world), name="n")
        interval = found.table.cells["x"][GAP].interval
        assert interval is not None
        wrong += interval.above_zero
    assert wrong <= 8  # of 60 at 5%: more has a chance below 1%


def test_the_intervals_are_those_of_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    users = rng.integers(0, 40, 300).tolist()
    values = {"x": rng.random(300), "y": rng.random(300), "z": rng.random(300)}
    cells = Resampler(300, users, samples=500, seed=3).cells(values, "HR@10", "y")
    plain = Comparison.of(
        "t", {s: {"HR@10": v} for s, v in values.items()}, reference="y", users=users, samples=500, seed=3
    )
    for system, cell in cells.items():
        expected = plain.cells[system]["HR@10"]
        assert cell.mean == pytest.approx(expected.mean)
        assert cell.interval is not None
        assert expected.interval is not None
        assert (cell.interval.low, cell.interval.high) == pytest.approx(
            (expected.interval.low, expected.interval.high)
        )
        assert (cell.difference is None) == (system == "y")
        if cell.difference is not None:
            own = paired_bootstrap(values[system], values["y"], users=users, samples=500, seed=3, name=("HR@10",))
            assert (cell.difference.mean, cell.difference.low, cell.difference.high) == pytest.approx(
                (own.mean, own.low, own.high)
            )


def test_pieces_of_a_bootstrap_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    value = np.random.default_rng(2).random(50)
    whole = Resampler(50, samples=100).cells({"x": value}, "m", None)["x"]
    monkeypatch.setattr("llmrec.evaluation.resampling.CELLS", 700)
    assert Resampler(50, samples=100).cells({"x": value}, "m", None)["x"] == whole
    assert whole.interval is not None
    expected = bootstrap_interval(value, samples=100, name=("m",))
    assert (whole.interval.low, whole.interval.high) == pytest.approx((expected.low, expected.high))


def test_rows_without_a_value_are_left_out_for_all_systems() -> None:
    values = {"x": np.array([1.0, np.nan, 3, 4]), "y": np.array([1.0, 2, np.nan, 6])}
    cells = Resampler(4).cells(values, "m", "x")
    assert cells["x"].mean == 2.5
    assert cells["y"].mean == 3.5
    assert cells["y"].difference is not None
    assert cells["y"].difference.mean == 1.0
    assert Resampler(2).cells({"x": np.full(2, np.nan)}, "m", None) == {}
    with pytest.raises(RequestError, match="not one for 3 rows"):
        Resampler(3).cells({"x": np.ones(2)}, "m", None)
    with pytest.raises(RequestError, match="3 users, but 1"):
        Resampler(3, ["u"])
    with pytest.raises(RequestError, match="not a finite number"):
        Resampler(2).cells({"x": np.array([np.inf, 1])}, "m", None)


def test_facts_of_profiles_reach_the_groups() -> None:
    examples, facts = rows()
    named = [
        Example(
            State(e.state.user_id, f"A {20 + 10 * n}-year-old {'man' if n % 2 else 'woman'}.", e.state.history),
            e.target,
        )
        for n, e in enumerate(examples)
    ]
    found = families(Examples(named, examples.seen), facts)
    assert {name: int(kept.sum()) for name, kept in found["gender"].items()} == {"man": 3, "woman": 4}
    assert list(found["age"]) == ["25-34", "35-49", "50+", "under 25"]
    assert pl.Series(list(found)).to_list()[-2:] == ["gender", "age"]
