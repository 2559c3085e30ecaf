"""A policy's search over an engine that answers log-probabilities of next tokens, in place of hidden states.

The walker sends each (prompt, prefix) as one sequence and is told the log-probabilities of the tokens that may
follow; the head finds them again by token. Everything above (beams, best-first search, filters, certificates, slates)
is the same code as on torch. The engine may normalise over any set of tokens that holds the legal ones: edges are
normalised again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RunError
from llmrec.policy.edges import Edges
from llmrec.policy.engine import Engine
from llmrec.policy.heads import Head
from llmrec.policy.packing import Prompts


@dataclass(frozen=True, slots=True)
class Question:
    """What may follow a sequence.

    Attributes:
        tokens: prompt and the part of an item behind it.
        written: how many of the last tokens are the item's.
        legal: how many tokens go on to an item of the catalogue.
    """

    tokens: list[int]
    written: int
    legal: int


class Answerer(Protocol):
    """An engine that runs the model."""

    def ask(self, questions: Sequence[Question]) -> list[Mapping[int, float]]:
        """For each question the log-probabilities of all its legal tokens, maybe among others."""
        ...


class AskedModel(Engine):
    """A causal language model whose log-probabilities an `Answerer` gives."""

    def __init__(self, answerer: Answerer, config: Any, rows: int, *, name: str, at_once: int = 256) -> None:
        super().__init__(config, rows, name, at_once)
        self.answerer = answerer

    def walker(self, prompts: Prompts, index: PrefixIndex) -> AskedWalker:
        """See `Engine`."""
        return AskedWalker(self, prompts, index)

    def head(self) -> AskedHead:
        """See `Engine`."""
        return AskedHead(self)


class AskedWalker:
    """Sends sequences to the engine; nothing is kept here, since engines keep prefixes themselves."""

    def __init__(self, model: AskedModel, prompts: Prompts, index: PrefixIndex) -> None:
        self.model, self.index = model, index
        rows = zip(prompts.ids_BP.tolist(), prompts.length_B.tolist(), strict=True)
        self.prompts = [ids[:length] for ids, length in rows]

    def hidden(self, user_U: Tensor, node_U: Tensor) -> Tensor:
        """What the engine said of each pair: legal tokens and their log-probabilities side by side, (U, 2W) float64.

        Raises:
            RunError: it left out a token.
        """
        index = self.index
        edges = Edges.of(index, user_U, node_U, None)
        low_U, _ = index.range_of(node_U)
        questions = [
            Question(self.prompts[user] + index.token_M[path[:depth].long()].tolist(), depth, legal)
            for user, path, depth, legal in zip(
                user_U.tolist(),
                index.path_NL[low_U],
                index.depth_M[node_U].tolist(),
                edges.count_U.tolist(),
                strict=True,
            )
        ]
        said = self.model.answerer.ask(questions)
        pairs = zip(edges.state_E.tolist(), edges.token_E.tolist(), strict=True)
        try:
            value_E = [said[state][token] for state, token in pairs]
        except KeyError as lost:
            raise RunError(
                f"{self.model.name} said nothing of token {lost.args[0]}, which goes on to an item; let it give "
                "the log-probabilities after its logits processors, of as many tokens as may follow."
            ) from None
        return _table(edges, torch.tensor(value_E, dtype=torch.float64), self.model)

    def forget(self) -> None:
        """See `prefill.Prefill`: nothing is kept anyway."""


def _table(edges: Edges, value_E: Tensor, model: AskedModel) -> Tensor:
    """Tokens, ascending and padded with the number of tokens, and values of each pair."""
    pairs, width = len(edges.count_U), int(edges.count_U.max())
    place_E = torch.arange(len(value_E)) - edges.start_U[edges.state_E]
    tokens = torch.full((pairs, width), float(model.embedding.num_embeddings), dtype=torch.float64)
    values = torch.full((pairs, width), -torch.inf, dtype=torch.float64)
    tokens[edges.state_E, place_E] = edges.token_E.double()
    values[edges.state_E, place_E] = value_E
    return torch.cat([tokens, values], 1)


class AskedHead(Head):
    """Reads log-probabilities out of what the walker gives, by token."""

    def __init__(self, model: AskedModel) -> None:
        self.model, self.rows_of_vocabulary = model, model.embedding.num_embeddings

    @property
    def is_plain(self) -> bool:
        """There are no weights to read."""
        return False

    def logits(self, hidden_UH: Tensor, token_R: Tensor) -> Tensor:
        """Log-probabilities of tokens `token_R`, -inf where they are not legal: (U, R) float64."""
        state = torch.arange(len(hidden_UH)).repeat_interleave(len(token_R))
        return self.edge_logits(hidden_UH, state, token_R.repeat(len(hidden_UH))).view(len(hidden_UH), -1)

    def all_logits(self, hidden_UH: Tensor) -> Tensor:
        """There are none beyond the legal tokens: raises `RunError`."""
        raise RunError(f"{self.model.name} tells of legal tokens alone, so items cannot be scored by likelihood.")

    def edge_logits(self, hidden_UH: Tensor, state_E: Tensor, token_E: Tensor) -> Tensor:
        """Log-probability of token `token_E[e]` in row `state_E[e]`: (E,) float64."""
        tokens_UW, values_UW = hidden_UH.chunk(2, dim=1)
        step = self.rows_of_vocabulary + 1
        # rows one after the other, each ascending, so that one search serves all
        row_U1 = torch.arange(len(hidden_UH)).unsqueeze(1)
        key_X = (row_U1 * step + tokens_UW.long()).view(-1)
        wanted_E = state_E * step + token_E
        place_E = torch.searchsorted(key_X, wanted_E).clamp(max=len(key_X) - 1)
        found_E = key_X[place_E] == wanted_E
        return values_UW.reshape(-1)[place_E].masked_fill(~found_E, -torch.inf)
