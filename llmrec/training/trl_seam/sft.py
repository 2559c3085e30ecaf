"""The two trainers of the warm start: rows of text by `trl.SFTTrainer`, and a distribution over the catalogue.

The second one learns by the cross-entropy of pi to a target q. By the chain rule over the tokens of an item,

    H(q, pi) = sum over prefixes of q(prefix) H(q(. | prefix), pi(. | prefix)),

so drawing items from q and adding up the inner cross-entropies along their tokens estimates it without bias. At the
first token every draw says the same, and one draw is exact there. q(. | prefix) comes from the masses of the item
ranges below the prefix's children; nothing is computed outside of the legal tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import trl
from torch import Tensor
from torch.nn import functional

from llmrec.policy.forward import ask_through_forward, with_scoring
from llmrec.policy.modes import Noise, base_model, still
from llmrec.policy.scoring import TokenScores
from llmrec.training.controls import Controls
from llmrec.training.packed import CHOICES, FOREST, TARGETS, Packed, collate
from llmrec.training.state_source import Rows, ScoreRequest, StateSource
from llmrec.training.trl_seam.asked import predicted, predictions
from llmrec.training.trl_seam.parts import Batch, InParts, halved, rows_in_parts
from llmrec.training.trl_seam.plain import PolicyTrainer
from llmrec.types import Example, FloatArray, IntArray

IGNORED = -100


class SFTTrainer(InParts, trl.SFTTrainer):  # type: ignore[misc]  # trl is untyped
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
        """Cross-entropy summed over labelled tokens, divided by their number in the whole optimiser step.

        Rows are padded on the right, where in a causal model no token sees the padding, so no mask is given:
        attention without one has kernels of its own, which are faster.
        """
        still(self.accelerator.unwrap_model(model), self.noise)
        labels_BL = inputs["labels"][:, 1:]
        # Columns and not positions: the model's own head takes one list of columns for all rows. Batches hold rows of
        # about one length, so few of the columns are asked for in vain.
        columns = (labels_BL != IGNORED).any(dim=0).nonzero().squeeze(1)
        outputs = model(
            input_ids=inputs["input_ids"],
            logits_to_keep=columns,
            use_cache=False,
        )
        labels = labels_BL[:, columns].flatten()
        logits = outputs.logits.flatten(0, 1).float()
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return self._per_token(loss, (labels != IGNORED).sum(), num_items_in_batch)

    def _predicted(self, inputs: Batch) -> Tensor:
        return (inputs["labels"][:, 1:] != IGNORED).sum()

    def _parts(self, inputs: Batch) -> list[Batch]:
        """The rows of a batch that go through the model together, each part as wide as its longest row."""
        length_B = inputs["attention_mask"].sum(1)
        parts = rows_in_parts(length_B, self.micro_tokens)
        wanted = self._most_parts(len(parts))
        return [
            {name: column_BL[part, : int(length_B[part].max())] for name, column_BL in inputs.items()}
            for part in halved(parts, min(wanted, len(length_B)))
        ]

    def _per_token(self, loss: Tensor, own: Tensor, all_processes: torch.Tensor | int | None) -> Tensor:
        """A sum over a process's tokens divided by the tokens of the whole step.

        A mean of the processes' means would weigh a token by how few others its process holds.
        """
        if self._predicted_in_step is not None:  # what is at hand may be a part of the process's own
            own = self._predicted_in_step
        count = own if all_processes is None else all_processes
        loss = loss / torch.as_tensor(count, device=loss.device).clamp(min=1)
        if self.args.average_tokens_across_devices and all_processes is not None:
            # DDP averages gradients over processes; the count is of all of them already
            loss = loss * self.accelerator.num_processes
        return loss


class PackedSFTTrainer(SFTTrainer):
    """The same loss from forests of rows (`training.packed`): an element of the data set is a process's step.

    Args:
        model: a causal language model or a PEFT model.
        packed: what is learnt. With an index items are choices among legal tokens, and the loss is over text tokens
            and choices, divided by their number in the whole step.
        rest: as for `trl.SFTTrainer`.
    """

    def __init__(self, model: Any, packed: Packed, **rest: Any) -> None:
        super().__init__(model=model, train_dataset=packed.data, data_collator=collate, **rest)
        self.shared = packed.shared
        self.index = None if packed.index is None else packed.index.to(self.accelerator.device)
        with_scoring(base_model(model))  # before `train` wraps it

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers' formula is for rows without branches."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        # rows count, which may share a token: its weight says how many do
        count = torch.stack([predicted(batch) for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(count).sum() if self.args.average_tokens_across_devices else count

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """As in `SFTTrainer`."""
        still(self.accelerator.unwrap_model(model), self.noise)
        loss: Tensor = ask_through_forward(model, predictions(inputs, self.index, shared=self.shared))["loss"]
        return self._per_token(loss, predicted(inputs), num_items_in_batch)

    def _predicted(self, inputs: Batch) -> Tensor:
        return predicted(inputs)

    def _whole_steps_only(self) -> bool:
        # processes hold different numbers of packed rows, and under FSDP all must make as many forward passes
        return super()._whole_steps_only() or self.accelerator.num_processes > 1

    def _parts(self, inputs: Batch) -> list[Batch]:
        rows, width = inputs["ids"].shape
        count = max(1, self.micro_tokens // width)
        return [part_of(inputs, low, min(low + count, rows)) for low in range(0, rows, count)]


def part_of(batch: Batch, low: int, high: int) -> Batch:
    """The packed rows from `low` up to `high` of a collated batch, with what is predicted in them."""
    width = batch["ids"].shape[1]
    part = {name: batch[name][low:high] for name in FOREST}
    for place, names in (("place", TARGETS), ("at", CHOICES)):
        inside = (batch[place] >= low * width) & (batch[place] < high * width)
        part |= {name: batch[name][inside] for name in names}
        part[place] = part[place] - low * width
    return part


class Lessons(Protocol):
    """What is taught: the example of a row, and what is to be said to examples."""

    def example(self, row: dict[str, Any]) -> Example:
        """The state of the row `state` in the epoch `rollout`, by the streams of the run's seed."""
        ...

    def targets(self, examples: Sequence[Example]) -> FloatArray:
        """q of every item: (B, N)."""
        ...

    def uniforms(self, rows: Sequence[dict[str, Any]], draws: int) -> FloatArray:
        """Numbers in [0, 1) for the draws of each row: (B, G)."""
        ...


