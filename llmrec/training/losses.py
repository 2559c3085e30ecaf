"""The clipped losses of PPO (Schulman et al. 2017), summed over choice points.

Sums, not means over tokens: divided by a constant (the number of items) the policy loss has the gradient of the
expected reward of an item. A mean over an item's tokens would weigh items by their length.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, choice: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """-sum min(r A, clip(r, 1 - clip, 1 + clip) A), r = pi / pi_old, over choice points.

    Returns:
        The loss, and the number of choice points whose ratio left [1 - clip, 1 + clip] (no gradient).
    """
    ratio = torch.where(choice, log_prob - old_log_prob, 0.0).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    outside = (ratio.detach() - 1).abs() > clip
    return -torch.where(choice, gain, 0.0).sum(), (outside & choice).sum()


def clipped_value_loss(value: Tensor, old_value: Tensor, returns: Tensor, choice: Tensor, clip: float) -> Tensor:
    """sum of 1/2 max((V - R)^2, (V_clip - R)^2) over choice points, V_clip within `clip` of the rollout's V."""
    near = old_value + (value - old_value).clamp(-clip, clip)
    error = torch.maximum((value - returns).square(), (near - returns).square())
    return 0.5 * torch.where(choice, error, 0.0).sum()


def moved_kl(log_prob: Tensor, old_log_prob: Tensor, choice: Tensor) -> Tensor:
    """Estimates the sum of KL(pi_old || pi) over choice points by (r - 1) - log r, never negative (no gradient)."""
    difference = torch.where(choice, log_prob.detach() - old_log_prob, 0.0)
    return (difference.exp() - 1 - difference).sum()


def over_items(step_BGL: Tensor, log_prob_BGL: Tensor, *, independent: bool = True) -> Tensor:
    """The sum of f_l over each item's tokens, with the gradient of E[sum of f_l] over items drawn from pi: (B, G).

    f_l belongs to the prefix before token l and is exact there (KL to the reference, entropy). Which prefixes are met
    is the policy's doing too, so that the gradient has two parts (Schulman et al. 2015, "Gradient Estimation Using
    Stochastic Computation Graphs", theorem 1):

        grad E[sum_l f_l] = E[sum_l grad f_l + sum_l grad log pi_l sum_(m > l) f_m]

    Without the second one the optimum of E[r] - beta KL would not be pi ~ reference exp(r / beta) for items of
    several choices: a prefix below which the policy is far from the reference would look too cheap. The second part
    has the value 0 and, for `independent` draws, the mean of the other draws of the state for a baseline.

    Args:
        step_BGL: f_l, 0 at forced tokens.
        log_prob_BGL: log pi of each token, 0 at forced ones.
        independent: whether the G items of a row are independent draws.
    """
    known = step_BGL.detach()
    later = known.sum(-1, keepdim=True) - known.cumsum(-1)
    draws = later.shape[1]
    if independent and draws > 1:
        later = later - (later.sum(1, keepdim=True) - later) / (draws - 1)
    visits = later * (log_prob_BGL - log_prob_BGL.detach())
    return (step_BGL + visits).sum(-1)


def softmax_preference_loss(log_ratio_BG: Tensor, there_BG: Tensor, beta: float) -> Tensor:
    """S-DPO (Chen et al. 2024, equation 9): -log sigma(-log sum_d exp(beta (Delta_d - Delta_p))), shape (B,).

    It equals -log softmax(beta Delta)_p over the preferred item p and its negatives d; with one negative it is DPO's.

    Args:
        log_ratio_BG: Delta, log pi / pi_ref of the preferred item (first) and of its negatives.
        there_BG: which places hold an item; the others have no weight.
        beta: how closely the reference is kept to.
    """
    return -torch.log_softmax((beta * log_ratio_BG).masked_fill(~there_BG, -torch.inf), dim=1)[:, 0]
