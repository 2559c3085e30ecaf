"""Whose credit a session's rewards are: GAE over the slots of all slates, and over the turns between them.

The gradient of what a slate earns is E[sum over k of R grad log P(i_k | i_1 .. i_k-1)], R the reward of all of its
places. Rewards r_j of places j < k may be left out of slot k's credit (Sutton et al. 1999, "Policy Gradient Methods
for Reinforcement Learning with Function Approximation") only if E[r_j | i_1 .. i_j] does not depend on what stands
below j: with users who read from the top, and with places that do not meet. Where all places compete (multinomial
logit) R is every slot's credit: the slate's reward then falls on its last slot, after all choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llmrec.training.advantages import gae_steps
from llmrec.training.slates import TurnSlates

Credit = Literal["slate", "item"]


@dataclass(frozen=True, slots=True)
class Steps:
    """Sessions laid out step by step: N sessions of T turns, S = K + 1 steps a turn, its slots and the slate's end.

    At the end of a slate nothing is chosen and nothing earned; its value is that of the turns to come, and so parts
    what a slate earned from where it led.

    Attributes:
        reward: of each step, (N, T, S); 0 at the ends.
        value: V before it.
        step: bool, the turns that were played.
        last_N: V after the last turn; 0 for users who left.
        gamma: discount between turns; within a slate nothing is discounted.
    """

    reward: Tensor
    value: Tensor
    step: Tensor
    last_N: Tensor
    gamma: float

    @classmethod
    def of(cls, slates: list[TurnSlates], sessions: int, turns: int, gamma: float, *, causal: bool) -> Steps:
        """Rewards of all rows at their places, values still 0; at the slate's last one if they are not `causal`.

        Args:
            slates: what was shown and earned.
            sessions: N.
            turns: T.
            gamma: discount between turns.
            causal: whether the reward of a place depends on the places above it and on its own alone.
        """
        first = slates[0].reward_RK
        shape = (sessions, turns, first.shape[1] + 1)
        reward, value, last = first.new_zeros(shape), first.new_zeros(shape), first.new_zeros(sessions)
        step = torch.zeros(shape, dtype=torch.bool, device=first.device)
        for part in slates:
            earned_RK = part.reward_RK if causal else at_the_last(part.reward_RK)
            reward[part.session_R, part.turn_R, :-1] = earned_RK
            step[part.session_R, part.turn_R] = True
        return cls(reward, value, step, last, gamma)

    def at(self, turns: TurnSlates, values: Tensor) -> Tensor:
        """Of `values` (N, T, ...) those of the rows of `turns`: (R, ...)."""
        return values[turns.session_R, turns.turn_R]

    def gae(self, lam: float) -> tuple[Tensor, Tensor]:
        """Advantages and returns of all steps, (N, T, S); `lam` stands between turns, 1 within a slate."""
        sessions, turns, places = self.reward.shape
        discount, trace = self.reward.new_ones((2, turns, places))
        discount[:, -1], trace[:, -1] = self.gamma, lam
        flat = (sessions, turns * places)
        advantage, returns = gae_steps(
            self.reward.view(flat),
            self.value.view(flat),
            self.step.view(flat),
            discount_BS=discount.view(1, -1).expand(flat),
            trace_BS=trace.view(1, -1).expand(flat),
            last_value_B=self.last_N,
        )
        return advantage.view_as(self.reward), returns.view_as(self.reward)

    def return_sums(self) -> Tensor:
        """Number, sum and sum of squares of the undisturbed returns (V = 0) at each of the S steps: (3, S)."""
        _, returns = self.gae(1.0)
        found, where = returns.double(), self.step
        return torch.stack([(found**power * where).sum((0, 1)) for power in (0, 1, 2)])


def at_the_last(reward_RK: Tensor) -> Tensor:
    """The rewards of each row added up at its last place, 0 before."""
    return torch.nn.functional.pad(reward_RK.sum(1, keepdim=True), (reward_RK.shape[1] - 1, 0))


def of_slots(advantage_NTS: Tensor, credit: Credit) -> Tensor:
    """Advantages of the slots, (N, T, K), from those of all steps.

    "slate": of everything from the slot on. "item": the slot's own error r_k + V_{k+1} - V_k and the advantage of the
    slate's end, without the errors of the slots below it; it has no meaning where rewards are not causal in place.
    """
    slots, end = advantage_NTS[..., :-1], advantage_NTS[..., -1:]
    return slots if credit == "slate" else slots - advantage_NTS[..., 1:] + end
