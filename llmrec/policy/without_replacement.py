"""K different items of a state, drawn in order without replacement: stochastic beam search (Kool et al. 2019).

Give each item i the score log pi_F(i) + Gumbel noise: the K greatest scores, in order, are a draw without replacement
(Plackett-Luce). The scores of all items are never needed. A prefix's score is the maximum of those below it, itself
log pi_F(prefix) + Gumbel noise; drawn from the root down, each time given the maximum above, the best K prefixes of
each step hold the best K items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError
from llmrec.policy.decoding import check_k, edge_log_probs, walker_of
from llmrec.policy.edges import Edges, require_roots, table_places
from llmrec.policy.gumbel import children_of_maximum, gumbel_noise, log1mexp
from llmrec.policy.heads import Head, checked_head
from llmrec.policy.modes import device_of, evaluating
from llmrec.policy.prefill import Prefill

LEAST = -1e30
"""Stands for log 0 where -inf would turn gradients into NaN."""


@dataclass(frozen=True)
class Ordered:
    """K items of each prompt, drawn in order without replacement; all figures float64.

    Attributes:
        items_BK: item indices in the order drawn; -1 where fewer than K items are allowed.
        log_prob_BK: log pi_F of each item, the probability of a single draw; -inf at empty places.
        perturbed_BK: perturbed scores, falling; -inf at empty places.
        threshold_B: kappa, the (K+1)-th perturbed score; -inf where no further item is allowed.
        slate_log_prob_B: log-probability of the items in this order, `plackett_luce(log_prob_BK)`.
        weight_BK: `importance_weights`: the sum of weight times f over the slate is an unbiased estimate of
            E[f(item)] under pi_F. 0 at empty places.
    """

    items_BK: Tensor
    log_prob_BK: Tensor
    perturbed_BK: Tensor
    threshold_B: Tensor
    slate_log_prob_B: Tensor
    weight_BK: Tensor


@dataclass(frozen=True)
class _Beams:
    """W prefixes of each prompt with log pi_F and perturbed score (-inf: empty place)."""

    node_BW: Tensor
    log_prob_BW: Tensor
    perturbed_BW: Tensor

    def best(self, count: int) -> _Beams:
        """The prefixes with the greatest perturbed scores, in falling order."""
        perturbed, kept = self.perturbed_BW.topk(min(count, self.perturbed_BW.shape[1]), dim=1)
        return _Beams(self.node_BW.gather(1, kept), self.log_prob_BW.gather(1, kept), perturbed)


@torch.no_grad()
def sample_without_replacement(
    model: Any,
    prompt_ids_BP: Tensor,
    prompt_mask_BP: Tensor,
    k: int,
    index: PrefixIndex,
    *,
    keys_B: Tensor,
    exclude: Tensor | Allowed | None = None,
    temperature: float = 1.0,
) -> Ordered:
    """Draws k different items of each prompt in order from pi (or pi_F with exclusions), without replacement.

    The noise belongs to (key, prefix): what is drawn depends on the prompt, its key and its exclusions, on nothing
    else in the batch, and the first k of a longer draw are the shorter one. Draws without replacement are not
    independent: weigh them by `weight_BK` to estimate a mean. The model is in evaluation mode meanwhile.

    Args:
        model: a Hugging Face or PEFT causal language model.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding.
        k: items wanted.
        index: the catalogue's prefix index.
        keys_B: one int64 key a prompt, see `gumbel.stream_keys`; equal keys draw with equal noise.
        exclude: item indices (B, E) padded with -1, or a filter made beforehand.
        temperature: divides the logits.

    Raises:
        RequestError: k below 1 or above the catalogue's size, a temperature not above 0, or everything is excluded
            for a state.
        RunError: logits are not finite, or the model's head is of an unknown kind.
    """
    check_k(k, index.n_items)
    if not temperature > 0:
        raise RequestError(f"The temperature is {temperature}; it must be above 0.")
    if keys_B.shape != (len(prompt_ids_BP),) or keys_B.dtype != torch.long:
        raise ValueError(f"keys_B is {keys_B.dtype} {tuple(keys_B.shape)}, not int64 ({len(prompt_ids_BP)},).")
    index, head = index.to(device_of(model)), checked_head(model)
    keys_B, allowed = keys_B.to(index.device), index.exclusion(exclude)
    root_B1 = torch.zeros((len(keys_B), 1), dtype=torch.long, device=index.device)
    require_roots(index, len(keys_B), allowed)
    # The root's perturbed score is log pi = 0 plus its noise: the maximum over all items, drawn before any of them.
    beams = _Beams(root_B1, root_B1.double(), gumbel_noise(keys_B.unsqueeze(1), root_B1))
    with evaluating(model):
        walker = walker_of(model, prompt_ids_BP, prompt_mask_BP, index)
        while bool((live := torch.isfinite(beams.perturbed_BW) & ~index.is_decided(beams.node_BW)).any()):
            # One more than is shown: the (k+1)-th score is the threshold of the importance weights. A prefix outside
            # of the best k + 1 has k + 1 items above it for good, since a prefix's score is the maximum below it.
            beams = _extend(walker, head, index, allowed, keys_B, beams, live, temperature).best(k + 1)
    return _ordered(index, beams, k)


def _extend(
    walker: Prefill,
    head: Head,
    index: PrefixIndex,
    allowed: Allowed | None,
    key_B: Tensor,
    beams: _Beams,
    live_BW: Tensor,
    temperature: float,
) -> _Beams:
    """Replaces live prefixes by their children; the others stay with what they have."""
    user_U, _ = torch.nonzero(live_BW, as_tuple=True)
    edges = Edges.of(index, user_U, index.settle(beams.node_BW[live_BW]), allowed)
    user_E = user_U[edges.state_E]
    log_prob_E = beams.log_prob_BW[live_BW][edges.state_E] + edge_log_probs(walker, head, index, edges, temperature)
    # Noise by (key, node) and not by the order of drawing: a wider beam, another batch or a longer slate meets the
    # same.
    noisy_E = log_prob_E + gumbel_noise(key_B[user_E], edges.child_E)
    # Children are drawn freely, then shifted so that their maximum is what the parent promised: the conditional
    # distribution given the maximum, without rejecting anything.
    top_U = noisy_E.new_full((len(user_U),), -torch.inf).scatter_reduce(0, edges.state_E, noisy_E, "amax")
    parent_E = beams.perturbed_BW[live_BW][edges.state_E]
    perturbed_E = children_of_maximum(parent_E, noisy_E, top_U[edges.state_E])
    shape, at = table_places(user_E, len(key_B))
    empty = noisy_E.new_full(shape, -torch.inf)
    return _Beams(
        torch.cat([beams.node_BW, beams.node_BW.new_zeros(shape).index_put(at, edges.child_E)], 1),
        torch.cat([beams.log_prob_BW, empty.index_put(at, log_prob_E)], 1),
        torch.cat([beams.perturbed_BW.masked_fill(live_BW, -torch.inf), empty.index_put(at, perturbed_E)], 1),
    )


def _ordered(index: PrefixIndex, beams: _Beams, k: int) -> Ordered:
    missing = (0, k + 1 - beams.node_BW.shape[1])
    perturbed = torch.nn.functional.pad(beams.perturbed_BW, missing, value=-torch.inf)
    # fewer items are allowed than wanted
    empty = torch.isneginf(perturbed)
    node = torch.nn.functional.pad(beams.node_BW, missing)
    items = index.item_of(node).masked_fill(empty, -1)[:, :k]
    log_prob = torch.nn.functional.pad(beams.log_prob_BW, missing).masked_fill(empty, -torch.inf)[:, :k]
    slate = plackett_luce(log_prob, empty[:, k])
    weight = importance_weights(log_prob, perturbed[:, k])
    return Ordered(items, log_prob, perturbed[:, :k], perturbed[:, k], slate, weight)


def plackett_luce(log_prob_BK: Tensor, whole_B: Tensor | None = None) -> Tensor:
    """Log-probability of drawing items in this order without replacement: (B,), differentiable.

    log P = sum over k of [log p_k - log(1 - sum over j < k of p_j)] (Plackett 1975): places already filled condition
    the distribution over whole items; a prefix's tokens are never masked again.

    Args:
        log_prob_BK: log-probabilities of single draws (pi, or pi_F with its exclusions); -inf at empty places.
        whole_B: slates (bool) that hold every allowed item; what is left is then exactly the rest of the slate.
    """
    return _slots(log_prob_BK, whole_B).sum(1).to(log_prob_BK.dtype)


def slot_log_probs(log_prob_BK: Tensor, whole_B: Tensor | None = None) -> Tensor:
    """The terms of `plackett_luce`, log P(item k | items before it): (B, K), differentiable; 0 at empty places."""
    return _slots(log_prob_BK, whole_B).to(log_prob_BK.dtype)


def _slots(log_prob_BK: Tensor, whole_B: Tensor | None) -> Tensor:
    there = ~torch.isneginf(log_prob_BK)
    # -inf would send NaN through the backward pass of `logcumsumexp`, also where the place is masked afterwards
    value = log_prob_BK.double().masked_fill(~there, LEAST)
    # log of what stands before each place: 1 - sum is taken in logarithms, where a peaked policy still has digits
    drawn = torch.logcumsumexp(value, 1)[:, :-1]
    # what is left holds at least the rest of the slate, which counts where rounding has used up the difference
    rest = torch.logcumsumexp(value.flip(1), 1).flip(1)[:, 1:]
    # in float64 nothing of 1 - p is left there
    used_up = drawn > -1e-15
    if whole_B is not None:
        used_up = used_up | whole_B.unsqueeze(1)
    left = torch.maximum(log1mexp(torch.where(used_up, -1.0, drawn)), rest)
    # before the first place everything is left: log 1 = 0
    left = torch.nn.functional.pad(torch.where(used_up, rest, left), (1, 0))
    return torch.where(there, value - left, 0.0)


def importance_weights(log_prob_BK: Tensor, threshold_B: Tensor) -> Tensor:
    """p / q(kappa) of Kool et al. 2019: (B, K), 0 at empty places.

    q(kappa) = 1 - exp(-exp(log p - kappa)) is the probability that an item's perturbed score exceeds the threshold.
    The sum over the slate of weight times f is an unbiased estimate of E[f]; with every allowed item in the slate
    (kappa = -inf, q = 1) it is E[f] itself. Not normalised: the weights sum to 1 in expectation only.

    Args:
        log_prob_BK: log-probabilities of single draws; -inf at empty places.
        threshold_B: kappa, the (K+1)-th perturbed score.
    """
    there = ~torch.isneginf(log_prob_BK)
    value = log_prob_BK.double().masked_fill(~there, 0.0)
    above = value - threshold_B.double().unsqueeze(1)
    # 1 - exp(-x) is x for small x, which float64 would round to 0 in the end
    log_q = torch.where(above < -30.0, above, log1mexp(-above.clamp(min=-30.0).exp()))
    return torch.where(there, (value - log_q).exp(), 0.0).to(log_prob_BK.dtype)
