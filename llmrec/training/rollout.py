"""What a rollout is made from and what it leaves behind for the updates.

Which states a rollout visits and every uniform number of its draws come from streams named by the rollout and the
state's place in it. How many processes share the work, and whether the run was resumed, changes neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset as HFDataset
from torch import Tensor

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.forward import ScoringRequest
from llmrec.policy.scoring import TokenScores
from llmrec.seeding import numpy_stream
from llmrec.types import IntArray, State


@dataclass(frozen=True)
class ScoreRequest(ScoringRequest):
    """Items to score for prompts: what goes through the wrapped forward in place of token ids.

    `features_BGLH` are hidden states for the critic (None: the policy's own); without `with_more` no value is asked.
    """

    features_BGLH: Tensor | None = None
    with_more: bool = True

    def split(self, number: int) -> list[ScoreRequest]:
        """`number` requests of equally many prompts each."""
        names = ("prompt_ids_BP", "prompt_mask_BP", "items_BG", "exclude", "features_BGLH")
        given = {name: getattr(self, name) for name in names}
        chunks = {name: value.chunk(number) for name, value in given.items() if value is not None}
        return [replace(self, **{name: parts[n] for name, parts in chunks.items()}) for n in range(number)]


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One optimiser step's share of a rollout: whole groups, B prompts with G items each.

    `old_log_prob_BGL` is the sampler's own, `value_BGL` the critic's at the rollout, `reference` the scores of the
    warm-started policy.
    """

    request: ScoreRequest
    choice_BGL: Tensor
    old_log_prob_BGL: Tensor
    value_BGL: Tensor
    advantage_BGL: Tensor
    return_BGL: Tensor
    reference: TokenScores


class StateSource:
    """The states that rollouts start from.

    Args:
        states: where the policy is asked for an item.
        seen: for each state, item indices that must not be drawn (F); None allows everything.
        renderer: state to prompt.
        catalogue: the items.
        tokenizer: gives the padding token.
        seed: the run's seed.
    """

    def __init__(
        self,
        states: Sequence[State],
        seen: Sequence[IntArray] | None,
        renderer: Any,
        catalogue: Catalogue,
        tokenizer: Any,
        seed: int,
    ) -> None:
        self.states, self.seen, self.renderer, self.seed = states, seen, renderer, seed
        self.catalogue, self.index, self.tokenizer = catalogue, catalogue.index, tokenizer

    def plan(self, steps: int, prompts: int, minibatches: int, processes: int) -> Any:
        """The trainer's data set: one row a prompt, with the state's index, the rollout and the place in it.

        States come in a new random order each time all have been used. Places are ordered so that a process that
        reads its contiguous share finds its part of minibatch 0, then of minibatch 1, and so on.
        """
        wanted, have = steps * prompts, 0
        turns: list[IntArray] = []
        while have < wanted:
            turns.append(numpy_stream(self.seed, "ppo", "states", len(turns)).permutation(len(self.states)))
            have += len(self.states)
        state = np.concatenate(turns)[:wanted].reshape(steps, prompts)
        place = np.arange(prompts).reshape(minibatches, processes, -1).swapaxes(0, 1).ravel()
        rows = {
            "prompt": [""] * wanted,  # TRL looks for this column; prompts are rendered when they are needed
            "state": state[:, place].ravel(),
            "rollout": np.repeat(np.arange(steps), prompts),
            "place": np.tile(place, steps),
        }
        return HFDataset.from_dict(rows)

    def request(self, rows: Sequence[dict[str, Any]], index: PrefixIndex, device: torch.device) -> ScoreRequest:
        """What is asked of the rows' states: prompts and exclusions, no items yet."""
        ids, mask = self.prompts(rows, device)
        none = torch.zeros((len(rows), 0), dtype=torch.long, device=device)
        return ScoreRequest(ids, mask, none, index, self.exclusions(rows, device))

    def another(self, row: dict[str, Any], attempt: int) -> dict[str, Any]:
        """The row with another state in place of its own, by the stream of its rollout, place and attempt."""
        random = numpy_stream(self.seed, "rl", "another", row["rollout"], row["place"], attempt)
        return {**row, "state": int(random.integers(len(self.states)))}

    def prompts(self, rows: Sequence[dict[str, Any]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, P) of the rows' states, padded on the left."""
        return self.encode([self.states[row["state"]] for row in rows], device)

    def encode(self, states: Sequence[State], device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, P) of states, padded on the left."""
        encoded = self.renderer.token_ids_many(states)
        width, pad = max(map(len, encoded)), self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(line)) + list(line) for line in encoded])
        length = torch.tensor([len(line) for line in encoded]).unsqueeze(1)
        mask = (torch.arange(width) >= width - length).long()
        return ids.to(device), mask.to(device)

    def exclusions(self, rows: Sequence[dict[str, Any]], device: torch.device) -> Tensor | None:
        """Excluded item indices (B, E), padded with -1; None where repeats are allowed."""
        if self.seen is None:
            return None
        lists = [np.asarray(self.seen[row["state"]], dtype=np.int64) for row in rows]
        table = np.full((len(lists), max(1, *map(len, lists)) if lists else 1), -1, dtype=np.int64)
        for line, items in zip(table, lists, strict=True):
            line[: len(items)] = items
        return torch.from_numpy(table).to(device)

    def uniforms(self, rows: Sequence[dict[str, Any]], draws: int, attempt: int = 0) -> Tensor:
        """Numbers in [0, 1) for the draws of each row: (B, G, L), float64; other ones for each attempt."""
        shape = (draws, self.index.max_length)
        more = ("attempt", attempt) if attempt else ()
        tables = [
            numpy_stream(self.seed, "ppo", "rollout", row["rollout"], row["place"], *more).random(shape)
            for row in rows
        ]
        return torch.from_numpy(np.stack(tables))
