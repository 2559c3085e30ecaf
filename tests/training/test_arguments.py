"""Arguments of trainings that go over batches: figures by hand, and batches that cannot be shared."""

from __future__ import annotations

import pytest
import torch

from llmrec.config import BestOfNSettings, OffPolicySettings, PreferenceSettings, RewardModelSettings
from llmrec.errors import ConfigError
from llmrec.training import improvement
from llmrec.training.arguments import common_arguments
from llmrec.training.improvement import Checkpointing, batch_arguments

MODEL = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("kind", [PreferenceSettings, RewardModelSettings, OffPolicySettings, BestOfNSettings])
def test_batches_are_shared_by_the_processes_and_logged_where_checkpoints_are_made(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(improvement, "world_size", lambda: 2)
    settings = kind(learning_rate=0.25, warmup=0.1, max_grad_norm=3.0, save_every=24, batch_size=6)
    made = batch_arguments(MODEL, settings, 50, "dpo.batch_size", seed=4, checkpointing=Checkpointing(tmp_path))
    expected = {
        "output_dir": str(tmp_path),
        "max_steps": 50,
        "learning_rate": 0.25,
        "warmup_steps": 5,
        "max_grad_norm": 3.0,
        "save_steps": 24,
        "logging_steps": 8,  # the largest divisor of 24 up to 10
        "per_device_train_batch_size": 3,
        "report_to": "none",
    }
    assert {name: made[name] for name in expected} == expected
    with pytest.raises(ConfigError, match=r"Key 'dpo\.batch_size' is 7; it must be a positive multiple of 2"):
        odd = kind(batch_size=7)
        batch_arguments(MODEL, odd, 50, "dpo.batch_size", seed=4, checkpointing=Checkpointing(tmp_path))


def test_figures_are_logged_as_often_as_is_asked_for(tmp_path):
    common = {"out": tmp_path, "seed": 0, "learning_rate": 0.1, "warmup": 0.0, "steps": 8, "report_to": ()}
    assert common_arguments(MODEL, save_every=7, **common)["logging_steps"] == 7
    assert common_arguments(MODEL, save_every=11, **common)["logging_steps"] == 1
    assert common_arguments(MODEL, save_every=30, log_every=15, **common)["logging_steps"] == 15
