"""The tree of all item prefixes as flat tensors: legal next tokens by gather, filters by counting row ranges.

Items are sorted by their tokens, so a prefix is a contiguous range of sorted rows. Nodes are numbered breadth
first: the children of a node are neighbours, in token order. M nodes, U (user, node) pairs, C children.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmrec.catalogue.build import tree_arrays


@dataclass(frozen=True)
class Exclusion:
    """Items that users must not get: sorted keys user * (N + 1) + row, each once."""

    keys: Tensor
    n_items: int

    def count(self, user: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """How many sorted rows of [low, high) are excluded for `user`; all arguments of one shape."""
        base = user * (self.n_items + 1)
        return torch.searchsorted(self.keys, base + high) - torch.searchsorted(self.keys, base + low)


@dataclass(frozen=True)
class PrefixIndex:
    """Prefix tree of N items, L tokens at most, M nodes (node 0 is the empty prefix; a leaf is an item).

    Attributes:
        token_M: token on the edge into the node (-1 at the root).
        first_child_M, degree_M: children are nodes first_child .. first_child + degree - 1.
        low_M, high_M: the node's range of sorted rows.
        depth_M: tokens read at the node.
        settled_M: the first node at or below it that branches or is a leaf.
        path_NL: by sorted row, the node reached after each token; -1 after the end.
        length_N: by sorted row, tokens with the end token.
        item_of_row_N, row_of_item_N: between sorted rows and item indices.
    """

    token_M: Tensor
    first_child_M: Tensor
    degree_M: Tensor
    low_M: Tensor
    high_M: Tensor
    depth_M: Tensor
    settled_M: Tensor
    path_NL: Tensor
    length_N: Tensor
    item_of_row_N: Tensor
    row_of_item_N: Tensor

    @classmethod
    def from_tokens(cls, tokens_NL: npt.NDArray[np.integer], lengths_N: npt.NDArray[np.integer]) -> PrefixIndex:
        """Builds the tree from token rows padded with -1.

        Raises:
            CatalogueError: no rows, or a row that equals another or begins it.
        """
        return cls.of_arrays(tree_arrays(tokens_NL, lengths_N))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[np.integer]]) -> PrefixIndex:
        """The index over arrays that `llmrec.catalogue.build` made, by the names of the fields; nothing is copied."""
        return cls(**{name: torch.from_numpy(value) for name, value in arrays.items()})

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.item_of_row_N)

    @property
    def n_nodes(self) -> int:
        """M."""
        return len(self.token_M)

    @property
    def max_length(self) -> int:
        """L, tokens of the longest item with its end token."""
        return int(self.path_NL.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.token_M.device

    def to(self, device: torch.device | str) -> PrefixIndex:
        """The same index on `device` (itself where it is there already)."""
        if self.device == torch.device(device):
            return self
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def range_of(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted rows [low, high) below each node, int64."""
        return self.low_M[node].long(), self.high_M[node].long()

    def is_leaf(self, node: Tensor) -> Tensor:
        """Whether a node is a whole item."""
        return self.degree_M[node] == 0

    def is_decided(self, node: Tensor) -> Tensor:
        """Whether one item only lies below the node, so that all further tokens are forced."""
        low, high = self.range_of(node)
        return high - low == 1

    def settle(self, node: Tensor) -> Tensor:
        """Follows forced tokens: the first node at or below each that branches or is a leaf."""
        return self.settled_M[node].long()

    def item_of(self, node: Tensor) -> Tensor:
        """Item index of the first row below each node (its item, where the node is decided)."""
        return self.item_of_row_N[self.low_M[node].long()]

    def children(self, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, nodes and legality of the children, each of shape node.shape + (C,), C the largest degree there.

        Illegal places hold token and node 0.
        """
        degree = self.degree_M[node].long()
        widest = int(degree.max()) if degree.numel() else 0
        place = torch.arange(widest, device=node.device)
        legal = place < degree.unsqueeze(-1)
        child = torch.where(legal, self.first_child_M[node].long().unsqueeze(-1) + place, 0)
        return torch.where(legal, self.token_M[child].long(), 0), child, legal

    def allowed_children(self, node_U: Tensor, user_U: Tensor, exclusion: Exclusion | None) -> Tensor:
        """Like the third part of `children`, but only children that lead to an item allowed for the user: (U, C)."""
        _, child_UC, legal_UC = self.children(node_U)
        return legal_UC & self.is_allowed(child_UC, user_U.unsqueeze(-1).expand_as(child_UC), exclusion)

    def is_allowed(self, node: Tensor, user: Tensor, exclusion: Exclusion | None) -> Tensor:
        """Whether an item that is not excluded for `user` lies below `node` (same shapes)."""
        if exclusion is None:
            return torch.ones_like(node, dtype=torch.bool)
        low, high = self.range_of(node)
        return high - low > exclusion.count(user, low, high)

    def exclusion(self, exclude_BE: Tensor | None) -> Exclusion | None:
        """Sorted excluded rows from item indices padded with -1; None where nothing is excluded."""
        if exclude_BE is None or not bool((exclude_BE >= 0).any()):
            return None
        exclude_BE = exclude_BE.to(self.device)
        if bool((exclude_BE >= self.n_items).any()):
            raise ValueError(f"exclude holds {int(exclude_BE.max())}, which is no index of the {self.n_items} items.")
        user = torch.arange(len(exclude_BE), device=self.device).unsqueeze(1).expand_as(exclude_BE)
        there = exclude_BE >= 0
        keys = user[there] * (self.n_items + 1) + self.row_of_item_N[exclude_BE[there]]
        return Exclusion(cast(Tensor, torch.unique(keys)), self.n_items)

    def prefixes(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes before and after each token of items: two tensors of shape items.shape + (L,), -1 after the end.

        Raises:
            ValueError: an index outside 0 .. N - 1.
        """
        if items.numel() and not 0 <= int(items.min()) <= int(items.max()) < self.n_items:
            raise ValueError(f"Item indices must lie in 0 .. {self.n_items - 1}.")
        after = self.path_NL[self.row_of_item_N[items]].long()
        before = torch.cat([torch.zeros_like(after[..., :1]), after[..., :-1]], -1)
        return before.masked_fill(after < 0, -1), after
