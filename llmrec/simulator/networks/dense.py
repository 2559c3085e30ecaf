"""Architectures "logistic" and "mlp": they read a state as one dense row of features (see `features`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.networks.factorised import LIKENESS_SCALE, UserTensors
from llmrec.simulator.networks.parts import BIAS_SCALE, HEADS, ItemSide


def likeness(user_MX: Tensor, item_MX: Tensor, widths: list[int]) -> Tensor:
    """Inner product of each block of `widths` columns that state and item share a space in: (M, blocks)."""
    return torch.stack([part.sum(-1) for part in torch.split(user_MX * item_MX, widths, dim=-1)], dim=-1)


class _Crossed(nn.Module):
    """The columns of states and items that are comparable, and the walk over all pairs."""

    reads_history = False

    def __init__(self, space: FeatureSpace, width: int) -> None:
        super().__init__()
        self.crossings = space.crossings()
        self.widths = [block.stop - block.start for block, _ in self.crossings]
        self.items_side = ItemSide(space, width)

    def columns(self, users: UserTensors) -> Tensor:
        """The crossed columns of states: (S, X)."""
        return torch.cat([users.dense_SF[:, block] for block, _ in self.crossings], dim=1)

    def item_columns(self, item_M: Tensor) -> Tensor:
        """The crossed columns of items: (M, X)."""
        item_NF: Tensor = self.items_side.item_NF  # type: ignore[assignment]
        return torch.cat([item_NF[item_M][:, block] for _, block in self.crossings], dim=1)

    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor:
        """Logits of M pairs (state row, item): (M, heads)."""
        raise TypeError(f"{type(self).__name__} must say how it reads pairs.")

    def grid(self, user_SX: Tensor) -> Tensor:
        """Logits of every item: (S, N, heads)."""
        item_N = torch.arange(self.items_side.count)
        # State by state: all pairs at once would be (S N, hidden), gigabytes for a catalogue.
        rows = [self.pairs(user_SX[s : s + 1], torch.zeros_like(item_N), item_N) for s in range(len(user_SX))]
        return torch.stack(rows) if rows else torch.zeros(0, len(item_N), HEADS)

    def penalty(self) -> Tensor:
        """Minus the log prior of the item side."""
        return self.items_side.penalty()


class LogisticNet(_Crossed):
    """logit = w . state + w' . item + b(item) + sum over blocks of (one weight) * likeness(state, item).

    Convex in its weights: the plain baseline on features.
    """

    def __init__(self, space: FeatureSpace) -> None:
        super().__init__(space, 1)
        self.state = nn.Linear(space.user_width, HEADS)
        self.like = nn.Linear(len(self.crossings), HEADS, bias=False)
        # A convex problem has one optimum; from zero the path to it, and an early stop on the way, is the same for
        # every seed.
        for weight in (self.state.weight, self.state.bias, self.like.weight):
            nn.init.zeros_(weight)

    def users(self, users: UserTensors) -> Tensor:
        """Offset of each head, then the crossed columns: (S, HEADS + X)."""
        return torch.cat([BIAS_SCALE * self.state(users.dense_SF), self.columns(users)], dim=1)

    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor:
        """Logits of M pairs: (M, heads)."""
        user_MX = user_SX[row_M]
        like = likeness(user_MX[:, HEADS:], self.item_columns(item_M), self.widths)
        return user_MX[:, :HEADS] + self.items_side.biases(item_M) + LIKENESS_SCALE * self.like(like)  # type: ignore[no-any-return]


class MLPNet(_Crossed):
    """Two hidden layers over the state, the item (features and free vector) and their likenesses."""

    def __init__(self, space: FeatureSpace, *, hidden: int = 64, second: int = 32) -> None:
        super().__init__(space, hidden)
        self.hidden = hidden
        self.state = nn.Linear(space.user_width, hidden)
        self.like = nn.Linear(len(self.crossings), hidden, bias=False)
        self.second = nn.Linear(hidden, second)
        self.out = nn.Linear(second, HEADS)

    def users(self, users: UserTensors) -> Tensor:
        """First-layer share of each state, then the crossed columns: (S, hidden + X)."""
        return torch.cat([self.state(users.dense_SF), self.columns(users)], dim=1)

    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor:
        """Logits of M pairs: (M, heads)."""
        user_MX = user_SX[row_M]
        like = likeness(user_MX[:, self.hidden :], self.item_columns(item_M), self.widths)
        # As in `crossed`: the first layer's sum is split into shares, so states and items are mapped once and not
        # once a pair.
        first = user_MX[:, : self.hidden] + self.items_side.vectors(item_M) + self.like(LIKENESS_SCALE * like)
        deep = self.out(nn.functional.gelu(self.second(nn.functional.gelu(first))))
        return deep + self.items_side.biases(item_M)  # type: ignore[no-any-return]
