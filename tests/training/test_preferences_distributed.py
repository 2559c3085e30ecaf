"""Two gloo processes make the update of one: DPO, S-DPO and the reward model, under DDP and with sharded weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training import test_distributed_training as launcher
from tests.training.distributed_updates import apart

CASES = ("dpo/lora", "dpo/full", "sdpo/lora", "reward/lora", "reward/full")
FIGURES = {"loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "accuracy", "margin", "mean_reward"}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["none", "fsdp2"])
def test_two_processes_make_the_update_of_one(tmp_path, monkeypatch, wrapper):
    monkeypatch.setattr(launcher, "SCRIPT", str(Path(__file__).with_name("preference_updates.py")))
    one = launcher.results(tmp_path / "one", "none", 1, CASES)
    two = launcher.results(tmp_path / "two", wrapper, 2, CASES)
    for case in CASES:
        assert apart(two[case], one[case]) <= launcher.BOUND, case
        assert not all(torch.equal(t, one[case]["before"][name]) for name, t in one[case]["after"].items()), case
        for left, right in zip(one[case]["curve"], two[case]["curve"], strict=True):
            both = FIGURES & left.keys()
            assert len(both) >= 3, case
            assert {k: right[k] for k in both} == pytest.approx({k: left[k] for k in both}, rel=1e-3, abs=1e-4), case
