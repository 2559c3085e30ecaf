"""Advantages over choice points: generalised advantage estimation (Schulman et al. 2016) and whitening.

A *choice point* is a token with more than one legal continuation. Forced tokens are no steps: nothing is decided
there, so they get no advantage, and neither gamma nor lambda is applied across them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_SPREAD = 1e-5
"""Numbers that differ by less, relative to their mean, differ by rounding."""


def gae(
    reward_BG: Tensor, value_BGL: Tensor, choice_BGL: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of items, both (B, G, L), 0 where nothing is chosen.

    delta_l = r_l + gamma V_{l+1} - V_l and A_l = delta_l + gamma lambda A_{l+1} over an item's choice points; the
    item's whole reward falls on its last one, after which the episode has ended (no bootstrap). The return, which
    the critic is fitted to, is A_l + V_l.

    Args:
        reward_BG: reward of each item, given at its last token.
        value_BGL: V of the prefix before token l.
        choice_BGL: bool, the choice points. An item without any gets zeros.
        gamma: discount a choice point.
        lam: lambda; 1 is the Monte Carlo return less V, 0 is the one-step error.
    """
    advantage = torch.zeros_like(value_BGL)
    reward_left = reward_BG.to(value_BGL.dtype)
    next_value = next_advantage = torch.zeros_like(reward_left)
    # From the last token to the first, since A_l needs A_(l + 1). What is carried passes through forced tokens
    # untouched: the next step of a choice point is the next choice point, whatever stands between.
    for place in reversed(range(value_BGL.shape[-1])):
        step, value = choice_BGL[..., place], value_BGL[..., place]
        here = reward_left + gamma * next_value - value + gamma * lam * next_advantage
        advantage[..., place] = torch.where(step, here, 0.0)
        next_advantage = torch.where(step, here, next_advantage)
        next_value = torch.where(step, value, next_value)
        # spent at the last choice point, which is the first that this loop meets
        reward_left = torch.where(step, 0.0, reward_left)
    return advantage, torch.where(choice_BGL, advantage + value_BGL, 0.0)


def gae_steps(
    reward_BS: Tensor,
    value_BS: Tensor,
    step_BS: Tensor,
    *,
    discount_BS: Tensor,
    trace_BS: Tensor,
    last_value_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of episodes whose steps have discounts and traces of their own, both (B, S).

    delta_s = r_s + d_s V_{s+1} - V_s and A_s = delta_s + d_s lambda_s A_{s+1} (Schulman et al. 2016, with gamma and
    lambda made to depend on the step); the return, which the critic is fitted to, is A_s + V_s. Step s + 1 is the
    next true place of `step_BS`, and after the last one stands `last_value_B` with no advantage of its own.

    An episode that ended (the user left) has d = 0 at its last step. One that was cut off goes on in `last_value_B`.

    Args:
        reward_BS: reward of each step.
        value_BS: V before it.
        step_BS: bool, the places that are steps; the others hold anything and get 0.
        discount_BS: d, what the value after the step is worth before it.
        trace_BS: lambda from the step to the next one; 1 is the Monte Carlo return less V, 0 the one-step error.
        last_value_B: V after the last step; 0 where not given.
    """
    advantage = torch.zeros_like(value_BS)
    next_value = torch.zeros_like(value_BS[:, 0]) if last_value_B is None else last_value_B.to(value_BS)
    next_advantage = torch.zeros_like(next_value)
    for place in reversed(range(value_BS.shape[1])):
        step, value, discount = step_BS[:, place], value_BS[:, place], discount_BS[:, place]
        here = reward_BS[:, place] - value + discount * (next_value + trace_BS[:, place] * next_advantage)
        advantage[:, place] = torch.where(step, here, 0.0)
        next_advantage = torch.where(step, here, next_advantage)
        next_value = torch.where(step, value, next_value)
    return advantage, torch.where(step_BS, advantage + value_BS, 0.0)


def moments(value: Tensor, where: Tensor) -> Tensor:
    """Number, sum and sum of squares of `value` at `where`, float64; triples of several processes may be added."""
    # Sums and not means, so that those of several processes add up. In float64, since the variance is then a
    # difference of two large sums.
    chosen = value[where].double()
    count = torch.tensor(float(chosen.numel()), dtype=torch.float64, device=value.device)
    return torch.stack([count, chosen.sum(), chosen.square().sum()])


def mean_and_variance(moments_3: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of what `moments` summed up; zeros where there is nothing."""
    count, total, squares = moments_3.unbind()
    mean = total / count.clamp(min=1)
    # rounding may leave a difference slightly below 0
    return mean, (squares / count.clamp(min=1) - mean.square()).clamp(min=0)


def whiten(
    parts: list[Tensor], where: list[Tensor], add_up: Callable[[Tensor], Tensor] = lambda moments_3: moments_3
) -> tuple[list[Tensor], float]:
    """Shifts and scales `parts` to mean 0 and variance 1 over all choice points of all parts and processes.

    Args:
        parts: tensors of any shapes.
        where: bool masks of the same shapes; elsewhere the result is 0.
        add_up: sums a tensor over processes.

    Returns:
        The parts, and what they were divided by: 1 where there is no spread. Whatever a loss weighs against them is
        to be divided by it too.
    """
    # All minibatches and processes at once: whitened apart, an advantage would count by what it happened to share a
    # minibatch with, and more processes would be another algorithm.
    total = torch.stack([moments(p, w) for p, w in zip(parts, where, strict=True)]).sum(0)
    mean, variance = (float(value) for value in mean_and_variance(add_up(total)))
    # Advantages that differ by rounding alone stay as they are: divided by their deviation they would be noise of
    # size 1.
    scale = math.sqrt(variance) if variance > _SPREAD**2 * max(mean * mean, 1e-12) else 1.0
    return [torch.where(w, (p - mean) / scale, 0.0) for p, w in zip(parts, where, strict=True)], scale
