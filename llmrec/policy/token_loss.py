"""-log p of tokens in the whole vocabulary, without a table of all logits where the output head is not trained.

A table of logits, its softmax and their gradients are four times (places, vocabulary) numbers in float32: several
hundred megabytes for a thousand places of a model with 50,000 tokens, and moving them takes a quarter of a step. With
a frozen head the gradient of the sum is known as soon as the logits are,

    d/dx sum_t w_t (logsumexp(W x) - (W x)_t)  =  W' (sum_t w_t softmax(W x) - sum_t w_t e_t),

so places are taken a few at a time, forward and back at once, and only x's gradient is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmrec.policy.heads import Head

ON_CPU, ELSEWHERE = 1 << 23, 1 << 27
"""Logits that are held at once."""


class _Frozen(torch.autograd.Function):
    """hidden (U, H), weight (V, H), bias (V,) or None, place (T,) in order, token (T,), times (T,) -> a scalar."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, place: Tensor, *rest: Tensor
    ) -> Tensor:
        token, times = rest
        wide = torch.promote_types(hidden.dtype, torch.float32)
        asked = ctx.needs_input_grad[0]
        of_hidden = torch.empty_like(hidden) if asked else None
        times = times.to(wide)
        loss = hidden.new_zeros((), dtype=wide)
        count = max(1, (ON_CPU if hidden.device.type == "cpu" else ELSEWHERE) // len(weight))
        for start in range(0, len(hidden), count):
            part = hidden[start : start + count]
            low, high = torch.searchsorted(place, torch.tensor([start, start + count], device=place.device)).tolist()
            at, word, often = place[low:high] - start, token[low:high], times[low:high]
            log_p = torch.nn.functional.linear(part.to(weight), weight, bias).to(wide)
            log_p = (log_p.mul_(scale) if scale != 1.0 else log_p).log_softmax(-1)
            loss -= (log_p[at, word] * often).sum()
            if of_hidden is not None:
                total = often.new_zeros(len(part)).index_add_(0, at, often)
                p = log_p.exp_().mul_(total.unsqueeze(1))
                p.index_put_((at, word), -often, accumulate=True)
                of_hidden[start : start + count] = (p.to(weight.dtype) @ weight).mul_(scale)
        ctx.save_for_backward(of_hidden)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> Any:
        (of_hidden,) = ctx.saved_tensors
        # the factor (one over a step's tokens) in 32 bits
        wide = torch.promote_types(of_hidden.dtype, torch.float32)
        return (of_hidden.to(wide) * of_loss).to(of_hidden.dtype), *([None] * 6)


def token_loss(head: Head, hidden_UH: Tensor, place_T: Tensor, token_T: Tensor, weight_T: Tensor) -> Tensor:
    """sum over t of -weight_t log p(token_t at hidden state place_t), in nats: a scalar, differentiable.

    Args:
        head: of the model.
        hidden_UH: hidden states.
        place_T: rows of them; may repeat, in any order.
        token_T: what comes there.
        weight_T: how often it counts.
    """
    linear = head.rows.linear
    trained = head.rows.trained or any(p.requires_grad for p in linear.parameters())
    if not head.is_plain or head.cap is not None or trained:
        log_prob_UV = head.all_logits(hidden_UH).log_softmax(-1)
        return -(log_prob_UV[place_T, token_T] * weight_T).sum()
    order = torch.argsort(place_T, stable=True)
    given = (
        hidden_UH,
        linear.weight,
        linear.bias,
        float(head.scale),
        place_T[order],
        token_T[order],
        weight_T[order],
    )
    out: Tensor = _Frozen.apply(*given)  # type: ignore[no-untyped-call]
    return out
