"""Numbers of 8 or 4 bits with a scale for some of them: how they are chosen, kept and read back."""

from __future__ import annotations

import torch
from torch import Tensor

CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""What part of a group's largest weight its scale reaches to, tried one after the other."""


def floats(codes: Tensor, scale: Tensor) -> Tensor:
    """The weight that codes (out, in) and scales (out, groups) stand for."""
    rows, groups = scale.shape
    return (codes.view(rows, groups, -1).to(scale.dtype) * scale.unsqueeze(2)).view(rows, -1)


def quantise(weight: Tensor, bits: int, group: int | None = None) -> tuple[Tensor, Tensor]:
    """Codes (out, in) int8 and scales (out, groups) float32 of a weight (out, in), each weight by itself.

    Args:
        weight: what is rounded.
        bits: 8 or 4; codes lie symmetrically about 0.
        group: weights that share a scale, a divisor of `in`; by default a whole row.
    """
    parts = weight.detach().float().view(len(weight), -1, group or weight.shape[1])
    scale = scales_of(parts, bits)
    return codes_of(parts, scale, bits).view(weight.shape).to(torch.int8), scale


def scales_of(parts: Tensor, bits: int) -> Tensor:
    """Scales (out, groups) of weights (out, groups, group), those of the least squared error among `CUTS`."""
    largest = parts.abs().amax(2).clamp(min=1e-12)
    if bits == 8:
        return largest / _most(bits)
    best_scale, best_error = largest / _most(bits), torch.full_like(largest, torch.inf)
    for cut in CUTS:
        # as it is kept: at 4 bits scales are halves on the disk
        scale = (largest * cut / _most(bits)).to(torch.float16).float()
        scale = scale.clamp(min=torch.finfo(torch.float16).tiny)
        error = (codes_of(parts, scale, bits) * scale.unsqueeze(2) - parts).square().sum(2)
        better = error < best_error
        best_scale, best_error = torch.where(better, scale, best_scale), torch.where(better, error, best_error)
    return best_scale


def codes_of(parts: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Whole numbers (out, groups, group) of weights under their scales (out, groups), as floats."""
    most = _most(bits)
    return (parts / scale.unsqueeze(2)).round().clamp(-most, most)


def _most(bits: int) -> int:
    return int(2 ** (bits - 1)) - 1


def pack(codes: Tensor) -> Tensor:
    """Codes of 4 bits (out, in) as uint8 (out, in / 2): of two neighbours the first has the lower half."""
    raised = (codes + 8).to(torch.uint8)
    return raised[:, 0::2] | (raised[:, 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """What `pack` was given."""
    return (torch.stack([packed & 15, packed >> 4], 2).flatten(1).to(torch.int8)) - 8
