"""LoRA's linear layers with as few passes over memory as they need; values and gradients are PEFT's.

An adapted layer is y = x W' + b + s (x A') B'. PEFT's layer makes B A x as a tensor of its own, scales it and adds
it; autograd then scales, multiplies and adds once more on the way back. On a CPU these passes are bound by memory and
take about as long as the narrow products themselves. Here the scale is on the narrow side (rank r), and the narrow
products add into the wide ones:

    u = s x A',    y = x W' + b,    y += u B'
    v = s g B,     dx = g W,        dx += v A,    dA = v' x,    dB = g' u

for the gradient g of y. The sums are the same up to the order of rounding.

Adapters in 32 bits on frozen weights in bfloat16 are multiplied in bfloat16, as autocast would, and stay in 32 for
the optimiser. PEFT turns x into 32 bits there: narrow products then take longer than wide ones where 16 bits are the
fast type. Here y is rounded once more.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Adapted(torch.autograd.Function):
    """x (N, I) -> (N, O), with W (O, I) frozen, A (r, I), B (O, r)."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        u_NR = (x_NI @ a.t()).mul_(s)
        y_NO = nn.functional.linear(x_NI, weight, bias)
        y_NO.addmm_(u_NR, b.t())
        ctx.save_for_backward(x_NI, weight, a, b, u_NR)
        ctx.scale = s
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_NO: Tensor) -> Any:
        x_NI, weight, a, b, u_NR = ctx.saved_tensors
        of_x, _, _, of_a, of_b, _ = ctx.needs_input_grad
        v_NR = (g_NO @ b).mul_(ctx.scale) if of_x or of_a else None
        dx = None
        if of_x and v_NR is not None:
            dx = g_NO @ weight
            dx.addmm_(v_NR, a)
        da = v_NR.t() @ x_NI if of_a and v_NR is not None else None
        # as (r, O) and turned: the product of a narrow matrix from the left is the faster one
        db = (u_NR.t() @ g_NO).t() if of_b else None
        return dx, None, None, da, db, None


class FusedLinear(Linear):  # type: ignore[misc]  # PEFT is untyped
    """PEFT's layer, whose forward takes the short way where that is the same function, and PEFT's elsewhere."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """y of shape (..., O)."""
        name = None if args or kwargs else self._plain_adapter(x)
        if name is None:
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        base = self.base_layer
        a, b = (narrow[name].weight.to(x.dtype) for narrow in (self.lora_A, self.lora_B))
        flat, scale = x.reshape(-1, x.shape[-1]), float(self.scaling[name])
        y: Tensor = _Adapted.apply(flat, base.weight, base.bias, a, b, scale)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], y.shape[-1])

    def _plain_adapter(self, x: Tensor) -> str | None:
        """The one active adapter, if nothing but the sum above is asked of this layer; else None."""
        names = self.active_adapters
        if self.disable_adapters or self.merged or len(names) != 1 or names[0] not in self.lora_A:
            return None
        name = str(names[0])
        if name in self.lora_variant or torch.is_autocast_enabled(x.device.type):
            return None
        dropout = self.lora_dropout[name]
        # by the dropout's own mode: the warm start lets it drop in a model that is otherwise in evaluation mode
        if not isinstance(dropout, nn.Identity) and dropout.training:
            return None
        narrow = (self.lora_A[name], self.lora_B[name])
        # whoever hangs hooks on a layer (ZeRO-3 gathers weights in them) must see it called
        if any(m._forward_hooks or m._forward_pre_hooks for m in (self.base_layer, *narrow)):
            return None
        if any(type(m) is not nn.Linear or m.bias is not None for m in narrow):
            return None
        base = self.base_layer
        weights = (base.weight, *(m.weight for m in narrow))
        types = (x.dtype, torch.float32) if x.dtype == torch.bfloat16 else (x.dtype,)
        same = base.weight.dtype == x.dtype and all(m.weight.dtype in types for m in narrow)
        same = same and all(type(w) is nn.Parameter and w.device == x.device for w in weights)
        frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
        return name if same and frozen else None


def fuse(model: Any) -> Any:
    """Lets every plain linear layer that PEFT has adapted take the short way; the same model, changed in place."""
    for module in model.modules():
        # exactly these classes: layers in 4 bits and transposed ones (GPT-2) have their own
        if type(module) is Linear and type(module.base_layer) is nn.Linear and not module.fan_in_fan_out:
            module.__class__ = FusedLinear
    return model
