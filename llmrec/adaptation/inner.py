"""The inner steps: a few updates of an adapter on the sessions of one task, by the trainers that there are.

Whatever learns here starts from an adapter on a plain model and leaves an adapter of the same rank
(`training.anchor`). "supervised" imitates choices weighed by their reward (`Sessions.choices`) with the warm start's
trainer; "off_policy" is REINFORCE on the logged slates with their propensities, with the KL to where it started.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from llmrec.adaptation.sessions import Sessions
from llmrec.adaptation.tasks import Place
from llmrec.config import LoraSettings, OffPolicySettings, SFTSettings
from llmrec.errors import ConfigError, RunError
from llmrec.policy.modes import base_model
from llmrec.training.anchor import Anchor
from llmrec.training.improvement import Checkpointing, WarmStart, trainable
from llmrec.training.lora import Adapter, adapter_of, check_lora, make_lora
from llmrec.training.off_policy import check_off_policy, train_off_policy
from llmrec.training.row_fitting import FitPlan, fit_rows
from llmrec.training.sft import learns_choices, micro_tokens
from llmrec.training.sft_data import SFTRow, build_rows

UNCLIPPED = 1e30
"""A bound on gradient norms that no gradient meets."""


@dataclass(frozen=True, kw_only=True)
class InnerSettings:
    """What happens to an adapter in a task."""

    learns: Literal["supervised", "off_policy"] = "supervised"
    """By imitation of choices weighed by their reward, or by REINFORCE on the logged slates."""
    steps: int = 8
    """Optimiser steps on a task's sessions."""
    batch_size: int = 16
    """Choices (or slates) of a step."""
    learning_rate: float = 1e-3
    """At the first step; it falls linearly to 0."""
    pull: float = 0.0
    """Of the proximal term to where the adapter started (`training.anchor`)."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Of an adapter that begins; one that goes on keeps its own."""
    off_policy: OffPolicySettings = field(default_factory=lambda: OffPolicySettings(kl_coefficient=0.0))
    """What else off-policy learning reads; its epochs, sizes and rate are those above."""

    def check(self) -> None:
        """Raises `ConfigError` for what cannot work."""
        for key in ("steps", "batch_size", "learning_rate"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"Key 'inner.{key}' is {getattr(self, key)}; it must be above 0.")
        if self.learns not in ("supervised", "off_policy"):
            raise ConfigError(f"Key 'inner.learns' is {self.learns!r}; choose supervised or off_policy.")
        if self.pull < 0:
            raise ConfigError(f"Key 'inner.pull' is {self.pull}; it must be 0 or more.")
        check_lora(self.lora, "inner.lora")
        if self.learns == "off_policy":
            check_off_policy(self.off_policy)
            if self.off_policy.estimator != "top-k":
                raise ConfigError("Key 'inner.off_policy.estimator' must be top-k: a new place has no fitted reward.")


def fresh_adapter(model: Any, lora: LoraSettings, seed: int) -> Adapter:
    """An adapter that changes nothing yet, for the plain `model`, which is left as it was, but frozen."""
    made = make_lora(model, lora, seed=seed)
    found = adapter_of(made)
    _plain(model)
    return found


def inner_steps(
    place: Place,
    model: Any,
    tokenizer: Any,
    adapter: Adapter,
    sessions: Sessions,
    settings: InnerSettings,
    *,
    seed: int,
    scratch: Path,
) -> Adapter:
    """What `settings.steps` updates on `sessions` make of `adapter`; the plain `model` is left as it was, but frozen.

    Raises:
        DataError: the sessions teach nothing.
    """
    with _trained(place, model, tokenizer, Anchor(adapter, settings.pull), seed) as start:
        return adapter_of(_learnt(place, start, sessions, settings, scratch))


