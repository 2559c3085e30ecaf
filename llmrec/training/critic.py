"""The critic: the expected reward of an item under way, from the hidden state that predicts its next token."""

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
