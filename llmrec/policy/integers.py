"""Products of floats with whole numbers of 8 or 4 bits, which read a quarter or an eighth of what floats would be.

In float32 a row x of activations is itself written in two whole numbers of 8 bits,

    x ~ step * (high + low / 254),   step = max |x| / 127,

so that a product is two sums of whole numbers, which are exact, and one scale. What is lost is at most step / 508 an
activation, some 3e-5 of a product's size where no activation towers above the others of its row. In bfloat16 torch's
weight-only products are called while rows are few, for they read the codes themselves; with many rows, turning codes
into floats costs little beside the product.

All of this is for processors. Whether a processor's products of whole numbers are worth it is timed once.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from llmrec.policy.precision import known_gain, processor_flags

FEW = 16
"""Rows up to which torch's weight-only products are faster than turning the codes into floats."""
BLOCK = 64
"""Both sides of a weight are multiples of it, or its product is in floats: torch's own reach beyond smaller ends."""
WORTH = 1.2
"""Times that products of whole numbers must be faster than in float32."""
SMALL = 1 << 17
"""Weights of a layer below which a product costs less than its preparation."""
ALIGNED = 64
_LOW = 254
"""Steps of the second number within one of the first, which is at most half a step off."""


def in_blocks(codes: Tensor) -> bool:
    """Whether codes (out, in) are of a shape that is multiplied as whole numbers, on a processor."""
    return codes.device.type == "cpu" and codes.numel() >= SMALL and not any(size % BLOCK for size in codes.shape)


def whole_product(x: Tensor, codes: Tensor) -> Tensor:
    """float32 (rows, in) times int8 codes (out, in), as float32 (rows, out); see the module for what is lost."""
    step = x.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny * _LOW) / 127
    parts = x / step
    high = parts.round()
    low = ((parts - high) * _LOW).round()
    sums = torch._int_mm(torch.cat([high, low]).to(torch.int8), codes.t()).to(x.dtype)
    return (sums[: len(x)] + sums[len(x) :] / _LOW) * step


def few_rows_8(x: Tensor, codes: Tensor) -> Tensor:
    """bfloat16 (rows, in) times int8 codes (out, in), without the scale of the codes."""
    out: Tensor = torch.ops.aten._weight_int8pack_mm(aligned(x), aligned(codes), x.new_ones(len(codes)))
    return out


def aligned(numbers: Tensor) -> Tensor:
    """The same where torch's weight-only products can read it: elsewhere than at 64 bytes they end the process.

    What is read of a file, or a part of a tensor, may lie anywhere.
    """
    numbers = numbers.contiguous()
    return numbers.clone() if numbers.data_ptr() % ALIGNED else numbers


def packed_4(codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of 4 bits (out, in) and bfloat16 scales (out, groups) as `few_rows_4` reads them, two codes in a byte."""
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((codes + 8).to(torch.int32), 1)
    return packed, torch.stack([scale.t(), torch.zeros_like(scale.t())], 2).contiguous()


def few_rows_4(x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """bfloat16 (rows, in) times what `packed_4` made."""
    out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(aligned(x), packed, x.shape[1] // len(scales), scales)
    return out


def whole_numbers_pay() -> bool:
    """Whether this processor multiplies whole numbers of 8 bits exactly, and faster than float32."""
    # without these instructions sums of pairs are cut off at 16 bits
    flags = processor_flags("vnni", "amx_int8")
    return bool(flags) and known_gain(flags, measured_gain) >= WORTH


def measured_gain(rounds: int = 5, tokens: int = 16, width: int = 1024) -> float:
    """Least seconds of a product (tokens, width) by (width, width) in float32 over whole ones; 0 if it is wrong."""
    x = torch.linspace(-1, 1, tokens * width).view(tokens, width)
    codes = (torch.arange(width * width).view(width, width) % 255 - 127).to(torch.int8)
    weight = codes.float()
    seconds = {"whole": float("inf"), "float": float("inf")}
    with torch.inference_mode():
        for _ in range(rounds):
            start = time.perf_counter()
            found = whole_product(x, codes)
            middle = time.perf_counter()
            wanted = x @ weight.t()
            end = time.perf_counter()
            seconds = {
                "whole": min(seconds["whole"], middle - start),
                "float": min(seconds["float"], end - middle),
            }
    if (found - wanted).norm() > 1e-3 * wanted.norm():
        return 0.0
    return seconds["float"] / seconds["whole"]
