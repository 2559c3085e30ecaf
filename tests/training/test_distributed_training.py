"""Two gloo processes make the update that one makes with the same global batch: DDP, FSDP2 and DeepSpeed, LoRA and full."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.distributed_updates import apart

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(Path(__file__).with_name("distributed_updates.py"))
BOUND = 3e-5
QUICK = ("sft/full", "sft/lora/timelines", "ppo/lora/rehearsal", "grpo/lora/resample")
SLOW = (
    "sft/lora",
    "sft/full/timelines",
    "sft/full/parts",
    "ppo/lora",
    "ppo/full",
    "ppo/lora/resample",
    "grpo/lora",
    "grpo/full",
    "grpo/full/rehearsal",
    "rloo/lora",
    "rloo/lora/resample",
    "reinforce/full",
    "reinforce/lora/resample",
)
SHARDED = (
    "sft/full",
    "sft/full/parts",
    "sft/full/timelines",
    "ppo/lora/resample",
    "ppo/full/cut",
    "grpo/full",
    "grpo/lora/cut",
)
NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed (pip install llmrec[deepspeed])"
)


def results(folder, wrapper, number, cases):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(number), "--master-port", str(port)]
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, *(launch if number > 1 else ()), SCRIPT, wrapper, str(folder), *cases],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {case: torch.load(folder / f"{case.replace('/', '-')}.pt", weights_only=True) for case in cases}
    assert {result["world"] for result in found.values()} == {number}
    return found


def require_one_update(folder, wrapper, cases):
    one, two = results(folder / "one", "none", 1, cases), results(folder / "two", wrapper, 2, cases)
    for case in cases:
        assert apart(two[case], one[case]) <= BOUND, case
        assert not all(torch.equal(t, one[case]["before"][name]) for name, t in one[case]["after"].items()), case
        curves = [[row.get("reward", row["loss"]) for row in result[case]["curve"]] for result in (one, two)]
        assert curves[1] == pytest.approx(curves[0], rel=1e-5, abs=1e-6), case


def test_two_processes_make_the_update_of_one(tmp_path):
    require_one_update(tmp_path, "none", QUICK)


@pytest.mark.slow
def test_two_processes_make_the_update_of_one_for_every_algorithm(tmp_path):
    require_one_update(tmp_path, "none", SLOW)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrapper", ["fsdp2", pytest.param("zero2", marks=NEEDS_DEEPSPEED), pytest.param("zero3", marks=NEEDS_DEEPSPEED)]
)
def test_two_processes_with_sharded_weights_make_the_update_of_one(tmp_path, wrapper):
    require_one_update(tmp_path, wrapper, SHARDED)
