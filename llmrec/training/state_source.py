"""Where batches come from: states that items are drawn for, and logged preferences between items of a state.

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

from llmrec.catalogue.allowed import ItemFilter
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.index import PrefixIndex
from llmrec.dataset.preferences import Preferences
from llmrec.files import sha256_of
from llmrec.policy.filtered import padded
from llmrec.policy.forward import ScoringRequest
from llmrec.policy.packing import padded_prompts
from llmrec.seeding import numpy_stream
from llmrec.training.obeyed import Closed
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


def in_rounds(count: int, wanted: int, seed: int, *name: object) -> IntArray:
    """`wanted` of the indices below `count`: all in a random order before any comes again, in another order then."""
    rounds = [numpy_stream(seed, *name, number).permutation(count) for number in range(-(-wanted // count))]
    return np.concatenate(rounds)[:wanted]


class StateSource:
    """The states that rollouts start from.

    Args:
        states: where the policy is asked for an item.
        seen: for each state, item indices that must not be drawn (F); None allows everything. `obeyed.Closed` closes
            some to all states besides.
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
        self._dense: ItemFilter | None = None

    def dense(self, index: PrefixIndex) -> ItemFilter | None:
        """What is closed to all states, on the index's device; None for nothing."""
        if not isinstance(self.seen, Closed) or bool(self.seen.passes_N.all()):
            return None
        if self._dense is None or self._dense.passes_N.device != index.device:
            self._dense = index.item_filter(torch.from_numpy(self.seen.passes_N))
        return self._dense

    def plan(self, steps: int, prompts: int, minibatches: int, processes: int) -> Any:
        """The trainer's data set: one row a prompt, with the state's index, the rollout and the place in it.

        States come in a new random order each time all have been used. Places are ordered so that a process that
        reads its contiguous share finds its part of minibatch 0, then of minibatch 1, and so on.
        """
        wanted = steps * prompts
        state = in_rounds(len(self.states), wanted, self.seed, "ppo", "states").reshape(steps, prompts)
        # Minibatch m of all processes together holds places m * P / M and on, however many processes share them: the
        # same draws then meet in the same optimiser step.
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
        return ScoreRequest(ids, mask, none, index, self.exclusions(rows, device), dense=self.dense(index))

    def another(self, row: dict[str, Any], attempt: int) -> dict[str, Any]:
        """The row with another state in place of its own, by the stream of its rollout, place and attempt."""
        # by place and not by process, so that a group is replaced by the same state however many share the work
        random = numpy_stream(self.seed, "rl", "another", row["rollout"], row["place"], attempt)
        return {**row, "state": int(random.integers(len(self.states)))}

    def prompts(self, rows: Sequence[dict[str, Any]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, P) of the rows' states, padded on the left."""
        return self.encode([self.states[row["state"]] for row in rows], device)

    def encode(self, states: Sequence[State], device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, P) of states, padded on the left."""
        return padded_prompts(self.renderer.token_ids_many(states), self.tokenizer, device)

    def exclusions(self, rows: Sequence[dict[str, Any]], device: torch.device) -> Tensor | None:
        """Excluded item indices (B, E), padded with -1; None where repeats are allowed."""
        if self.seen is None:
            return None
        return torch.from_numpy(padded([self.seen[row["state"]] for row in rows])).to(device)

    def uniforms(self, rows: Sequence[dict[str, Any]], draws: int, attempt: int = 0) -> Tensor:
        """Numbers in [0, 1) for the draws of each row: (B, G, L), float64; other ones for each attempt."""
        shape = (draws, self.index.max_length)
        # the first attempt has the plain name: whether groups may be drawn anew changes none of the first draws
        more = ("attempt", attempt) if attempt else ()
        tables = [
            numpy_stream(self.seed, "ppo", "rollout", row["rollout"], row["place"], *more).random(shape)
            for row in rows
        ]
        return torch.from_numpy(np.stack(tables))


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
        wanted = self.steps(epochs, batch_size) * batch_size
        return HFDataset.from_dict({"pair": in_rounds(len(self.pairs), wanted, self.seed, "preferences", "order")})

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
    # from the tree alone: TRL asks for the mask before anything was scored
    return (before_BGL >= 0) & (request.index.degree_M[before_BGL.clamp(min=0)] > 1)
