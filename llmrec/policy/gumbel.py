"""Gumbel noise by counter: a number for each (key, prefix node), the same in any batch, order or beam width.

SplitMix64 (Steele, Lea and Flood 2014) in wrapping int64 arithmetic: its state is a counter, so the n-th number is
computed without the others. Everything is float64: perturbed scores are compared across many steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def split_mix(state: Tensor) -> Tensor:
    """The finaliser of SplitMix64, a bijection of the 64 bits of an int64 tensor."""
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    # masks the copies of the sign that an arithmetic shift leaves on the left
    return torch.bitwise_and(state >> bits, 2 ** (64 - bits) - 1)


def gumbel_noise(key_E: Tensor, node_E: Tensor) -> Tensor:
    """Standard Gumbel noise of each (key, node) pair: float64, finite, of the shape of `node_E`."""
    # Mixed first: of plain keys that lie GOLDEN apart, one would draw at a node what the other draws at the next.
    bits_E = split_mix(split_mix(key_E) + (node_E + 1) * GOLDEN)
    # 52 bits and a half: neither 0 nor, after rounding, 1
    uniform_E = (_shifted(bits_E, 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform_E))


def log1mexp(value: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012); -inf at 0."""
    # -log 2, where both forms lose equally little
    near = value > -0.6931471805599453
    # each branch sees only what it is exact for, so that neither sends NaN into a gradient
    close = torch.log(-torch.expm1(torch.where(near, value, -1.0)))
    return torch.where(near, close, torch.log1p(-torch.exp(torch.where(near, -1.0, value))))


def children_of_maximum(parent_E: Tensor, own_E: Tensor, top_E: Tensor) -> Tensor:
    """Gumbels `own_E` shifted so that the greatest among siblings becomes their parent's (Kool et al. 2019, eq. 8).

    Args:
        parent_E: perturbed score of the parent: the maximum that all items below it have.
        own_E: log-probability plus standard Gumbel noise of each child.
        top_E: the greatest `own` among the child and its siblings.

    Returns:
        Perturbed scores of the children, exact in distribution given the parent's: at most `parent_E`.
    """
    # v of their appendix B.3: the shift written so that neither exponential overflows and the greatest child, whose
    # log1mexp is -inf, gets the parent's score exactly.
    gap = parent_E - own_E + log1mexp(own_E - top_E)
    return parent_E - gap.clamp(min=0.0) - torch.log1p(torch.exp(-gap.abs()))
