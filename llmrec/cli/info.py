"""`llmrec info`: what a report of a fault needs to say about where it happened."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

from llmrec.printing import echo, one_line

OPTIONAL = (
    "bitsandbytes",
    "deepspeed",
    "fastapi",
    "gguf",
    "gradio",
    "implicit",
    "onnxruntime",
    "psycopg",
    "sentence_transformers",
    "stable_baselines3",
    "tensorboard",
    "trackio",
    "vllm",
    "wandb",
)
"""Modules that a part of llmrec or a run's log needs."""
SETTINGS = ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE")
"""Environment variables that decide how a run behaves and hold no secret."""


def show_info(*, as_json: bool) -> None:
    """Prints `collect_info` as lines, or as JSON."""
    found = collect_info()
    if as_json:
        echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for part, rows in found.items():
        echo(part)
        for name, value in rows.items():
            echo(f"  {name}: {one_line(value)}")


def collect_info() -> dict[str, dict[str, str]]:
    """Versions, platform, devices, folders and settings under plain names; a home folder is written as ~."""
    from llmrec.evaluation.facts import package_versions

    more = [_with_version(name) for name in OPTIONAL if importlib.util.find_spec(name) is not None]
    return {
        "versions": {**package_versions(), "optional": ", ".join(more) or "none"},
        "platform": {"system": platform.platform(), **_machine()},
        "folders": _folders(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
    }


def _with_version(module: str) -> str:
    try:
        return f"{module} {importlib.metadata.version(module)}"
    except importlib.metadata.PackageNotFoundError:  # a build under another name
        return module


def _machine() -> dict[str, str]:
    try:
        from llmrec.evaluation.facts import machine_facts

        return machine_facts()
    except Exception as error:  # a broken torch is among what is to be reported
        return {"torch": f"cannot be loaded: {type(error).__name__}: {error}"}


def _folders() -> dict[str, str]:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        hub = HF_HUB_CACHE
    except ImportError:
        hub = "unknown"
    nano = os.environ.get("LLMREC_CACHE") or str(Path.home() / ".cache" / "llmrec")
    package = Path(__file__).resolve().parent.parent
    named = {"llmrec": str(package), "python": sys.prefix, "cache": nano, "hub cache": hub}
    return {name: shortened(path) for name, path in named.items()}


def shortened(path: str) -> str:
    """`path` with the home folder as ~, which names no user."""
    home = str(Path.home())
    return "~" + path[len(home) :] if path == home or path.startswith(home.rstrip("/") + "/") else path
