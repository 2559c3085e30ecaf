"""Trainer arguments that SFT and PPO share, and the defaults of TRL that do not suit a recommender.

Against TRL's defaults: no bf16 autocast (the sampler and the scorer must compute in one precision: the model's own),
no gradient checkpointing below a billion parameters, no weight decay, sequential data (the order is ours, from named
streams), no telemetry, no printed dictionaries.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers.utils import logging as transformers_logging

from llmrec.errors import ConfigError
from llmrec.seeding import stream_seed

LARGE = 1_000_000_000


def processes() -> PartialState:
    """What accelerate knows of the processes of this training; the first call joins them."""
    return PartialState(cpu=not torch.cuda.is_available())  # without cpu=True it joins none where there is no GPU


def world_size() -> int:
    """Number of processes of this training.

    Raises:
        ConfigError: the launcher announced more processes than have joined (each would then train on its own).
    """
    joined: int = processes().num_processes
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    if joined != announced:
        raise ConfigError(
            f"WORLD_SIZE is {announced} but {joined} process(es) joined; start with "
            f"'torchrun --nproc-per-node {announced}' or an accelerate configuration that names the processes."
        )
    return joined


def per_process(total: int, number: int, key: str) -> int:
    """`total` divided by the number of processes; `ConfigError` naming `key` if that leaves a remainder."""
    if total < 1 or total % number:
        raise ConfigError(f"Key {key!r} is {total}; it must be a positive multiple of {number} (processes).")
    return total // number


def common_arguments(
    model: torch.nn.Module,
    *,
    out: Path,
    seed: int,
    learning_rate: float,
    warmup: float,
    steps: int,
    log_every: int,
    save_every: int,
    report_to: Sequence[str],
) -> dict[str, Any]:
    """Keyword arguments for `SFTConfig` and `GRPOConfig`; `steps`, `log_every`, `save_every` in optimiser steps."""
    gpu = torch.cuda.is_available()
    size = sum(p.numel() for p in model.parameters())
    return {
        "output_dir": str(out),
        "max_steps": steps,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": max(0, round(warmup * steps)),
        "weight_decay": 0.0,
        "gradient_accumulation_steps": 1,
        "use_cpu": not gpu,
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": gpu and size > LARGE,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        "ddp_find_unused_parameters": False,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": log_every,
        "save_strategy": "steps",
        "save_steps": save_every,
        "save_total_limit": 2,
        "report_to": list(report_to) or "none",
        "disable_tqdm": True,
        "seed": stream_seed(seed, "trainer") % 2**31,
    }


def divisor_near(limit: int, number: int) -> int:
    """The largest divisor of `number` that is at most `limit`: logging then ends where a checkpoint is made."""
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' own bars, notes and deprecation warnings off the terminal; errors still come through."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
