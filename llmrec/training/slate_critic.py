"""The critic of slates: at each place, and at the end of the slate, what is expected of the rest of the session."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmrec.seeding import stream_seed


class SlateCritic(nn.Module):
    """A perceptron from the hidden state after the prompt to K + 1 values, in float32 and in units of its own.

    Value k is that of the rest of the slate and the turns after it, before place k is filled; the last one is that of
    the turns after the slate. V = mean + scale * net(hidden): the units are those of the first rollout's returns
    (`set_units`), so that the same learning rate and clipping serve sessions of any length and reward. The net starts
    at 0.

    Axis S: the K + 1 values.

    Args:
        width: size H of the hidden states.
        slots: K.
        seed: of the first layer's weights.
    """

    mean_S: Tensor
    scale: Tensor
    ready: Tensor

    def __init__(self, width: int, slots: int, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(seed, "slate critic"))
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, slots + 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.register_buffer("mean_S", torch.zeros(slots + 1))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """Values (B, K + 1)."""
        values: Tensor = self.outer(nn.functional.gelu(self.inner(hidden_BH.float())))
        return self.mean_S + self.scale * values

    @torch.no_grad()
    def set_units(self, sums_3S: Tensor) -> None:
        """Takes mean and deviation from number, sum and sum of squares of the returns of each value."""
        count_S, total_S, squares_S = sums_3S.double().unbind()
        mean_S = total_S / count_S.clamp(min=1)
        variance = (squares_S - count_S * mean_S.square()).clamp(min=0).sum() / count_S.sum().clamp(min=1)
        self.mean_S.copy_(mean_S)
        self.scale.copy_(torch.where(variance > 1e-12, variance.sqrt(), 1.0))
        self.ready.fill_(True)
