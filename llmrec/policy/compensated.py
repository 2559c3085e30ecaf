"""Weights of few bits that make up for one another (GPTQ, Frantar et al. 2023).

Rounding each weight by itself ignores that a layer's inputs move together. With H = X^T X of the inputs of a layer,
the weights w of one output are to be rounded to q so that (w - q) H (w - q)^T is small: they are rounded one column
after the other, and what rounding a column loses is taken up by the columns that are still to come, as far as the
inputs allow it,

    w[j:] <- w[j:] - (w[j] - q[j]) / U[j, j] * U[j, j:],   U upper triangular, U^T U = (H + damping)^-1.

Inputs are those of the model before rounding, for all layers alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from llmrec.policy.modes import decoder_of
from llmrec.policy.rounded import codes_of, scales_of

DAMPING = 0.01
"""Added to H's diagonal, as a share of its mean (Frantar et al. 2023, section 3.3)."""
BLOCK = 64
"""Columns after which those behind a block are told what it lost; it says how fast, not what is found."""
HELD = 2 << 30
"""Bytes of moments that are held at once; the rows are read once for as many layers as that takes."""


def second_moments(
    model: Any, layers: Mapping[str, nn.Linear], rows: Sequence[Sequence[int]], held: int = HELD
) -> Iterator[tuple[str, Tensor]]:
    """X^T X of each layer's inputs (in, in), float32, over all tokens of `rows`, in the order of `layers`."""
    sizes, parts, filled = {name: 4 * layer.in_features**2 for name, layer in layers.items()}, [], 0
    for size in sizes.values():
        parts.append(filled // held)
        filled += size
    for _, part in groupby(zip(layers, parts, strict=True), key=lambda pair: pair[1]):
        names = [name for name, _ in part]
        yield from _moments(model, {name: layers[name] for name in names}, rows).items()


def _moments(model: Any, layers: Mapping[str, nn.Linear], rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    found = {
        name: layer.weight.new_zeros((layer.in_features,) * 2, dtype=torch.float32) for name, layer in layers.items()
    }

    def add(name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].reshape(-1, given[0].shape[-1]).float()
        found[name].addmm_(x.t(), x)

    hooks = [layer.register_forward_pre_hook(partial(add, name)) for name, layer in layers.items()]
    decoder = decoder_of(model)
    try:
        with torch.no_grad():
            for row in rows:
                decoder(torch.tensor([row], device=next(iter(layers.values())).weight.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def compensated(weight: Tensor, moment: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """Codes (out, in) int8 and scales (out, groups) of a weight (out, in), as `rounded.quantise` has them.

    Args:
        weight: what is rounded.
        moment: X^T X of its inputs, (in, in).
        bits: of a code.
        group: weights that share a scale, a divisor of `in`; the scale is chosen when the first of them is due.
    """
    left = weight.detach().double()
    upper = _upper(moment)
    codes, scales = torch.empty(weight.shape, dtype=torch.int8, device=weight.device), []
    for start in range(0, left.shape[1], group):
        scale = scales_of(left[:, start : start + group].float().unsqueeze(1), bits).squeeze(1)
        scales.append(scale)
        for begin in range(start, start + group, BLOCK):
            end = min(begin + BLOCK, start + group)
            block = left[:, begin:end].clone()
            lost = torch.empty_like(block)
            for at in range(end - begin):
                column, row = block[:, at], upper[begin + at, begin:end]
                code = codes_of(column.float().view(-1, 1, 1), scale.view(-1, 1), bits).view(-1)
                codes[:, begin + at] = code.to(torch.int8)
                lost[:, at] = (column - code.double() * scale.double()) / row[at]
                block[:, at:] -= lost[:, at : at + 1] * row[at:]
            left[:, end:] -= lost @ upper[begin:end, end:]
    return codes, torch.stack(scales, 1)


def _upper(moment: Tensor) -> Tensor:
    """U of the module's equation, float64."""
    damped = moment.double().clone()
    diagonal = damped.diagonal()
    usual = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    # an input that is always 0 says nothing: its weights are rounded by themselves
    diagonal[diagonal == 0] = usual
    diagonal += DAMPING * usual
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper
