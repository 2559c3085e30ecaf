"""The critic: the expected reward of an item under way, from the hidden state that predicts its next token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmrec.errors import RunError
from llmrec.seeding import stream_seed

FILE = "critic.safetensors"


class Critic(nn.Module):
    """A perceptron with one hidden layer, in float32; it starts at V = 0 everywhere.

    Args:
        width: size H of the hidden states.
        seed: of the first layer's weights.
    """

    def __init__(self, width: int, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(seed, "critic"))
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden_BGLH: Tensor) -> Tensor:
        """Values (B, G, L)."""
        hidden = self.inner(hidden_BGLH.float())
        values: Tensor = self.outer(nn.functional.gelu(hidden)).squeeze(-1)
        return values


def save_critic(critic: nn.Module, folder: Path) -> None:
    """Writes `critic.safetensors` into `folder`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in critic.state_dict().items()}
    save_file(tensors, folder / FILE)


def load_critic(critic: Any, folder: Path) -> None:
    """Reads `critic.safetensors` of `folder` into `critic`; `RunError` where it is missing or of another size."""
    try:
        critic.load_state_dict(load_file(folder / FILE))
    except (OSError, RuntimeError) as error:
        raise RunError(f"{folder / FILE} is missing or does not fit this critic; start PPO anew ({error}).") from None
