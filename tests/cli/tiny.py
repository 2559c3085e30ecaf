"""A run small enough for tests: the whole main job in seconds."""

import json
import os
import sys
from pathlib import Path

from tests import forked

SETTINGS = {
    "world.users": 120,
    "world.items": 40,
    "world.slates_per_user": 6,
    "model.nano_hidden": 32,
    "model.nano_layers": 1,
    "model.nano_vocabulary": 600,
    "model.nano_pretrain_sequences": 256,
    "sft.examples": 256,
    "sft.epochs": 1,
    "sft.save_every": 2,
    "simulator.epochs": 2,
    "simulator.members": 1,
    "ppo.steps": 6,
    "ppo.prompts": 8,
    "ppo.draws": 1,
    "ppo.save_every": 2,
    "ppo.lora.rank": 4,
    "gate.held_out": 0.4,
    "gate.users": 30,
    "gate.events": 30,
    "evaluation.users": 40,
    "evaluation.test_events": 60,
    "evaluation.bootstrap": 200,
}


def arguments(**extra):
    return [f"--set={key}={value}" for key, value in {**SETTINGS, **extra}.items()]


def environment(cache: Path, **extra):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return {**kept, "LLMREC_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **extra}


def command(*parts):
    return [sys.executable, "-m", "llmrec.cli.main", *map(str, parts)]


def llmrec(*parts, cache: Path, code: int = 0, cwd: Path | None = None):
    done = forked.run(command(*parts), env=environment(cache), cwd=cwd)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def metrics(run: Path):
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))
