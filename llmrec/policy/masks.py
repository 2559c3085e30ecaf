"""Attention masks for prefixes of many items in one row.

Keys are the prompt's tokens, then *slots*, each a node of the prefix tree. A slot sees its prompt, its ancestors and
itself; ancestry is read off the nodes' row ranges, so no bookkeeping of beams is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex


def ancestry(index: PrefixIndex, query_BQ: Tensor, key_BS: Tensor) -> Tensor:
    """Whether node key (-1: padding) is an ancestor of node query or the same: (B, Q, S) bool."""
    low_q, high_q = (x.unsqueeze(2) for x in index.range_of(query_BQ.clamp(min=0)))
    low_k, high_k = (x.unsqueeze(1) for x in index.range_of(key_BS.clamp(min=0)))
    depth_q = index.depth_M[query_BQ.clamp(min=0)].unsqueeze(2)
    depth_k = index.depth_M[key_BS.clamp(min=0)].unsqueeze(1)
    inside = (low_k <= low_q) & (high_q <= high_k) & (depth_k <= depth_q)
    return inside & (key_BS >= 0).unsqueeze(1)


def window_of(model: Any) -> int | None:
    """Width of the sliding window of any layer, in tokens; None where every layer sees everything."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    width = getattr(config, "sliding_window", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if kinds is None and getattr(config, "use_sliding_window", True) is False:
        return None
    return width


def for_model(model: Any, seen_BQS: Tensor, position_BQ: Tensor, position_BS: Tensor, dtype: torch.dtype) -> Any:
    """The mask in the form that `model` takes: 4-D bool (sdpa) or additive (eager), by layer kind where windowed.

    Args:
        model: a Hugging Face causal language model.
        seen_BQS: which keys a query sees, before any window.
        position_BQ: positions of the queries.
        position_BS: positions of the keys; a window counts positions, never slots.
        dtype: floating type of an additive mask.
    """
    config = model.config.get_text_config()
    full = _formed(config, seen_BQS, dtype)
    window = window_of(model)
    if window is None:
        return full
    near = position_BQ.unsqueeze(2) - position_BS.unsqueeze(1) < window
    sliding = _formed(config, seen_BQS & near, dtype)
    if getattr(config, "layer_types", None) is None:
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}


def _formed(config: Any, seen_BQS: Tensor, dtype: torch.dtype) -> Tensor:
    mask = seen_BQS.unsqueeze(1)
    if config._attn_implementation == "sdpa":
        return mask
    # eager attention takes its softmax in float32, where the least float64 would be -inf
    least = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, least)
