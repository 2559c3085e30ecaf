"""An optimiser step in parts of a bounded number of tokens: the same gradient in less memory.

Activations of a step grow with its tokens, not with its rows. Every loss here is a sum over predicted tokens divided
by their number in the whole step, so that the gradients of parts add up to that of the step, however it is divided.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from llmrec.training.trl_seam.quiet import QuietTrainer

Batch = Mapping[str, Tensor]


def rows_in_parts(length_B: Tensor, most: int) -> list[Tensor]:
    """Rows by length, longest first, cut so that a part, padded to its longest row, has at most `most` tokens.

    Args:
        length_B: tokens of each row.
        most: at least one row makes a part, however long it is; 0 makes one part of all.
    """
    order = torch.argsort(length_B, descending=True, stable=True)
    parts, start = [], 0
    while start < len(order):
        longest = max(1, int(length_B[order[start]]))
        count = max(1, most // longest) if most else len(order)
        parts.append(order[start : start + count])
        start += count
    return parts


def halved(parts: list[Tensor], wanted: int) -> list[Tensor]:
    """The same rows in `wanted` parts, of which there must be as many rows; the largest are halved."""
    parts = list(parts)
    while len(parts) < wanted:
        largest = max(range(len(parts)), key=lambda n: len(parts[n]))
        cut = len(parts[largest]) // 2
        parts[largest : largest + 1] = [parts[largest][:cut], parts[largest][cut:]]
    return parts


class InParts(QuietTrainer):
    """Mixin before a trainer of TRL whose `compute_loss` divides by what it is told of the whole step."""

    micro_tokens: int = 0
    """Tokens that go through the model at once, padding among them; 0 takes a step whole."""
    _predicted_in_step: Tensor | None = None

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a batch, part by part; the loss of all of it."""
        parts = [inputs] if not self.micro_tokens or self._whole_steps_only() else self._parts(inputs)
        self._predicted_in_step = self._predicted(inputs)
        losses = []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            # gradients are averaged over processes once, with the last part
            with nullcontext() if last else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, part, num_items_in_batch))  # type: ignore[misc]
        self._predicted_in_step = None
        return torch.stack(losses).sum()

    def _whole_steps_only(self) -> bool:
        # DeepSpeed counts backward passes itself
        return bool(self.accelerator.distributed_type == DistributedType.DEEPSPEED)

    def _parts(self, inputs: Batch) -> list[Batch]:
        raise NotImplementedError

    def _predicted(self, inputs: Batch) -> Tensor:
        """How many tokens a batch predicts."""
        raise NotImplementedError

    def _most_parts(self, own: int) -> int:
        """The most parts that any process makes: under FSDP all must make as many forward passes."""
        if self.accelerator.num_processes == 1:
            return own
        return int(self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).max())
