"""What a collated batch of packed rows asks of the model, and how much it predicts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.forest import Choices, Predictions


def predictions(batch: Mapping[str, Tensor], index: PrefixIndex | None = None, *, shared: bool = True) -> Predictions:
    """What is asked of the model about a collated batch."""
    choices = None
    if index is not None:
        choices = Choices(batch["at"], batch["node"], batch["child"], batch["times"], index)
    end = batch["end"] if shared else None
    return Predictions(batch["ids"], batch["depth"], end, batch["place"], batch["token"], batch["weight"], choices)


def predicted(batch: Mapping[str, Tensor]) -> Tensor:
    """How many tokens and choices a batch predicts."""
    return batch["weight"].sum() + batch["times"].sum()
