"""Transformers' own training loop with the policy's constrained distribution: no rollout of TRL's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from llmrec.policy.scoring import TokenScores, exact_kl_BGL
from llmrec.training.controls import Controls
from llmrec.training.losses import over_items
from llmrec.training.state_source import Rows, StateSource
from llmrec.training.trl_seam.rollouts import RolloutTrainer
from llmrec.training.trl_seam.sharding import whole_weights


class PolicyTrainer(RolloutTrainer, Trainer):  # type: ignore[misc]  # transformers' trainer is untyped
    """A trainer whose batches are rows of `StateSource.plan`.

    A step has two parts: `_prepared` draws and asks the reference, without gradients and with all weights at hand;
    `_loss` goes through the wrapped forward, once.

    From `RolloutTrainer` come the scores through the wrapped forward, the reference, the guard and what checkpoints
    hold; draws and rewards are made here and not by TRL.

    Args:
        model: a PEFT model with one fresh adapter, or a plain one.
        source: the states.
        args: transformers' arguments; a batch holds `per_device_train_batch_size` rows.
        controls: the coefficients of KL and entropy.
        rest: as for `transformers.Trainer`.
    """

    def __init__(
        self, model: Any, source: StateSource, args: TrainingArguments, controls: Controls, **rest: Any
    ) -> None:
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list)}
        # rows pass as they are: they are tokenised with their draws, when they are needed
        super().__init__(model, source, args, controls, data_collator=lambda rows: rows, **rest)

    def _prepare_inputs(self, generation_batch: Rows) -> Any:
        # everything that walks past the wrapped forward is done here, in one go, before the step's only forward
        with torch.no_grad(), whole_weights(self.model_wrapped):
            return self._prepared(generation_batch)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: rows hold no tokens yet."""
        return 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of what `_prepared` made."""
        return self._loss(model, inputs)

    def _prepared(self, rows: Rows) -> Any:
        """What the loss of a batch of rows is computed from."""
        raise NotImplementedError

    def _loss(self, model: Any, prepared: Any) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def _penalty(self, scores: TokenScores, reference: TokenScores, first: int) -> Tensor:
        """beta KL - entropy bonus, a mean over the items from column `first` on, which are draws from pi.

        As in PPO both are exact at the prefixes that were drawn, and which prefixes are drawn has its share in their
        gradients.
        """
        log_prob_BGL = scores.log_prob_BGL[:, first:]
        kl = over_items(exact_kl_BGL(scores, reference)[:, first:], log_prob_BGL).mean()
        entropy = over_items(scores.entropy_BGL[:, first:], log_prob_BGL).mean()
        self._note({"kl": kl, "entropy": entropy})
        return self.controls.kl_coefficient * kl - self.controls.entropy_coefficient * entropy

    # The log.

    def _note(self, values: dict[str, Tensor]) -> None:
        """Keeps figures for the next entry of the log, as means over all processes."""
        stacked = torch.stack([value.detach().double().reshape(()) for value in values.values()])
        # one reduction for all figures: each is a round trip between processes
        means = self._sum(stacked) / self.accelerator.num_processes
        for name, mean in zip(values, means.tolist(), strict=True):
            self._metrics["train"][name].append(mean)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of what was noted since the last entry."""
        kept = self._metrics["train"]
        logs |= {name: sum(values) / len(values) for name, values in kept.items() if values}
        kept.clear()
        super().log(logs, start_time)


def chunks(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """`rows` in pieces of `size`, the last one shorter."""
    return [rows[first : first + size] for first in range(0, len(rows), size)]
