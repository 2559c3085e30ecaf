"""Architecture "factorised": two inner products of a user vector and an item vector, one for each head.

logit(state, item) = u(state) . v(item) + b(state) + b(item), once for click and once for conversion. The product
sums a bilinear form x' (L + M) f of the features of both, where L has one scalar for each block of columns that
live in one space (likeness) and M is free, and a product of free vectors of the history's items and of the item.
b(item) is linear in the features plus a free part. All carry Gaussian priors around zero, so an item seldom shown
is judged by its features, one shown often by what happened to it, and a new one by its text alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmrec.simulator.features import CHANNELS, FeatureSpace, UserArrays

HEADS = 2  # click, conversion given click
BIAS_PRIOR = (40.0, 1.0)
"""Precisions of the item biases of the two heads: given popularity, items differ less in how they are clicked than
in how a click converts (clickbait and hidden gems)."""
LIKENESS_SCALE, BIAS_SCALE = 5.0, 3.0  # let a few weights travel far at the learning rate of many small ones


@dataclass(frozen=True)
class UserTensors:
    """`UserArrays` as tensors, items as places among the known ones; histories as item indices and feedback codes."""

    dense_SF: Tensor
    known_SH: Tensor
    weight_SHC: Tensor
    item_SL: Tensor | None = None
    code_SL: Tensor | None = None

    @classmethod
    def of(cls, users: UserArrays, space: FeatureSpace) -> UserTensors:
        """Tensors of `users`; padding and items that came after fitting share the last place."""
        known_N1 = torch.cat([torch.from_numpy(space.known_N), torch.tensor([len(space.known)])])
        known_SH = known_N1[torch.from_numpy(users.item_SH)]
        past = users.histories
        sequence = () if past is None else (torch.from_numpy(past.item_SL), torch.from_numpy(past.code_SL))
        return cls(torch.from_numpy(users.dense_SF), known_SH, torch.from_numpy(users.weight_SHC), *sequence)

    def rows(self, index: Tensor) -> UserTensors:
        """The states at `index`."""
        bags = (self.dense_SF[index], self.known_SH[index], self.weight_SHC[index])
        if self.item_SL is None or self.code_SL is None:
            return UserTensors(*bags)
        return UserTensors(*bags, self.item_SL[index], self.code_SL[index])


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
    """The module of the architecture; see the file's docstring for the equation.

    The bilinear map starts at zero and is convex; the free vectors start near zero, so that nothing random is left
    where the log is silent.
    """

    def __init__(self, space: FeatureSpace, *, width: int = 16, inner: int = 16) -> None:
        super().__init__()
        known, features = len(space.known), space.item_NF.shape[1]
        self.width, self.features, self.crossings = width, features, space.crossings()
        self.register_buffer("item_NF", torch.from_numpy(space.item_NF), persistent=False)
        self.register_buffer("words_NW", torch.from_numpy(space.words_NW), persistent=False)
        self.register_buffer("known_N", torch.from_numpy(space.known_N), persistent=False)
        self.state = nn.Linear(space.user_width, HEADS)
        self.item = nn.Linear(features + space.words_NW.shape[1], HEADS, bias=False)
        self.likeness = nn.Parameter(torch.zeros(HEADS, len(self.crossings)))
        self.bilinear = nn.Parameter(torch.zeros(HEADS, space.user_width, features))
        self.bag = HistoryBag(known, inner, HEADS * width)
        self.item_free = nn.Embedding(known + 1, HEADS * width, padding_idx=known)
        self.item_bias = nn.Embedding(known + 1, HEADS, padding_idx=known)
        nn.init.normal_(self.item_free.weight, std=0.05)
        self.item_free.weight.data[known] = 0
        for weight in (self.state.weight, self.state.bias, self.item.weight, self.item_bias.weight):
            nn.init.zeros_(weight)

    def users(self, users: UserTensors) -> Tensor:
        """Vector of each state, one a head, in the space of `items`: (S, heads, X)."""
        dense_SF = users.dense_SF
        # x' (L + M) f, the state's side: M mixes all columns, and L adds a block's own columns, times one scalar, at
        # the places where the item has the same space.
        features = torch.einsum("sf,hfx->shx", dense_SF, self.bilinear)
        for k, (mine, theirs) in enumerate(self.crossings):
            like = LIKENESS_SCALE * self.likeness[:, k, None] * dense_SF[:, None, mine]
            features = features + nn.functional.pad(like, (theirs.start, features.shape[2] - theirs.stop))
        free = self.bag(users).reshape(-1, HEADS, self.width)
        return torch.cat(
            [features, free, BIAS_SCALE * self.state(dense_SF)[:, :, None], torch.ones(*free.shape[:2], 1)], dim=2
        )

    def items(self) -> Tensor:
        """Vector of each item, one a head: its features, its free vector, 1, its bias: (N, heads, X)."""
        item_NF: Tensor = self.item_NF  # type: ignore[assignment]
        features = item_NF[:, None].expand(-1, HEADS, -1)
        free = self.item_free(self.known_N).reshape(-1, HEADS, self.width)
        words_NW: Tensor = self.words_NW  # type: ignore[assignment]
        bias = BIAS_SCALE * (self.item(torch.cat([item_NF, words_NW], dim=1)) + self.item_bias(self.known_N))
        # User (features, free, b(state), 1) times item (features, free, 1, b(item)): one inner product is the whole
        # equation, so all pairs of a catalogue are one matrix product.
        return torch.cat([features, free, torch.ones_like(bias)[:, :, None], bias[:, :, None]], dim=2)

    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor:
        """Logits of M pairs (state row, item): (M, heads)."""
        return (user_SX[row_M] * self.items()[item_M]).sum(2)

    def grid(self, user_SX: Tensor) -> Tensor:
        """Logits of every item: (S, N, heads)."""
        return torch.einsum("shx,nhx->snh", user_SX, self.items())

    def penalty(self) -> Tensor:
        """Minus the log prior of the weights: Gaussians around zero."""
        # Weights of a Gaussian prior are 1 / (2 variance). The free bilinear map has a number for each pair of
        # columns, so it bears the heaviest prior: a direction has to be earned by many events.
        bias_2 = self.item_bias.weight.square().sum(dim=0) + self.item.weight[:, self.features :].square().sum(dim=1)
        linear = self.item.weight[:, : self.features].square().sum() + self.state.weight.square().sum()
        free = self.item_free.weight.square().sum() + self.bag.vectors.weight.square().sum()
        bilinear = self.bilinear.square().sum()
        return (bias_2 * torch.tensor(BIAS_PRIOR)).sum() + 2.0 * linear + 8.0 * free + 500.0 * bilinear
