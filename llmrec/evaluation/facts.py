"""What a report says about where a run happened and what was changed for it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("llmrec", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "polars", "numpy")


def config_changes(
    default: Mapping[str, Any], chosen: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Keys whose value differs from the default, as "ppo.steps" -> (default, chosen)."""
    changes: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*default, *chosen]):
        a, b = default.get(key), chosen.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changes |= config_changes(a, b, f"{prefix}{key}.")
        elif a != b:
            changes[prefix + key] = (a, b)
    return changes


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine_facts() -> dict[str, str]:
    """System, processor, cores and memory of this machine; no name, no user, no address."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(cores),
        "memory": _memory(),
        "accelerator": _accelerator(),
    }
    return {name: value for name, value in facts.items() if value}


def _processor() -> str:
    return _line("/proc/cpuinfo", "model name") or platform.processor()


def _memory() -> str:
    kilobytes = _line("/proc/meminfo", "MemTotal").removesuffix(" kB")
    return f"{int(kilobytes) / 2**20:.0f} GiB" if kilobytes.isdigit() else ""


def _line(path: str, key: str) -> str:
    """Value of the first "key : value" line of a file of /proc; "" on other systems."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _accelerator() -> str:
    import torch  # here: reading a report's parts must not load it

    count = torch.cuda.device_count()
    return f"{count} × {torch.cuda.get_device_name(0)}" if count else "none"


def peak_memory() -> dict[str, str]:
    """The most memory that this process has held so far, and that its GPU has; empty where that is not known."""
    import torch

    line = _line("/proc/self/status", "VmHWM").removesuffix(" kB").strip()
    facts = (
        {"peak memory": f"{int(line) / 2**20:.1f} GiB, of the process that ended the run"} if line.isdigit() else {}
    )
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        facts["peak GPU memory"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return facts


class PeakMemory:
    """The most memory that this process held since the object was made (Linux; 0 elsewhere)."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark so far

    @property
    def bytes(self) -> int:
        """In bytes; of the whole process where the mark cannot be forgotten."""
        line = _line("/proc/self/status", "VmHWM").removesuffix(" kB").strip()
        return int(line) * 1024 if line.isdigit() else 0
