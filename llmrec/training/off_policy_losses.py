"""Policy gradients from a log of what was shown, as losses whose gradient they are.

The gradient wanted is that of the value of K independent draws a state, counted once each,
V_K(s) = sum_a r(s, a) (1 - (1 - pi(a | s))^K), whose gradient is
sum_a pi(a | s) lambda_K(a) r(s, a) grad log pi(a | s) with lambda_K = K (1 - pi)^(K - 1); K = 1 is the policy
gradient itself. What was shown came from mu, not from pi:

- top-K off-policy REINFORCE (Chen et al. 2019, "Top-K Off-Policy Correction for a REINFORCE Recommender System",
  equations 3 and 6): w lambda_K r grad log pi at every logged row, w = min(pi / mu, c), both factors detached;
- doubly robust (Dudik et al. 2011): lambda_K q grad log pi of a fitted reward q at draws from pi, and
  w lambda_K (r - q) grad log pi at the logged rows. It is unbiased where either mu (without a cap) or q is right.

A slate that is drawn place by place without replacement logs the propensity of an item given the places above it, so
that a row by itself says nothing of those. Des Raj's estimator (1956) of the sum of y_a = pi(a) x(a), which is
sum_(j < k) y_j + y_k / p_k at place k and unbiased at each, mends this: averaged over the slate's places the weight
of the item at place k is pi / p_k + pi * (places below k).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SlateBatch:
    """What was logged: B slates of up to K rows.

    Attributes:
        reward_BK: what each row earned.
        propensity_BK: mu.
        below_BK: places below, where propensities are given the places above; 0 where they are of each by itself.
        share_BK: one over the rows of the slate; 0 where there is no row.
    """

    reward_BK: Tensor
    propensity_BK: Tensor
    below_BK: Tensor
    share_BK: Tensor


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted reward q: of the logged rows (B, K), and of G draws from pi with their log-probabilities (B, G)."""

    shown_BK: Tensor
    drawn_BG: Tensor
    log_prob_BG: Tensor


def top_k_factor(log_prob: Tensor, k: int) -> Tensor:
    """lambda_K = K (1 - pi)^(K - 1), without a gradient; 1 everywhere for K = 1."""
    return k * (1 - log_prob.detach().exp()).clamp(min=0.0) ** (k - 1)


def ratio(log_prob_BK: Tensor, shown: SlateBatch, cap: float) -> Tensor:
    """min(pi / mu, cap), without a gradient: (B, K)."""
    return (log_prob_BK.detach().exp() / shown.propensity_BK).clamp(max=cap)


def weights(log_prob_BK: Tensor, shown: SlateBatch, cap: float) -> Tensor:
    """min(pi / mu, cap) + pi * (places below), without a gradient: (B, K).

    Without a cap the mean over a slate's rows has the expectation 1, and the mean of weight * reward that of the
    policy's reward.
    """
    return ratio(log_prob_BK, shown, cap) + shown.below_BK * log_prob_BK.detach().exp()


def off_policy_loss(
    log_prob_BK: Tensor, shown: SlateBatch, *, k: int, cap: float, fitted: Fitted | None = None
) -> Tensor:
    """The loss whose gradient is minus the estimate, a mean over slates of the mean over their rows.

    Args:
        log_prob_BK: log pi of the logged items; anything finite where there is no row.
        shown: what was logged.
        k: K of the correction.
        cap: the largest pi / mu; infinity for none.
        fitted: the fitted reward (doubly robust), None for REINFORCE.
    """
    left = shown.reward_BK if fitted is None else shown.reward_BK - fitted.shown_BK
    coefficient = shown.share_BK * weights(log_prob_BK, shown, cap) * top_k_factor(log_prob_BK, k) * left
    loss = -torch.where(shown.share_BK > 0, coefficient * log_prob_BK, 0.0).sum() / len(log_prob_BK)
    return loss if fitted is None else loss + model_loss(fitted, k)


def model_loss(fitted: Fitted, k: int) -> Tensor:
    """The fitted reward's part: REINFORCE on draws from pi, each less the mean of its siblings (unbiased)."""
    worth_BG = top_k_factor(fitted.log_prob_BG, k) * fitted.drawn_BG
    draws = worth_BG.shape[1]
    if draws > 1:
        others = (worth_BG.sum(1, keepdim=True) - worth_BG) / (draws - 1)
        worth_BG = worth_BG - others
    return -(worth_BG * fitted.log_prob_BG).mean()
