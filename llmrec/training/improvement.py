"""What improvements of a warm-started policy share: where they start, what they leave, the loop around TRL."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import (
    BestOfNSettings,
    LoraSettings,
    OffPolicySettings,
    PreferenceSettings,
    RewardModelSettings,
    TiltedSettings,
    UpdateSettings,
)
from llmrec.config.improvement import in_use
from llmrec.errors import ConfigError, DataError
from llmrec.policy.forward import forget_scoring
from llmrec.progress import Bar
from llmrec.training.anchor import Anchor, Pull, Told, anchor_of, anchored
from llmrec.training.arguments import common_arguments, per_process, processes, quiet, world_size
from llmrec.training.callbacks import (
    LIVE,
    AlreadyStopped,
    BarCallback,
    CheckpointCallback,
    LiveLog,
    cpu_seconds_at,
    open_checkpoints,
    origin_digest,
    was_stopped,
)
from llmrec.training.lora import make_lora
from llmrec.training.obeyed import (
    Obeyed,
    chosen,
    closed_to,
    left_out_states,
    places_left,
    require_no_floor,
    told,
)
from llmrec.training.sft_data import SFTRow
from llmrec.training.state_source import StateSource
from llmrec.training.trl_seam.sharding import make_whole, whole_weights
from llmrec.types import IntArray, State

OnCheckpoint = Callable[[int, Any], object]
"""Called on the main process with the units (rollouts or steps) done and the model in evaluation mode; the answer
"stop" ends the training there, on all processes."""
BatchSettings = PreferenceSettings | RewardModelSettings | OffPolicySettings | BestOfNSettings | TiltedSettings
"""Of improvements that go over batches and count optimiser steps."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A warm-started policy; it is also the reference that is stayed close to.

    Attributes:
        model: a plain causal language model. LoRA leaves its weights as they are, `weights: full` trains them.
        repeat: whether items that a user has seen may be drawn.
        seed: the run's seed.
        rehearsed: at most so many rows of what the warm start learnt beside next items; None where nobody knows.
        anchor: an adapter on `model` to go on from; it is then what is stayed close to.
        rules: what every draw obeys, with which policy and reference are taken; None for none.
    """

    model: Any
    tokenizer: Any
    catalogue: Catalogue
    renderer: Any
    repeat: Literal["allow", "exclude"]
    seed: int
    rehearsed: Callable[[int], Sequence[SFTRow]] | None = None
    anchor: Anchor | None = None
    rules: Obeyed | None = None


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """Where a training keeps its checkpoints and tells how it goes.

    Attributes:
        out: folder of the checkpoints.
        on_checkpoint: called at every `save_every` units and at the end; a checkpoint counts as made when it has
            returned.
        report_to: where transformers reports to (tensorboard, trackio, wandb).
        resume: go on from the last complete checkpoint in `out` that this very training made.
    """

    out: Path
    on_checkpoint: OnCheckpoint | None = None
    report_to: Sequence[str] = ()
    resume: bool = True


@dataclass(frozen=True, slots=True)
class Improved:
    """A trained policy and how it came about.

    Attributes:
        model: PEFT model with the new adapter ("default") on the warm-started weights, in evaluation mode; the plain
            model where all weights were trained.
        curve: one dictionary a logged unit: step (units so far) and what the trainer logs.
        seconds: training time over all resumptions, checkpoints and their judging included.
        stopped_reason: a sentence if something cut the training short, else None.
        more: what else was trained (the critic), apart from the model.
        folders: what else is kept beside the checkpoints (a reward model), by name.
        cpu_seconds: seconds of the processor that the training took, all threads of the main process together and
            without judging; 0 where nobody measured.
    """

    model: Any
    curve: list[dict[str, float]]
    seconds: float
    stopped_reason: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    cpu_seconds: float = 0.0


def trainable(start: WarmStart, settings: UpdateSettings) -> Any:
    """The model to train: with a fresh adapter, with the one that goes on, or as it is."""
    if start.anchor is not None:
        config = start.anchor.adapter.config
        rank = LoraSettings(rank=int(config.r), alpha=int(config.lora_alpha))
        return anchored(make_lora(start.model, rank, seed=start.seed), start.anchor)
    return make_lora(start.model, settings.lora, seed=start.seed) if settings.weights == "lora" else start.model


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a training is.

    Attributes:
        name: of the progress bar.
        units: rollouts, or optimiser steps where there are none.
        steps: optimiser steps a unit.
        watched: the logged figure behind the bar.
        decides: all that decides the result beside the first weights; JSON writes it.
    """

    name: str
    units: int
    steps: int
    watched: str
    decides: Sequence[object]


