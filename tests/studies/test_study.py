"""The core of studies by hand: pooled rows, differences, shares of headroom, intervals over seeds, and what is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmrec.errors import RequestError
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Cell, Comparison
from llmrec.studies.answer import Answer, Sheet, signed
from llmrec.studies.study import Pooled, SeedRows, Study, over_seeds


def rows_of(seed: int) -> SeedRows:
    """SFT 1 and 2, PPO 1.5 and 2, the optimum 3 and 4 in the means of seeds 0 and 1; two rows of one user each."""
    values = {"SFT": [(0.0, 2.0), (1.0, 3.0)], "PPO": [(1.0, 2.0), (1.0, 3.0)], "best": [(2.0, 4.0), (4.0, 4.0)]}
    rows = {side: {"value": np.array(given[seed])} for side, given in values.items()}
    return SeedRows(seed, f"hash-{seed}", rows, {"value": [f"{seed}/a", f"{seed}/a"]})


def test_pooled_rows_and_shares_of_the_headroom():
    found = Pooled([rows_of(0), rows_of(1)])
    assert found.sides == ["SFT", "PPO", "best"]
    assert found.rows("PPO", "value").tolist() == [1, 2, 1, 3]
    assert found.users("value") == ["0/a", "0/a", "1/a", "1/a"]
    assert found.means("PPO", "value") == [1.5, 2.0]
    assert found.closed("PPO", "SFT", "best", "value") == pytest.approx([0.5 / 2, 0.0])
    assert found.closed("best", "SFT", "best", "value") == pytest.approx([1.0, 1.0])
    # two users, whose mean differences are 0.5 and 0: draws of two of them give 0, 0.25 or 0.5
    difference = found.difference("PPO", "SFT", "value", samples=4000)
    assert difference == Interval(0.25, 0.0, 0.5)
    assert found.relative("PPO", "SFT", "value").relative == pytest.approx(7 / 6 - 1)
    table = found.comparison("t", ["value"], "SFT", plain={"PPO": {"coverage": 0.5}}, samples=4000)
    assert table.cells["PPO"]["value"].difference == difference
    assert table.cells["PPO"]["coverage"] == Cell(0.5)


def test_rows_without_users_are_independent():
    found = Pooled([SeedRows(0, "", {"a": {"x": np.array([1.0])}, "b": {"x": np.array([3.0])}})])
    assert found.users("x") is None
    assert found.difference("b", "a", "x").mean == 2.0


def test_interval_over_seeds_by_hand():
    found = over_seeds([0.1, 0.3])  # sd 0.1414, error 0.1, t(1, 0.975) = 12.706
    assert found["by_seed"] == [0.1, 0.3]
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.2, 0.2 - 1.2706, 0.2 + 1.2706), abs=1e-4)
    assert over_seeds([0.1]) == {"by_seed": [0.1]}


def test_a_study_is_measured_shown_and_written(tmp_path, capsys):
    def answer(found: Pooled) -> Answer:
        sheet = Sheet(
            "Means", ("side", "value"), [(s, f"{np.mean(found.means(s, 'value')):.2f}") for s in found.sides]
        )
        plot = Comparison("Gain", {"PPO": {"value": Cell(0.25, Interval(0.25, 0.0, 0.5))}})
        return Answer("A <study>", {"events": 4}, (sheet,), ["PPO gains."], {"the gain": plot})

    figures = Study((0, 1), rows_of, answer, least=2).run(tmp_path / "out", tmp_path / "figures.json")
    assert figures["seeds"] == [0, 1]
    assert figures["dataset_hashes"] == ["hash-0", "hash-1"]
    assert figures["events"] == 4
    assert set(figures) >= {"command", "machine", "versions"}
    for place in (tmp_path / "figures.json", tmp_path / "out" / "study.json"):
        assert json.loads(place.read_text()) == figures
    page = (tmp_path / "out" / "study.md").read_text()
    for part in ("# A &lt;study&gt;", "hash-0, hash-1", "| PPO | 1.75 |", "- PPO gains.", "study-the-gain.svg"):
        assert part in page
    assert "<svg" in (tmp_path / "out" / "study-the-gain.svg").read_text()
    assert "1.75" in capsys.readouterr().out


def test_too_few_seeds_are_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(RequestError, match="needs at least two of them"):
        Study((0,), lambda _: pytest.fail("measured"), lambda _: pytest.fail("answered"), least=2).run(tmp_path)


def test_signed_intervals():
    assert signed(Interval(0.01, -0.005, 0.025)) == "+0.0100 (-0.0050 to +0.0250)"
    assert signed({"mean": 1.0, "low": 0.5, "high": 1.5}, 1) == "+1.0 (+0.5 to +1.5)"
