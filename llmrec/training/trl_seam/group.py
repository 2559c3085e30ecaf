"""GRPO and RLOO by TRL's own trainers: our draws and our distribution, TRL's advantages and losses.

Three methods are the whole plug. `_generate` hands over the items that were drawn, `_calculate_rewards` what they
earned, and `_get_per_token_logps_and_entropies` scores them under pi_F: while TRL makes a batch it gets the sampler's
own log-probabilities and the reference's, and in the loss those of the policy, through the wrapped forward. Tokens
that were forced are no completion: TRL's mask holds choice points alone.

KL and entropy are part of what a draw earned, r - beta log(pi / pi_ref) - c log pi, as in TRL's RLOO: the gradient
is then that of J = E[r] - beta KL(pi || pi_ref) + c H, and at the optimum of J all draws of a state have earned the
same, so that no scaling of advantages and no weight of an item moves it. TRL's `beta` and `entropy_coef` stay 0:
GRPO's k3 in the loss has the gradient of KL(pi_ref || pi) and is not divided by what divides the advantages, and its
bonus is a mean over tokens and not over items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import trl
from torch import Tensor

from llmrec.training.controls import Controls
from llmrec.training.state_source import Rows, ScoreRequest, StateSource
from llmrec.training.trl_seam.rollouts import Drawn, RolloutTrainer

_EDGE = 1e-4
"""What TRL adds to a deviation before it divides by it."""


class GroupTrainer(RolloutTrainer):
    """Mixin before `trl.GRPOTrainer` and `trl.RLOOTrainer`; see `RolloutTrainer`. TRL's `beta` is 0 in `args`."""

    _divided_by = 1.0
    """What TRL divides this rollout's advantages by; a mean over its states."""

    def __init__(self, model: Any, source: StateSource, args: Any, controls: Controls, **rest: Any) -> None:
        super().__init__(model, source, args, controls, **rest)
        self._drawn: Drawn | None = None
        self._request: ScoreRequest | None = None

    def _roll_out(self, inputs: Rows) -> Sequence[dict[str, Any]]:
        # without a request `_get_per_token_logps_and_entropies` answers with the sampler's own log-probabilities
        self._drawn, self._request = self._draw(inputs), None
        self._reference_drawn = self._reference_scores(self._drawn.request)
        self._move_controls(self._drawn, [self._reference_drawn])
        batch = self._generate_and_score_completions(self._drawn.rows)
        for name in ("reward", *(f"rewards/{function}/mean" for function in self.reward_func_names)):
            self._metrics["train"][name].pop()  # TRL's entry, of rewards after replacing and normalising
        self._regularise(batch)
        parts = self._split(batch, self.args.steps_per_generation)
        self._drawn = None
        return parts

    def _regularise(self, batch: dict[str, Any]) -> None:
        """Brings KL and entropy into the advantages, where they are not part of the rewards."""

    def _advantage_unit(self) -> float:
        return self._reward_unit * self._divided_by

    def _cost(self) -> Tensor | None:
        """beta log(pi / pi_ref) + c log pi of this process's draws, (B, G), in the units of their rewards.

        None where both coefficients are 0.
        """
        beta, bonus = self.controls.kl_coefficient, self.controls.entropy_coefficient
        if not (beta or bonus):
            return None
        assert self._drawn is not None
        log_prob_BG = self._drawn.log_prob_BGL.sum(-1)
        against_BG = self._reference_drawn.item_log_prob_BG.to(log_prob_BG)
        cost_BG: Tensor = beta * (log_prob_BG - against_BG) + bonus * log_prob_BG
        return cost_BG / self._reward_unit

    def _split(self, batch: dict[str, Any], number: int) -> list[dict[str, Any]]:
        """TRL's batch in minibatches of whole groups, each with its request and choice points for a mask."""
        assert self._drawn is not None
        # TRL pads to the longest item that was drawn, our tensors to the longest of the catalogue
        width = batch["completion_ids"].shape[1]
        choice = self._reference_drawn.choice_BGL.flatten(0, 1)[:, :width]
        batch["completion_mask"] = choice.to(batch["completion_mask"].dtype)
        if "num_items_in_batch" in batch:
            # what losses that average over tokens ("dapo") divide by: choice points, since forced tokens are no
            # tokens here
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
        """What the draws earned; all functions say the normalised sum where the settings ask for it."""
        assert self._drawn is not None
        if self.controls.settings.reward_normalisation == "none":
            return self._drawn.given_WF
        return self._shared_out(self._drawn.reward_BG)

    def _shared_out(self, value_BG: Tensor) -> Tensor:
        """One number of each draw as the functions' values that add up to it, over all processes: (W, F)."""
        own = self._gathered(value_BG.flatten()).unsqueeze(1)
        weights: Tensor = self.reward_weights.to(own.device)
        # TRL weighs the columns and adds them up, so each of them holds an equal part
        if bool(weights.sum()):
            return own.expand(-1, len(weights)) / weights.sum()
        # equal parts would be infinite under weights such as 1 and -1, so one column says all of it
        given = own.new_zeros((len(own), len(weights)))
        at = int(weights.abs().argmax())
        given[:, at : at + 1] = own / weights[at]
        return given

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        """Log-probabilities and entropies of the draws under pi_F: (B * G, `logits_to_keep`)."""
        if self._request is not None:
            scores, _more = self._answer(model, self._request)
            return _flat(scores.log_prob_BGL, logits_to_keep), _flat(scores.entropy_BGL, logits_to_keep), None
        assert self._drawn is not None
        return _flat(self._drawn.log_prob_BGL, logits_to_keep), None, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's own."""
        self._request = inputs["request"]
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        return loss


