"""REINFORCE with a baseline (Williams 1992): one step a rollout, no ratio and no clipping."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from llmrec.policy.scoring import TokenScores
from llmrec.training.slates import SlotBatch, Steps, of_slots
from llmrec.training.state_source import Rows
from llmrec.training.trl_seam.ppo import Minibatch, PPOConfig, PPOTrainer
from llmrec.training.trl_seam.rollouts import Drawn
from llmrec.training.trl_seam.session import SessionTrainer

Baseline = Literal["critic", "running", "none"]


@dataclass
class ReinforceConfig(PPOConfig):
    """`PPOConfig` with a baseline; ratio, clipping, gamma and lambda have no place here."""

    baseline: Baseline = "critic"


class ReinforceTrainer(PPOTrainer):
    """-(R - b) log pi(item | state), a mean over items.

    The baseline b is the critic's value of the state (it is read where the first choice is made, before anything is
    drawn, so it takes no bias in), the mean reward of the rollouts before this one, or 0. Against PPO: the gradient
    of the first pass without a ratio; more than one step a rollout would be biased, so there is one.
    """

    args: ReinforceConfig

    def _draw(self, inputs: Rows) -> Drawn:
        # before this rollout's rewards are in it: a baseline that knows the draw it is taken from would be biased
        self._before = self.controls.reward.mean
        drawn = super()._draw(inputs)
        if self.controls.settings.reward_normalisation != "running":  # else the moments hold this rollout already
            self.controls.reward.add(*self._sums(drawn.reward_BG).tolist())
        return drawn

    def _advantage(self, reward_BG: Tensor, value_BGL: Tensor, choice_BGL: Tensor) -> tuple[Tensor, Tensor]:
        reward_BGL = reward_BG.to(value_BGL.dtype).unsqueeze(-1)
        gained = reward_BGL - self._baseline(value_BGL, choice_BGL)
        return torch.where(choice_BGL, gained, 0.0), torch.where(choice_BGL, reward_BGL, 0.0)

    def _baseline(self, value_BGL: Tensor, choice_BGL: Tensor) -> Any:
        if self.args.baseline == "critic":  # tokens before the first choice are forced, and V is not fitted there
            first_BG1 = choice_BGL.int().argmax(-1, keepdim=True)
            return value_BGL.gather(-1, first_BG1)
        normalised = self.controls.settings.reward_normalisation != "none"
        return self._before if self.args.baseline == "running" and not normalised else 0.0

    def _policy_loss(self, scores: TokenScores, batch: Minibatch) -> tuple[Tensor, Tensor]:
        gain = torch.where(batch.choice_BGL, batch.advantage_BGL * scores.log_prob_BGL, 0.0)
        return -gain.sum(), torch.zeros((), device=gain.device)


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
        # GAE with V = 0 and lambda = 1 is the discounted sum of what is still to come
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
