"""What the networks share: the item side, the sum of a user's and an item's vectors, and the heads.

Heads are click, conversion given click, expected value (a rating, an amount, seconds watched; standardised) and, for
the doubly robust objective, the imputed conversion.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.networks.factorised import UserTensors

CLICK, CONVERSION, VALUE, IMPUTED = range(4)
HEADS = 4
BIAS_PRIOR = (40.0, 1.0, 1.0, 1.0)
"""Precision of each head's item biases, see `factorised.BIAS_PRIOR`."""
BIAS_SCALE = 3.0  # lets a few weights travel far at the learning rate of many small ones
VECTOR_PRIOR = 8.0
TEXT_STD, FREE_STD = 0.3, 0.05


class ItemSide(nn.Module):
    """Of each item a vector (features mapped, plus a free part where it is known) and one bias a head.

    An item that came after fitting has no free part: its text and its other features alone speak for it.
    """

    def __init__(self, space: FeatureSpace, width: int) -> None:
        super().__init__()
        known = len(space.known)
        self.register_buffer("item_NF", torch.from_numpy(space.item_NF), persistent=False)
        self.register_buffer("words_NW", torch.from_numpy(space.words_NW), persistent=False)
        self.register_buffer("known_N", torch.from_numpy(space.known_N), persistent=False)
        self.features = nn.Linear(space.item_NF.shape[1], width, bias=False)
        self.free = nn.Embedding(known + 1, width, padding_idx=known)
        self.linear = nn.Linear(space.item_NF.shape[1] + space.words_NW.shape[1], HEADS, bias=False)
        self.bias = nn.Embedding(known + 1, HEADS, padding_idx=known)
        # Products of two vectors of zeros have no gradient at all; so vectors begin small, and biases, which have
        # one, at zero.
        nn.init.normal_(self.features.weight, std=TEXT_STD / space.item_NF.shape[1] ** 0.5)
        nn.init.normal_(self.free.weight, std=FREE_STD)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.bias.weight)
        self.free.weight.data[known] = 0

    @property
    def count(self) -> int:
        """N, the items of the catalogue at hand."""
        known_N: Tensor = self.known_N  # type: ignore[assignment]
        return len(known_N)

    def vectors(self, item_M: Tensor) -> Tensor:
        """Vectors of the items `item_M` (any shape): (..., width)."""
        item_NF: Tensor = self.item_NF  # type: ignore[assignment]
        known_N: Tensor = self.known_N  # type: ignore[assignment]
        return self.features(item_NF[item_M]) + self.free(known_N[item_M])  # type: ignore[no-any-return]

    def biases(self, item_M: Tensor) -> Tensor:
        """Biases of the items `item_M` (any shape): (..., heads)."""
        item_NF: Tensor = self.item_NF  # type: ignore[assignment]
        words_NW: Tensor = self.words_NW  # type: ignore[assignment]
        known_N: Tensor = self.known_N  # type: ignore[assignment]
        rows = torch.cat([item_NF[item_M], words_NW[item_M]], dim=-1)
        return BIAS_SCALE * (self.linear(rows) + self.bias(known_N[item_M]))  # type: ignore[no-any-return]

    def penalty(self) -> Tensor:
        """Minus the log prior: Gaussians around zero."""
        width = self.features.weight.shape[1]
        biases = self.bias.weight.square().sum(dim=0) + self.linear.weight[:, width:].square().sum(dim=1)
        linear = 2.0 * self.linear.weight[:, :width].square().sum()
        vectors = VECTOR_PRIOR * self.free.weight.square().sum()
        return (biases * torch.tensor(BIAS_PRIOR)).sum() + linear + vectors


class TwoSided(nn.Module):
    """A network whose logits are inner products: user vector . item vector + item bias, one of each a head.

    Subclasses turn states into `users` of shape (S, HEADS * (D + 1)): a vector and an offset for each head.
    """

    reads_history = False

    def __init__(self, space: FeatureSpace, width: int) -> None:
        super().__init__()
        self.width = width
        self.items_side = ItemSide(space, HEADS * width)

    def users(self, users: UserTensors) -> Tensor:
        """Vector and offset of each state and head: (S, HEADS * (D + 1))."""
        raise TypeError(f"{type(self).__name__} must say how it reads states.")

    def item_table(self, item_M: Tensor) -> Tensor:
        """Vector, 1 and bias of items (any shape): (..., HEADS, D + 2)."""
        vectors = self.items_side.vectors(item_M).reshape(*item_M.shape, HEADS, self.width)
        bias = self.items_side.biases(item_M)[..., None]
        return torch.cat([vectors, torch.ones_like(bias), bias], dim=-1)

    def user_rows(self, user_SX: Tensor) -> Tensor:
        """Users in the space of `item_table`: vector, offset and 1, (S, HEADS, D + 2)."""
        rows = user_SX.reshape(len(user_SX), HEADS, self.width + 1)
        return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)

    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor:
        """Logits of M pairs (state row, item): (M, heads)."""
        # A batch holds an item many times; its features are mapped once.
        distinct, place_M = torch.unique(item_M, return_inverse=True)
        table = self.item_table(distinct)
        return (self.user_rows(user_SX)[row_M] * table[place_M]).sum(-1)

    def grid(self, user_SX: Tensor) -> Tensor:
        """Logits of every item: (S, N, heads)."""
        table = self.item_table(torch.arange(self.items_side.count))
        return torch.einsum("shx,nhx->snh", self.user_rows(user_SX), table)

    def penalty(self) -> Tensor:
        """Minus the log prior of the item side."""
        return self.items_side.penalty()
