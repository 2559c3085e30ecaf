"""eval/benchmark_device.py runs whole on a tiny model and world, on whatever device is there."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from llmrec.config import ModelConfig
from llmrec.policy.loading import save_causal_lm
from llmrec.policy.nano import make_nano
from tests.test_model_check import world_tokenizer

SCRIPT = Path(__file__).parents[2] / "eval" / "benchmark_device.py"


@pytest.mark.slow
def test_every_part_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tmp_path / "model", world_tokenizer()
    model.mkdir()
    save_causal_lm(make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), 0), tokenizer, model)
    small = ["world.users=40", "world.items=30", "ppo.draws=2", "ppo.minibatches=1"]
    sizes = ["--rows", "16", "--batches", "4", "--short", "1", "--long", "2", "--at-once", "2", "4", "--prompts", "2"]
    steps = ["--short-rollouts", "1", "--long-rollouts", "2", "--profile", "--json", str(tmp_path / "out.json")]
    sets = [word for key in small for word in ("--set", key)]
    monkeypatch.setattr(sys, "argv", ["x", str(model), "--dataset", "world", *sets, *sizes, *steps])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["rows"][0]["rows"] >= 16
    assert [row["weights"] for row in found["sft"]] == ["full", "lora"]
    assert [row["at once"] for row in found["decode"]] == [2, 4]
    assert len(found["ppo"]) == 1
    assert all(row["profile"]["host"] for part in ("sft", "decode", "ppo") for row in found[part])
