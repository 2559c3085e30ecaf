"""The main job under launchers: a script of `train/` and `-m llmrec run` are one command, on one process or two."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from llmrec.cli import main
from llmrec.config import SHIPPED
from llmrec.files import read_json
from llmrec.pipeline.work import LastStage
from tests.cli import tiny

ROOT = Path(__file__).resolve().parents[2]
BY_ITSELF = ("minimal_ppo",)


def environment(cache):
    return tiny.environment(cache, PYTHONPATH=str(ROOT))


def launched(*parts, cache):
    """Runs the tiny job on two processes, which say so where they are fewer."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    line = [*launcher, *map(str, parts), "--config", "train/recipes/demo.yaml", *tiny.arguments()]
    done = subprocess.run(line, env=environment(cache), capture_output=True, text=True, timeout=1000, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_each_script_is_the_command_with_its_algorithm_or_stage(monkeypatch):
    called = []
    monkeypatch.setattr(main, "main", lambda *before: called.append(before))
    scripts = sorted(place for place in (ROOT / "train").glob("*.py") if place.stem not in BY_ITSELF)
    for script in scripts:
        runpy.run_path(str(script), run_name="__main__")
    assert sorted(called) == sorted(
        [("run", "--algorithm", name) for name in SHIPPED] + [("run", "--stage", str(stage)) for stage in LastStage]
    )
    assert [script.stem for script in scripts] == [before[2] for before in called]


def test_what_stands_before_is_said_in_the_command_that_is_kept(monkeypatch):
    kept = []
    monkeypatch.setattr(sys, "argv", ["train/ppo.py", "--out", "there"])
    monkeypatch.setattr(main, "app", lambda **_: kept.append(main._command_line()))
    main.main("run", "--algorithm", "ppo")
    assert kept == ["llmrec run --algorithm ppo --out there"]


def test_two_processes_make_the_stage_of_one(finished, cache, tmp_path):
    out, _ = finished
    launched("-m", "llmrec", "run", "--stage", "sft", "--out", tmp_path / "two", cache=cache)
    work = tmp_path / "two.work"
    assert {place.name for place in work.iterdir() if place.is_dir()} == {"data", "sft"}
    assert not (tmp_path / "two").exists()
    one, two = (read_json(place / "sft" / "curve.json") for place in (out.with_name("tiny.work"), work))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", [("train/ppo.py",), ("-m", "llmrec", "run", "--algorithm", "ppo")])
def test_two_processes_give_the_figures_of_one(finished, cache, tmp_path, form):
    out, _ = finished
    launched(*form, "--out", tmp_path / "two", cache=cache)
    one, two = (tiny.metrics(run)["means"]["ranking"] for run in (out, tmp_path / "two"))
    assert one.keys() == two.keys()
    for system, row in one.items():
        assert row == pytest.approx(two[system], abs=1e-6), system
    assert "llmrec run --algorithm ppo" in (tmp_path / "two" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("form", [("train/ppo.py",), ("-m", "llmrec", "run", "--algorithm", "ppo")])
def test_accelerate_launches_both_forms(cache, tmp_path, form):
    """It starts one process on a CPU, whatever it is asked for; what it runs is the command."""
    line = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        *form,
        "--out",
        str(tmp_path),
        "--dataset=table",
    ]
    done = subprocess.run(line, env=environment(cache), capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert "llmrec: Data set 'table' needs a source" in done.stderr
