"""Several runs on one page: what shares a table, which differences it shows, and what stands apart and why."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrec.evaluation.reporting.page import Page
from llmrec.evaluation.reporting.reported_run import RowFigures
from llmrec.evaluation.reporting.side_by_side import config_differences, join, main_tables
from llmrec.evaluation.reporting.write import write_page
from llmrec.evaluation.significance import paired_bootstrap
from tests.evaluation.planted import USERS, planted
from tests.evaluation.sample import HOSTILE
from tests.evaluation.test_report import Page as Parsed


def test_a_single_run_keeps_its_tables_as_they_are():
    run = planted("a")
    assert [found.table for found in join([run])] == list(run.report.tables)
    (main,) = main_tables(join([run]))
    assert main.metrics == ("ranking NDCG@10", "judge value")
    assert main.cells["PPO"]["ranking NDCG@10"] == run.report.tables[0].cells["PPO"]["NDCG@10"]


def test_what_several_tables_say_stands_once_below_the_one_that_shows_them():
    run = planted("a")
    tables = [replace(one, note=f"Of all.\nOf {place}.") for place, one in enumerate(run.report.tables[:2])]
    (main,) = main_tables(join([replace(run, report=replace(run.report, tables=tables, rows=run.report.rows[:2]))]))
    assert main.note == "Of all. Of 0. Of 1."


def test_equal_systems_stand_once_and_others_under_their_run_s_name():
    a, b = planted("a", ppo=1), planted("b", ppo=2)
    union = join([a, b])[0]
    assert union.runs == ("a", "b")
    assert union.table.systems == ("popularity", "SFT", "PPO (a)", "PPO (b)")
    assert union.table.reference == "SFT"
    for run in (a, b):
        assert union.table.cells[f"PPO ({run.name})"] == run.report.tables[0].cells["PPO"]


def test_runs_with_their_own_reference_are_paired_to_that_of_the_first():
    a, b = planted("a", sft=0, ppo=1), planted("b", sft=3, ppo=4)
    table = join([a, b])[0].table
    assert table.reference == "SFT (a)"
    assert table.systems == ("popularity", "SFT (a)", "SFT (b)", "PPO (a)", "PPO (b)")
    values = {n: np.random.default_rng(stream).random(60) for n, stream in (("SFT", 0), ("PPO", 4), ("SFT (b)", 3))}
    found = table.cells["PPO (b)"]["NDCG@10"].difference
    assert found is not None
    assert found.mean == pytest.approx((values["PPO"] - values["SFT"]).mean(), abs=1e-12)
    wanted = paired_bootstrap(values["PPO"], values["SFT"], users=USERS, samples=200, seed=7, name=("NDCG@10",))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert table.cells["SFT (b)"]["NDCG@10"].difference is not None
    assert table.cells["SFT (a)"]["NDCG@10"].difference is None
    assert table.cells["PPO (b)"]["coverage@10"].difference is None
    own = a.report.tables[0].cells["PPO"]["NDCG@10"].difference
    assert table.cells["PPO (a)"]["NDCG@10"].difference == own, "its own differences come out as they were"


def test_without_rows_each_run_keeps_its_own_differences_and_the_note_says_so():
    a, b = planted("a", sft=0), planted("b", sft=3, kept=False)
    table = join([a, b])[0].table
    assert table.reference is None
    assert table.systems == ("popularity (a)", "popularity (b)", "SFT (a)", "SFT (b)", "PPO (a)", "PPO (b)")
    assert table.cells["PPO (b)"] == b.report.tables[0].cells["PPO"]
    assert "the SFT of the same run" in table.legend()
    assert not [found for found in join([a, b]) if found.improved]


def test_improved_policies_are_held_against_one_another():
    a, b = planted("a", ppo=1), planted("b", ppo=2)
    between = next(found.table for found in join([a, b]) if found.improved)
    assert between.systems == ("PPO (a)", "PPO (b)")
    assert between.reference == "PPO (a)"
    one, two = (np.random.default_rng(stream).random(60) for stream in (1, 2))
    found = between.cells["PPO (b)"]["NDCG@10"].difference
    assert found is not None
    assert found.mean == pytest.approx((two - one).mean(), abs=1e-12)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data": "e" * 64}, "their data differ (content hash eeeeeeeeeeee and dddddddddddd)"),
        ({"rows": "s"}, "their test rows differ"),
    ],
)
def test_other_data_or_rows_stand_apart_with_a_reason(other, words):
    found = join([planted("a"), planted("b", ppo=2, **other)])
    assert [f.runs for f in found] == [("a",), ("b",), ("a",), ("b",)]
    assert found[0].why == ""
    assert found[1].why == f"b and a are not compared with one another here: {words}."
    assert found[0].table.title == "Ranking (a)"
    assert [t.title[-4:] for t in main_tables(found)] == [" (a)", " (b)"] or len(main_tables(found)) == 2


def test_another_judge_parts_the_judged_table_alone():
    found = join([planted("a"), planted("b", ppo=2, judge="k")])
    assert [f.runs for f in found if not f.improved] == [("a", "b"), ("a",), ("b",)]
    assert "judge" in found[-1].why
    assert found[0].table.systems == ("popularity", "SFT", "PPO (a)", "PPO (b)")


def test_configuration_in_which_runs_differ():
    a = planted("a", changes={"ppo.steps": (150, 20), "seed": (0, 1)})
    b = planted("b", changes={"seed": (0, 1), "ppo.lora.rank": (16, 8)})
    assert config_differences([a, b]) == {"ppo.steps": [20, 150], "ppo.lora.rank": [16, 8]}


def test_rows_are_kept_exactly(tmp_path: Path):
    measured = planted("a").measured
    assert measured is not None
    measured.save(tmp_path / "rows.parquet")
    again = RowFigures.load(tmp_path / "rows.parquet")
    assert again.users["ranking"].tolist() == [row // 2 for row in range(60)]
    assert np.array_equal(again.values["judge"]["PPO"]["value"], measured.values["judge"]["PPO"]["value"])
    assert "coverage@10" not in again.values["ranking"]["SFT"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_page(folder, Page([planted("a"), planted(HOSTILE, sft=3, ppo=2)], ["llmrec report a b --out r"]))
    return folder


def test_html_and_markdown_hold_the_same_figures(written: Path):
    html, text = (written / f"report.{end}" for end in ("html", "md"))
    body = re.sub(r"<svg.*?</svg>", "", html.read_text(encoding="utf-8"), flags=re.DOTALL)
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    cells = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in rows]
    number = re.compile(r"[+−]?\d+\.\d{2,4}%?")
    in_html = [number.findall(re.sub(r"<[^>]*>", " ", " ".join(row))) for row in cells]
    lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    in_markdown = [number.findall(line.split(" | ", 1)[1]) for line in lines]
    assert [row for row in in_html if row] == [row for row in in_markdown if row]
    assert sum(map(len, in_html)) > 60


def test_names_of_runs_cannot_become_markup(written: Path):
    page = Parsed((written / "report.html").read_text(encoding="utf-8"))
    assert not page.open
    assert not {"script", "img", "iframe", "link", "object"} & set(page.tags)
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "src"))
    assert HOSTILE in page.text
    text = (written / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"^(`{3,})\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\]\(http", outside)


def test_the_same_runs_give_the_same_bytes(written: Path, tmp_path: Path):
    write_page(tmp_path, Page([planted("a"), planted(HOSTILE, sft=3, ppo=2)], ["llmrec report a b --out r"]))
    names = sorted(p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert len(names) == 4
    for name in names:
        assert (written / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_tables_are_accessible(written: Path):
    body = (written / "report.html").read_text(encoding="utf-8")
    assert body.count("<table") == body.count("<caption>")
    assert not re.findall(r"<th(?! scope=)[ >]", body)
    assert len(re.findall(r"<svg[^>]*aria-label=", body)) == body.count("<svg")
    assert body.count("▲</span>") == body.count("significantly above the reference") > 0
