"""How much is decoded at once: states whose keys and values are kept, and rows that are read whole."""

from __future__ import annotations

from typing import Any

import torch

from llmrec.policy.engine import Engine
from llmrec.policy.modes import base_model, device_of, dtype_of

ON_CPU = 64
ON_GPU = 512
"""A step of decoding launches the same kernels for one state or for hundreds, and that is what takes the time."""
ROOM = 2 * 2**30
"""Bytes of a CPU's memory that keys and values may take, and as many what layers hold of rows that are read whole."""
SHARE = 8
"""The same of a GPU, as a part of its memory."""
BEAMS = 32
SCORED = 8
"""Rows of a prompt with its items that a CPU scores at once: all are as wide as the widest, and few of like length
hold little padding. Many as they come take nearly twice as long (SmolLM2-135M, 140 items a state)."""
_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")


def states_at_once(model: Any, prompt: int, item: int) -> int:
    """States that are decoded in one batch on the model's device.

    Args:
        model: a Hugging Face or PEFT causal language model.
        prompt: tokens of the longest prompt.
        item: tokens of the longest item.
    """
    if isinstance(model, Engine):
        return model.at_once
    config, least, most = _config(model), 1, ON_CPU
    if device_of(model).type == "cuda":
        least, most = ON_CPU, ON_GPU
    return fitting(kept_bytes(config, dtype_of(model)) * (prompt + BEAMS * item), room_of(model), least, most)


def scored_at_once(model: Any) -> int:
    """States whose items are scored in one batch on the model's device."""
    return ON_CPU if device_of(model).type == "cuda" else SCORED


def rows_at_once(model: Any, tokens: int) -> int:
    """Rows of so many tokens that are read whole, keeping nothing, in one forward pass."""
    config = _config(model)
    return fitting(read_bytes(config, dtype_of(model), tokens) * tokens, room_of(model))


def room_of(model: Any) -> int:
    """Bytes that either may take on the model's device."""
    device = device_of(model)
    if device.type != "cuda":
        return ROOM
    return int(torch.cuda.get_device_properties(device).total_memory) // SHARE  # what is free differs by the run


def fitting(each: int, room: int, least: int = 1, most: int | None = None) -> int:
    """How many of `each` bytes `room` bytes hold, between `least` and `most`."""
    found = max(room // max(each, 1), least)
    return found if most is None else min(found, most)


def kept_bytes(config: Any, dtype: torch.dtype) -> int:
    """Keys and values of a token in all layers; 0 where there is no attention."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0
    keys = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * keys * width * dtype.itemsize)


def read_bytes(config: Any, dtype: torch.dtype, tokens: int) -> int:
    """What a layer holds of a token at most: the residual, a norm in 32 bits, and the widest of its parts.

    Counted for the widest of what was measured: layers held 96% of it (GPT-2), 80% (Mamba) and two thirds (Llama).
    """
    hidden = config.hidden_size
    wide = max(getattr(config, name, None) or 0 for name in _WIDTHS) or 4 * hidden
    heads = getattr(config, "num_attention_heads", None) or 0
    width = (getattr(config, "head_dim", None) or hidden // heads) if heads else 0
    parts = [6 * wide, 5 * heads * width]  # an activation by several operations; queries, keys, values, their sum
    if heads and getattr(config, "_attn_implementation", None) == "eager":
        parts.append(3 * heads * tokens)  # scores, masked, and their softmax
    if state := getattr(config, "state_size", None):
        parts.append(4 * wide * state)  # what is scanned
    return int(dtype.itemsize * (hidden + max(parts)) + 8 * hidden)


def _config(model: Any) -> Any:
    return base_model(model).config.get_text_config()
