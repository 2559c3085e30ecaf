"""Settings of the neural recommenders, and the check that refuses values that cannot be meant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from llmrec.errors import ConfigError

Loss = Literal["softmax", "bce"]
Vectors = Literal["words", "sentences"]


@dataclass(frozen=True, kw_only=True)
class NeuralSettings:
    """What all neural recommenders are told.

    Attributes:
        hidden: width of the item embeddings and of the network.
        dropout: share of units left out in training, everywhere alike.
        history: events of a user that the network reads, the latest ones.
        loss: "softmax" is the cross-entropy over the whole catalogue; "bce" the binary one of the next item against
            `negatives` items drawn uniformly.
        negatives: items drawn for each target; for "bce" alone.
        learning_rate: of AdamW, constant.
        weight_decay: of AdamW.
        batch_size: targets of a step, about.
        epochs: most passes over the events.
        patience: passes without a better NDCG@10 on the held-out events before training stops.
        valid_fraction: the latest share of the training events, held out for early stopping; 0 trains all `epochs`.
        refit: train anew on all events for as many epochs as early stopping kept.
        budget_seconds: wall seconds after which training ends with what it has; None sets no bound.
        n_threads: threads of torch while fitting and scoring; None leaves torch's own setting.
        device: where the network lives, as torch names it; None takes a GPU where there is one.
    """

    hidden: int = 64
    dropout: float = 0.5
    history: int = 50
    loss: Loss = "softmax"
    negatives: int = 1
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    batch_size: int = 256
    epochs: int = 60
    patience: int = 5
    valid_fraction: float = 0.1
    refit: bool = True
    budget_seconds: float | None = None
    n_threads: int | None = None
    device: str | None = None

    def check(self) -> None:
        """Refuses what cannot be meant.

        Raises:
            ConfigError: one sentence with the key, its value and the range.
        """
        for key in ("hidden", "history", "negatives", "batch_size", "epochs", "patience"):
            self._need(
                key, isinstance(getattr(self, key), int) and getattr(self, key) >= 1, "a whole number from 1 on"
            )
        for key in ("dropout", "valid_fraction"):
            self._need(key, 0 <= getattr(self, key) < 1, "at least 0 and below 1")
        self._need("loss", self.loss in ("softmax", "bce"), "softmax or bce")
        self._need("learning_rate", 0 < self.learning_rate < math.inf, "above 0")
        self._need("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        self._need("budget_seconds", self.budget_seconds is None or self.budget_seconds > 0, "above 0, or None")
        self._need("n_threads", self.n_threads is None or self.n_threads >= 1, "at least 1, or None")

    def _need(self, key: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ConfigError(
                f"Setting {key!r} of a neural recommender is {getattr(self, key)!r}; it must be {wanted}."
            )


@dataclass(frozen=True, kw_only=True)
class ItemSettings(NeuralSettings):
    """What items are to a network that reads and names them by the same embeddings.

    Attributes:
        text_dims: dimensions (by SVD) of the vectors of the items' texts, which a learned map turns into embeddings;
            0 uses no text.
        vectors: what the vectors are: "words" (TF-IDF) or "sentences" (a sentence-transformers model).
        encoder: Hub id or folder of that model; None takes that of LLMREC_EMBEDDINGS.
        ids: whether an item has an embedding and a bias of its own beside that of its text. Without, items are their
            texts: one without events is as good as any, and the softmax of the training holds only items that have
            some, as those without were not yet there to be passed over.
    """

    text_dims: int = 0
    vectors: Vectors = "words"
    encoder: str | None = None
    ids: bool = True

    def check(self) -> None:
        """Refuses what cannot be meant, see `NeuralSettings.check`."""
        super().check()
        self._need(
            "text_dims", isinstance(self.text_dims, int) and self.text_dims >= 0, "0 or a number of dimensions"
        )
        self._need("vectors", self.vectors in ("words", "sentences"), "words or sentences")
        self._need("ids", self.ids or self.text_dims > 0, "true where text_dims is 0")
        self._need("ids", self.ids or self.loss == "softmax", "true unless loss is softmax")


@dataclass(frozen=True, kw_only=True)
class SASRecSettings(ItemSettings):
    """SASRec's own settings.

    Attributes:
        layers: transformer blocks.
        heads: attention heads; they share `hidden`.
    """

    layers: int = 2
    heads: int = 2

    def check(self) -> None:
        """Refuses what cannot be meant, see `NeuralSettings.check`."""
        super().check()
        self._need("layers", isinstance(self.layers, int) and self.layers >= 1, "a whole number from 1 on")
        self._need("heads", self.heads >= 1 and self.hidden % self.heads == 0, f"a divisor of hidden ({self.hidden})")


@dataclass(frozen=True, kw_only=True)
class GRU4RecSettings(ItemSettings):
    """GRU4Rec's own settings.

    Attributes:
        layers: recurrent layers.
    """

    layers: int = 1
    learning_rate: float = 1e-2
    dropout: float = 0.4

    def check(self) -> None:
        """Refuses what cannot be meant, see `NeuralSettings.check`."""
        super().check()
        self._need("layers", isinstance(self.layers, int) and self.layers >= 1, "a whole number from 1 on")


@dataclass(frozen=True, kw_only=True)
class NCFSettings(NeuralSettings):
    """NeuMF's own settings: its loss is the binary one, with 4 negatives as in the paper.

    Attributes:
        mlp: widths of the layers above the pair of embeddings.
    """

    loss: Loss = "bce"
    negatives: int = 4
    dropout: float = 0.2
    mlp: tuple[int, ...] = (64, 32)

    def check(self) -> None:
        """Refuses what cannot be meant, see `NeuralSettings.check`."""
        super().check()
        self._need("loss", self.loss == "bce", "bce (a softmax over the catalogue costs the MLP of every pair)")
        self._need("mlp", len(self.mlp) > 0 and all(width >= 1 for width in self.mlp), "widths from 1 on")
