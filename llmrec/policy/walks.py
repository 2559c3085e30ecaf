"""How a walk down the prefix tree is scored: what an edge adds, where a walk ends, what may still be added below.

*The policy's own* (`LocalWalk`): log-probabilities among the legal tokens of each step. Forced tokens are free, so a
walk ends where one item is left.

*Likelihood* (`LikelihoodWalk`): log-probabilities in the model's whole vocabulary, legal or not, so every token of an
item counts. It sums to less than 1 over the catalogue. Each further token only lowers the sum, which bounds all items
below a prefix; a term known for each item beforehand (less what the model thinks of it without a state, plus the log
of how often it was chosen) is bounded by its greatest value below the prefix. Both bounds together keep the search
exact. With a large share of such a term the bound is weak, and much of the tree is read.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from llmrec.catalogue.allowed import take
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RunError
from llmrec.policy.edges import NOT_FINITE, Edges
from llmrec.policy.heads import Head

_ROWS = 128
"""Hidden states whose logits of all tokens are made together: a vocabulary may have 256 thousand."""


class Walk(Protocol):
    """How a search scores what it walks over."""

    more_M: Tensor | None
    """The most that items below a node get beside the sum of their edges, exact where a walk ends; None is 0."""

    def settle(self, node: Tensor) -> Tensor:
        """The node whose continuations are read for an open node."""
        ...

    def ends(self, node: Tensor) -> Tensor:
        """Whether nothing below the node is read."""
        ...

    def edge_values(self, edges: Edges, hidden_UH: Tensor) -> Tensor:
        """What each edge adds, float64, at most 0: (E,)."""
        ...


class LocalWalk:
    """log pi: a softmax over the legal tokens of each step."""

    more_M: Tensor | None = None

    def __init__(self, head: Head, index: PrefixIndex) -> None:
        self.head, self.index = head, index

    def settle(self, node: Tensor) -> Tensor:
        """See `Walk`: forced tokens cost nothing and are skipped."""
        return self.index.settle(node)

    def ends(self, node: Tensor) -> Tensor:
        """See `Walk`."""
        return self.index.is_decided(node)

    def edge_values(self, edges: Edges, hidden_UH: Tensor) -> Tensor:
        """See `Walk`."""
        return edges.log_probs(hidden_UH, self.head, self.index, 1.0)


class LikelihoodWalk:
    """log-likelihood in the whole vocabulary, with a term known for each item.

    Args:
        head: the model's.
        index: the catalogue's prefix index.
        whole: read items to their end; else to the token that tells them from all others (see `likelihood`).
        term_N: by item index, what is added where a walk ends.
    """

    def __init__(self, head: Head, index: PrefixIndex, *, whole: bool, term_N: Tensor | None = None) -> None:
        self.head, self.index, self.whole = head, index, whole
        self.more_M = None if term_N is None else greatest_below(index, term_N.double().to(index.device))

    def settle(self, node: Tensor) -> Tensor:
        """See `Walk`: forced tokens cost, too."""
        return node

    def ends(self, node: Tensor) -> Tensor:
        """See `Walk`."""
        return take(self.index.degree_M, node) == 0 if self.whole else self.index.is_decided(node)

    def edge_values(self, edges: Edges, hidden_UH: Tensor) -> Tensor:
        """See `Walk`."""
        return token_log_probs(self.head, hidden_UH, edges)


def token_log_probs(head: Head, hidden_UH: Tensor, edges: Edges) -> Tensor:
    """log-probability of each edge's token among all tokens of the model: (E,), float64, without a gradient.

    Raises:
        RunError: a logit is NaN or infinite.
    """
    value_E = torch.empty(len(edges.state_E), dtype=torch.float64, device=hidden_UH.device)
    place_E = torch.arange(len(value_E), device=hidden_UH.device)
    for start in range(0, len(hidden_UH), _ROWS):
        logits = head.all_logits(hidden_UH[start : start + _ROWS])
        normaliser = torch.logsumexp(logits, -1).double()
        if not bool(torch.isfinite(normaliser).all()):
            raise RunError(NOT_FINITE)
        here = (edges.state_E >= start) & (edges.state_E < start + _ROWS)
        state = edges.state_E[here] - start
        value_E[place_E[here]] = logits[state, edges.token_E[here].long()].double() - normaliser[state]
    return value_E


def greatest_below(index: PrefixIndex, value_N: Tensor) -> Tensor:
    """The greatest value of any item below each node: (M,)."""
    value_R = value_N[index.item_of_row_N]  # by sorted row, as the paths are
    out = torch.full((index.n_nodes,), -torch.inf, dtype=value_N.dtype, device=value_N.device)
    out[0] = value_R.max()
    for level in range(index.max_length):
        node_R = index.path_NL[:, level].long()
        there = node_R >= 0
        out.scatter_reduce_(0, node_R[there], value_R[there], "amax")
    return out


def walk_of(head: Any, index: PrefixIndex, walk: Walk | None) -> Walk:
    """The walk that was asked for, by default the policy's own."""
    return LocalWalk(head, index) if walk is None else walk
