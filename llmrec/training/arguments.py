"""Trainer arguments that SFT and PPO share, and the defaults of TRL that do not suit a recommender.

Against TRL's defaults: no bf16 autocast (the sampler and the scorer must compute in one precision: the model's own),
no gradient checkpointing below a billion parameters, no weight decay, sequential data (the order is ours, from named
streams), no telemetry, no printed dictionaries.
"""

from __future__ import annotations

import importlib.util
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
from llmrec.policy.loading import CHECKPOINTING
from llmrec.policy.modes import base_model
from llmrec.seeding import stream_seed

LARGE = 1_000_000_000
LOG_EVERY = 10
"""Optimiser steps between logged figures, at most."""
REPORTERS = ("tensorboard", "trackio", "wandb")


def processes() -> PartialState:
    """What accelerate knows of the processes of this training; the first call joins them."""
    return PartialState(cpu=not torch.cuda.is_available())  # without cpu=True it joins none where there is no GPU


def world_size() -> int:
    """Number of processes of this training.

    Raises:
        ConfigError: the launcher announced more processes than have joined (each would then train on its own).
    """
    # Asked of accelerate and not of the environment: `accelerate launch --cpu` (1.15) announces processes that never
    # join, and each would train a model of its own on all of the data.
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
    save_every: int,
    report_to: Sequence[str],
    log_every: int | None = None,
) -> dict[str, Any]:
    """Keyword arguments for `SFTConfig` and `GRPOConfig`; `steps`, `save_every`, `log_every` in optimiser steps.

    Without `log_every` it is the largest divisor of `save_every` up to LOG_EVERY.

    Raises:
        ConfigError: see `check_launch`.
    """
    check_launch(report_to)
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(out),
        "max_steps": steps,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": max(0, round(warmup * steps)),
        # of an adapter it would be a second, hidden pull towards the reference, of full weights one towards 0
        "weight_decay": 0.0,
        "gradient_accumulation_steps": 1,
        "use_cpu": not gpu,
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": recomputes(model),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        # all parameters that train have a gradient in every step, and looking for others costs a walk of the graph
        "ddp_find_unused_parameters": False,
        # the order of the rows is ours, from named streams
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": log_every or divisor_near(LOG_EVERY, save_every),
        "save_strategy": "steps",
        "save_steps": save_every,
        "save_total_limit": 2,
        "report_to": list(report_to) or "none",
        "disable_tqdm": True,
        # transformers seeds torch, NumPy and random with it, and NumPy takes 32 bits
        "seed": stream_seed(seed, "trainer") % 2**31,
    }


def recomputes(model: torch.nn.Module) -> bool:
    """Whether activations are computed anew in the backward pass: as the model was loaded to, or by its size."""
    chosen = getattr(base_model(model), CHECKPOINTING, "auto")
    if chosen != "auto":
        return bool(chosen)
    return torch.cuda.is_available() and sum(p.numel() for p in model.parameters()) > LARGE


def check_launch(report_to: Sequence[str]) -> None:
    """Refuses what a launcher's or a reporter's settings would spoil; cheap, so called before a model loads too.

    Raises:
        ConfigError: a reporter is unknown or not installed, or the launcher asks for autocast.
    """
    for name in report_to:
        if name not in REPORTERS:
            raise ConfigError(f"Key 'report_to' names {name!r}; choose among {', '.join(REPORTERS)}.")
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"Key 'report_to' names {name!r}, which is not installed; install it (pip install {name}) or leave "
                "it out."
            )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked != "no":
        raise ConfigError(
            f"The accelerate configuration asks for mixed_precision {asked!r}, under which items would be scored "
            'otherwise than they were drawn; set mixed_precision: "no" there and model.dtype: bfloat16 here.'
        )


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
