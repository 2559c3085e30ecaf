"""The three networks: from rows of tokens to a vector after each token, and from vectors to scores of items.

Each of them reads a row from left to right, so that what it says after a token depends on that token and on the
earlier ones alone. M vectors, S items beside each, N items, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrec.baselines.neural.settings import GRU4RecSettings, NCFSettings, SASRecSettings

STD = 0.02
"""Standard deviation of fresh embeddings."""


class SequenceNet(nn.Module, ABC):
    """What training and scoring ask of a network; `n_items` is N."""

    n_items: int

    @abstractmethod
    def encode(self, token_BL: Tensor) -> Tensor:
        """The vector after each token, (B, L, D)."""

    @abstractmethod
    def logits(self, state_MD: Tensor) -> Tensor:
        """Scores of all items, (M, N)."""

    @abstractmethod
    def pairs(self, state_MD: Tensor, item_MS: Tensor) -> Tensor:
        """Scores of some items for each vector, (M, S)."""


@dataclass(frozen=True)
class ItemTexts:
    """What a network knows of items beside their numbers.

    Attributes:
        vectors_NT: vectors of the items' texts.
        known_N: items that training may name where they have no embeddings of their own; None: all.
    """

    vectors_NT: Tensor
    known_N: Tensor | None = None


class TiedNet(SequenceNet):
    """A network whose scores are inner products with the embeddings that it reads, plus a bias for each item.

    Args:
        n_items: N; the table holds one row more, for the start.
        width: D.
        texts: of the items; a learned map adds their vectors to the embeddings. None for none.
        ids: whether items have embeddings and biases of their own, or are their texts.
    """

    def __init__(self, n_items: int, width: int, texts: ItemTexts | None = None, *, ids: bool = True) -> None:
        super().__init__()
        self.n_items, self.ids = n_items, ids
        self.table = nn.Embedding(n_items + 1 if ids else 1, width)
        nn.init.normal_(self.table.weight, std=STD)
        if ids:
            self.bias_N = nn.Parameter(torch.zeros(n_items))
        else:
            self.register_buffer("bias_N", torch.zeros(n_items))
        self.text: nn.Linear | None = None
        self.known_N: Tensor | None = None
        if texts is not None:
            self.register_buffer("text_NT", texts.vectors_NT)
            self.text = nn.Linear(texts.vectors_NT.shape[1], width, bias=False)
            nn.init.normal_(self.text.weight, std=STD)
            if not ids and texts.known_N is not None:
                del self.known_N
                self.register_buffer("known_N", texts.known_N)

    def embeddings(self) -> Tensor:
        """The rows of all items and of the start, (N + 1, D)."""
        if self.text is None:
            return self.table.weight
        text_NT: Tensor = self.text_NT  # type: ignore[assignment]
        text_ND = self.text(text_NT)
        return (
            self.table.weight + F.pad(text_ND, (0, 0, 0, 1)) if self.ids else torch.cat([text_ND, self.table.weight])
        )

    def logits(self, state_MD: Tensor) -> Tensor:
        """Inner products with all items, (M, N); in training -inf at items that it may not name."""
        score_MN = torch.addmm(self.bias_N, state_MD, self.embeddings()[: self.n_items].T)
        if self.training and self.known_N is not None:
            score_MN = score_MN.masked_fill(~self.known_N, -torch.inf)
        return score_MN

    def pairs(self, state_MD: Tensor, item_MS: Tensor) -> Tensor:
        """Inner products with some items, (M, S)."""
        item_MSD = F.embedding(item_MS, self.embeddings())
        return torch.einsum("md,msd->ms", state_MD, item_MSD) + self.bias_N[item_MS]


class Block(nn.Module):
    """One transformer block: attention to what is not later, then a layer for each place, each with a residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """The rows after the block, (B, L, D)."""
        rate = self.dropout if self.training else 0.0
        parts = self.query_key_value(self.norm_attention(x_BLD)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        # Causal: a place sees itself and what was before it, so every place of a row is a training example of its
        # own.
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=rate)
        x_BLD = x_BLD + F.dropout(self.out(seen.transpose(1, 2).flatten(-2)), rate)
        inner = F.dropout(F.gelu(self.inner(self.norm_forward(x_BLD))), rate)
        return x_BLD + F.dropout(self.outer(inner), rate)


