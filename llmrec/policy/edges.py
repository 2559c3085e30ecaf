"""Legal continuations of (user, prefix) pairs as one flat list of edges, and the distribution over them.

U pairs, E edges (all children of all pairs, in order, only those that lead to an allowed item).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed, ranges, take
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError, RunError
from llmrec.policy.heads import Head

NOT_FINITE = "The model's logits are not finite; lower the learning rate, or load it in float32 or bfloat16."
_DOT_COST = 16
"""How many entries of a matrix product take the time of one dot product on its own."""


@dataclass(frozen=True)
class Edges:
    """Edges of U pairs; pair u owns edges start_U[u] .. start_U[u] + count_U[u] - 1, in token order."""

    user_U: Tensor
    node_U: Tensor
    count_U: Tensor
    start_U: Tensor
    state_E: Tensor
    child_E: Tensor
    token_E: Tensor

    @classmethod
    def of(cls, index: PrefixIndex, user_U: Tensor, node_U: Tensor, exclusion: Allowed | None) -> Edges:
        """All edges out of the pairs that lead to an allowed item."""
        count = take(index.degree_M, node_U).long()
        start = count.cumsum(0) - count
        first = take(index.first_child_M, node_U).long()
        # Children of a node are neighbours in the sorted catalogue, so a node's edges are one range, and no table as
        # wide as the largest branching is ever made.
        child, state = ranges(first, count)
        if exclusion is not None:
            open_E = exclusion.open_children(user_U, first, count, child)
            state, child = state[open_E], child[open_E]
            count = torch.bincount(state, minlength=len(node_U))
            start = count.cumsum(0) - count
        return cls(user_U, node_U, count, start, state, child, take(index.token_M, child))

    def is_open(self, index: PrefixIndex, exclusion: Allowed | None) -> Tensor | None:
        """Of edges made without a filter, those that lead to an allowed item: bool (E,); None means all."""
        if exclusion is None:
            return None
        first = take(index.first_child_M, self.node_U).long()
        return exclusion.open_children(self.user_U, first, self.count_U, self.child_E)

    def only(self, keep_U: Tensor) -> Edges:
        """The edges of some pairs (bool (U,))."""
        kept = keep_U[self.state_E]
        new_place = keep_U.cumsum(0) - 1
        count = self.count_U[keep_U]
        return Edges(
            self.user_U[keep_U],
            self.node_U[keep_U],
            count,
            count.cumsum(0) - count,
            new_place[self.state_E[kept]],
            self.child_E[kept],
            self.token_E[kept],
        )

    def log_probs(self, hidden_UH: Tensor, head: Head, index: PrefixIndex, temperature: float) -> Tensor:
        """Log-probability of every edge among its pair's edges, softmax at `temperature`: (E,), differentiable.

        float64, whatever the logits are (see `log_softmax`).

        Raises:
            RunError: a logit is NaN or infinite.
        """
        return self.distribution(self._logits(hidden_UH, head, index), index, temperature)

    def distribution(self, logits_E: Tensor, index: PrefixIndex, temperature: float) -> Tensor:
        """`log_probs` of edges whose logits are known, tilted as the tree says.

        Raises:
            RunError: a logit is NaN or infinite.
        """
        if not bool(torch.isfinite(logits_E).all()):
            raise RunError(NOT_FINITE)
        told_E = logits_E if index.tilt is None else index.tilt(logits_E, self.child_E)
        return self.log_softmax(told_E / temperature)

    def _logits(self, hidden_UH: Tensor, head: Head, index: PrefixIndex) -> Tensor:
        """One product with all tokens of a depth, or one dot product an edge, whichever computes less."""
        depth_U = take(index.depth_M, self.node_U)
        depths = torch.unique(depth_U).tolist() if len(depth_U) else []
        if len(depths) == 1:
            return self._level_logits(hidden_UH, head, index, depths[0])
        out = hidden_UH.new_empty(len(self.child_E), dtype=torch.promote_types(hidden_UH.dtype, torch.float32))
        for depth in depths:
            here_U = depth_U == depth
            part = self.only(here_U)._level_logits(hidden_UH[here_U], head, index, depth)
            out = out.masked_scatter(here_U[self.state_E], part)
        return out

    def _level_logits(self, hidden_UH: Tensor, head: Head, index: PrefixIndex, depth: int) -> Tensor:
        """`_logits` of pairs of one depth."""
        token_R, place_T, first = index.level(depth + 1)
        # A product with every token of the depth wastes most of its entries where few pairs share them, yet an entry
        # of a large product takes a fraction of the time of a dot product by itself.
        if len(self.child_E) * _DOT_COST < len(hidden_UH) * len(token_R):
            return head.edge_logits(hidden_UH, self.state_E, self.token_E.long())
        table_UR = head.logits(hidden_UH, token_R)
        return take(table_UR.view(-1), self.state_E * len(token_R) + take(place_T, self.child_E - first))

    def log_softmax(self, value_E: Tensor) -> Tensor:
        """Log-softmax of edge values within each pair, float64.

        In float32 the log-probability of an edge that has nearly all mass loses its digits and is 0 in the end, and
        with it all that 1 - p is needed for, as in slates drawn without replacement.
        """
        value_E = value_E.double()
        top = torch.full((len(self.count_U),), -torch.inf, dtype=value_E.dtype, device=value_E.device)
        # the shift changes no value, so it needs no gradient
        top = top.scatter_reduce(0, self.state_E, value_E.detach(), "amax")
        centred = value_E - take(top, self.state_E)
        return centred - take(self.sum(centred.exp()).log(), self.state_E)

    def sum(self, value_E: Tensor) -> Tensor:
        """Sum of edge values within each pair: (U,)."""
        zero = torch.zeros(len(self.count_U), dtype=value_E.dtype, device=value_E.device)
        return zero.index_add(0, self.state_E, value_E)

    def find(self, state: Tensor, child: Tensor, index: PrefixIndex) -> Tensor:
        """Edge of pair `state` to node `child` (same shapes); any edge where there is none."""
        # sorted already: pairs follow each other, and children of a pair are in the order of the tree
        keys = self.state_E * index.n_nodes + self.child_E
        return torch.searchsorted(keys, state * index.n_nodes + child).clamp(max=len(keys) - 1)

    def draw(self, log_prob_E: Tensor, state_X: Tensor, uniform_X: Tensor) -> Tensor:
        """Inverse distribution function: for each draw the edge of its pair at its number in [0, 1): (X,)."""
        # One running sum over all pairs: a pair's edges are found within it by adding what stands before them, so
        # that all draws are one binary search.
        mass = log_prob_E.double().exp().cumsum(0)
        first, last = self.start_U[state_X], (self.start_U + self.count_U - 1)[state_X]
        base = torch.where(first > 0, mass[(first - 1).clamp(min=0)], 0.0)
        edge = torch.searchsorted(mass, base + uniform_X.double() * (mass[last] - base), right=True)
        # rounding of the running sum must not lead into a neighbouring pair
        return torch.minimum(torch.maximum(edge, first), last)


def table_places(user_E: Tensor, users: int) -> tuple[tuple[int, int], tuple[Tensor, Tensor]]:
    """Where values that are listed user by user stand in a table of one row a user.

    Returns:
        The table's shape (B, W), and row and column of each value.
    """
    count_B = torch.bincount(user_E, minlength=users)
    place_E = torch.arange(len(user_E), device=user_E.device) - take(count_B.cumsum(0) - count_B, user_E)
    return (users, int(count_B.max())), (user_E, place_E)


def require_roots(index: PrefixIndex, users: int, exclusion: Allowed | None) -> None:
    """Raises `RequestError` where a user is left no item."""
    if exclusion is not None:
        user = torch.arange(users, device=index.device)
        require_allowed(Edges.of(index, user, torch.zeros_like(user), exclusion))


def require_allowed(edges: Edges) -> None:
    """Raises `RequestError` where a user's root has no edge left."""
    empty = (edges.node_U == 0) & (edges.count_U == 0)
    if bool(empty.any()):
        user = int(edges.user_U[empty][0])
        raise RequestError(
            f"All items are excluded for state number {user}; allow some, for example by allowing repeats."
        )
