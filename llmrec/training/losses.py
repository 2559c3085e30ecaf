"""Losses, whatever trains by them: those of PPO, S-DPO's, and policy gradients from logged slates.

The clipped losses of PPO (Schulman et al. 2017) are summed over choice points.

Sums, not means over tokens: divided by a constant (the number of items) the policy loss has the gradient of the
expected reward of an item. A mean over an item's tokens would weigh items by their length.

From a log of what was shown the gradient wanted is that of the value of K independent draws a state, counted once,
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

TIE = 1e-5
"""Differences of log-probabilities, relative to these, that a forward in float32 may make by rounding alone."""


def clipped_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, choice: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """-sum min(r A, clip(r, 1 - clip, 1 + clip) A), r = pi / pi_old, over choice points.

    Returns:
        The loss, and the number of choice points whose ratio left [1 - clip, 1 + clip] (no gradient).
    """
    # Masked before the exponential: behind it an infinite ratio times the gradient 0 of the place not taken is NaN.
    ratio = torch.where(choice, log_prob - old_log_prob, 0.0).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    # The smaller of both (their equation 7): a ratio beyond the clip has no gradient where it went the advantage's
    # way, and keeps it where it went the other way and has to come back.
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    outside = (ratio.detach() - 1).abs() > clip
    return -torch.where(choice, gain, 0.0).sum(), (outside & choice).sum()


def clipped_value_loss(value: Tensor, old_value: Tensor, returns: Tensor, choice: Tensor, clip: float) -> Tensor:
    """sum of 1/2 max((V - R)^2, (V_clip - R)^2) over choice points, V_clip within `clip` of the rollout's V."""
    # The same idea for the critic: a value that has moved by the whole clip gains nothing by moving on.
    near = old_value + (value - old_value).clamp(-clip, clip)
    error = torch.maximum((value - returns).square(), (near - returns).square())
    return 0.5 * torch.where(choice, error, 0.0).sum()


def moved_kl(log_prob: Tensor, old_log_prob: Tensor, choice: Tensor) -> Tensor:
    """Estimates the sum of KL(pi_old || pi) over choice points by (r - 1) - log r, never negative (no gradient)."""
    difference = torch.where(choice, log_prob.detach() - old_log_prob, 0.0)
    # The draws are pi_old's, under which r - 1 has the mean 0: adding it leaves -log r unbiased, takes most of its
    # noise away and keeps every term at 0 or above (Schulman 2020, "Approximating KL Divergence").
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
    # strictly later: f_l belongs to the prefix that token l does not yet stand in
    later = known.sum(-1, keepdim=True) - known.cumsum(-1)
    draws = later.shape[1]
    if independent and draws > 1:
        # A baseline of the other draws does not depend on this one, so it takes noise away and no expectation.
        later = later - (later.sum(1, keepdim=True) - later) / (draws - 1)
    # worth 0, with the gradient of log pi: the figure that is logged stays the sum of f
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
    # places without an item get -inf, which is no share of the softmax
    return -torch.log_softmax((beta * log_ratio_BG).masked_fill(~there_BG, -torch.inf), dim=1)[:, 0]


def in_order(log_prob_BG: Tensor, reference_BG: Tensor, there_BG: Tensor) -> Tensor:
    """For each preference 1 where its preferred item gained more than all others, 1/2 at a tie with the best, else 0.

    A tie is what float32 cannot tell apart. Where the policy is its reference every preference is one, and without
    that rule rounding errors would put some in order.

    Args:
        log_prob_BG: log-probabilities, nats, of the preferred item (first) and of its negatives.
        reference_BG: the same under the reference.
        there_BG: which places hold an item.

    Returns:
        Shape (B,).
    """
    gained_BG = (log_prob_BG - reference_BG).masked_fill(~there_BG, -torch.inf)
    margin_B = gained_BG[:, 0] - gained_BG[:, 1:].amax(1)
    most_B = torch.maximum(log_prob_BG.abs(), reference_BG.abs()).masked_fill(~there_BG, 0.0).amax(1)
    tied_B = margin_B.abs() <= TIE * most_B
    return torch.where(tied_B, 0.5, (margin_B > 0).to(margin_B))


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
    # Rounding may take pi above 1, and a negative base would turn the sign for an even K. For K = 1 it is 0 ** 0 = 1.
    return k * (1 - log_prob.detach().exp()).clamp(min=0.0) ** (k - 1)


def ratio(log_prob_BK: Tensor, shown: SlateBatch, cap: float) -> Tensor:
    """min(pi / mu, cap), without a gradient: (B, K)."""
    # Detached: pi grad log pi is grad pi already, and a gradient through the weight would count it twice. The cap
    # trades variance for a bias towards what the logging policy showed often.
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
    # doubly robust: the log corrects what the model gets wrong of the rows that it holds
    left = shown.reward_BK if fitted is None else shown.reward_BK - fitted.shown_BK
    coefficient = shown.share_BK * weights(log_prob_BK, shown, cap) * top_k_factor(log_prob_BK, k) * left
    loss = -torch.where(shown.share_BK > 0, coefficient * log_prob_BK, 0.0).sum() / len(log_prob_BK)
    return loss if fitted is None else loss + model_loss(fitted, k)


def model_loss(fitted: Fitted, k: int) -> Tensor:
    """The fitted reward's part: REINFORCE on draws from pi, each less the mean of its siblings (unbiased)."""
    worth_BG = top_k_factor(fitted.log_prob_BG, k) * fitted.drawn_BG
    draws = worth_BG.shape[1]
    if draws > 1:
        # the leave-one-out baseline of RLOO (Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!")
        others = (worth_BG.sum(1, keepdim=True) - worth_BG) / (draws - 1)
        worth_BG = worth_BG - others
    return -(worth_BG * fitted.log_prob_BG).mean()
