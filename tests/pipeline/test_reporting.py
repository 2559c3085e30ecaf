"""Groups of a report by hand, names of runs, and where a report may be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmrec.errors import RequestError, RunError
from llmrec.evaluation.verdict import what_got_worse
from llmrec.pipeline.report import family_tables
from llmrec.pipeline.report_folders import check_place, read_runs, short_names


def test_groups_show_who_lost_and_leave_few_rows_out():
    rng = np.random.default_rng(0)
    before_B = rng.random(140)
    change_B = np.concatenate([np.full(60, 0.2), np.full(60, -0.1), np.full(20, -0.5)])
    masks = {"new": np.arange(140) < 60, "old": (np.arange(140) >= 60) & (np.arange(140) < 120)}
    masks["someone's words"] = np.arange(140) >= 120
    values = {"SFT": before_B, "PPO": before_B + change_B}
    families = {"history": masks, "alone": {"one": np.ones(140, dtype=bool)}}
    (table,) = family_tables("NDCG", "NDCG", values, families, None, {"samples": 100, "seed": 0})
    assert table.title == "NDCG, by history"
    assert table.metrics == ("new", "old")
    gain, loss = (table.cells["PPO"][group].difference for group in ("new", "old"))
    assert gain is not None
    assert loss is not None
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.2, 0.2, 0.2))
    assert (loss.mean, loss.low, loss.high) == pytest.approx((-0.1, -0.1, -0.1))
    (sentence,) = what_got_worse([table], "PPO")
    assert "old" in sentence
    assert "fewer than 30" in table.note


def test_runs_are_named_by_as_little_of_their_paths_as_tells_them_apart():
    assert short_names([Path("/r/ml")]) == ["ml"]
    assert short_names([Path("/r/a/ml"), Path("/r/b/ml")]) == ["a/ml", "b/ml"]
    assert short_names([Path("/r/a"), Path("/s/b")]) == ["a", "b"]


def test_a_report_is_put_nowhere_else(tmp_path: Path):
    run, mine = tmp_path / "runs" / "a", tmp_path / "mine"
    run.mkdir(parents=True)
    mine.mkdir()
    for place in (run, tmp_path / "runs"):
        with pytest.raises(RunError, match="name a folder of the report's own"):
            check_place(place, [run])
    (mine / "report.html").touch()
    check_place(mine, [run])
    (mine / "thesis.txt").touch()
    with pytest.raises(RunError, match=r"'thesis\.txt'"):
        check_place(mine, [run])
    with pytest.raises(RunError, match="is a file"):
        check_place(mine / "thesis.txt", [run])


def test_runs_are_named_once_and_at_least_one(tmp_path: Path):
    with pytest.raises(RequestError, match="at least one"):
        read_runs([])
    with pytest.raises(RequestError, match="named twice"):
        read_runs([tmp_path / "a", tmp_path / "b" / ".." / "a"])