@dataclass(frozen=True, slots=True)
class TrainerRun:
    """A trainer that has come to its end, its curve by units and the seconds of training, see `Improved`."""

    trainer: Any
    curve: list[dict[str, float]]
    seconds: float
    cpu_seconds: float

    @property
    def left_out(self) -> str | None:
        """A sentence if the guard left steps out."""
        if not any(row.get("skipped", 0.0) > 0 for row in self.curve):
            return None
        return "Some optimiser steps were left out: their gradient was not finite."

    def improved(self, model: Any, said: str | None, more: Mapping[str, Any] | None = None) -> Improved:
        """What came of `model`; `said` is `Improved.stopped_reason`."""
        return Improved(model, self.curve, self.seconds, said, more or {}, cpu_seconds=self.cpu_seconds)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a training that changed a model in place leaves beside it: curve and seconds, see `Improved`."""

    curve: list[dict[str, float]]
    seconds: float
    cpu_seconds: float


def run_trainer(model: Any, plan: Plan, checkpointing: Checkpointing, make: Callable[[], Any]) -> TrainerRun:
    """Trains `model` by the trainer that `make` builds, from the last checkpoint of this very training if any.

    Checkpoints lie at the ends of units alone: in the middle of a rollout a resumed update would be another one.
    """
    # The others wait until the main process has removed what cannot be gone on from, and then find the same
    # checkpoint.
    with processes().main_process_first():
        # settings, data and the first weights: a checkpoint of any other training is never resumed from
        held = anchor_of(model)
        pull = () if held is None else ("pull", held.pull)
        digest = origin_digest(model, *plan.decides, *pull)
        start, before = open_checkpoints(checkpointing.out, digest, resume=checkpointing.resume)
        stopped = was_stopped(checkpointing.out)
    # checkpoints are numbered by optimiser steps and made at the ends of units
    done = int(start.name.rsplit("-", 1)[1]) // plan.steps if start else 0
    with quiet(), Bar(plan.name, plan.units - done, stage=True) as bar:
        trainer = make()
        # prints every entry of the log as a dictionary, through the bar
        trainer.remove_callback(PrinterCallback)
        told = _told(trainer, checkpointing.on_checkpoint, plan.steps)
        checkpoints = CheckpointCallback(before, told, stopped=stopped, cpu_seconds=cpu_seconds_at(start))
        trainer.add_callback(BarCallback(bar, every=plan.steps, key=plan.watched))
        trainer.add_callback(checkpoints)
        trainer.add_callback(
            LiveLog(checkpointing.out / LIVE, lambda history: _curve(history, plan.steps, plan.watched))
        )
        if held is not None and held.pull:
            trainer.add_callback(Pull(held))
        if held is not None and held.gradient is not None:
            trainer.add_callback(Told(held.gradient))
        # The trainer loads weights and log before it finds out that it was at its end: the result is whole either
        # way.
        with suppress(AlreadyStopped):
            trainer.train(resume_from_checkpoint=str(start) if start else None)
    # before the model leaves: what is saved, merged or judged next knows nothing of wrappers
    make_whole(trainer.model_wrapped, model)
    forget_scoring(model)
    model.eval()
    curve = _curve(trainer.state.log_history, plan.steps, plan.watched)
    return TrainerRun(trainer, curve, checkpoints.seconds, checkpoints.cpu_seconds)


def _told(trainer: Any, on_checkpoint: OnCheckpoint | None, steps: int) -> Callable[[int], bool]:
    def on_saved(step: int) -> bool:
        answer: list[object] = [None]
        if on_checkpoint is not None:
            with whole_weights(trainer.model_wrapped):
                if trainer.accelerator.is_main_process:
                    model = trainer.accelerator.unwrap_model(trainer.model)
                    model.eval()
                    answer[0] = on_checkpoint(step // steps, model) == "stop"
                    model.train()
        # None goes on, or marks the checkpoint as complete, while another process still writes its part or judges it.
        trainer.accelerator.wait_for_everyone()
        # only the main process has judged, but to stop is a decision of all
        return bool(broadcast_object_list(answer)[0])

    return on_saved


def _curve(history: Sequence[dict[str, Any]], steps: int, watched: str) -> list[dict[str, float]]:
    left_out = ("step", "epoch", "step_time", "total_flos", "num_tokens")
    return [
        {"step": row["step"] / steps, **{k: float(v) for k, v in row.items() if k not in left_out and v is not None}}
        for row in history
        if watched in row
    ]


def as_json(settings: Any) -> dict[str, Any]:
    """A settings section as plain values, for `Plan.decides`."""
    return in_use(dataclasses.asdict(settings))


def usable_states(
    states: Sequence[State], seen: Sequence[IntArray], repeat: str, items: int, rules: Obeyed | None = None
) -> tuple[list[State], Sequence[IntArray] | None]:
    """States for which something may be drawn, and what may not (None: nothing is excluded).

    Raises:
        ConfigError: a floor among the rules, which no single draw can hold.
        DataError: `seen` does not fit `states`, or no state is left.
    """
    if rules is not None:
        require_no_floor(rules.book.rules, "this training")
    if len(seen) != len(states):
        raise DataError(f"There are {len(states)} states but {len(seen)} lists of seen items; give one a state.")
    closed = closed_to(states, seen, repeat, rules)
    if closed is not None:
        # a state at which everything is masked has no distribution to draw from
        kept = np.flatnonzero(places_left(closed, len(states), items)).tolist()
        states, closed = [states[row] for row in kept], chosen(closed, kept)
    if not states:
        taken = "seen" if rules is None else "seen or forbidden by rules"
        raise DataError(
            f"There is no state to start a rollout from: the training part holds none, or all items are {taken}."
        )
    return list(states), closed


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where a training draws items.

    Attributes:
        source: the states at which something may be drawn.
        without: a sentence on those that rules leave nothing; None where there are none.
        told: what tells the same states and closed items from others.
    """

    source: StateSource
    without: str | None
    told: tuple[str, str]

    @classmethod
    def of(cls, start: WarmStart, states: Sequence[State], seen: Sequence[IntArray]) -> Drawing:
        """Where `start` draws, of `states` whose users have seen `seen` beside; errors as in `usable_states`."""
        given, rules = len(states), start.rules
        states, closed = usable_states(states, seen, start.repeat, len(start.catalogue.item_ids), rules)
        source = StateSource(states, closed, start.renderer, start.catalogue, start.tokenizer, start.seed)
        return cls(source, left_out_states(given, len(states), rules), (repr(states), told(closed, rules)))


