"""The table as a process: a smoke run, taken up again, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _table(*arguments):
    command = [sys.executable, "eval/classic_rl.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_both_tables_are_made_and_taken_up_again(tmp_path):
    arguments = ("--quick", "--out", tmp_path / "out", "--json", tmp_path / "figures.json")
    done = _table(*arguments)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    value = {name: row["true"]["mean"] for name, row in figures["one-step"]["systems"].items()}
    assert max(value, key=value.get) == "true optimum"
    assert set(value) >= {"random", "Q-learning", "SARSA", "DQN", "double dueling DQN", "A2C"}
    for name in ("Q-learning", "A2C"):
        transitions, seconds = figures["costs"][name]
        assert 2_000 <= transitions < 2_064
        assert seconds > 0
    assert "sessions SARSA" in figures["sessions"]["truth"]["systems"]
    again = _table(*arguments, "--part", "one-step")
    assert again.returncode == 0, again.stderr
    assert "A2C: done before" in again.stderr
    assert json.loads((tmp_path / "figures.json").read_text())["one-step"] == figures["one-step"]


@pytest.mark.slow
def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path):
    done = _table("--run", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {tmp_path / 'config.yaml'} does not exist; give the folder of a finished run"
    )
    assert "Traceback" not in done.stderr
