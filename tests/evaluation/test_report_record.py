"""report.json: everything comes back, and what does not fit is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmrec.errors import RunError
from llmrec.evaluation.reporting.contents import RunReport
from llmrec.evaluation.reporting.record import fingerprint, read_record, write_record
from llmrec.evaluation.reporting.reported_run import RowFigures
from llmrec.files import read_json
from tests.evaluation.sample import sample_report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_record(tmp_path / "report.json", sample_report())
    return tmp_path / "report.json"


def test_what_is_written_comes_back(path: Path, tmp_path: Path):
    again, report = read_record(path), sample_report()
    assert list(again.tables) == list(report.tables)
    assert again.gate == report.gate
    assert again.data == report.data
    assert again.verdict == report.verdict
    assert again.changes["data.source"] == report.changes["data.source"]
    assert tuple(again.slates[1].after) == tuple(report.slates[1].after)
    write_record(tmp_path / "again.json", again)
    assert read_json(tmp_path / "again.json") == read_json(path)


def test_a_figure_that_is_not_finite_is_left_out(tmp_path: Path):
    report = RunReport(
        title="t", date="d", command="c", data=sample_report().data, curve=[{"step": 1.0, "loss": float("nan")}]
    )
    write_record(tmp_path / "r.json", report)
    assert read_record(tmp_path / "r.json").curve == ({"step": 1.0},)


def test_the_fingerprint_is_of_all_but_the_slates(path: Path, tmp_path: Path):
    found = json.loads(path.read_text(encoding="utf-8"))
    found["report"]["slates"] = []
    (tmp_path / "b.json").write_text(json.dumps(found), encoding="utf-8")
    assert fingerprint(tmp_path / "b.json") == fingerprint(path)
    found["report"]["date"] = "another"
    (tmp_path / "b.json").write_text(json.dumps(found), encoding="utf-8")
    assert fingerprint(tmp_path / "b.json") != fingerprint(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(title=3), "report.title is '3', but it must be of type str"),
        (lambda r: r.pop("command"), "report has no 'command'"),
        (lambda r: r.update(wonder=1), "report has the unknown key 'wonder'"),
        (lambda r: r["curve"].append({"step": "soon"}), "report.curve[150].step is 'soon'"),
        (lambda r: r["data"].update(counts=[1]), "report.data.counts is '[1]', but it must be of type dict"),
        (
            lambda r: r["tables"][0]["cells"]["SFT"]["value"].pop("mean"),
            "report.tables[0].cells.SFT.value has no 'mean'",
        ),
        (lambda r: r.update(slate_names=["SFT"]), "report.slate_names has 1 entries, not 2"),
        (lambda r: r["seeds"].update(run=True), "report.seeds.run is 'True', but it must be of type int"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(path: Path, change, words: str):
    found = json.loads(path.read_text(encoding="utf-8"))
    change(found["report"])
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(RunError) as error:
        read_record(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("content", ['{"format": 2}', "[]", "{"])
def test_another_format_or_no_json_is_refused(path: Path, content: str):
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"report\.json"):
        read_record(path)


def test_rows_that_cannot_be_read_are_refused(tmp_path: Path):
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(RunError, match=r"rows\.parquet cannot be read as Parquet"):
        RowFigures.load(tmp_path / "rows.parquet")
