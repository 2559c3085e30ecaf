"""The critic of slates: at each place, the expected discounted reward of the rest of the session."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmrec.seeding import stream_seed


class SlateCritic(nn.Module):
    """A perceptron from the hidden state after the prompt to K values, in float32 and in units of its own.

    V = mean_K + scale * net(hidden): the units are those of the first rollout's returns (`set_units`), so that the
    same learning rate and clipping serve sessions of any length and reward. The net starts at 0.

    Args:
        width: size H of the hidden states.
        slots: K.
        seed: of the first layer's weights.
    """

    mean_K: Tensor
    scale: Tensor
    ready: Tensor

    def __init__(self, width: int, slots: int, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(seed, "slate critic"))
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, slots)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.register_buffer("mean_K", torch.zeros(slots))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """Values (B, K) before each place of the slate is filled."""
        values: Tensor = self.outer(nn.functional.gelu(self.inner(hidden_BH.float())))
        return self.mean_K + self.scale * values

    @torch.no_grad()
    def set_units(self, sums_3K: Tensor) -> None:
        """Takes mean and deviation from number, sum and sum of squares of the returns at each place."""
        count_K, total_K, squares_K = sums_3K.double().unbind()
        mean_K = total_K / count_K.clamp(min=1)
        variance = (squares_K - count_K * mean_K.square()).clamp(min=0).sum() / count_K.sum().clamp(min=1)
        self.mean_K.copy_(mean_K)
        self.scale.copy_(torch.where(variance > 1e-12, variance.sqrt(), 1.0))
        self.ready.fill_(True)