def gradient_at(
    place: Place,
    model: Any,
    tokenizer: Any,
    adapter: Adapter,
    sessions: Sessions,
    settings: InnerSettings,
    *,
    seed: int,
    scratch: Path,
) -> dict[str, Tensor]:
    """The gradient of the loss of all `sessions` at `adapter`, under the adapter's names and not clipped.

    It is that of one step of the very trainer on all slates, or all choices, at once; the step is thrown away.

    Raises:
        DataError: the sessions teach nothing.
        RunError: the gradient is not finite.
    """
    found: dict[str, Tensor] = {}
    chosen = len(sessions) if settings.learns == "off_policy" else int((sessions.log.click_M > 0).sum())
    whole = max(1, chosen)  # nothing that was chosen is refused where it is read
    one = dataclasses.replace(settings, steps=1, batch_size=whole)
    with _trained(place, model, tokenizer, Anchor(adapter, 0.0, found), seed) as start:
        _learnt(place, start, sessions, one, scratch, clip=UNCLIPPED)
    if not found:
        raise RunError("The gradient of a task is not finite; lower the learning rate of the inner steps.")
    return found


@contextmanager
def _trained(place: Place, model: Any, tokenizer: Any, anchor: Anchor, seed: int) -> Iterator[WarmStart]:
    """A start with the adapter; behind the block the model is plain again."""
    start = dataclasses.replace(place.start(model, tokenizer, seed), anchor=anchor)
    try:
        yield start
    finally:
        _plain(model)


def _plain(model: Any) -> None:
    """Takes the adapter's layers out of `model`, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    # PEFT's own note that the model has adapters, which it warns by
    vars(model).pop("peft_config", None)


def _learnt(
    place: Place, start: WarmStart, sessions: Sessions, settings: InnerSettings, scratch: Path, clip: float = 1.0
) -> Any:
    """The PEFT model that the trainer leaves."""
    # every run of inner steps is seconds: what a killed one left is made again by whoever asks for it
    shutil.rmtree(scratch, ignore_errors=True)
    checkpointing = Checkpointing(scratch, resume=False)
    if settings.learns == "off_policy":
        return _off_policy(place, start, sessions, settings, checkpointing, clip)
    model = trainable(start, settings.off_policy)
    sft = SFTSettings(mixture={"next_item": 1.0}, batch_size=settings.batch_size, weighting=_UNWEIGHED)
    rows = choice_rows(place, start, sessions, settings)
    steps = (settings.batch_size, settings.learning_rate, 0.0, settings.steps)
    plan = FitPlan("Inner steps", *steps, micro_tokens=micro_tokens(model, sft), max_grad_norm=clip)
    index = place.catalogue.index if learns_choices(base_model(model), sft) else None
    fit_rows(
        model,
        start.tokenizer,
        rows,
        plan,
        seed=start.seed,
        out=scratch,
        resume=False,
        report_to=(),
        index=index,
    )
    return model


_UNWEIGHED = SFTSettings().weighting


def choice_rows(place: Place, start: WarmStart, sessions: Sessions, settings: InnerSettings) -> list[SFTRow]:
    """The rows of supervised inner steps: batch times steps of them, all choices once before any comes again."""
    examples = sessions.choices(place.group_N, start.seed)
    wanted = settings.steps * settings.batch_size
    sft = SFTSettings(
        mixture={"next_item": 1.0},
        examples=len(examples),
        batch_size=settings.batch_size,
        # a row more than needed, as parts of epochs are rounded
        epochs=(wanted + 1) / len(examples),
        history_dropout=0.0,
    )
    made = build_rows(examples, place.items, place.catalogue, start.renderer, start.tokenizer, sft, seed=start.seed)
    return made[:wanted]


def _off_policy(
    place: Place,
    start: WarmStart,
    sessions: Sessions,
    settings: InnerSettings,
    checkpointing: Checkpointing,
    clip: float,
) -> Any:
    slates = sessions.slates(settings.off_policy, place.group_N, start.seed)
    own = dataclasses.replace(
        settings.off_policy,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup=0.0,
        max_grad_norm=clip,
        save_every=settings.steps,
        # half a batch less, so that the number of steps is that number whatever a division is rounded to
        epochs=(settings.steps - 0.5) * settings.batch_size / len(slates),
    )
    return train_off_policy(start, slates, own, checkpointing).model
