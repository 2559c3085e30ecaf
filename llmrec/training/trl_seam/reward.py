"""`trl.RewardTrainer` with shared prompts: a pair is one packed row in place of two sequences."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import trl

from llmrec.policy.modes import still
from llmrec.training.controls import Guard
from llmrec.training.item_values import with_valuing
from llmrec.training.pairs import PairSource, Rows
from llmrec.training.rollout import ScoreRequest
from llmrec.training.trl_seam.quiet import GuardedTrainer


class RewardTrainer(GuardedTrainer, trl.RewardTrainer):  # type: ignore[misc]  # trl is untyped
    """`trl.RewardTrainer` whose loss is handed the values of one packed forward as its rows [preferred, other].

    Args:
        model: a sequence classification model with one output, plain or under an adapter.
        source: the preferences, one negative each; rows come from `source.plan`.
        args: TRL's configuration.
        rest: as for TRL's trainer.
    """

    def __init__(self, model: Any, source: PairSource, args: trl.RewardConfig, **rest: Any) -> None:
        super().__init__(model=model, args=args, data_collator=list, **rest)
        self.guard, self.source = Guard(), source
        source.to(self.accelerator.device)
        with_valuing(model)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """As it is: rows are tokenised when they are needed."""
        return dataset

    def _prepare_inputs(self, inputs: Rows) -> dict[str, Any]:
        request, _ = self.source.request(inputs)
        return {"request": request, "attention_mask": request.prompt_mask_BP}  # TRL counts tokens by the mask

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Saves on the first process alone: PEFT looks for the head in weights that only that one was given."""
        if self.args.should_save:
            super()._save(output_dir, state_dict)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's own: -log sigma of the difference, and the centring term."""
        answer = functools.partial(self._answer, model)
        return super().compute_loss(answer, inputs, return_outputs, num_items_in_batch)

    def _answer(self, model: Any, *, request: ScoreRequest, **_: Any) -> SimpleNamespace:
        """Values under the model, through whatever wraps it, without dropout."""
        still(self.accelerator.unwrap_model(self.model))
        value_BG = model(valuing=request)["value_BG"]
        return SimpleNamespace(logits=value_BG.T.reshape(-1, 1))