def _flat(value_BGL: Tensor, width: int) -> Tensor:
    return value_BGL.flatten(0, 1)[:, :width]


class GRPOTrainer(GroupTrainer, trl.GRPOTrainer):  # type: ignore[misc]  # trl is untyped
    """`trl.GRPOTrainer` with all its losses, on the constrained policy.

    Advantages are TRL's own of the rewards, less the same of the costs under the rewards' scale:
    A = (r - mean r - (cost - mean cost)) / scale. Were the scale that of r - cost, states in which all draws earn the
    same would be drawn to the reference as hard as others are to their rewards.
    """

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        ids, tokens, titles = self._drawn_tokens()
        return ids, tokens, None, titles, None, {}, None, []

    def _regularise(self, batch: dict[str, Any]) -> None:
        cost_BG, scale_BG = self._cost(), self._scale_BG()
        self._divided_by = self._mean(float(scale_BG.mean()))
        if cost_BG is not None:
            # Less the mean of its group, like TRL's advantages: a cost that all draws of a state share tells nothing
            # apart.
            relative_BG = (cost_BG - cost_BG.mean(1, keepdim=True)) / scale_BG
            batch["advantages"] = batch["advantages"] - relative_BG.flatten().to(batch["advantages"])

    def _scale_BG(self) -> Tensor:
        """What TRL divides the advantages by: (B, G). A group without spread counts in the deviation of all rewards.

        Where TRL normalises each function's rewards apart, there is no common scale, and costs count in deviations.
        """
        assert self._drawn is not None
        reward_BG, how = self._drawn.reward_BG, self.scale_rewards
        if how == "none" or self.multi_objective_aggregation != "sum_then_normalize":
            return torch.ones_like(reward_BG)
        whole = self._gathered(reward_BG.flatten()).std() + _EDGE
        scale_B1 = whole.expand(len(reward_BG), 1).clone()
        if how == "group":
            flat = self._flat(self._drawn)
            # A flat group's deviation is 0: divided by TRL's edge of 1e-4 alone, its costs would be ten thousand
            # times themselves.
            kept_B1 = scale_B1[flat]
            scale_B1 = reward_BG.std(1, keepdim=True) + _EDGE
            scale_B1[flat] = kept_B1
        return scale_B1.expand_as(reward_BG)


class RLOOTrainer(GroupTrainer, trl.RLOOTrainer):  # type: ignore[misc]  # trl is untyped
    """`trl.RLOOTrainer` on the constrained policy; KL and entropy are taken off the rewards."""

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        return self._drawn_tokens()

    def _regularise(self, batch: dict[str, Any]) -> None:
        if self.normalize_advantages:
            assert self._drawn is not None
            cost_BG = self._cost()
            earned_BG = self._drawn.reward_BG if cost_BG is None else self._drawn.reward_BG - cost_BG
            # each less the mean of its siblings
            draws = earned_BG.shape[1]
            relative_BG = (earned_BG - earned_BG.mean(1, keepdim=True)) * draws / (draws - 1)
            self._divided_by = float(self._gathered(relative_BG.flatten()).std()) + _EDGE

    def _calculate_rewards(self, *rest: Any) -> Tensor:
        given_WF, cost_BG = super()._calculate_rewards(*rest), self._cost()
        if cost_BG is None:
            return given_WF
        assert self._drawn is not None
        return self._shared_out(self._drawn.reward_BG - cost_BG)