@dataclass(frozen=True, slots=True)
class ImitationBatch:
    """A batch: prompts with items drawn from q, and the mass of q before each sorted row, (B, N + 1)."""

    request: ScoreRequest
    before_BR: Tensor


class ImitationTrainer(PolicyTrainer):
    """Rows carry `state` (a lesson's number), `rollout` (the epoch) and `place`."""

    keeps_reference = False

    def __init__(
        self,
        model: Any,
        source: StateSource,
        args: Any,
        controls: Controls,
        *,
        lessons: Lessons,
        paths: int,
        noise: Noise = "adapters",
        **rest: Any,
    ) -> None:
        super().__init__(model, source, args, controls, **rest)
        self.lessons, self.paths, self.noise = lessons, paths, noise

    def _prepared(self, rows: Rows) -> ImitationBatch:
        device = self.index.device
        examples = [self.lessons.example(row) for row in rows]
        q_BN = self.lessons.targets(examples)
        items_BG = stratified(q_BN, self.lessons.uniforms(rows, self.paths))
        ids, mask = self.source.encode([example.state for example in examples], device)
        request = ScoreRequest(ids, mask, torch.from_numpy(items_BG).to(device), self.index, None)
        return ImitationBatch(request, masses(q_BN, self.index.item_of_row_N.cpu().numpy()).to(device))

    def _loss(self, model: Any, prepared: ImitationBatch) -> Tensor:
        """Nats an item."""
        scores, _ = self._answer(model, replace(prepared.request, with_more=False))
        cross_BGL = cross_entropy_BGL(scores, prepared.before_BR, self.index)
        return cross_BGL.sum(-1).mean()


def stratified(q_BN: FloatArray, uniform_BG: FloatArray) -> IntArray:
    """G items of each row drawn from q, one in each G-th part of its mass: (B, G)."""
    draws = uniform_BG.shape[1]
    mass_BN = q_BN.cumsum(axis=1)
    # Stratified: one draw in each G-th of the mass keeps every draw's own distribution on average and spreads them
    # out.
    at_BG = (uniform_BG + np.arange(draws)) / draws * mass_BN[:, -1:]
    found = [np.searchsorted(mass_N, at_G, side="right") for mass_N, at_G in zip(mass_BN, at_BG, strict=True)]
    last_B = q_BN.shape[1] - 1 - (q_BN[:, ::-1] > 0).argmax(axis=1)  # rounding must not reach what has no mass
    items_BG: IntArray = np.minimum(np.stack(found), last_B[:, None]).astype(np.int64)
    return items_BG


def masses(q_BN: FloatArray, item_of_row_N: IntArray) -> Tensor:
    """Mass of q in the sorted rows before each row, (B, N + 1), float64."""
    sorted_BN = q_BN[:, item_of_row_N].cumsum(axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((len(q_BN), 1)), sorted_BN], axis=1))


def cross_entropy_BGL(scores: TokenScores, before_BR: Tensor, index: Any) -> Tensor:
    """H(q(. | prefix), pi(. | prefix)) at each step with a choice, 0 elsewhere: (B, G, L), in nats."""
    edges = scores.edges
    user_E = edges.user_U[edges.state_E]
    low_E, high_E = index.range_of(edges.child_E)
    mass_E = (before_BR[user_E, high_E] - before_BR[user_E, low_E]).clamp(min=0.0)
    # prefixes that q never comes to have the mass 0; their share is 0 whatever it is divided by
    total_U = edges.sum(mass_E.to(scores.edge_log_prob_E.dtype)).clamp(min=1e-30)
    share_E = mass_E.to(total_U.dtype) / total_U[edges.state_E]
    return scores.spread(-edges.sum(share_E * scores.edge_log_prob_E))
