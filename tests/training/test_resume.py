"""Killed after a checkpoint and resumed: the same weights, curve and controls as without, everything adaptive on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from llmrec.config import GRPOSettings, LoraSettings, PPOSettings, ReinforceSettings, RLOOSettings, StabilitySettings
from llmrec.training.lora import adapter_of
from tests import forked
from tests.training.conftest import make_shop
from tests.training.worlds import lamps, run

ROOT = Path(__file__).resolve().parents[2]
ADAPTIVE = StabilitySettings(kl_target=0.01, entropy_floor=2.6, reward_normalisation="running", resample=2)
COMMON = {"steps": 4, "prompts": 4, "draws": 3, "save_every": 2, "stability": ADAPTIVE, "lora": LoraSettings(rank=4)}
SETTINGS = {
    "ppo": PPOSettings(**COMMON, minibatches=2, entropy_coefficient=0.01),
    "grpo": GRPOSettings(**COMMON, minibatches=2, entropy_coefficient=0.01),
    "rloo": RLOOSettings(**COMMON, minibatches=2),
    "reinforce": ReinforceSettings(**COMMON, baseline="running", entropy_coefficient=0.01),
}


def train(name, out, last=None):
    """The training, and the rollouts that asked for a reward; it dies in rollout `last`, counted from 0."""
    called = []

    def reward(states, items_BG, step):
        if last is not None and step == last:
            os._exit(9)
        called.append(step)
        return lamps(states, items_BG)

    return run(make_shop(), out, SETTINGS[name], reward=reward), called


QUICK = ("ppo", "grpo")  # the others share their loop and are run with the slow tests


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SETTINGS]
)
def test_a_killed_training_resumes_to_the_same_result(tmp_path, name):
    whole, _ = train(name, tmp_path / "whole")
    cut = tmp_path / "cut"
    done = forked.run(
        [sys.executable, "-m", "tests.training.test_resume", name, cut], cwd=ROOT, env=forked.environment()
    )
    assert done.returncode == 9, done.stderr[-2000:]
    again, called = train(name, cut)
    assert set(called) == {2, 3}  # rollouts 0 and 1 were not made anew
    left, right = adapter_of(again.model).tensors, adapter_of(whole.model).tensors
    assert all(torch.equal(left[n], right[n]) for n in left)
    times = {"step_time", "train_runtime"}
    assert [{k: v for k, v in row.items() if k not in times} for row in again.curve] == [
        {k: v for k, v in row.items() if k not in times} for row in whole.curve
    ]
    kept = [_controls(tmp_path / folder) for folder in ("whole", "cut")]
    assert kept[0] == kept[1]
    assert kept[0]["kl_coefficient"] != SETTINGS[name].kl_coefficient
    assert kept[0]["reward"]["count"] == 4 * 4 * 3
    if name != "rloo":
        assert kept[0]["entropy_coefficient"] > 0.01


def _controls(folder):
    newest = max(folder.glob("checkpoint-*"), key=lambda place: int(place.name.rsplit("-", 1)[1]))
    return json.loads((newest / "controls.json").read_text())


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), last=3)
