"""Attention under a mask by blocks of queries: what no query of a block may see is not computed.

On a CPU torch's fused attention multiplies every query with every key, whatever the mask, and on some processors has
products in 16 bits done in float32. In a packed row a query sees at most the tokens before it of its own tree. Here a
block of queries meets the keys between the first and the last that any of them sees; scores are summed and normalised
in float32 (float64 for float64), and products with the probabilities are taken in the type of the values. Query heads
that share keys are one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "llmrec_blocks"
BLOCK = 128
"""Queries of a block."""
WIDE = 512
"""Values of all query heads from which on blocks are taken; narrower products gain nothing by them."""


def spans(mask_QS: Tensor, block: int) -> list[tuple[int, int, int, int]]:
    """(first query, behind the last query, first key, behind the last key) of blocks of a mask (Q, S) of bool.

    A block of queries that see nothing is left out.
    """
    queries = mask_QS.shape[0]
    found = []
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        seen = mask_QS[start:stop].any(0).nonzero()
        if len(seen):
            found.append((start, stop, int(seen[0]), int(seen[-1]) + 1))
    return found


class _Attention(torch.autograd.Function):
    """q (B, H, Q, D), k (B, K, S, D), v (B, K, S, V), mask (B, Q, S) of bool -> (B, H, Q, V)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        rows, heads, queries, _ = q.shape
        shared, values = k.shape[1], v.shape[-1]
        wide = torch.promote_types(q.dtype, torch.float32)
        out = q.new_zeros(rows, heads, queries, values)
        keeps = any(ctx.needs_input_grad)
        laid, kept = [], []
        for row in range(rows):
            # (K, G, Q, D): the G query heads of each of K key heads
            q_row, out_row = (t[row].view(shared, -1, queries, t.shape[-1]) for t in (q.contiguous(), out))
            k_row, v_row = k[row].to(wide), v[row]
            for start, stop, first, last in spans(mask[row], BLOCK):
                part = _together(q_row[:, :, start:stop].to(wide) * scale)
                score = part @ k_row[:, first:last].transpose(-1, -2)
                hidden = ~mask[row, start:stop, first:last]
                by_head = (shared, -1, stop - start, last - first)
                score.view(by_head).masked_fill_(hidden, -torch.inf)
                p = score.softmax(-1).to(v.dtype)
                nothing = hidden.all(-1, keepdim=True)
                if nothing.any():  # as padding behind a window
                    p.view(by_head).masked_fill_(nothing, 0.0)
                out_row[:, :, start:stop] = (p @ v_row[:, first:last]).view(shared, -1, stop - start, values)
                if keeps:
                    laid.append((row, start, stop, first, last))
                    kept.append(p)
        ctx.laid, ctx.scale = laid, scale
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        shared, queries = k.shape[1], q.shape[2]
        wide = torch.promote_types(q.dtype, torch.float32)
        of_q = torch.zeros_like(q, memory_format=torch.contiguous_format)
        # a key is met by several blocks: their sum is kept in 32 bits
        of_k, of_v = (torch.zeros(t.shape, dtype=wide, device=t.device) for t in (k, v))
        grouped = [t.contiguous().view(len(q), shared, -1, queries, t.shape[-1]) for t in (q, of_out, of_q)]
        for (row, start, stop, first, last), p in zip(ctx.laid, kept, strict=True):
            q_part, out_part = (_together(t[row, :, :, start:stop]) for t in grouped[:2])
            of_v[row, :, first:last] += p.transpose(-1, -2) @ out_part
            of_p = (out_part @ v[row, :, first:last].transpose(-1, -2)).to(wide)
            weighted = of_p.mul_(p)
            # p (dp - sum p dp), as the softmax's gradient
            of_score = weighted.addcmul_(p.to(wide), weighted.sum(-1, keepdim=True), value=-1.0).to(q.dtype)
            part = of_score @ k[row, :, first:last]
            grouped[2][row, :, :, start:stop] = part.mul_(ctx.scale).view(shared, -1, stop - start, q.shape[-1])
            of_k[row, :, first:last] += (of_score.transpose(-1, -2) @ q_part).mul_(ctx.scale)
        return of_q, of_k.to(k.dtype), of_v.to(v.dtype), None, None


def _together(part_KGQD: Tensor) -> Tensor:
    """(K, G Q, D)."""
    return part_KGQD.flatten(1, 2)


def block_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    """Attention of q (B, H, Q, D) to k (B, K, S, D) and v (B, K, S, V) under a mask (B, Q, S) of bool: (B, H, Q, V).

    A query that sees nothing has zeros. H is a multiple of K: each head of keys serves H / K of queries, in order.
    `scale` is 1 / sqrt(D) by default. The value is that of `scaled_dot_product_attention`, to rounding.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _Attention.apply(q, k, v, mask, scale)  # type: ignore[no-untyped-call]
    return out


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: by blocks where nothing but mask and scale is asked, else transformers' own."""
    plain = attention_mask is not None and attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1
    if not plain or dropout or any(more.get(name) is not None for name in ("softcap", "position_bias", "cache")):
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return out
    assert attention_mask is not None
    mask = attention_mask[:, 0].expand(len(query), -1, -1)
    return block_attention(query, key, value, mask, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)


@contextmanager
def by_blocks(model: Any, places: int) -> Iterator[None]:
    """Within, the model attends by blocks where that pays: on a CPU, for wide models and rows of several blocks.

    Args:
        model: of transformers, with `sdpa` as its attention; any other is left as it is.
        places: tokens of a row.
    """
    config = model.config.get_text_config()
    weight = model.get_input_embeddings().weight
    # a layer that is computed once more in the backward pass has to save the same tensors both times
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    pays = weight.device.type == "cpu" and config.hidden_size >= WIDE and places > BLOCK and not again
    if not pays or config._attn_implementation != "sdpa":
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
