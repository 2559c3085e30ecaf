"""Many token sequences in one row, each shared prefix once: a forest, and hidden states at its tokens.

A row of a batch holds the prefix tree of some sequences, tokens in preorder: a token stands behind the one that comes
before it in its sequences, and all that begin with it follow before anything else does. A token's position is its
depth, and it sees its ancestors and itself, so every state equals the one in the sequence alone, whatever template or
tokenizer the sequences came from. How much is saved is how much of them is shared.

In preorder the tokens below token j are places j + 1 .. end_j - 1. So token i sees token j where j <= i < end_j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.block_attention import by_blocks
from llmrec.policy.edges import Edges
from llmrec.policy.heads import checked_head
from llmrec.policy.modes import base_model, dtype_of
from llmrec.policy.packing import for_model, run_decoder
from llmrec.policy.scoring import edge_log_probs
from llmrec.policy.token_loss import token_loss
from llmrec.types import IntArray


@dataclass(frozen=True, slots=True)
class Forest:
    """The prefix tree of some sequences in preorder, L tokens in all.

    Attributes:
        ids_L: token ids.
        depth_L: tokens before each one in its sequences: its position.
        end_L: the first place behind all that begin with the token's prefix.
        places: for each sequence, in the order given, the places of its tokens.
    """

    ids_L: IntArray
    depth_L: IntArray
    end_L: IntArray
    places: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.ids_L)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Forest:
        """Merges sequences (of at least one token each); equal ones become one."""
        arrays = [np.asarray(row, dtype=np.int64) for row in rows]
        ids: list[IntArray] = []
        depth: list[IntArray] = []
        places: list[IntArray] = [np.zeros(0, dtype=np.int64)] * len(rows)
        end = np.zeros(sum(map(len, arrays)), dtype=np.int64)
        # Sorted, sequences with a prefix in common are neighbours: what each shares with the one before it is all
        # that it shares with any of those before.
        length, path, before = 0, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        for number in sorted(range(len(rows)), key=lambda n: tuple(rows[n])):
            row = arrays[number]
            shared = _common(before, row)
            end[path[shared:]] = length  # what is left behind is over
            new = np.arange(length, length + len(row) - shared, dtype=np.int64)
            path, before = np.concatenate([path[:shared], new]), row
            ids.append(row[shared:])
            depth.append(np.arange(shared, len(row), dtype=np.int64))
            places[number] = path
            length += len(new)
        end[path] = length
        return cls(np.concatenate(ids), np.concatenate(depth), end[:length], tuple(places))


def _common(one: IntArray, other: IntArray) -> int:
    """How many tokens two sequences begin with together."""
    width = min(len(one), len(other))
    apart = np.flatnonzero(one[:width] != other[:width])
    return int(apart[0]) if len(apart) else width


def forest_hidden(model: Any, ids_BL: Tensor, depth_BL: Tensor, end_BL: Tensor | None) -> Tensor:
    """Hidden states (B, L, H) of rows of forests, padded on the right; differentiable.

    Args:
        model: a causal language model that `supports_sharing`, unless `end_BL` is None.
        ids_BL: token ids.
        depth_BL: their positions.
        end_BL: as in `Forest`, at padding the place behind it. None: every row is one sequence, which any causal
            architecture can read.
    """
    inner = base_model(model)
    if end_BL is None:
        # no mask: padding is on the right, where a causal model does not look
        return run_decoder(inner, input_ids=ids_BL, use_cache=False)
    place_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    query, key = place_L.view(1, -1, 1), place_L.view(1, 1, -1)
    seen = (key <= query) & (query < end_BL.unsqueeze(1))
    mask = for_model(inner, seen, depth_BL, depth_BL, dtype_of(inner))
    with by_blocks(inner, ids_BL.shape[1]):
        return run_decoder(inner, input_ids=ids_BL, attention_mask=mask, position_ids=depth_BL, use_cache=False)


@dataclass(frozen=True)
class Choices:
    """Steps on the way to items, each a choice among the legal tokens behind some place of a forest.

    Attributes:
        place_C: where the choice is made, row * L + place in the row; may repeat.
        node_C: the prefix that the item has there.
        child_C: the prefix that was chosen.
        weight_C: how often that counts.
        index: the catalogue's prefixes.
    """

    place_C: Tensor
    node_C: Tensor
    child_C: Tensor
    weight_C: Tensor
    index: PrefixIndex

    def loss(self, model: Any, hidden_XH: Tensor) -> Tensor:
        """The weighted sum of -log pi(child | prompt and node), in nats."""
        # each prefix of a prompt once, however many items lead through it
        key_U, state_C = torch.unique(self.place_C * self.index.n_nodes + self.node_C, return_inverse=True)
        place_U = key_U // self.index.n_nodes
        edges = Edges.of(self.index, place_U, key_U % self.index.n_nodes, None)
        log_prob_E = edge_log_probs(edges, hidden_XH[place_U], checked_head(model), self.index, 1.0)
        chosen_C = log_prob_E[edges.find(state_C, self.child_C, self.index)]
        return -(chosen_C * self.weight_C).sum()


@dataclass(frozen=True)
class Predictions:
    """A request of `policy.forward`: how unlikely the model finds what comes next at places of some forests.

    Attributes:
        ids_BL, depth_BL, end_BL: as for `forest_hidden`.
        place_T: where a token is predicted, row * L + place in the row; may repeat.
        token_T: what comes next there.
        weight_T: how often that counts.
        choices: what is predicted among legal tokens alone.
    """

    ids_BL: Tensor
    depth_BL: Tensor
    end_BL: Tensor | None
    place_T: Tensor
    token_T: Tensor
    weight_T: Tensor
    choices: Choices | None = None

    def answer(self, model: Any, _: Any = None, /) -> dict[str, Tensor]:
        """`loss`: the weighted sum of -log p over tokens (the whole vocabulary) and choices (legal ones), in nats."""
        hidden_XH = forest_hidden(model, self.ids_BL, self.depth_BL, self.end_BL).flatten(0, 1)
        # a sum over nothing, so that a step without a choice (a catalogue of one item) has a gradient too, of zeros
        loss = hidden_XH[:0].sum().to(torch.promote_types(hidden_XH.dtype, torch.float32))
        if len(self.place_T):
            # the head is most of a small model's work: once for each place, however many tokens are asked for there
            place_U, at_T = torch.unique(self.place_T, return_inverse=True)
            loss = loss + token_loss(checked_head(model), hidden_XH[place_U], at_T, self.token_T, self.weight_T)
        if self.choices is not None and len(self.choices.place_C):
            loss = loss + self.choices.loss(model, hidden_XH)
        return {"loss": loss}
