"""eval/benchmark_real_model.py measures every side of every part on a tiny model and world."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

EVAL = Path(__file__).parents[2] / "eval"


@pytest.mark.slow
def test_every_side_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EVAL))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    sizes = ["--rounds", "2", "--batch", "2", "--prompts", "2", "--draws", "2", "--states", "2", "--k", "5"]
    world = ["--dataset", "world", "--set", "world.users=40", "--set", "world.items=30"]
    out = ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    monkeypatch.setattr(sys, "argv", ["x", "tiny", *world, *sizes, *out])
    runpy.run_path(str(EVAL / "benchmark_real_model.py"), run_name="__main__")
    found = json.loads((tmp_path / "out.json").read_text())["sides"]
    opponents = {"sft": "trl", "ppo": "trl", "decode": "generate"}
    for part, opponent in opponents.items():
        sides = found[part]["sides"]
        assert list(sides) == ["llmrec", opponent, "raw"]
        assert all(len(side["seconds"]) == 2 and min(side["seconds"]) > 0 for side in sides.values())
        assert sides["raw"]["times llmrec"]["least"] <= sides["raw"]["times llmrec"]["most"]
    assert (tmp_path / "out.md").read_text().count("\n") == 11
