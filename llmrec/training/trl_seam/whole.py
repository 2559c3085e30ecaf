"""AdamW for weights in 16 bits: its steps are taken on copies in 32.

bfloat16 keeps 8 bits of a weight, so that a step below 1/512 of it is rounded away. AdamW's steps have about the size
of the learning rate: where a trained weight is in bfloat16, most of them are lost, and training stands still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

COPY = "whole"


class WholeAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` that keeps moments, and a copy of each weight of less than 32 bits, in float32.

    The model's own weight is that copy, rounded. Copies are part of the state and of its checkpoints.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; see `torch.optim.AdamW`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step_group(group, weights)
        return loss

    def _step_group(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        states = [self._state_of(weight, bool(group["fused"])) for weight in weights]
        copies = [state.get(COPY, weight) for state, weight in zip(states, weights, strict=True)]
        adamw(
            copies,
            [
                weight.grad.to(copy.dtype)
                for weight, copy in zip(weights, copies, strict=True)
                if weight.grad is not None
            ],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=group["foreach"],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        rounded = [(weight, copy) for weight, copy in zip(weights, copies, strict=True) if weight is not copy]
        if rounded:
            torch._foreach_copy_([weight for weight, _ in rounded], [copy for _, copy in rounded])

    def _state_of(self, weight: Tensor, fused: bool) -> dict[str, Any]:
        state: dict[str, Any] = self.state[weight]
        if not state:
            copy = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device if fused else "cpu")
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(copy), torch.zeros_like(copy)
            if is_short(weight):
                state[COPY] = copy
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state as it was saved; torch would round it to the type of the weights."""
        super().load_state_dict(state_dict)
        places = [place for group in state_dict["param_groups"] for place in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for place, weight in zip(places, weights, strict=True):
            for name, value in state_dict["state"].get(place, {}).items():
                if name != "step":
                    self.state[weight][name] = value.to(weight.device, copy=True)


def is_short(weight: Tensor) -> bool:
    """Whether a weight has less than 32 bits."""
    return weight.is_floating_point() and weight.dtype.itemsize < 4
