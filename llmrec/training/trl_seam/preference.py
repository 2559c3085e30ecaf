"""Learning from preferences by TRL's own trainers: DPO (and S-DPO beside it) and reward models, with shared prompts.

The whole plug of DPO is what TRL's loss calls in place of a model: it is handed the scores of one packed forward (B
prompts, each with its preferred and its other items) as rows [preferred ..., rejected ...] of TRL's fused head.
Tokens that were forced are no completion: TRL's mask holds choice points alone. All losses, metrics and loops are
TRL's.

Against TRL, whose log-probabilities are those of the full softmax: items are scored under pi, which sums to 1 over
the catalogue. Legal tokens have no logits of their own, so `logits/chosen` and `logits/rejected` are means of
normalised logits (log-probabilities of the legal tokens). `rewards/accuracies` counts a tie as half a pair in order
(`in_order`), where TRL counts none: a training starts with nothing but ties, since the policy is its reference.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
import trl
from peft import PeftModel
from torch import Tensor

from llmrec.policy.forward import answer_through_forward, with_scoring
from llmrec.policy.modes import still
from llmrec.policy.scoring import TokenScores
from llmrec.training.controls import Guard
from llmrec.training.item_values import with_valuing
from llmrec.training.losses import in_order, softmax_preference_loss
from llmrec.training.state_source import PairSource, Rows, ScoreRequest, choice_points
from llmrec.training.trl_seam.quiet import GuardedTrainer, frozen_copy, without_adapter

ACCURACY = "rewards/accuracies"


class DPOTrainer(GuardedTrainer, trl.DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """`trl.DPOTrainer` with all its losses, on the constrained policy.

    Args:
        model: a PEFT model with one fresh adapter (the reference is the model without it) or a plain one (the
            reference is a copy).
        source: the preferences; rows come from `source.plan`.
        args: TRL's configuration.
        rest: as for TRL's trainer.
    """

    ref_model: Any
    _now_BG: Tensor
    """Log-probabilities of the items that were scored last, under the policy and (`_before_BG`) its reference."""
    _before_BG: Tensor

    def __init__(self, model: Any, source: PairSource, args: trl.DPOConfig, **rest: Any) -> None:
        self.base = model.get_base_model() if isinstance(model, PeftModel) else model
        # given to TRL, which would else load the reference anew by its name
        frozen = None if isinstance(model, PeftModel) else with_scoring(frozen_copy(self.base))
        super().__init__(model=model, ref_model=frozen, args=args, data_collator=list, **rest)
        if frozen is None:
            model.delete_adapter("ref")  # TRL's copy of the adapter, which is the identity still
        # TRL calls its reference as it calls the policy; ours answers with scores, by the frozen copy or without the
        # adapter
        self._frozen, self.ref_model = self.ref_model, self._reference_answer
        self.aux_loss_enabled = False  # routers are not asked
        self.guard, self.source = Guard(), source
        source.to(self.accelerator.device)
        with_scoring(self.base)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """As it is: rows are tokenised when they are needed."""
        return dataset

    def _prepare_inputs(self, inputs: Rows) -> dict[str, Any]:
        """What TRL's loss reads: choice points as completions of L tokens behind a prompt of one."""
        request, _ = self.source.request(inputs)
        # one column more in front: TRL shifts completions by one token against what predicts them
        mask = torch.nn.functional.pad(_as_rows(choice_points(request)), (1, 0)).long()
        return {
            "input_ids": torch.zeros_like(mask),
            "attention_mask": request.prompt_mask_BP,  # TRL counts tokens by it
            "completion_mask": mask,
            "request": request,
        }

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        loss = super()._compute_loss(functools.partial(self._answer, model), inputs, return_outputs)
        self._metrics["train"][ACCURACY][-1] = self._accuracy(torch.ones_like(self._now_BG, dtype=torch.bool))
        return loss

    def _accuracy(self, there_BG: Tensor) -> float:
        """The share of pairs in order of the batch that was scored last, over all processes."""
        ordered_B = in_order(self._now_BG, self._before_BG, there_BG)
        return float(self.accelerator.gather(ordered_B).mean())

    def _answer(self, model: Any, *, request: ScoreRequest, **_: Any) -> SimpleNamespace:
        return _as_fused_output(self._scores(model, request))

    def _scores(self, model: Any, request: ScoreRequest) -> TokenScores:
        """Scores under the policy, through whatever wraps it, without dropout: as under the reference."""
        still(self.base)
        scores: TokenScores = answer_through_forward(model, request)[0]
        self._now_BG = scores.item_log_prob_BG.detach()
        return scores

    def _reference_answer(self, *, request: ScoreRequest, **_: Any) -> SimpleNamespace:
        return _as_fused_output(self._reference_scores(request))

    @torch.no_grad()
    def _reference_scores(self, request: ScoreRequest) -> TokenScores:
        """Scores under the policy as it was before."""
        request = replace(request, with_more=False)
        if self._frozen is not None:
            scores: TokenScores = answer_through_forward(self._frozen, request)[0]
        else:
            with without_adapter(self):
                scores = answer_through_forward(self.model, request)[0]
        self._before_BG = scores.item_log_prob_BG
        return scores


