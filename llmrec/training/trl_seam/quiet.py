"""What every trainer here changes of TRL's: no telemetry, no card, adapters saved as they are, a guard on steps.

Weights in 16 bits that are trained are stepped on copies in 32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

from llmrec.errors import RunError
from llmrec.policy.modes import evaluating
from llmrec.training.anchor import anchor_of
from llmrec.training.controls import Guard
from llmrec.training.trl_seam.whole import WholeAdamW, is_short


class QuietTrainer:
    """Mixin for TRL's trainers: no telemetry, no model card and no tokenizer in every checkpoint."""

    # what the mixins here use of the trainer that comes after them, which has no types
    accelerator: Any
    args: Any
    model: Any
    model_wrapped: Any
    is_deepspeed_enabled: Any
    num_generations: Any
    num_iterations: Any
    normalize_advantages: Any
    state: Any
    reward_weights: Any
    reward_func_names: Any
    _step: Any
    _tokenizer: Any
    _metrics: Any
    _buffered_inputs: Any
    _pending_metrics: Any
    _pending_extra_logs: Any
    _generate_and_score_completions: Any

    def get_optimizer_cls_and_kwargs(self, args: Any, model: Any = None) -> tuple[Any, Any]:
        """AdamW keeps whole copies of trained weights that have less than 32 bits; DeepSpeed has its own."""
        chosen, options = super().get_optimizer_cls_and_kwargs(args, model)  # type: ignore[misc]
        trained = () if model is None else (weight for weight in model.parameters() if weight.requires_grad)
        plain = chosen is torch.optim.AdamW and not getattr(self, "is_deepspeed_enabled", False)
        return (WholeAdamW if plain and any(map(is_short, trained)) else chosen), options

    def _send_telemetry(self) -> None:
        return

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Writes nothing: the run's own card is made from its metrics."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        unwrapped = self.accelerator.unwrap_model(self.model)
        # PEFT would look the base model up on the Hub, and keep all of an embedding that was widened
        more = {"save_embedding_layers": False} if isinstance(unwrapped, PeftModel) else {}
        folder, first = output_dir or self.args.output_dir, self.args.should_save
        unwrapped.save_pretrained(folder, state_dict=state_dict, is_main_process=first, **more)


class GuardedTrainer(QuietTrainer):
    """Mixin that leaves out optimiser steps whose gradient is not finite or too large.

    The norm is the same on all processes (gradients are averaged before), so all of them skip together. A skipped
    step has no gradients at all: a zero gradient would still move parameters under Adam. DeepSpeed owns its
    gradients; there a step that is not finite ends the training at once.
    """

    guard: Guard

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        # The norm before clipping, of the whole model, as transformers logs it: after the gradients were averaged
        # over processes and before the optimiser sees them.
        value = float(norm)
        if self._stepless(model):  # nothing was computed: `target_kl` ended the rollout
            return norm
        reason = self.guard.judge(value)
        self._metrics["train"]["skipped"].append(float(reason is not None))
        if reason is None:
            return norm
        if self.is_deepspeed_enabled:
            raise RunError(f"{reason} Under DeepSpeed such a step cannot be left out; lower the learning rate.")
        # None and not 0: Adam leaves a parameter without a gradient alone, momentum included
        model.zero_grad(set_to_none=True)
        return norm if math.isfinite(value) else 0.0  # JSON cannot hold a norm that is not finite

    def _stepless(self, model: Any) -> bool:
        return not self._deepspeed() and all(p.grad is None for p in model.parameters())

    def _deepspeed(self) -> bool:
        return bool(getattr(self, "is_deepspeed_enabled", False))


@contextmanager
def without_adapter(trainer: Any) -> Iterator[None]:
    """The model that `trainer` trains as it was before its adapter, in evaluation mode: the reference.

    An adapter that goes on (`training.anchor`) has its start for the reference.
    """
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    held = anchor_of(adapted)
    if held is not None:
        with held.in_place(adapted), evaluating(adapted.get_base_model()):
            yield
        return
    # PEFT's `disable_adapter` and TRL's `use_adapter` first take stock of the whole model: 30 ms a call
    adapted.base_model.disable_adapter_layers()
    try:
        with evaluating(adapted.get_base_model()):
            yield
    finally:
        adapted.base_model.enable_adapter_layers()


def frozen_copy(base: Any) -> Any:
    """A copy of `base` without its critic, in evaluation mode, that asks for no gradient."""
    # taken off and put back, so that the copy neither holds nor trains a second critic
    critic = base.__dict__["_modules"].pop("critic", None)
    try:
        return copy.deepcopy(base).eval().requires_grad_(False)
    finally:
        if critic is not None:
            base.critic = critic
