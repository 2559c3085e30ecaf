"""How many states are decoded at once."""

from __future__ import annotations

from typing import Any

import torch

from llmrec.policy.engine import Engine
from llmrec.policy.modes import base_model, device_of, dtype_of

ON_CPU = 64
ON_GPU = 512
"""A step of decoding launches the same kernels for one state or for hundreds, and that is what takes the time."""
SHARE = 8
"""Keys and values may take this part of a GPU's memory."""
BEAMS = 32


def states_at_once(model: Any, prompt: int, item: int) -> int:
    """States that are decoded in one batch on the model's device.

    Args:
        model: a Hugging Face or PEFT causal language model.
        prompt: tokens of the longest prompt.
        item: tokens of the longest item.
    """
    if isinstance(model, Engine):
        return model.at_once
    device = device_of(model)
    if device.type != "cuda":
        return ON_CPU
    memory = torch.cuda.get_device_properties(device).total_memory  # what is free differs from run to run
    return fitting(base_model(model).config.get_text_config(), dtype_of(model), prompt + BEAMS * item, memory)


def fitting(config: Any, dtype: torch.dtype, tokens: int, memory: int) -> int:
    """How many states of so many tokens `1 / SHARE` of `memory` bytes holds, between `ON_CPU` and `ON_GPU`."""
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    state = 2 * config.num_hidden_layers * keys * width * dtype.itemsize * tokens
    return int(min(max(memory // SHARE // state, ON_CPU), ON_GPU))
