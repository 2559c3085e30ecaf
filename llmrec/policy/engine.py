"""The place of a model that another engine runs: it has no hidden states to give, but its own walker and head."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn

from llmrec.errors import RunError


class Engine(nn.Module):
    """What a policy asks of a causal language model that is run elsewhere.

    Searches go through it like through a model of torch's: `walker` and `head` are theirs in place of the ones that
    read weights. It has neither gradients nor logits outside of the catalogue.

    Args:
        config: the model's configuration, for its positions.
        rows: tokens that the model knows.
        name: of the engine, in errors and in keys of what is kept.
        at_once: states whose prompts are searched together.
    """

    def __init__(self, config: Any, rows: int, name: str, at_once: int) -> None:
        super().__init__()
        self.config, self.name, self.at_once = config, name, at_once
        # never read: the shape says how many tokens there are, and device and dtype where numbers go
        self.embedding = nn.Embedding(rows, 1, _weight=torch.zeros((rows, 1)))
        self.requires_grad_(False)

    def walker(self, prompts: Any, index: Any) -> Any:
        """A `prefill.Prefill` over prompts on `index`."""
        raise NotImplementedError

    def head(self) -> Any:
        """The `heads.Head` that reads what the walker gives."""
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Embedding:
        """Stands for the weights that are elsewhere."""
        return self.embedding

    def get_decoder(self) -> NoReturn:
        """There is none: raises `RunError`."""
        raise RunError(f"{self.name} gives no hidden states, so this cannot be done with it; leave the engine out.")
