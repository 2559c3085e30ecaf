"""Architecture "crossed": a multilayer perceptron over crafted products of state and item, one pair at a time.

It shares no equation with "factorised": no inner product of learnt vectors decides, but a non-linear reading of
elementwise likenesses (profile x item text, history x item text and categories, by kind of feedback), of the
state, and of the item. It serves as the judge of a policy that was rewarded by the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.networks.factorised import BIAS_PRIOR, BIAS_SCALE, HEADS, HistoryBag, UserTensors


class CrossedNet(nn.Module):
    """Two hidden layers over state, item and their elementwise products; two logits out."""

    def __init__(self, space: FeatureSpace, *, hidden: int = 96, second: int = 32) -> None:
        super().__init__()
        known = len(space.known)
        self.crossings = space.crossings()
        self.register_buffer("item_NF", torch.from_numpy(space.item_NF), persistent=False)
        self.register_buffer("words_NW", torch.from_numpy(space.words_NW), persistent=False)
        self.register_buffer("known_N", torch.from_numpy(space.known_N), persistent=False)
        crossed = sum(block.stop - block.start for block, _ in self.crossings)
        self.state = nn.Linear(space.user_width, hidden)
        self.bag = HistoryBag(known, 16, hidden)
        self.item = nn.Linear(space.item_NF.shape[1], hidden, bias=False)
        self.item_free = nn.Embedding(known + 1, hidden, padding_idx=known)
        self.words = nn.Linear(space.words_NW.shape[1], HEADS, bias=False)
        self.item_bias = nn.Embedding(known + 1, HEADS, padding_idx=known)
        self.product = nn.Linear(crossed + len(self.crossings), hidden, bias=False)
        self.second = nn.Linear(hidden, second)
        self.out = nn.Linear(second, HEADS)
        self.direct = nn.Linear(len(self.crossings), HEADS, bias=False)
        nn.init.normal_(self.item_free.weight, std=0.03)
        # What the log is silent about must not be random: free parts begin at or near zero and are moved by data
        # alone.
        nn.init.zeros_(self.item_bias.weight)
        nn.init.zeros_(self.words.weight)
        self.item_free.weight.data[known] = 0

    def users(self, users: UserTensors) -> Tensor:
        """First-layer share of each state, then the columns that are crossed: (S, hidden + crossed)."""
        blocks = [users.dense_SF[:, block] for block, _ in self.crossings]
        return torch.cat([self.state(users.dense_SF) + self.bag(users), *blocks], dim=1)

    def items(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each item: first-layer share (N, hidden), columns that are crossed, and bias (N, heads)."""
        item_NF: Tensor = self.item_NF  # type: ignore[assignment]
        crossed = torch.cat([item_NF[:, block] for _, block in self.crossings], dim=1)
        words_NW: Tensor = self.words_NW  # type: ignore[assignment]
        bias = BIAS_SCALE * (self.words(words_NW) + self.item_bias(self.known_N))
        return self.item(item_NF) + self.item_free(self.known_N), crossed, bias

    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor:
        """Logits of M pairs (state row, item): (M, heads)."""
        share, crossed, bias = (part[item_M] for part in self.items())
        return self._logits(user_SX[row_M], share, crossed, bias)

    def grid(self, user_SX: Tensor) -> Tensor:
        """Logits of every item: (S, N, heads)."""
        share, crossed, bias = self.items()
        rows = [self._logits(user.expand(len(share), -1), share, crossed, bias) for user in user_SX]
        return torch.stack(rows) if rows else torch.zeros(0, len(share), HEADS)

    # The first layer is linear in (state, item, state * item), so its pre-activation is the sum of a share of the
    # state, a share of the item and a share of the products: the first two are computed once a state and once an
    # item, and only the products once a pair.
    def _logits(self, user_MX: Tensor, share_MH: Tensor, crossed_MX: Tensor, bias_M2: Tensor) -> Tensor:
        hidden = share_MH.shape[1]
        product = user_MX[:, hidden:] * crossed_MX
        widths = [block.stop - block.start for block, _ in self.crossings]
        # The inner product of each block says how alike both are in that space; a network would have to learn this
        # sum from elementwise products. `direct` leads it past the hidden layers.
        like = torch.stack([part.sum(1) for part in torch.split(product, widths, dim=1)], dim=1)
        first = user_MX[:, :hidden] + share_MH + self.product(torch.cat([product, like], dim=1))
        deep = self.out(nn.functional.gelu(self.second(nn.functional.gelu(first))))
        return deep + self.direct(like) + bias_M2  # type: ignore[no-any-return]

    def penalty(self) -> Tensor:
        """Minus the log prior of the free parts: Gaussian, wide for biases, narrow for vectors."""
        vectors = self.item_free.weight.square().sum() + self.bag.vectors.weight.square().sum()
        bias_2 = self.item_bias.weight.square().sum(dim=0) + self.words.weight.square().sum(dim=1)
        return 8.0 * vectors + (bias_2 * torch.tensor(BIAS_PRIOR)).sum()
