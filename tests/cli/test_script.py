"""The scripts of studies: each hands its options by name to a function that takes them."""

from __future__ import annotations

import importlib
import inspect
import runpy
import sys
from pathlib import Path

import pytest

from llmrec.cli.script import StudyScript

EVAL = Path(__file__).parents[2] / "eval"
SCRIPTS = [path for path in sorted(EVAL.glob("*.py")) if "StudyScript(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_scripts_options_are_what_its_function_takes(path, monkeypatch):
    called = []
    monkeypatch.setattr(StudyScript, "run", lambda script, function: called.append((script, function)))
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    ((script, function),) = called
    module, _, name = function.partition(":")
    options = {action.dest: None for action in script._actions if action.dest != "help"}
    inspect.signature(getattr(importlib.import_module(module), name)).bind(**options)


def test_the_command_line_is_read_and_the_function_called(tmp_path, monkeypatch):
    (tmp_path / "some_study.py").write_text("def run(**options):\n    options['found'].append(options)\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    script = StudyScript("A study.", out="runs/x", seeds=(0, 1))
    script.add_argument("--found", default=found)
    monkeypatch.setattr(sys, "argv", ["x", "--seeds", "5", "--set", "seed=1", "--json", "f.json"])
    script.run("some_study:run")
    (options,) = found
    assert options.pop("found") is found
    assert options == {"out": Path("runs/x"), "json_file": Path("f.json"), "seeds": [5], "overrides": {"seed": 1}}


def test_options_that_are_not_asked_for_are_not_there():
    names = {action.dest for action in StudyScript("", settings=False)._actions}
    assert names == {"help", "json_file"}


def test_no_script_prints_what_it_found_on_standard_error():
    """Progress alone goes through `console`: a script that does so as well names `results` for what it found."""
    for path in sorted(EVAL.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert "console.print(table" not in text, path.name
        assert "console.print(" not in text or "results" in text or "Screen" in text, path.name
