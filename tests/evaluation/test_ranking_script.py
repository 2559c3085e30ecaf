"""eval/ranking.py as a person calls it: what it prints and writes, and one clear sentence for what it refuses."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from llmrec.dataset.store import Dataset
from tests import forked

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "eval" / "ranking.py"


def make(folder: Path, *, days: int = 12, repeat: str = "allow") -> Path:
    """Twenty users walk through eight items in order, one a day, each from a start of their own."""
    events = [(f"u{u:02d}", f"i{(u + day) % 8}", day) for u in range(20) for day in range(days)]
    schema = {"user_id": pl.String, "item_id": pl.String, "time": pl.Int64}
    table = pl.DataFrame(events, schema, orient="row").with_columns(pl.lit("click").alias("kind"))
    users = pl.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in range(20)],
            "profile": [f"A {20 + u}-year-old {'man' if u % 2 else 'woman'}." for u in range(20)],
        }
    )
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(8)], "title": [f"item number {i}" for i in range(8)]})
    rule = {"click": "click", "conversion": "click", "repeat": repeat}
    Dataset.build(items, users, table, name="walk", domain="shop", **rule).save(folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ranking") / "data")


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return forked.run(command, cwd=ROOT, env=forked.environment(COLUMNS="160"))


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """The sentence with which the script ends in this process."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_the_tables_of_a_walk_that_covisitation_knows(data: Path, tmp_path: Path) -> None:
    done = process(data, "--k", 1, 4, "--json", tmp_path / "out.json", "--defaults", "--seed", 3)
    assert done.returncode == 0, done.stderr
    for title in ("held-out events of walk", "unordered sets", "Repeats apart", "Beyond accuracy", "NDCG@4 by age"):
        assert title in done.stdout  # what was found can be piped; progress stands on standard error
        assert title not in done.stderr
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found["systems"]["covisitation"]["HR@1"]["mean"] == 1.0  # everybody goes on to the next item
    assert found["systems"]["covisitation"]["HR@1"]["difference"]["low"] > 0
    assert found["dataset_hash"] == Dataset.load(data).manifest.content_hash
    assert found["split"]["name"] == "time"
    assert found["command"].endswith("--defaults --seed 3")
    assert {"sets", "repeats", "beyond", "by gender"} <= set(found["further"])
    assert found["further"]["by gender"]["rows"] == {"man": 20, "woman": 20}


def test_a_pipe_gets_whole_columns(data: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(data), "--k", "1", "4", "--defaults"]
    environment = {k: v for k, v in forked.environment().items() if k != "COLUMNS"}
    done = forked.run(command, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    (header, *_) = [line for line in done.stdout.splitlines() if "system" in line]
    assert "NDCG@4" in header
    assert "…" not in done.stdout


def test_no_script_prints_what_it_found_on_standard_error() -> None:
    """Progress alone goes through `console`: a script that does so as well names `results` for what it found."""
    for path in sorted((ROOT / "eval").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert "console.print(table" not in text, path.name
        assert "console.print(" not in text or "results" in text or "Screen" in text, path.name


def test_a_cut_off_above_the_catalogue_as_a_process(data: Path) -> None:
    done = process(data, "--k", 5, 100, "--defaults")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: A metric at 100 was asked for, but the catalogue of 'walk' has only 8; choose 1 to 8."
    )


def test_an_empty_test_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_seen = make(tmp_path / "data", repeat="exclude")  # in the last days everybody has seen every item
    assert "no held-out event" in refused(capsys, monkeypatch, all_seen, "--defaults")


def test_bad_names(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(capsys, monkeypatch, data, "--systems", "popularty")
    assert message == "error: Baseline 'popularty' is unknown; did you mean 'popularity'?"
    assert "no system of this table" in refused(capsys, monkeypatch, data, "--systems", "random")
    assert "is not a folder" in refused(capsys, monkeypatch, data / "absent")
    assert "names no train and test part" in refused(capsys, monkeypatch, data, "--split", "given")


@pytest.mark.parametrize(
    ("settings", "split", "fits"),
    [
        ({"split": "leave-last-out"}, "time", False),
        ({"test_fraction": 0.05}, "time", False),
        ({"test_fraction": 0.05, "split": "leave-last-out"}, "leave-last-out", True),
        ({}, "time", True),
    ],
)
def test_a_run_that_was_trained_on_another_split(
    settings: dict[str, object],
    split: str,
    fits: bool,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": settings}), encoding="utf-8")
    arguments = (data, "--model", tmp_path, "--split", split, "--defaults", "--systems", "popularity")
    message = refused(capsys, monkeypatch, *arguments)  # the folder holds no model, which is seen afterwards
    assert ("may have learnt what it would be tested on" in message) is not fits
