"""Architecture "factorised": two inner products of a user vector and an item vector, one for each head.

logit(user, item) = u(state) . v(item) + b(item) + b(state), once for click and once for conversion. An item's
vector and bias are a linear map of its features plus a free part with a Gaussian prior around zero: an item seldom
shown is judged by its text, one shown often by what happened to it, and a new one by its text alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmrec.simulator.features import CHANNELS, FeatureSpace, UserArrays

HEADS = 2  # click, conversion given click


@dataclass(frozen=True)
class UserTensors:
    """`UserArrays` as tensors, items as places among the known ones."""

    dense_SF: Tensor
    known_SH: Tensor
    weight_SHC: Tensor

    @classmethod
    def of(cls, users: UserArrays, space: FeatureSpace) -> UserTensors:
        """Tensors of `users`; padding and items that came after fitting share the last place."""
        known_N1 = torch.cat([torch.from_numpy(space.known_N), torch.tensor([len(space.known)])])
        known_SH = known_N1[torch.from_numpy(users.item_SH)]
        return cls(torch.from_numpy(users.dense_SF), known_SH, torch.from_numpy(users.weight_SHC))

    def rows(self, index: Tensor) -> UserTensors:
        """The states at `index`."""
        return UserTensors(self.dense_SF[index], self.known_SH[index], self.weight_SHC[index])


class HistoryBag(nn.Module):
    """Weighted sum of a free vector per history item, by channel, mapped to `width`: (S, H) -> (S, width)."""

    def __init__(self, known: int, inner: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(known + 1, inner, padding_idx=known)
        nn.init.normal_(self.vectors.weight, std=0.1)
        self.vectors.weight.data[known] = 0
        self.out = nn.Linear(len(CHANNELS) * inner, width, bias=False)

    def forward(self, users: UserTensors) -> Tensor:
        """Returns (S, width)."""
        vectors_SHD = self.vectors(users.known_SH)
        return self.out(torch.einsum("shc,shd->scd", users.weight_SHC, vectors_SHD).flatten(1))  # type: ignore[no-any-return]


class FactorisedNet(nn.Module):
    """The module of the architecture; see the file's docstring for the equation."""

    def __init__(self, space: FeatureSpace, *, width: int = 24, inner: int = 16) -> None:
        super().__init__()
        known, features = len(space.known), space.item_NF.shape[1]
        self.width, self.crossings = width, space.crossings()
        self.register_buffer("item_NF", torch.from_numpy(space.item_NF), persistent=False)
        self.register_buffer("known_N", torch.from_numpy(space.known_N), persistent=False)
        size = HEADS * (width + 1)  # vector and bias of each head
        self.linear = nn.Linear(space.user_width, size)
        self.tower = nn.Sequential(nn.Linear(space.user_width, 64), nn.GELU(), nn.Linear(64, size))
        self.bag = HistoryBag(known, inner, size)
        self.item_map = nn.Linear(features, size)
        self.item_free = nn.Embedding(known + 1, size, padding_idx=known)
        self.likeness = nn.Parameter(torch.zeros(HEADS, len(self.crossings)))
        for weight, scale in ((self.item_map.weight, 0.1), (self.item_free.weight, 0.03)):
            nn.init.normal_(weight, std=scale)
        self.item_free.weight.data[known] = 0

    def users(self, users: UserTensors) -> Tensor:
        """Vector of each state, one a head: own part, bias, 1, the columns likened to an item's: (S, heads, X)."""
        dense_SF = users.dense_SF
        own = self.linear(dense_SF) + self.tower(dense_SF) + self.bag(users)
        parts = [own.reshape(-1, HEADS, self.width + 1), torch.ones(len(own), HEADS, 1)]
        for k, (block, _) in enumerate(self.crossings):
            parts.append(self.likeness[:, k, None] * dense_SF[:, None, block])
        return torch.cat(parts, dim=2)

    def items(self) -> Tensor:
        """Vector of each item, one a head, so that a product with `users` is a logit: (N, heads, X)."""
        item_NF: Tensor = self.item_NF  # type: ignore[assignment]
        own = (self.item_map(item_NF) + self.item_free(self.known_N)).reshape(-1, HEADS, self.width + 1)
        vector, bias = torch.split(own, [self.width, 1], dim=2)
        like = torch.cat([item_NF[:, block] for _, block in self.crossings], dim=1)
        return torch.cat([vector, torch.ones_like(bias), bias, like[:, None].expand(-1, HEADS, -1)], dim=2)

    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor:
        """Logits of M pairs (state row, item): (M, heads)."""
        return (user_SX[row_M] * self.items()[item_M]).sum(2)

    def grid(self, user_SX: Tensor) -> Tensor:
        """Logits of every item: (S, N, heads)."""
        return torch.einsum("shx,nhx->snh", user_SX, self.items())

    def penalty(self) -> Tensor:
        """Minus the log prior of the free parts: Gaussian, wide for biases, narrow for vectors."""
        free = self.item_free.weight.reshape(-1, HEADS, self.width + 1)
        vectors, biases = free[:, :, : self.width], free[:, :, self.width]
        return (
            8.0 * vectors.square().sum() + 0.5 * biases.square().sum() + 2.0 * self.bag.vectors.weight.square().sum()
        )
