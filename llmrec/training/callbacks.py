"""What runs beside a trainer: the progress bar, and checkpoints that are there whole or not at all."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from llmrec.errors import RunError
from llmrec.files import read_json, sha256_of, write_json, write_text
from llmrec.progress import Bar, console
from llmrec.storage import shown
from llmrec.written import first_changed, hashes_of

COMPLETE = "complete.json"
ORIGIN = "origin.json"
LIVE = "curve.jsonl"
"""The curve of a training that runs."""


class BarCallback(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Moves `bar` once in every `every` optimiser steps; the last logged value of `key` stands behind it."""

    def __init__(self, bar: Bar, *, every: int = 1, key: str = "loss") -> None:
        self.bar, self.every, self.key = bar, every, key

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Counts one more step on the main process; asks for a last entry of the log at the end."""
        # the log's rhythm may miss the last step, which the curve should end with
        if state.global_step >= state.max_steps:
            control.should_log = True
        if state.is_world_process_zero and state.global_step % self.every == 0:
            last = next((entry[self.key] for entry in reversed(state.log_history) if self.key in entry), None)
            self.bar.advance(note="" if last is None else f"{self.key} {last:.3f}")


class LiveLog(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Keeps the curve in `path` while a training runs, a JSON object a line, for whoever wants to watch it.

    Args:
        path: the file; a training that goes on writes it anew from its checkpoint's log.
        rows: what the curve is of entries of the log.
    """

    def __init__(self, path: Path, rows: Callable[[Sequence[dict[str, Any]]], Sequence[dict[str, float]]]) -> None:
        self.path, self.rows = path, rows

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Writes what was logged before."""
        if state.is_world_process_zero:
            write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in self.rows(state.log_history)))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Adds the last entry."""
        if state.is_world_process_zero and state.log_history:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in self.rows(state.log_history[-1:]))


class AlreadyStopped(Exception):
    """Raised as a training begins that goes on from a checkpoint at which it was stopped: nothing is left to do."""


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Marks each checkpoint as complete after everything in it is written and `on_save` has returned.

    A checkpoint without the mark was cut off by a kill and is never resumed from. The mark carries the seconds
    trained so far, over all resumptions, and whether the training was stopped there.

    Args:
        seconds: trained before.
        on_save: called with the step; True (on every process) ends the training.
        stopped: the checkpoint that is gone on from ended the training: nothing more is trained.
        cpu_seconds: of the processor, spent before.
    """

    def __init__(
        self,
        seconds: float,
        on_save: Callable[[int], bool] | None = None,
        *,
        stopped: bool = False,
        cpu_seconds: float = 0.0,
    ) -> None:
        self.before, self.start, self.on_saved, self.stopped = seconds, time.monotonic(), on_save, stopped
        self._cpu_before = cpu_seconds - time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds of training up to now."""
        return self.before + time.monotonic() - self.start

    @property
    def cpu_seconds(self) -> float:
        """Seconds of the processor up to now, all threads together, without what `on_save` took."""
        return self._cpu_before + time.process_time()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ends a training that was stopped before, when its weights and its log are loaded."""
        if self.stopped:
            # here and not before `train`: weights, optimiser and log are loaded by now
            raise AlreadyStopped

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Calls `on_saved(step)` on every process, then marks the checkpoint on the main one."""
        judged = time.process_time()
        stop = self.on_saved is not None and self.on_saved(state.global_step)
        # what a training costs is compared with other trainings; judging its checkpoints is no training
        self._cpu_before -= time.process_time() - judged
        early = stop and state.global_step < state.max_steps
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            # last of all: whatever a kill leaves without the mark was not finished
            mark: dict[str, Any] = {
                "step": state.global_step,
                "seconds": self.seconds,
                "cpu_seconds": self.cpu_seconds,
            }
            if args.world_size == 1:  # other processes may still write theirs
                mark["sha256"] = hashes_of(folder)
            write_json(folder / COMPLETE, mark | ({"stopped": True} if early else {}))
        if early:
            control.should_training_stop = True


def last_checkpoint(out: Path) -> Path | None:
    """The newest complete checkpoint under `out`, or None."""
    found = [folder for folder in out.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _mark(folder) is not None]
    return max(found, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)


def _mark(folder: Path) -> dict[str, Any] | None:
    """The mark of a complete checkpoint; None where it is missing or cannot be read."""
    try:
        found = read_json(folder / COMPLETE)
        seconds = float(found["seconds"])
        spent = {"seconds": seconds, "cpu_seconds": float(found.get("cpu_seconds", seconds))}
        return {**found, **spent, "sha256": dict(found.get("sha256") or {})}
    except (RunError, TypeError, ValueError, KeyError):
        return None


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint is complete and as it was written; says so where it is damaged."""
    mark = _mark(folder)
    if mark is None:
        return False
    changed = first_changed(folder, mark["sha256"])
    if changed is not None:
        console.print(
            f"{shown(changed)} is damaged: the training goes on from before it.", style="yellow", soft_wrap=True
        )
    return changed is None


def was_stopped(out: Path) -> bool:
    """Whether the training that keeps its checkpoints in `out` was ended early at the newest one."""
    newest = last_checkpoint(out)
    return newest is not None and bool((_mark(newest) or {}).get("stopped", False))


def cpu_seconds_at(checkpoint: Path | None) -> float:
    """Seconds of the processor that were spent up to a complete checkpoint; 0 for none."""
    return 0.0 if checkpoint is None else float((_mark(checkpoint) or {}).get("cpu_seconds", 0.0))


def open_checkpoints(out: Path, origin: str, *, resume: bool) -> tuple[Path | None, float]:
    """Prepares `out` for a training that is decided by `origin` (a digest of settings, data and first weights).

    Checkpoints of another origin, and all of them if `resume` is false, are removed, as are incomplete and damaged
    ones.

    Returns:
        The checkpoint to go on from (None: from the start) and the seconds trained before it.

    Raises:
        RunError: `out` is a file, or holds checkpoints that were not made here.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; give a folder for the trainer's checkpoints.")
    mark = out / ORIGIN
    # What is in the way will be removed, and only what was made here may be.
    if not mark.is_file() and next(out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), None) is not None:
        raise RunError(f"{out} holds checkpoints of another program, which would be removed; give another folder.")
    same = resume and mark.is_file() and _origin(mark) == origin
    for folder in out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (same and _is_whole(folder)):
            shutil.rmtree(folder)
    write_json(mark, {"origin": origin})
    newest = last_checkpoint(out)
    known = None if newest is None else _mark(newest)
    return newest, 0.0 if known is None else known["seconds"]


def _origin(mark: Path) -> object:
    """What decides the training whose checkpoints these are; None where that cannot be read."""
    try:
        found = read_json(mark)
    except RunError:
        return None
    return found.get("origin") if isinstance(found, dict) else None


def origin_digest(model: torch.nn.Module, *parts: object) -> str:
    """A digest of `parts` (anything JSON can write) and of the weights' sums, for `open_checkpoints`."""
    # Sums tell weights of another seed or model apart in a moment; hashing billions of numbers would take minutes. In
    # float64, since float32 sums depend on their order.
    sums = [(name, float(p.detach().double().sum())) for name, p in sorted(model.state_dict().items())]
    return sha256_of(json.dumps([parts, sums], sort_keys=True, default=str))
