"""The configurations for `accelerate launch` that are shipped: read by accelerate's own loader, and true to their word."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

FOLDER = Path(__file__).resolve().parents[1] / "train" / "accelerate"
KINDS = {
    "cpu": DistributedType.NO,
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
}


def test_every_shipped_configuration_is_tried_here():
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == KINDS[name]
    assert config.mixed_precision == "no"  # autocast would score items otherwise than they were drawn
    assert config.use_cpu == (name == "cpu")
    assert config.num_processes == (1 if name == "cpu" else 2)


def test_fsdp2_is_version_2_with_whole_checkpoints(monkeypatch):
    settings = yaml.safe_load((FOLDER / "fsdp2.yaml").read_text())["fsdp_config"]
    for key, value in settings.items():
        monkeypatch.setenv(key.upper(), str(value))
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_zero_has_its_stage_and_saves_whole_weights(monkeypatch, name, stage):
    from accelerate.utils import DeepSpeedPlugin

    settings = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["deepspeed_config"]
    for key, value in settings.items():
        monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{key.upper()}", str(value))
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    assert plugin.zero3_save_16bit_model == (stage == 3)
