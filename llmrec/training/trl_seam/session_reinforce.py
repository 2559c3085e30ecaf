"""REINFORCE with a baseline over sessions: one step a rollout, no ratio and no clipping."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llmrec.training.session_credit import Steps, of_slots
from llmrec.training.slates import SlotBatch
from llmrec.training.trl_seam.reinforce import ReinforceConfig
from llmrec.training.trl_seam.session import SessionTrainer


class SessionReinforceTrainer(SessionTrainer):
    """-(R - b) log P(item k | items before it) over slots, R the discounted reward of the rest of the session.

    The baseline b is the critic's value of the slot, the mean return of the rollouts before this one, or 0. Without a
    critic a session that is cut off is worth nothing from there on.
    """

    args: ReinforceConfig

    def _credit(self, steps: Steps) -> tuple[Tensor, Tensor]:
        if self.args.baseline == "critic":
            advantage, returns = steps.gae(1.0)
            return of_slots(advantage, self.source.session.credit), returns
        nothing = replace(steps, value=torch.zeros_like(steps.value), last_N=torch.zeros_like(steps.last_N))
        _, returns = nothing.gae(1.0)
        gained, there = of_slots(returns, self.source.session.credit), steps.step[..., :-1]
        before = 0.0
        if self.args.baseline == "running":
            before, found = self.controls.reward.mean, gained[there].double()
            sums = [torch.ones_like(found).sum(), found.sum(), found.square().sum()]
            self.controls.reward.add(*self._sum(torch.stack(sums)).tolist())
        return torch.where(there, gained - before, 0.0), returns

    def _slot_loss(self, slot_RK: Tensor, batch: SlotBatch, there_RK: Tensor) -> tuple[Tensor, Tensor]:
        return -(batch.advantage_RK * slot_RK).sum(), torch.zeros((), device=slot_RK.device)
