"""Weights in 8 or 4 bits: linear layers keep whole numbers and a scale.

    w[o, i] ~ scale[o, g(i)] * code[o, i],   code a whole number

At 8 bits a row of a layer has one scale; at 4 bits each 32 weights of a row have one, which is the one with the least
squared error among some that cut off the largest weights. Weights make up for one another where there are texts to
read (`compensated`). Rows of the embedding and of the output head are kept at 8 bits on the disk, with a scale for 32
weights, as some of their inputs are far larger than others; they are floats in memory, as single rows of the head are
read. Norms and biases stay as they are.
Codes and scales are plain safetensors, and nothing but torch is needed to compute: with the whole numbers themselves
where a processor is faster so (`integers`), else in floats that are made as a layer is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmrec.errors import RunError
from llmrec.policy import integers
from llmrec.policy.compensated import compensated, second_moments
from llmrec.policy.loading import load_made, pick_device
from llmrec.policy.modes import base_model
from llmrec.policy.rounded import floats, pack, quantise, unpack

FILE = "quantised.safetensors"
CODES, SCALE = ".codes", ".scale"
GROUP = 32
"""Weights that share a scale at 4 bits, and in rows of the embedding and of the head."""


class WeightOnly(nn.Module):
    """A linear layer whose weight is whole numbers.

    Attributes:
        codes: int8, (out, in).
        scale: (out, groups), the dtype that is computed in.
        bias: (out,) or None.
        packed, packed_scale: 4 bits as `integers.few_rows_4` reads them, or None where floats are computed with.
        whole: whether products of whole numbers take the place of those in float32.
    """

    codes: Tensor
    scale: Tensor
    packed: Tensor | None
    packed_scale: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("codes", integers.aligned(codes))
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.blocks = integers.in_blocks(codes)
        grouped = scale.shape[1] > 1
        self.whole = self.blocks and not grouped and scale.dtype == torch.float32 and integers.whole_numbers_pay()
        fine = self.blocks and grouped and scale.dtype == torch.bfloat16
        packed = integers.packed_4(codes, scale) if fine else (None, None)
        for name, held in zip(("packed", "packed_scale"), packed, strict=True):
            self.register_buffer(name, held, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight as floats, made anew at each call."""
        return floats(self.codes, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        rows = x.reshape(-1, x.shape[-1])
        out = self._product(rows)
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], len(self.codes))

    def _product(self, rows: Tensor) -> Tensor:
        few = rows.dtype == torch.bfloat16 and 0 < len(rows) <= integers.FEW
        if self.scale.shape[1] > 1:
            if few and self.packed is not None and self.packed_scale is not None:
                return integers.few_rows_4(rows, self.packed, self.packed_scale)
            return nn.functional.linear(rows, self.weight)
        if self.whole and len(rows):
            out = integers.whole_product(rows, self.codes)
        elif few and self.blocks:
            out = integers.few_rows_8(rows, self.codes)
        else:
            out = nn.functional.linear(rows, self.codes.to(rows.dtype))
        return out * self.scale[:, 0]


@torch.no_grad()
def save_quantised(model: Any, folder: Path, bits: int, rows: Sequence[Sequence[int]] = ()) -> None:
    """Writes weights of 8 or 4 bits and the configuration into `folder`.

    Args:
        model: what is rounded; it stays as it is.
        folder: where it is written.
        bits: 8 or 4.
        rows: token ids such as the model will read; weights are rounded so that what layers make of these changes
            least. Without any each weight is rounded by itself.

    Raises:
        RunError: the model has no linear layer whose weights could be rounded.
    """
    model = base_model(model)
    linear = {f"{name}.weight": layer for name, layer in _linears(model)}
    if not linear:
        raise RunError(
            f"{type(model).__name__} keeps its weights in no linear layers, so they cannot be exported at {bits} "
            "bits; choose another format (--to merged or onnx)."
        )
    fine = {name: layer for name, layer in linear.items() if bits == 4 and layer.in_features % GROUP == 0}
    made = {}
    for name, moment in second_moments(model, fine if bits == 4 else linear, rows) if rows else ():
        weight = linear[name].weight
        made[name] = compensated(weight, moment, bits, GROUP if bits == 4 else weight.shape[1])

    def grain(name: str, inputs: int) -> tuple[int, int | None]:
        """Bits of a weight, and how many share a scale."""
        if name in fine:
            return 4, GROUP
        return 8, None if name in linear or inputs % GROUP else GROUP

    kept: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, value in model.state_dict().items():
        if value.data_ptr() in written and value.dim() == 2:
            continue  # tied to one that is there
        written.add(value.data_ptr())
        if value.dim() != 2:
            kept[name] = value.contiguous()
            continue
        codes, scale = made.get(name) or quantise(value, *grain(name, value.shape[1]))
        kept[name + CODES] = (pack(codes) if name in fine else codes).contiguous()
        kept[name + SCALE] = scale.to(torch.float16) if name in fine else scale
    save_file(kept, folder / FILE, metadata={"bits": str(bits), "format": "pt"})
    model.config.save_pretrained(folder)


def load_quantised(folder: Path, device: torch.device | None = None) -> Any:
    """The model that `save_quantised` wrote, in evaluation mode on `device`.

    Raises:
        RunError: weights are missing, too many, or do not fit the configuration.
    """
    device = device or pick_device()
    held = load_file(folder / FILE)
    codes = {
        name.removesuffix(CODES): unpack(value) if value.dtype == torch.uint8 else value
        for name, value in held.items()
        if name.endswith(CODES)
    }
    scales = {name: held[name + SCALE].float() for name in codes}
    state = {name: value for name, value in held.items() if not name.endswith((CODES, SCALE))}
    state |= {name: floats(codes[name], scales[name]) for name in codes}
    model = load_made(folder, state, device)
    for name, layer in list(_linears(model)):
        key = f"{name}.weight"
        if key in codes:
            own = WeightOnly(codes[key].to(device), scales[key].to(layer.weight), layer.bias)
            model.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], own)
    return model.eval()


def _linears(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers by name, without the output head."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module is not head:
            yield name, module
