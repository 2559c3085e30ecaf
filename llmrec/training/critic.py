"""Critics: what is expected of an item under way, or of the places of a slate, from the policy's hidden states.

A critic has units of its own, those of the first rollout's rewards or returns: V = mean + scale * net. The same
learning rate, weight of the value loss and clipping then serve rewards of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmrec.errors import RunError
from llmrec.seeding import stream_seed

FILE = "critic.safetensors"
Write = Callable[[Any, Mapping[str, Tensor]], object]


class ScaledCritic(nn.Module):
    """A perceptron with one hidden layer and S values, in float32; the net starts at 0 everywhere.

    Args:
        width: size H of the hidden states.
        values: S.
        seed: of the first layer's weights, a named stream's.
    """

    mean_S: Tensor
    scale: Tensor
    ready: Tensor

    def __init__(self, width: int, values: int, seed: int) -> None:
        super().__init__()
        # torch's global generator is left as it was: whether there is a critic must not shift what others draw
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, values)
        # V is then the mean of the first rollout everywhere, so that the first advantages are the rewards less their
        # mean and not the noise of an untrained net
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.register_buffer("mean_S", torch.zeros(values))
        self.register_buffer("scale", torch.ones(()))
        # Buffers, since they are saved with the weights: units taken anew on resuming would change what every weight
        # says.
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def values(self, hidden: Tensor) -> Tensor:
        """Values (..., S) of hidden states (..., H)."""
        # in float32 also beside a policy in bfloat16, whose eight bits would round away small advantages
        found: Tensor = self.outer(nn.functional.gelu(self.inner(hidden.float())))
        return self.mean_S + self.scale * found

    @torch.no_grad()
    def set_units(self, sums_3S: Tensor) -> None:
        """Takes mean and deviation from number, sum and sum of squares of what each value is fitted to."""
        count_S, total_S, squares_S = sums_3S.double().unbind()
        mean_S = total_S / count_S.clamp(min=1)
        # One scale for all S values, pooled around the mean of each: later places of a slate expect less, and the
        # differences of the means are no spread that a value would have to learn.
        variance = (squares_S - count_S * mean_S.square()).clamp(min=0).sum() / count_S.sum().clamp(min=1)
        self.mean_S.copy_(mean_S)
        self.scale.copy_(torch.where(variance > 1e-12, variance.sqrt(), 1.0))
        self.ready.fill_(True)


class Critic(ScaledCritic):
    """One value a token: what is expected of the item under way."""

    def __init__(self, width: int, *, seed: int = 0) -> None:
        super().__init__(width, 1, stream_seed(seed, "critic"))

    def forward(self, hidden_BGLH: Tensor) -> Tensor:
        """Values (B, G, L)."""
        return self.values(hidden_BGLH).squeeze(-1)


class SlateCritic(ScaledCritic):
    """K + 1 values (S) from the hidden state after the prompt.

    Value k is that of the rest of the slate and the turns after it, before place k is filled; the last one is that of
    the turns after the slate.

    Args:
        width: size H of the hidden states.
        slots: K.
        seed: of the first layer's weights.
    """

    def __init__(self, width: int, slots: int, *, seed: int = 0) -> None:
        super().__init__(width, slots + 1, stream_seed(seed, "slate critic"))

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """Values (B, K + 1)."""
        return self.values(hidden_BH)


def save_critic(critic: nn.Module | Mapping[str, Tensor], folder: Path) -> None:
    """Writes a critic, or its weights by name, into `folder` as `critic.safetensors`."""
    state = critic.state_dict() if isinstance(critic, nn.Module) else critic
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / FILE)


def load_critic(critic: Any, folder: Path, write: Write = nn.Module.load_state_dict) -> None:
    """Reads `critic.safetensors` of `folder` into `critic`, by `write` where its weights are sharded.

    Raises:
        RunError: the file is missing, or of a critic of another size.
    """
    try:
        write(critic, load_file(folder / FILE))
    except (OSError, RuntimeError) as error:
        raise RunError(f"{folder / FILE} is missing or does not fit this critic; start PPO anew ({error}).") from None
