"""Whether a model may share one prompt between many items in one row: tried on the loaded model, told by the numbers.

Recurrent and convolutional layers, position schemes that ignore `position_ids` and attention kernels without 4-D
masks fail or are silently wrong; the plain path serves those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.modes import base_model, device_of, dtype_of, embedding_of, flags, trial
from llmrec.policy.packing import Prompts, packed_hidden, plain_hidden, window_of
from llmrec.policy.prefill import SharedPrefill
from llmrec.progress import console
from llmrec.seeding import numpy_stream

_ATTENTION = ("full_attention", "sliding_attention")
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
_HALF = (torch.bfloat16, torch.float16)
_ROUNDED = 0.3
"""What rounding in half precision may make of it at most."""
_WIDENED = 2_000_000_000
"""Weights that may be held in float32 beside their own for a trial."""
_SHORT = 14


def supports_sharing(model: Any, length: int | None = None) -> bool:
    """Whether packed scoring and tree decoding equal the plain way on this model.

    Args:
        model: a Hugging Face or PEFT causal language model.
        length: longest sequence (prompt and item, in tokens) to be run. A sliding window that is shorter is tried
            too, with a prompt longer than the window.

    Returns:
        The outcome of a small trial, remembered on the model for its dtype and attention implementation.
    """
    inner = base_model(model)
    window = window_of(inner)
    # a window that no sequence reaches leaves full attention, so it needs no trial of its own
    beyond = window is not None and (length is None or length > window)
    weight = embedding_of(inner)
    config = inner.config.get_text_config()
    # the outcome hangs on the kernel, and kernels on dtype, device and attention implementation
    key = f"sharing {weight.dtype} {config._attn_implementation} {weight.device.type} {'windowed' if beyond else ''}"
    known = flags(inner)
    if key not in known:
        tokens = _SHORT if not beyond or window is None else max(_SHORT, window + 4)
        known[key] = _allowed(config) and _trial(inner, tokens)
        if not known[key]:
            name = type(inner).__name__
            console.print(f"  {name} cannot share a prompt among items: each is read by itself, slower", style="dim")
    return known[key]


def _allowed(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None) or ()
    # flash attention takes no 4-D mask, without which siblings in a row see each other
    return config._attn_implementation in ("sdpa", "eager") and all(kind in _ATTENTION for kind in kinds)


def _trial(model: Any, tokens: int) -> bool:
    dtype = dtype_of(model)
    tolerance = _TOLERANCE.get(dtype, 0.0)
    error = _error(model, tokens)
    if error <= tolerance or dtype not in _HALF:
        return error <= tolerance
    # A trained model of many layers rounds by more than that, and a place that is off by one may change less. In
    # float32 a millionth is rounding and a hundredth is not.
    if error > _ROUNDED or not _can_widen(model):
        return False
    with _in_float32(model):
        return _error(model, tokens) <= _TOLERANCE[torch.float32]


def _error(model: Any, tokens: int) -> float:
    """The largest error of a hidden state, packed or by the tree, of the plain one's size; inf where none is had."""
    index, prompts, user_U, node_U = _material(model, tokens)
    try:
        with trial(model):
            plain = plain_hidden(model, prompts, index, user_U, node_U)
            packed = packed_hidden(model, prompts, index, user_U, node_U)
            tree = _tree(model, prompts, index, user_U, node_U)
    except Exception:  # whatever an unknown architecture raises, the answer is no
        return float("inf")
    return max(_apart(packed, plain), _apart(tree, plain))


def _can_widen(model: Any) -> bool:
    """Whether weights can stand in float32 for a moment: whole, in this process, not quantised, and not too many."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return False
    weights = list(model.parameters())
    plain = all(weight.is_floating_point() and type(weight.data) is Tensor for weight in weights)
    return plain and sum(weight.numel() for weight in weights) <= _WIDENED


@contextlib.contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Weights and buffers in float32 inside; the same tensors as before again after."""
    held = [(weight, weight.data) for weight in model.parameters() if weight.dtype in _HALF]
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.dtype in _HALF
    ]
    try:
        for weight, data in held:
            weight.data = data.float()
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.float()
        yield
    finally:
        for weight, data in held:
            weight.data = data
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


def _material(model: Any, tokens: int) -> tuple[PrefixIndex, Prompts, Tensor, Tensor]:
    """Two prompts of unequal length, six ragged items and all their prefixes as pairs."""
    random, device = numpy_stream(0, "policy", "sharing"), device_of(model)
    # under ZeRO-3 a weight is empty until its module runs
    vocabulary = int(embedding_of(model).shape[0] or model.config.get_text_config().vocab_size)
    names = random.choice(vocabulary, size=6, replace=False)
    # shared prefixes of several lengths, one item per ending, a token that stands at different depths
    rows = np.array([[0, 1, 2, 3], [0, 1, 4, 3], [0, 5, 3, -1], [4, 1, 2, 3], [4, 3, -1, -1], [5, 0, 3, -1]])
    table = np.where(rows >= 0, names[rows], -1)
    index = PrefixIndex.from_tokens(table, (rows >= 0).sum(1)).to(device)
    ids = torch.from_numpy(random.integers(0, vocabulary, size=(2, tokens)))
    # of unequal length, as padding is where position schemes go wrong
    length = torch.tensor([tokens, tokens - 5])
    ids = ids.masked_fill(torch.arange(tokens) >= length.unsqueeze(1), 0)
    node = torch.nonzero(index.degree_M > 0).squeeze(1)
    user = torch.arange(2, device=device).repeat_interleave(len(node))
    return index, Prompts(ids.to(device), length.to(device)), user, node.repeat(2)


def _tree(model: Any, prompts: Prompts, index: PrefixIndex, user_U: Tensor, node_U: Tensor) -> Tensor:
    """The same hidden states by prefill and one step for each depth."""
    walker = SharedPrefill(model, prompts, index)
    parts, places = [], []
    for depth in range(int(index.depth_M[node_U].max()) + 1):
        there = torch.nonzero(index.depth_M[node_U] == depth).squeeze(1)
        parts.append(walker.hidden(user_U[there], node_U[there]))
        places.append(there)
    return torch.cat(parts)[torch.argsort(torch.cat(places))]


def _apart(ours: Tensor, reference: Tensor) -> float:
    # by row: one prefix that sees what it must not is not averaged away by the others
    error = (ours - reference).float().norm(dim=-1) / reference.float().norm(dim=-1).clamp(min=1e-9)
    return float(torch.nan_to_num(error, nan=torch.inf).max())
