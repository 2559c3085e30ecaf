"""GRPO and RLOO by TRL's own trainers: our draws and our distribution, TRL's advantages and losses.

Three methods are the whole plug. `_generate` hands over the items that were drawn, `_calculate_rewards` what they
earned, and `_get_per_token_logps_and_entropies` scores them under pi_F: while TRL makes a batch it gets the sampler's
own log-probabilities and the reference's, and in the loss those of the policy, through the wrapped forward. Tokens
that were forced are no completion: TRL's mask holds choice points alone.

TRL's KL estimates are kept (k3 in GRPO's loss, the log-ratio in RLOO's reward), on the constrained distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trl
from torch import Tensor

from llmrec.training.controls import Controls
from llmrec.training.rollout import ScoreRequest, StateSource
from llmrec.training.trl_seam.rollouts import Drawn, RolloutTrainer, Rows

REFERENCE = object()
"""Stands where TRL looks for a reference model; scores come from `RolloutTrainer._reference_scores`."""


class GroupTrainer(RolloutTrainer):
    """Mixin before `trl.GRPOTrainer` and `trl.RLOOTrainer`; see `RolloutTrainer`. TRL's `beta` must be 0 in `args`:
    the coefficient is that of `controls` (with another TRL would look for a reference on the Hub).
    """

    def __init__(self, model: Any, source: StateSource, args: Any, controls: Controls, **rest: Any) -> None:
        super().__init__(model, source, args, controls, **rest)
        trainer: Any = self
        trainer.ref_model, trainer.beta = REFERENCE, controls.kl_coefficient
        self._drawn: Drawn | None = None
        self._request: ScoreRequest | None = None

    def _roll_out(self, inputs: Rows) -> Sequence[dict[str, Any]]:
        trainer: Any = self
        trainer.beta = self.controls.kl_coefficient
        self._drawn, self._request = self._draw(inputs), None
        self._reference_drawn = self._reference_scores(self._drawn.request)
        batch = trainer._generate_and_score_completions(self._drawn.rows)
        for name in ("reward", *(f"rewards/{function}/mean" for function in trainer.reward_func_names)):
            trainer._metrics["train"][name].pop()  # TRL's entry, of rewards after replacing and normalising
        self._move_controls(self._drawn, [self._reference_drawn])
        parts = self._split(batch, trainer.args.steps_per_generation)
        self._drawn = None
        return parts

    def _split(self, batch: dict[str, Any], number: int) -> list[dict[str, Any]]:
        """TRL's batch in minibatches of whole groups, each with its request and choice points for a mask."""
        assert self._drawn is not None
        width = batch["completion_ids"].shape[1]
        choice = self._reference_drawn.choice_BGL.flatten(0, 1)[:, :width]
        batch["completion_mask"] = choice.to(batch["completion_mask"].dtype)
        if "num_items_in_batch" in batch:
            batch["num_items_in_batch"] = self._sum(choice.sum())
        chunks = {k: v.chunk(number) for k, v in batch.items() if isinstance(v, Tensor) and v.dim()}
        whole = {k: v for k, v in batch.items() if k not in chunks and v is not None}
        requests = self._drawn.request.split(number)
        return [{**whole, **{k: v[n] for k, v in chunks.items()}, "request": requests[n]} for n in range(number)]

    def _drawn_tokens(self) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """Prompts, items and titles of the draws."""
        assert self._drawn is not None
        request, draws = self._drawn.request, len(self._drawn.rows) // len(self._drawn.request.prompt_ids_BP)
        pairs = zip(request.prompt_ids_BP, request.prompt_mask_BP, strict=True)
        prompts = [ids[mask.bool()].tolist() for ids, mask in pairs]
        items, catalogue = request.items_BG.flatten().tolist(), self.source.catalogue
        return (
            [prompt for prompt in prompts for _ in range(draws)],
            [list(catalogue.token_ids(item)) for item in items],
            [catalogue.titles[item] for item in items],
        )

    def _calculate_rewards(self, *_: Any) -> Tensor:
        """What the draws earned; one function's rewards are the normalised ones where the settings ask for it."""
        assert self._drawn is not None
        if self.controls.settings.reward_normalisation == "none":
            return self._drawn.given_WF
        own = self._gathered(self._drawn.reward_BG.flatten()).unsqueeze(1)
        weights: Tensor = self.reward_weights.to(own.device)  # type: ignore[attr-defined]
        given: Tensor = own.expand(-1, len(weights)) / weights.sum()
        return given

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        """Log-probabilities and entropies of the draws under pi_F: (B * G, `logits_to_keep`)."""
        if self._request is not None:
            scores, _more = self._answer(model, self._request)
            return _flat(scores.log_prob_BGL, logits_to_keep), _flat(scores.entropy_BGL, logits_to_keep), None
        assert self._drawn is not None
        known: Tensor = self._reference_drawn.log_prob_BGL if model is REFERENCE else self._drawn.log_prob_BGL
        return _flat(known, logits_to_keep), None, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's own."""
        self._request = inputs["request"]
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        return loss


def _flat(value_BGL: Tensor, width: int) -> Tensor:
    return value_BGL.flatten(0, 1)[:, :width]


class GRPOTrainer(GroupTrainer, trl.GRPOTrainer):  # type: ignore[misc]  # trl is untyped
    """`trl.GRPOTrainer` with all its losses, on the constrained policy."""

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        ids, tokens, titles = self._drawn_tokens()
        return ids, tokens, None, titles, None, {}, None, []

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.controls.entropy_coefficient:
            self.entropy_coef, self._entropy_bonus_enabled = self.controls.entropy_coefficient, True
        return super()._compute_loss(model, inputs)


class RLOOTrainer(GroupTrainer, trl.RLOOTrainer):  # type: ignore[misc]  # trl is untyped
    """`trl.RLOOTrainer` on the constrained policy."""

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        return self._drawn_tokens()
