"""`trl.SFTTrainer` with a cheap output head."""

from __future__ import annotations

from typing import Any

import torch
import trl
from torch.nn import functional

from llmrec.policy.modes import Noise, still
from llmrec.training.trl_seam.quiet import QuietTrainer

IGNORED = -100


class SFTTrainer(QuietTrainer, trl.SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """`trl.SFTTrainer` that asks the model's own head for the labelled columns of the batch alone.

    TRL's fused head runs over every position on a CPU (over the labelled ones only with Triton). With answers of a
    few tokens behind prompts of a hundred, the head is otherwise half of a small model's work.
    """

    noise: Noise = "adapters"
    """What the model does at random in a step."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Cross-entropy summed over labelled tokens, divided by their number in the whole optimiser step."""
        still(self.accelerator.unwrap_model(model), self.noise)
        labels_BL = inputs["labels"][:, 1:]
        columns = (labels_BL != IGNORED).any(dim=0).nonzero().squeeze(1)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=columns,
            use_cache=False,
        )
        labels = labels_BL[:, columns].flatten()
        logits = outputs.logits.flatten(0, 1).float()
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        count = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = loss / torch.as_tensor(count, device=loss.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return loss
