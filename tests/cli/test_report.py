"""`llmrec report` as a process: one run, two side by side, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest

from llmrec.errors import RunError
from llmrec.evaluation.reporting.reported_run import RowFigures
from llmrec.pipeline.report_folders import read_runs, report_runs
from tests.cli import tiny
from tests.evaluation.test_report import Page


@pytest.fixture(scope="module")
def two(finished, tmp_path_factory):
    """The tiny run, and the same with another command line and improved policies that are a little better."""
    out, _ = finished
    place = tmp_path_factory.mktemp("two")
    for name in ("one", "other"):
        shutil.copytree(out, place / name)
        shutil.copytree(out.with_name(f"{out.name}.work") / "report", place / f"{name}.work" / "report")
    for file in (place / "other" / "report.json", place / "other.work" / "report" / "report.json"):
        found = json.loads(file.read_text(encoding="utf-8"))
        after = found["report"]["slate_names"][1]
        for table in found["report"]["tables"]:
            for cell in table["cells"][after].values():
                cell["mean"] += 0.01
        found["report"]["reproduce"] = ["llmrec demo --out 'a b; rm -rf x'"]
        file.write_text(json.dumps(found), encoding="utf-8")
    return place


def test_one_run_is_told_in_full(finished, cache, tmp_path):
    out, _ = finished
    done = tiny.llmrec("report", out, "--out", "page", cache=cache, cwd=tmp_path)
    assert done.stdout.startswith("Report of 1 run: ")
    assert "page/report.html and report.md." in done.stdout
    page = Page((tmp_path / "page" / "report.html").read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.text).split())
    metrics = tiny.metrics(out)
    for said in (
        metrics["verdict"]["sentence"],
        metrics["promotion"],
        metrics["judge"],
        metrics["dataset"]["content_hash"],
    ):
        assert said in text
    for words in ("User u0", "History, oldest first", "peak memory", "reward: click", "judge: click", "ppo.steps"):
        assert words in text or words in (tmp_path / "page" / "report.html").read_text(encoding="utf-8"), words
    assert shlex.join(["llmrec", "report", str(out), "--out", "page"]) in text
    sft = metrics["tables"]["judge"]["systems"]["SFT"]["value"]["mean"]
    assert f"{sft:.4f}" in text
    folder = RowFigures.load(out.with_name(f"{out.name}.work") / "report" / "rows.parquet")
    assert folder.values["judge"]["SFT"]["value"].mean() == pytest.approx(sft, abs=1e-12)

    report_runs([out], tmp_path / "page", command="c", users=False)
    for name in ("report.html", "report.md"):
        assert not re.search(r"\bu\d{5}\b", (tmp_path / "page" / name).read_text(encoding="utf-8"))


def test_two_runs_stand_side_by_side_and_come_out_the_same_again(two, cache, tmp_path):
    tiny.llmrec("report", two / "one", two / "other", "--out", "r", cache=cache, cwd=tmp_path)
    report_runs(
        [two / "one", two / "other"], tmp_path / "s", command=f"llmrec report {two / 'one'} {two / 'other'} --out r"
    )
    text = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    after = json.loads((two / "one" / "report.json").read_text(encoding="utf-8"))["report"]["slate_names"][1]
    for words in (f"| {after} (one) |", f"| {after} (other) |", "| SFT |", "Improved policies against one another"):
        assert words in text
    assert "SFT (one)" not in text, "equal in both"
    assert "llmrec demo --out 'a b; rm -rf x'" in text
    names = sorted(p.relative_to(tmp_path / "r") for p in (tmp_path / "r").rglob("*") if p.is_file())
    assert len(names) > 10
    for name in names:
        one, two_ = ((tmp_path / out / name).read_bytes() for out in ("r", "s"))
        assert one == two_, name


def test_what_a_folder_does_not_hold_is_said(two, tmp_path):
    shutil.copytree(two / "one", tmp_path / "alone")
    (told,) = read_runs([tmp_path / "alone"])
    assert "alone: slates of users and figures by row; alone.work is not beside the run folder." in told.absent
    assert "alone: learned reward model; only RLHF has one." in told.absent
    assert not told.report.slates
    assert told.measured is None
    shutil.copytree(two / "other.work", tmp_path / "alone.work")
    (told,) = read_runs([tmp_path / "alone"])
    assert "alone: slates of users and figures by row; alone.work is not of this run." in told.absent


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda card, _: card.unlink(), "is not a run folder"),
        (lambda card, _: card.write_text('{"format": 99}'), "is not of format"),
        (lambda _, record: record.unlink(), "has no report.json"),
        (lambda _, record: record.write_text('{"format": 1, "report": {"title": "x"}}'), "report has no"),
        (lambda _, record: record.write_bytes(b"\xff"), "is not a JSON file"),
    ],
    ids=["no run", "newer run", "no report", "short report", "no text"],
)
def test_what_is_no_run_is_refused_and_nothing_is_left(two, tmp_path, change, words):
    shutil.copytree(two / "one", tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors"))
    change(tmp_path / "run" / "llmrec.json", tmp_path / "run" / "report.json")
    with pytest.raises(RunError, match=words):
        report_runs([two / "other", tmp_path / "run"], tmp_path / "page", command="c")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_refusal_is_one_sentence_and_exit_code_2(two, cache, tmp_path):
    (tmp_path / "empty").mkdir()
    done = tiny.llmrec("report", two / "other", "empty", "--out", "page", cache=cache, code=2, cwd=tmp_path)
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("llmrec: empty is not a run folder (llmrec.json is missing)")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
