"""The tree of all item prefixes as flat tensors: legal next tokens by gather, filters by counting row ranges.

Items are sorted by their tokens, so a prefix is a contiguous range of sorted rows. Nodes are numbered breadth
first: the children of a node are neighbours, in token order. M nodes, U (user, node) pairs, C children.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed, ItemFilter, take
from llmrec.catalogue.build import tree_arrays
from llmrec.catalogue.tilt import Tilt
from llmrec.errors import RequestError
from llmrec.types import FloatArray


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
        tilt: what the choices among children are weighted by; None for nothing. It is no part of a catalogue's files.
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
    tilt: Tilt | None = None

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
        return cls(**{name: torch.from_numpy(value) for name, value in arrays.items()}, tilt=None)

    def among(self, items: npt.NDArray[np.integer]) -> PrefixIndex:
        """The tree of some items alone, under their own indices: `row_of_item_N` is -1 for all others.

        Tokens that only others share with them are forced here. It says what can be chosen instead of an item;
        filters and `prefixes`, which count all items, are not asked of it.

        Args:
            items: distinct item indices, at least one.
        """
        kept = np.sort(np.asarray(items, dtype=np.int64))
        path_KL = self.path_NL[self.row_of_item_N[torch.from_numpy(kept)]].long()
        token_KL = torch.where(path_KL >= 0, self.token_M[path_KL.clamp(min=0)].long(), -1)
        index = PrefixIndex.from_tokens(token_KL.numpy(), (path_KL >= 0).sum(1).numpy())
        own_K = torch.from_numpy(kept).to(index.item_of_row_N.dtype)
        row_N = torch.full_like(self.row_of_item_N, -1)
        row_N[own_K.long()] = index.row_of_item_N
        return replace(index, item_of_row_N=own_K[index.item_of_row_N.long()], row_of_item_N=row_N)

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
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})

    def tilted(self, power: float, worth_N: FloatArray, mean_N: FloatArray) -> PrefixIndex:
        """The tree of pi^power exp(worth) in the place of pi (see `catalogue.tilt`).

        Args:
            power: 0 or more.
            worth_N: by item index, in nats.
            mean_N: by item index, the mean of pi over states.
        """
        row_N = self.item_of_row_N.cpu().numpy()
        ranges = (self.low_M.cpu().numpy().astype(np.int64), self.high_M.cpu().numpy().astype(np.int64))
        return replace(self, tilt=Tilt.of(power, worth_N[row_N], mean_N[row_N], ranges).to(self.device))

    def range_of(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted rows [low, high) below each node, int64."""
        return take(self.low_M, node).long(), take(self.high_M, node).long()

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
        # Ragged ranges as one padded gather: as wide as the widest node at hand.
        place = torch.arange(widest, device=node.device)
        legal = place < degree.unsqueeze(-1)
        child = torch.where(legal, self.first_child_M[node].long().unsqueeze(-1) + place, 0)
        return torch.where(legal, self.token_M[child].long(), 0), child, legal

    @cached_property
    def largest_token(self) -> int:
        """The largest token id of any item."""
        return int(self.token_M.max())

    @cached_property
    def _levels(self) -> dict[int, tuple[Tensor, Tensor, int]]:
        return {}

    def level(self, depth: int) -> tuple[Tensor, Tensor, int]:
        """Tokens into the nodes of a depth, each once: (R,); the place there of each node's token; the first node.

        Nodes of a depth are neighbours, so node n has place `places[n - first]`. Made at the first call and kept.
        """
        if depth not in self._levels:
            # Breadth-first numbers rise with depth, so a level is a slice.
            first, end = (int(torch.searchsorted(self.depth_M, d)) for d in (depth, depth + 1))
            tokens, places = torch.unique(self.token_M[first:end].long(), return_inverse=True)
            self._levels[depth] = (tokens, places, first)
        return self._levels[depth]

    def is_allowed(self, node: Tensor, user: Tensor, allowed: Allowed | None) -> Tensor:
        """Whether an item that is allowed for `user` lies below `node` (same shapes)."""
        return torch.ones_like(node, dtype=torch.bool) if allowed is None else allowed.is_open(node, user)

    @cached_property
    def size_M(self) -> Tensor:
        """Items below each node, int32."""
        return self.high_M - self.low_M

    def item_filter(self, passes_N: Tensor) -> ItemFilter:
        """A filter from a predicate by item index, bool (N,)."""
        return ItemFilter.of(passes_N.to(self.device)[self.item_of_row_N], self.low_M, self.high_M)

    def allowed(
        self,
        exclude_BE: Tensor | None = None,
        *,
        dense: ItemFilter | None = None,
        candidates_BC: Tensor | None = None,
    ) -> Allowed | None:
        """What is left for each user of a batch; None where that is everything.

        Args:
            exclude_BE: item indices that a user must not get, padded with -1.
            dense: a filter for all users.
            candidates_BC: item indices that a user may get at all, padded with -1.

        Raises:
            RequestError: an index that is none of the catalogue.
        """
        without, only = self._keys(exclude_BE, "exclude"), self._keys(candidates_BC, "candidates")
        return Allowed.of(self.path_NL, self.size_M, dense=dense, without=without, only=only)

    def exclusion(self, exclude: Tensor | Allowed | None) -> Allowed | None:
        """`allowed(exclude)` for item indices (B, E); a ready `Allowed` is handed back."""
        return exclude if isinstance(exclude, Allowed) else self.allowed(exclude)

    def _keys(self, items_BE: Tensor | None, what: str) -> Tensor | None:
        if items_BE is None:
            return None
        items_BE = items_BE.to(self.device)
        if items_BE.numel() and int(items_BE.max()) >= self.n_items:
            raise RequestError(
                f"{what} holds item index {int(items_BE.max())}; the catalogue's {self.n_items} items have "
                f"indices 0 to {self.n_items - 1}."
            )
        # Row N is nobody's: N + 1 places a user keep the keys of two users apart.
        user = torch.arange(len(items_BE), device=self.device).unsqueeze(1).expand_as(items_BE)
        there = items_BE >= 0
        return user[there] * (self.n_items + 1) + self.row_of_item_N[items_BE[there]]

    def prefixes(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes before and after each token of items: two tensors of shape items.shape + (L,), -1 after the end.

        Raises:
            RequestError: an index outside 0 .. N - 1.
        """
        if items.numel() and not 0 <= int(items.min()) <= int(items.max()) < self.n_items:
            raise RequestError(f"Item indices must lie in 0 .. {self.n_items - 1}; ask for items of the catalogue.")
        after = self.path_NL[self.row_of_item_N[items]].long()
        # The root stands before the first token.
        before = torch.cat([torch.zeros_like(after[..., :1]), after[..., :-1]], -1)
        return before.masked_fill(after < 0, -1), after
