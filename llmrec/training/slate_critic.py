"""The critic of slates: at each place, and at the end of the slate, what is expected of the rest of the session."""

from __future__ import annotations

from torch import Tensor

from llmrec.seeding import stream_seed
from llmrec.training.critic import ScaledCritic


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
