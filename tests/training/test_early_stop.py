"""The judge may end a training: at once, on every process, and for good if the training is taken up again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llmrec.files import read_json
from llmrec.training import callbacks
from llmrec.training.callbacks import was_stopped
from llmrec.training.lora import adapter_of
from tests.training.worlds import lamps, run

ROOT = Path(__file__).resolve().parents[2]


def stop_at(unit, called):
    """Answers "stop" at a checkpoint."""

    def on_checkpoint(step, model):
        called.append(step)
        return "stop" if step >= unit else None

    return on_checkpoint


def test_a_training_ends_at_the_checkpoint_that_the_judge_names(shop, tmp_path):
    called = []
    result = run(shop, tmp_path, on_checkpoint=stop_at(2, called))  # SMALL: 4 rollouts, checkpoints after 2 and 4
    assert called == [2]
    assert [row["step"] for row in result.curve] == [1, 2]
    assert was_stopped(tmp_path)
    assert not result.model.training


def test_taken_up_again_nothing_more_is_trained(shop, tmp_path, monkeypatch):
    drawn = []

    def reward(states, items_BK):
        drawn.append(1)
        return lamps(states, items_BK)

    first = run(shop, tmp_path / "a", on_checkpoint=stop_at(2, []), reward=reward)
    assert len(drawn) == 2
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    called = []
    still = SimpleNamespace(monotonic=lambda: 0.0, process_time=lambda: 0.0)  # loading takes no time
    monkeypatch.setattr(callbacks, "time", still)
    again = run(shop, tmp_path / "b", on_checkpoint=stop_at(2, called), reward=reward)
    assert (called, len(drawn)) == ([], 2)
    left, right = adapter_of(again.model).tensors, adapter_of(first.model).tensors
    assert all(torch.equal(left[name], right[name]) for name in left)
    left, right = again.more["critic"].state_dict(), first.more["critic"].state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert again.curve == first.curve
    marked = read_json(callbacks.last_checkpoint(tmp_path / "a") / callbacks.COMPLETE)
    assert again.seconds == marked["seconds"] <= first.seconds
    assert again.cpu_seconds == marked["cpu_seconds"] <= first.cpu_seconds


def test_an_answer_at_the_last_checkpoint_is_no_early_end(shop, tmp_path):
    result = run(shop, tmp_path, on_checkpoint=stop_at(4, []))
    assert [row["step"] for row in result.curve] == [1, 2, 3, 4]
    assert not was_stopped(tmp_path)
    assert "stopped" not in read_json(tmp_path / "checkpoint-16" / "complete.json")


TOGETHER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tests.training.conftest import make_shop
from tests.training.worlds import run
from llmrec.training.arguments import processes
state = processes()
assert state.num_processes == 2
called = []
result = run(make_shop(), Path(sys.argv[1]), on_checkpoint=lambda step, model: called.append(step) or "stop")
assert [row["step"] for row in result.curve] == [1, 2], result.curve
assert called == ([2] if state.is_main_process else []), called
Path(sys.argv[1], f"done-{state.process_index}").touch()
"""


@pytest.mark.slow
def test_all_processes_end_together(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").glob("done-*")} == {"done-0", "done-1"}
