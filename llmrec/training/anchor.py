"""An adapter that goes on: trained from where it was served, held to it, and compared with it.

One adapter learns for as long as a recommender serves (PESO, ICLR 2026: one evolving LoRA with a proximal term). An
update starts from the served adapter, which is also the reference of its KL, in place of the weights without any, and
a proximal term, pull / 2 times the squared distance to it, keeps what new data say nothing about. PESO weighs that
distance by the layer through softmax and KL; here it is the plain one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmrec.errors import ConfigError
from llmrec.training.arguments import world_size
from llmrec.training.lora import DEFAULT, Adapter, put_adapter

_PLACE = "llmrec_anchor"


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where an adapter is gone on from.

    Attributes:
        adapter: the served one; its rank is kept.
        pull: of the proximal term, in units of the loss a squared unit of weight; 0 for none.
        gradient: filled with the gradient of the first optimiser step, under the adapter's names; None asks for none.
    """

    adapter: Adapter
    pull: float = 0.0
    gradient: dict[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Anchored:
    """The weights that a model's adapter started from, by parameter."""

    start: Mapping[str, Tensor]
    pull: float
    gradient: dict[str, Tensor] | None = None

    @contextmanager
    def in_place(self, model: Any) -> Iterator[None]:
        """The model as it was, within the block."""
        now = {name: p for name, p in model.named_parameters() if name in self.start}
        kept = {name: p.data for name, p in now.items()}
        # the storage is changed and not copied: the optimiser and the layers hold the parameters themselves
        for name, parameter in now.items():
            parameter.data = self.start[name].to(parameter.device)
        try:
            yield
        finally:
            for name, parameter in now.items():
                parameter.data = kept[name]


class Pull(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Adds the gradient of the proximal term, pull * (weight - start), once an optimiser step, behind the clip."""

    def __init__(self, anchored: Anchored) -> None:
        self.anchored = anchored

    @torch.no_grad()
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """A step that the guard leaves out has no gradient, and is not pulled either."""
        for name, parameter in more["model"].named_parameters():
            start = self.anchored.start.get(name)
            if start is not None and parameter.grad is not None:
                away = parameter - start.to(parameter.device)
                parameter.grad.add_(away.to(parameter.grad.dtype), alpha=self.anchored.pull)


class Told(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Writes down the gradient of the first optimiser step, which first-order meta-learning makes its own."""

    def __init__(self, gradient: dict[str, Tensor]) -> None:
        self.gradient = gradient

    @torch.no_grad()
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Behind the clip and before the step; a step that the guard leaves out has no gradient to tell."""
        if not self.gradient:
            for name, parameter in more["model"].named_parameters():
                if parameter.requires_grad and parameter.grad is not None:
                    self.gradient[name.replace(f".{DEFAULT}.", ".")] = parameter.grad.detach().clone()


def anchored(model: PeftModel, anchor: Anchor) -> PeftModel:
    """Puts the anchor's weights into the fresh adapter of `model`, and remembers them as the reference.

    Raises:
        ConfigError: several processes, or a pull below 0.
        RunError: the adapter was made for another model.
    """
    if world_size() > 1:
        raise ConfigError("An adapter that goes on is trained by one process; launch the update without others.")
    if not anchor.pull >= 0:
        raise ConfigError(f"The pull of the proximal term is {anchor.pull}; it must be 0 or more.")
    put_adapter(model, anchor.adapter)
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    setattr(model, _PLACE, Anchored(start, anchor.pull, anchor.gradient))
    return model


def anchor_of(model: Any) -> Anchored | None:
    """What `anchored` remembered; None of any other model."""
    found: Anchored | None = getattr(model, _PLACE, None)
    return found
