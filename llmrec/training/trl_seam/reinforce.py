"""REINFORCE with a baseline (Williams 1992): one step a rollout, no ratio and no clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmrec.policy.scoring import TokenScores
from llmrec.training.rollout import Minibatch
from llmrec.training.trl_seam.ppo import PPOConfig, PPOTrainer
from llmrec.training.trl_seam.rollouts import Drawn, Rows

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
