"""Rows that a model is fitted on, once each and in their order, by TRL's SFT trainer; whole, or packed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset as HFDataset
from trl import SFTConfig

from llmrec.catalogue.index import PrefixIndex
from llmrec.files import sha256_of
from llmrec.training.arguments import common_arguments, per_process, world_size
from llmrec.training.improvement import (
    Checkpointing,
    Fitted,
    Plan,
    run_trainer,
)
from llmrec.training.packed import Packed, pack
from llmrec.training.sft_data import (
    SFTRow,
)
from llmrec.training.trl_seam import PackedSFTTrainer, SFTTrainer


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How `fit_rows` goes over its rows; `save_every` in optimiser steps, `warmup` as a share of them.

    `dropout`: whether the model's own dropout is on, beside that of an adapter. `micro_tokens`: how many go through
    the model at once; 0 takes every step whole.
    """

    name: str
    batch_size: int
    learning_rate: float
    warmup: float
    save_every: int
    dropout: bool = False
    micro_tokens: int = 0
    max_grad_norm: float = 1.0


def fit_rows(
    model: Any,
    tokenizer: Any,
    rows: Sequence[SFTRow],
    plan: FitPlan,
    *,
    seed: int,
    out: Path,
    resume: bool,
    report_to: Sequence[str],
    index: PrefixIndex | None = None,
) -> Fitted:
    """Trains `model` in place on `rows`, once each and in their order.

    With an `index` items are learnt as choices among legal tokens.
    """
    size = per_process(plan.batch_size, world_size(), "sft.batch_size")
    if index is not None:
        steps = ([[row] for row in rows[at : at + plan.batch_size]] for at in range(0, len(rows), plan.batch_size))
        packed = pack(steps, world_size(), index=index, shared=False)
        return fit_packed(model, tokenizer, packed, plan, seed=seed, out=out, resume=resume, report_to=report_to)

    def make(arguments: Callable[[int], SFTConfig]) -> SFTTrainer:
        data, tokens = _dataset(rows), {"processing_class": tokenizer}
        return SFTTrainer(model=model, args=arguments(size), train_dataset=data, **tokens)

    # the rows themselves, and not what they were made from: wording, tokenizer and catalogue all show in them
    return _fit(model, plan, -(-len(rows) // plan.batch_size), _digest(rows), make, seed, out, resume, report_to)


def fit_packed(
    model: Any,
    tokenizer: Any,
    packed: Packed,
    plan: FitPlan,
    *,
    seed: int,
    out: Path,
    resume: bool,
    report_to: Sequence[str],
) -> Fitted:
    """`fit_rows` on packed rows, whose steps were put together when they were packed."""

    def make(arguments: Callable[[int], SFTConfig]) -> SFTTrainer:
        return PackedSFTTrainer(model, packed, args=arguments(1), processing_class=tokenizer)

    return _fit(model, plan, packed.steps, packed.digest, make, seed, out, resume, report_to)


def _fit(
    model: Any,
    plan: FitPlan,
    steps: int,
    digest: str,
    make: Callable[[Callable[[int], SFTConfig]], SFTTrainer],
    seed: int,
    out: Path,
    resume: bool,
    report_to: Sequence[str],
) -> Fitted:
    """Runs the trainer that `make` builds from arguments for so many elements a process and step."""

    def trainer() -> SFTTrainer:
        made = make(lambda size: _arguments(model, plan, steps, size, seed, out, report_to))
        made.noise = "all" if plan.dropout else "adapters"
        made.micro_tokens = plan.micro_tokens
        return made

    decides = (dataclasses.asdict(plan), seed, digest)
    checkpointing = Checkpointing(out, report_to=report_to, resume=resume)
    ran = run_trainer(model, Plan(plan.name, steps, 1, "loss", decides), checkpointing, trainer)
    keys = ("step", "loss", "learning_rate", "grad_norm")
    curve = [{key: entry[key] for key in keys if key in entry} for entry in ran.curve]
    return Fitted(curve, ran.seconds, ran.cpu_seconds)


def _arguments(
    model: Any, plan: FitPlan, steps: int, size: int, seed: int, out: Path, report_to: Sequence[str]
) -> SFTConfig:
    common = common_arguments(
        model,
        out=out,
        seed=seed,
        learning_rate=plan.learning_rate,
        warmup=plan.warmup,
        steps=steps,
        save_every=plan.save_every,
        report_to=report_to,
    )
    return SFTConfig(
        **common,
        max_grad_norm=plan.max_grad_norm,
        per_device_train_batch_size=size,
        # rows are as long as they should be; TRL would cut them, answers first
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _digest(rows: Sequence[SFTRow]) -> str:
    # a row's answer length, negated, tells where the row begins: borders count
    flat = np.fromiter((t for row in rows for t in (-row.answer, *row.input_ids)), dtype=np.int64)
    return sha256_of(flat.tobytes())


def _dataset(rows: Sequence[SFTRow]) -> Any:
    return HFDataset.from_dict(
        {"input_ids": [list(row.input_ids) for row in rows], "labels": [row.labels() for row in rows]}
    )