def batch_steps(settings: OffPolicySettings | BestOfNSettings | TiltedSettings, rows: int) -> int:
    """Optimiser steps in which each of so many rows is used `epochs` times."""
    return max(1, math.ceil(settings.epochs * rows / settings.batch_size))


def batch_arguments(
    model: Any, settings: BatchSettings, steps: int, key: str, *, seed: int, checkpointing: Checkpointing
) -> dict[str, Any]:
    """Trainer arguments of an improvement that goes over batches, `steps` of them.

    Raises:
        ConfigError: see `check_launch`, or a batch (`key` in the message) that the processes cannot share.
    """
    common = common_arguments(
        model,
        out=checkpointing.out,
        seed=seed,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        steps=steps,
        save_every=settings.save_every,
        report_to=checkpointing.report_to,
    )
    # a batch is of all processes together, so that more of them make the same steps faster and not other ones
    size = per_process(settings.batch_size, world_size(), key)
    return common | {"max_grad_norm": settings.max_grad_norm, "per_device_train_batch_size": size}


def check_update(settings: UpdateSettings, section: str) -> None:
    """Raises `ConfigError` for what no improvement can honour; reads nothing."""
    if settings.lora.dropout:
        raise ConfigError(
            f"Key '{section}.lora.dropout' is {settings.lora.dropout}, but an update must score items by the very "
            "policy that drew or logged them, without dropout; set it to 0 (sft.lora.dropout is for the warm start)."
        )


def check_batches(settings: BatchSettings, section: str, keys: Sequence[str], number: int) -> None:
    """Refuses what no improvement over batches can honour.

    Args:
        settings: the section.
        section: its name in the configuration.
        keys: what must be above 0 beside what all of them have.
        number: of processes.

    Raises:
        ConfigError: the first setting that cannot work, or a batch that the processes cannot share.
    """
    require_above_zero(settings, section, (*keys, "epochs", "batch_size", "learning_rate", "save_every"))
    check_update(settings, section)
    if not 0 <= settings.warmup < 1:
        raise ConfigError(f"Key '{section}.warmup' is {settings.warmup}; it must be in [0, 1).")
    per_process(settings.batch_size, number, f"{section}.batch_size")


def require_above_zero(settings: Any, section: str, keys: Sequence[str]) -> None:
    """Raises `ConfigError` that names the first of `keys` which is not above 0."""
    for key in keys:
        if getattr(settings, key) <= 0:
            raise ConfigError(f"Key '{section}.{key}' is {getattr(settings, key)}; it must be above 0.")