class SASRecNet(TiedNet):
    """Self-attentive sequential recommendation (Kang and McAuley 2018), normalised before each layer.

    As in the paper's code an embedding enters times the root of its width: unscaled, a fresh item would be drowned by
    what the blocks add to it.
    """

    def __init__(self, n_items: int, settings: SASRecSettings, texts: ItemTexts | None = None) -> None:
        super().__init__(n_items, settings.hidden, texts, ids=settings.ids)
        self.place = nn.Embedding(settings.history, settings.hidden)
        nn.init.normal_(self.place.weight, std=STD)
        self.drop = nn.Dropout(settings.dropout)
        blocks = [Block(settings.hidden, settings.heads, settings.dropout) for _ in range(settings.layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(settings.hidden)

    def encode(self, token_BL: Tensor) -> Tensor:
        """The vector after each token, (B, L, D)."""
        item_BLD = F.embedding(token_BL, self.embeddings()) * self.place.embedding_dim**0.5
        x_BLD = item_BLD + self.place.weight[: token_BL.shape[1]]
        return self.norm(self.blocks(self.drop(x_BLD)))  # type: ignore[no-any-return]


class GRU4RecNet(TiedNet):
    """A gated recurrent network over the items (Hidasi et al. 2016), its output mapped back onto the embeddings."""

    def __init__(self, n_items: int, settings: GRU4RecSettings, texts: ItemTexts | None = None) -> None:
        super().__init__(n_items, settings.hidden, texts, ids=settings.ids)
        self.drop = nn.Dropout(settings.dropout)
        between = settings.dropout if settings.layers > 1 else 0.0
        self.gru = nn.GRU(settings.hidden, settings.hidden, settings.layers, batch_first=True, dropout=between)
        self.out = nn.Linear(settings.hidden, settings.hidden)

    def encode(self, token_BL: Tensor) -> Tensor:
        """The vector after each token, (B, L, D)."""
        seen_BLD, _ = self.gru(self.drop(F.embedding(token_BL, self.embeddings())))
        return self.out(self.drop(seen_BLD))  # type: ignore[no-any-return]


class NCFNet(SequenceNet):
    """NeuMF (He et al. 2017): a generalised inner product beside an MLP over the pair of user and item.

    The paper has an embedding for each user. Here a user is the mean of what was chosen so far (the start among it,
    so that nobody is without), which has a value for states and users that came after training.
    """

    def __init__(self, n_items: int, settings: NCFSettings) -> None:
        super().__init__()
        width = settings.hidden
        self.n_items = n_items
        self.read = nn.Embedding(n_items + 1, 2 * width)
        self.product, self.pair = nn.Embedding(n_items, width), nn.Embedding(n_items, width)
        for table in (self.read, self.product, self.pair):
            nn.init.normal_(table.weight, std=0.1)  # products of two small numbers have gradients too small to start
        self.weigh, self.drop = nn.Linear(width, 1), nn.Dropout(settings.dropout)
        self.of_user, self.of_item = nn.Linear(width, settings.mlp[0]), nn.Linear(width, settings.mlp[0], bias=False)
        widths = zip(settings.mlp[:-1], settings.mlp[1:], strict=True)
        self.layers = nn.ModuleList([nn.Linear(low, high) for low, high in widths])
        self.last = nn.Linear(settings.mlp[-1], 1, bias=False)

    def encode(self, token_BL: Tensor) -> Tensor:
        """The mean of the embeddings up to each token, (B, L, 2 D): for the product, then for the MLP."""
        sum_BLD: Tensor = self.read(token_BL).cumsum(dim=1)
        return sum_BLD / torch.arange(1, token_BL.shape[1] + 1, device=token_BL.device)[:, None]

    def logits(self, state_MD: Tensor) -> Tensor:
        """Scores of all items, (M, N)."""
        product_MD, pair_MD = self.drop(state_MD).chunk(2, dim=-1)
        gained_MN: Tensor = (product_MD * self.weigh.weight) @ self.product.weight.T + self.weigh.bias
        deep_MN = self._mlp(self.of_user(pair_MD)[:, None], self.of_item(self.pair.weight)[None])
        return gained_MN + deep_MN

    def pairs(self, state_MD: Tensor, item_MS: Tensor) -> Tensor:
        """Scores of some items for each vector, (M, S)."""
        product_MD, pair_MD = self.drop(state_MD).chunk(2, dim=-1)
        gained_MS: Tensor = self.weigh(product_MD[:, None] * self.product(item_MS)).squeeze(-1)
        return gained_MS + self._mlp(self.of_user(pair_MD)[:, None], self.of_item(self.pair(item_MS)))

    def _mlp(self, user_M1H: Tensor, item_MSH: Tensor) -> Tensor:
        """The first layer of a pair is the sum of its two halves, so that all pairs cost no (M, N, 2 D)."""
        inner = F.relu(user_M1H + item_MSH)
        for layer in self.layers:
            inner = F.relu(layer(self.drop(inner)))
        return self.last(inner).squeeze(-1)  # type: ignore[no-any-return]
