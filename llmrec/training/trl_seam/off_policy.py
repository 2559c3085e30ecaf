"""Off-policy REINFORCE and doubly robust learning from logged slates, in transformers' training loop.

One packed row a slate: its prompt, the items that were shown, and a few draws from the policy for the KL, the entropy
and the fitted reward. Against Chen et al. (2019): mu is logged or fitted beforehand, not by a second head, and the
expected reward of a state is not discounted over later ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.config import OffPolicySettings
from llmrec.errors import RunError
from llmrec.policy.scoring import TokenScores
from llmrec.rewards.trl import Rewarder
from llmrec.training.controls import Controls
from llmrec.training.logged import LoggedSlates
from llmrec.training.losses import Fitted, SlateBatch, off_policy_loss, weights
from llmrec.training.state_source import Rows, ScoreRequest, StateSource
from llmrec.training.trl_seam.plain import PolicyTrainer


@dataclass(frozen=True, slots=True)
class Batch:
    """B slates and G draws for each.

    Attributes:
        request: the logged items (another of the slate where a slate has no row there), then the draws.
        shown: what was logged.
        reference: scores of the same items under the policy before.
        value_BX: the fitted reward of all of them, None where there is none.
    """

    request: ScoreRequest
    shown: SlateBatch
    reference: TokenScores
    value_BX: Tensor | None


class OffPolicyTrainer(PolicyTrainer):
    """Learns from `slates`, whose states are those of `source`; `value` is the fitted reward, if there is one."""

    def __init__(
        self,
        model: Any,
        source: StateSource,
        args: Any,
        controls: Controls,
        *,
        slates: LoggedSlates,
        settings: OffPolicySettings,
        value: Rewarder | None,
        **rest: Any,
    ) -> None:
        super().__init__(model, source, args, controls, **rest)
        self.slates, self.settings, self.value = slates, settings, value

    def _prepared(self, rows: Rows) -> Batch:
        items_BK, shown = self._logged(rows)
        request, drawn = self._sample(rows, self.settings.draws)
        # one packed row: the prompt, its history and many prefixes are read once for what was shown and what is drawn
        request = replace(request, items_BG=torch.cat([items_BK, drawn.items_BG], dim=1))
        return Batch(request, shown, self._reference_scores(request), self._values(rows, request.items_BG))

    def _logged(self, rows: Rows) -> tuple[Tensor, SlateBatch]:
        """The slates of the rows' states."""
        device, slates = self.index.device, self.slates
        at = np.array([row["state"] for row in rows])
        share = slates.share_BK[at]
        width = int(np.flatnonzero(share.any(axis=0)).max()) + 1
        items, there = slates.items_BK[at, :width], share[:, :width] > 0
        # a place without a row needs some item to be scored; one of the slate's costs no further prefix
        filler = np.take_along_axis(items, there.argmax(axis=1)[:, None], axis=1)
        tables = (slates.reward_BK, slates.propensity_BK, slates.below_BK, slates.share_BK)
        tensors = [torch.from_numpy(table[at, :width]).to(device, self._dtype()) for table in tables]
        return torch.from_numpy(np.where(there, items, filler)).to(device), SlateBatch(*tensors)

    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.base.dtype == torch.float64 else torch.float32

    def _values(self, rows: Rows, items_BX: Tensor) -> Tensor | None:
        """The fitted reward of what was shown and of what was drawn, asked at once."""
        if self.value is None:
            return None
        states = [self.source.states[row["state"]] for row in rows]
        found = np.asarray(self.value(states, items_BX.cpu().numpy()).total_BK, dtype=np.float64)
        if found.shape != tuple(items_BX.shape) or not np.isfinite(found).all():
            raise RunError(
                f"The fitted reward gave {found.shape} values for items {tuple(items_BX.shape)}, or some that are "
                "not finite; check the reward model."
            )
        return torch.from_numpy(found).to(items_BX.device, self._dtype())

    # The update.

    def _loss(self, model: Any, prepared: Batch) -> Tensor:
        width, settings = prepared.shown.share_BK.shape[1], self.settings
        scores, _ = self._answer(model, prepared.request)
        log_prob_BX, fitted = scores.item_log_prob_BG, None
        if prepared.value_BX is not None:
            value = prepared.value_BX
            fitted = Fitted(value[:, :width], value[:, width:], log_prob_BX[:, width:])
            self._note({"fitted_reward": value[:, width:].mean()})
        log_prob_BK = log_prob_BX[:, :width]
        loss = off_policy_loss(log_prob_BK, prepared.shown, k=settings.slate, cap=settings.weight_cap, fitted=fitted)
        self._note_weights(log_prob_BK, prepared.shown)
        return loss + self._penalty(scores, prepared.reference, width)

    @torch.no_grad()
    def _note_weights(self, log_prob_BK: Tensor, shown: SlateBatch) -> None:
        """Notes the self-normalised value of the policy on the batch, and how the weights lie.

        `weight` is their mean, 1 in expectation but for the cap and errors of mu; `value` is sum w r / sum w;
        `effective` is Kish's (sum w)^2 / sum w^2 as a share of the rows; `capped` is the share of rows whose pi / mu
        was above the cap. A slate counts as one, however many rows it has.
        """
        there, share = shown.share_BK > 0, shown.share_BK.double()
        weight = torch.where(there, weights(log_prob_BK, shown, self.settings.weight_cap), 0.0).double()
        above = there & (log_prob_BK.exp() / shown.propensity_BK > self.settings.weight_cap)
        parts = (share * weight, share * weight * shown.reward_BK, share * weight.square(), share * above, share)
        total, earned, squares, over, rows = self._sum(torch.stack([part.sum() for part in parts])).tolist()
        kept = self._metrics["train"]
        # divided by the sum of the weights and not by the rows: slightly biased, far less noisy, and never outside of
        # what was earned
        kept["value"].append(earned / total if total > 0 else 0.0)
        kept["weight"].append(total / rows)
        kept["capped"].append(over / rows)
        kept["effective"].append(total * total / (squares * rows) if squares > 0 else 0.0)
