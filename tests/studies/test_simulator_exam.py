"""The table of the examination: rows, paired differences, cells that are asked once, and a tiny world end to end."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import ConfigError
from llmrec.studies import simulator_exam
from llmrec.studies.simulator_exam import Examination, Scored, exam_answer, run_exam, table_rows
from llmrec.types import State

TINY = {
    "world.users": 120,
    "world.items": 40,
    "evaluation.bootstrap": 50,
    "simulator.epochs": 1,
    "simulator.members": 1,
    "data.history_events": 5,
}


def interval(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "level": 0.95}


def cell(row, ndcg, **more):
    found = {
        "ndcg": interval(float(np.mean(ndcg))),
        "ndcg_E": ndcg,
        "auc": interval(0.6),
        "auc_other": interval(0.5),
        "click": None,
        "verdict": "knows people",
        "events": 3,
        "users": 2,
    }
    return {"row": row, "seed": 0, "users_E": ["a", "a", "b"], "found": {row: found | more}}


def test_differences_are_paired_and_the_page_says_what_there_is() -> None:
    click = {"calibration_error": 0.02, "calibration_error_low": 0.01, "calibration_error_high": 0.03}
    cells = [
        cell("covisitation", [0.0, 1.0, 0.5]),
        cell("reward now", [0.5, 1.0, 0.5], click=click, informed_share=interval(0.7)),
        cell("popularity", [0.0, 0.0, 0.0], auc=None, auc_other=None, verdict="undecided"),
    ]
    base, now, popular = table_rows(cells)
    assert base["minus"] is None
    assert now["minus"]["mean"] == pytest.approx(0.5 / 3)
    assert popular["minus"]["mean"] == pytest.approx(-0.5)
    assert "ndcg_E" not in now
    answer = exam_answer({"shop": cells}, "test")
    page = answer.to_markdown({})
    assert "0.0200 (0.0100 to 0.0300)" in page
    assert "0.70 (0.60 to 0.80)" in page
    assert "3 choices of 2 users of the test period" in page
    assert list(answer.plots) == ["examination of shop"]


def test_scores_keep_their_order_as_probabilities() -> None:
    class Counts:
        def score(self, states):
            return np.tile([0.0, 3.0, 5000.0, 5001.0, -2.0], (len(states), 1))

    found = Scored(Counts()).predict_all([State()]).click_BK
    assert found.argsort().tolist() == [[4, 0, 1, 2, 3]]
    assert ((found > 0) & (found < 1)).all()
    picked = Scored(Counts()).predict([State()], np.array([[3, 0]])).click_BK
    assert picked.tolist() == [[found[0, 3], found[0, 0]]]


def test_rows_and_names_that_there_are_not(tmp_path) -> None:
    with pytest.raises(ConfigError, match="unknown; choose of"):
        Examination("nothing", 0, tmp_path)
    world = Examination("world", 0, tmp_path)
    assert world.rows(["popularity", "before", "now", "now, everybody"]) == ["popularity", "now"]
    with pytest.raises(ConfigError, match="'later' is unknown"):
        world.rows(["later"])


@pytest.mark.slow
def test_a_world_is_asked_once(tmp_path, monkeypatch) -> None:
    asked = {"events": 40, "overrides": TINY}
    figures = run_exam(tmp_path, ["world"], ["popularity", "now"], [3], **asked)
    rows = figures["rows"]["world"]
    assert [row["row"] for row in rows] == ["popularity", "reward now", "judge now"]
    assert rows[0]["auc"]["mean"] == pytest.approx(0.5)
    assert rows[0]["informed_share"]["mean"] == pytest.approx(0.0)
    assert rows[1]["click"]["calibration_error"] > 0
    monkeypatch.setattr(simulator_exam, "answers", lambda *_: pytest.fail("it was asked before"))
    again = run_exam(tmp_path, ["world"], ["popularity", "now"], [3], **asked)
    assert again["rows"] == figures["rows"]