class SoftmaxDPOTrainer(DPOTrainer):
    """S-DPO (Chen et al. 2024): the preferred item against all of its negatives at once.

    TRL's loss takes pairs in two halves of a batch, so this one is our own, on one packed row a preference. With one
    negative it is TRL's "sigmoid". Metrics have TRL's names; an accuracy counts an item above all of its negatives.
    """

    def _prepare_inputs(self, inputs: Rows) -> dict[str, Any]:
        request, there_BG = self.source.request(inputs)
        return {"request": request, "there_BG": there_BG}

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Tensor:
        scores = self._scores(model, inputs["request"])
        reference = self._reference_scores(inputs["request"])
        # sums over an item's tokens: an implicit reward beta Delta is of the item, however long its title
        log_ratio_BG = scores.item_log_prob_BG - reference.item_log_prob_BG
        self._log_preferences(log_ratio_BG.detach(), inputs["there_BG"])
        return softmax_preference_loss(log_ratio_BG, inputs["there_BG"], self.beta).mean()

    def _log_preferences(self, log_ratio_BG: Tensor, there_BG: Tensor) -> None:
        reward_BG = self.beta * log_ratio_BG
        chosen_B, rejected = reward_BG[:, 0], there_BG[:, 1:]
        mean_B = torch.where(rejected, reward_BG[:, 1:], 0.0).sum(1) / rejected.sum(1)
        log_prob_BG = self._now_BG
        other_B = torch.where(rejected, log_prob_BG[:, 1:], 0.0).sum(1) / rejected.sum(1)
        named = {
            "rewards/chosen": chosen_B,
            "rewards/rejected": mean_B,
            "rewards/margins": chosen_B - mean_B,
            "logps/chosen": log_prob_BG[:, 0],
            "logps/rejected": other_B,
        }
        for name, value_B in named.items():
            self._metrics["train"][name].append(self.accelerator.gather(value_B).mean().item())
        self._metrics["train"][ACCURACY].append(self._accuracy(there_BG))


def _as_rows(value_BGL: Tensor) -> Tensor:
    """Rows [first items ..., second items ..., ...]: (G * B, L)."""
    return value_BGL.transpose(0, 1).flatten(0, 1)


def _as_fused_output(scores: TokenScores) -> SimpleNamespace:
    """What TRL's losses read of its fused head, on the legal tokens of each step."""
    edges, log_prob_E = scores.edges, scores.edge_log_prob_E
    known_E = log_prob_E.detach()
    top_U = known_E.new_full((len(edges.count_U),), -torch.inf).scatter_reduce(0, edges.state_E, known_E, "amax")
    mean_U = edges.sum(known_E) / edges.count_U
    # log sum p^2, for TRL's weighting of pairs (WPO)
    squares_U = edges.sum((2 * known_E).exp()).log()
    best_BGL = scores.choice_BGL & (scores.log_prob_BGL.detach() >= scores.spread(top_U))
    return SimpleNamespace(
        log_probs=_as_rows(scores.log_prob_BGL),
        entropy=_as_rows(scores.entropy_BGL),
        mean_logits=_as_rows(scores.spread(mean_U)),
        is_top1=_as_rows(best_BGL),
        log_sum_sq_probs=_as_rows(scores.spread(squares_U)),
    )


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
        # TRL cuts the batch in halves: all preferred items first, then all others
        return SimpleNamespace(logits=value_BG.T.reshape(-1, 1))
