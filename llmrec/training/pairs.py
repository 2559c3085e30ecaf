"""Preferences as batches: B prompts with the preferred item and its N negatives each, as one scoring request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset as HFDataset
from torch import Tensor

from llmrec.catalogue.catalogue import Catalogue
from llmrec.dataset.preferences import Preferences
from llmrec.files import sha256_of
from llmrec.seeding import numpy_stream
from llmrec.training.rollout import ScoreRequest, StateSource
from llmrec.types import IntArray

Rows = Sequence[dict[str, Any]]


class PairSource:
    """Preferences and how their states become prompts.

    Batches depend on the seed alone: each holds neighbouring rows of `plan`, and a process reads its share of them.

    Args:
        pairs: what to learn from.
        renderer: state to prompt.
        catalogue: the items.
        tokenizer: gives the padding token.
        seed: the run's seed, for the order.
    """

    def __init__(self, pairs: Preferences, renderer: Any, catalogue: Catalogue, tokenizer: Any, seed: int) -> None:
        self.pairs, self.seed, self.index, self.tokenizer = pairs, seed, catalogue.index, tokenizer
        self._states = StateSource(pairs.states, None, renderer, catalogue, tokenizer, seed)

    def steps(self, epochs: float, batch_size: int) -> int:
        """Optimiser steps; the last batch is filled up from the next round."""
        return max(1, -(-round(epochs * len(self.pairs)) // batch_size))

    def plan(self, epochs: float, batch_size: int) -> Any:
        """The trainer's data set: one row a preference, in a new random order each time all have been used."""
        wanted, have = self.steps(epochs, batch_size) * batch_size, 0
        rounds: list[IntArray] = []
        while have < wanted:
            rounds.append(numpy_stream(self.seed, "preferences", "order", len(rounds)).permutation(len(self.pairs)))
            have += len(self.pairs)
        return HFDataset.from_dict({"pair": np.concatenate(rounds)[:wanted]})

    def to(self, device: torch.device) -> None:
        """Moves the catalogue's tree to where the model is."""
        self.index = self.index.to(device)

    def request(self, rows: Rows) -> tuple[ScoreRequest, Tensor]:
        """The rows' prompts with items (B, 1 + N), the preferred first, and which of them are there: bool.

        Places without an item hold the preferred one, which costs no further forward.
        """
        device = self.index.device
        at = np.array([row["pair"] for row in rows])
        ids, mask = self._states.prompts([{"state": int(row)} for row in self.pairs.state_row_R[at]], device)
        items = np.concatenate([self.pairs.chosen_R[at, None], self.pairs.rejected_RN[at]], axis=1)
        there = torch.from_numpy(items >= 0).to(device)
        items = np.where(items >= 0, items, items[:, :1])
        return ScoreRequest(ids, mask, torch.from_numpy(items).to(device), self.index), there

    def digest(self) -> str:
        """Of all that decides the batches, for `Plan.decides`."""
        states = [self.pairs.states[row] for row in self.pairs.state_row_R]
        return sha256_of(repr(states), repr(self.pairs.chosen_R.tolist()), repr(self.pairs.rejected_RN.tolist()))


def choice_points(request: ScoreRequest) -> Tensor:
    """At which tokens of the items more than one is legal: bool (B, G, L), as in `TokenScores.choice_BGL`."""
    before_BGL, _ = request.index.prefixes(request.items_BG)
    return (before_BGL >= 0) & (request.index.degree_M[before_BGL.clamp(min=0)] > 1)
