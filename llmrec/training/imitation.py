"""The second half of the warm start: the policy learns from logged states and a teacher together.

Against fine-tuning on rows of text: the loss is on the constrained policy that is deployed, the target is a
distribution over the catalogue and not one item, and states are augmented anew in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset as HFDataset
from transformers import TrainingArguments

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import SFTSettings, StabilitySettings
from llmrec.errors import DataError
from llmrec.files import sha256_of
from llmrec.seeding import numpy_stream
from llmrec.training.arguments import common_arguments, per_process, world_size
from llmrec.training.controls import Controls
from llmrec.training.improvement import Checkpointing, Fitted, Plan, as_json, run_trainer
from llmrec.training.sft_data import MEGABATCH
from llmrec.training.state_source import StateSource
from llmrec.training.teacher import LONGEST, Teacher, cut
from llmrec.training.trl_seam.sft import ImitationTrainer
from llmrec.types import EventKind, Example, FloatArray, IntArray

FLOOR = 0.02
"""Share of the learning rate that is left at the end of the cosine."""


class StateLessons:
    """Logged examples, and invented histories behind them.

    Args:
        examples: states with the item chosen.
        teacher: what else there is to learn.
        settings: the section `sft`.
        kind: feedback of an invented interaction.
        seed: run seed.
    """

    def __init__(
        self, examples: Sequence[Example], teacher: Teacher, settings: SFTSettings, kind: EventKind, seed: int
    ) -> None:
        self.examples, self.teacher, self.settings, self.kind, self.seed = examples, teacher, settings, kind, seed

    def __len__(self) -> int:
        return len(self.examples) + round(self.settings.teacher.invented * len(self.examples))

    @property
    def length_X(self) -> IntArray:
        """Interactions of each lesson's history before it is augmented."""
        logged = [len(example.state.history) for example in self.examples]
        return np.array(logged + [LONGEST] * (len(self) - len(logged)), dtype=np.int64)

    def example(self, row: dict[str, Any]) -> Example:
        """A logged example as it is augmented in this epoch, or an invented one."""
        number, epoch = int(row["state"]), int(row["rollout"])
        rng = numpy_stream(self.seed, "imitation", "state", epoch, number)
        if number >= len(self.examples):
            return self.teacher.invented(rng, self.kind)
        share, dropout = self.settings.teacher.history_cut, self.settings.history_dropout
        return cut(self.examples[number], share, dropout, rng)

    def targets(self, examples: Sequence[Example]) -> FloatArray:
        """q of every item: (B, N)."""
        return self.teacher.targets(examples)

    def uniforms(self, rows: Sequence[dict[str, Any]], draws: int) -> FloatArray:
        """Numbers in [0, 1): (B, G)."""
        # by epoch and lesson, so that a lesson's paths do not depend on its batch
        streams = (numpy_stream(self.seed, "imitation", "paths", r["rollout"], r["state"]) for r in rows)
        return np.stack([stream.random(draws) for stream in streams])


def train_imitation(
    model: Any,
    tokenizer: Any,
    catalogue: Catalogue,
    renderer: Any,
    lessons: StateLessons,
    settings: SFTSettings,
    *,
    seed: int,
    out: Path,
    resume: bool = True,
    report_to: Sequence[str] = (),
) -> Fitted:
    """Trains `model` in place; the curve has step, loss in nats an item, learning_rate and grad_norm.

    Args:
        model: a PEFT model with one fresh adapter, or a plain one of which all weights are trained.
        lessons: what is taught.
        settings: the section `sft`; the learning rate rises over its `warmup` and falls by a cosine.
        out: folder of the checkpoints; a training that was killed goes on from the last.

    Raises:
        ConfigError: a batch that the processes cannot share.
        DataError: nothing to learn from.
    """
    teacher = settings.teacher
    if not len(lessons):
        raise DataError("There is no training example: the training part of the split has no event of the target.")
    rows = plan_rows(lessons.length_X, teacher.epochs, teacher.batch_size, seed)
    steps = len(rows) // teacher.batch_size
    # for its renderer alone: the states are those of the lessons, made when they are asked for
    source = StateSource([], None, renderer, catalogue, tokenizer, seed)
    digest = sha256_of(repr(list(lessons.examples)), lessons.teacher.popular_N.tobytes().hex())
    plan = Plan("Imitation", steps, 1, "loss", ("imitation", as_json(settings), seed, digest))

    def make() -> ImitationTrainer:
        return ImitationTrainer(
            model,
            source,
            _arguments(model, settings, steps, seed, out, report_to),
            Controls(StabilitySettings(), 0.0, 0.0),
            lessons=lessons,
            paths=teacher.paths,
            noise="all" if settings.dropout else "adapters",
            train_dataset=rows,
            processing_class=tokenizer,
        )

    ran = run_trainer(model, plan, Checkpointing(out, report_to=report_to, resume=resume), make)
    return Fitted(ran.curve, ran.seconds, ran.cpu_seconds)


def plan_rows(length_X: IntArray, epochs: float, batch: int, seed: int) -> Any:
    """The trainer's data set: whole batches, every lesson once before any comes again.

    Args:
        length_X: length of each lesson's history; lessons of about one length share a batch, which saves padding.
        epochs: how often each lesson comes.
        batch: lessons a batch.
        seed: run seed.
    """
    lessons = len(length_X)
    wanted = batch * max(1, math.ceil(lessons * epochs / batch))
    turns = math.ceil(wanted / lessons)
    state = np.concatenate([_turn(length_X, turn, batch, seed) for turn in range(turns)])
    epoch = np.repeat(np.arange(turns), lessons)
    columns = {"state": state[:wanted], "rollout": epoch[:wanted], "place": np.arange(wanted) % batch}
    return HFDataset.from_dict(columns)


def _turn(length_X: IntArray, turn: int, batch: int, seed: int) -> IntArray:
    """All lessons once: random, sorted by length within stretches of some batches, the batches shuffled again."""
    rng = numpy_stream(seed, "imitation", "order", turn)
    # a stream a turn, and all of a turn drawn from it at once: a resumed training plans the same
    order = rng.permutation(len(length_X))
    head = min(-turn * len(length_X) % batch, len(order))  # fills up the batch that the turn before began
    rest, stretch = order[head:], batch * MEGABATCH
    parts = [rest[first : first + stretch] for first in range(0, len(rest), stretch)]
    rest = np.concatenate([part[np.argsort(length_X[part], kind="stable")] for part in parts] or [rest])
    full = len(rest) // batch
    blocks = rest[: full * batch].reshape(full, batch)[rng.permutation(full)]
    return np.concatenate([order[:head], blocks.ravel(), rest[full * batch :]])


def _arguments(
    model: Any, settings: SFTSettings, steps: int, seed: int, out: Path, report_to: Sequence[str]
) -> TrainingArguments:
    teacher = settings.teacher
    common = common_arguments(
        model,
        out=out,
        seed=seed,
        learning_rate=teacher.learning_rate,
        warmup=settings.warmup,
        steps=steps,
        save_every=settings.save_every,
        report_to=report_to,
    )
    common |= {
        "weight_decay": teacher.weight_decay,
        # a shorter memory of squared gradients than the usual 0.999: about 50 steps in place of 1,000
        "adam_beta2": 0.98,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": FLOOR},
    }
    size = per_process(teacher.batch_size, world_size(), "sft.teacher.batch_size")
    return TrainingArguments(**common, max_grad_norm=1.0, per_device_train_batch_size=size)
