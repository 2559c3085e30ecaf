"""How alike texts are (cosines, without the item itself), and recommending by that alone: text as a retriever."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
import scipy.sparse as sp

from llmrec.baselines.base import POPULARITY, Meaning, ScoreRecommender, item_counts
from llmrec.baselines.memory import Memory
from llmrec.dataset.store import Dataset
from llmrec.types import FloatArray, State
from llmrec.vectors.sentences import sentence_encoder
from llmrec.vectors.space import Encode, EncodedSpace, Rows, Space, item_text
from llmrec.vectors.words import WordSpace

DENSE_ITEMS = 5000
"""Up to this catalogue size all likenesses are kept (100 MB); above, they are computed for each batch."""

_SPACES: WeakKeyDictionary[Dataset, dict[bool, WordSpace]] = WeakKeyDictionary()


class TextLikeness:
    """T[i, j]: cosine of the text vectors of items i and j, 0 on the diagonal.

    Args:
        text_NV: rows of unit length (or of zeros), sparse or dense (N, V).
    """

    def __init__(self, text_NV: Rows) -> None:
        self.text_NV = text_NV
        self._own_N = np.asarray(_squares(text_NV).sum(axis=1)).ravel()
        self._dense_NN: FloatArray | None = None
        if text_NV.shape[0] <= DENSE_ITEMS:
            dense_NN = _dense(text_NV.astype(np.float32) @ text_NV.T.astype(np.float32))
            np.fill_diagonal(dense_NN, 0.0)
            self._dense_NN = dense_NN

    def sum(self, weights_BN: sp.csr_matrix) -> FloatArray:
        """The weighted sum of T's rows, dense (B, N)."""
        if self._dense_NN is not None:
            return np.asarray(weights_BN.astype(np.float32) @ self._dense_NN)
        sum_BN = _dense((weights_BN @ self.text_NV) @ self.text_NV.T)
        own_BN = weights_BN.multiply(self._own_N).tocoo()  # what the diagonal of T would add
        sum_BN[own_BN.row, own_BN.col] -= own_BN.data
        return np.asarray(sum_BN)


def text_vectors(dataset: Dataset) -> sp.csr_matrix:
    """TF-IDF rows of unit length (N, V) of "title title brand description"; a row of zeros where no term is left.

    The rows are computed once for each data set object; do not change them.
    """
    return word_space(dataset).rows_NV


def word_space(dataset: Dataset, *, categories: bool = False) -> WordSpace:
    """The TF-IDF space of `text_vectors`, with or without the items' categories.

    Chinese is not written with spaces between words, so there the terms are characters and pairs of them. The space
    is made once for each data set object; do not change it.
    """
    spaces = _SPACES.setdefault(dataset, {})
    if categories not in spaces:
        texts = _texts(dataset, categories)
        spaces[categories] = WordSpace.fit(texts, characters=dataset.manifest.language == "zh")
    return spaces[categories]


def _texts(dataset: Dataset, categories: bool) -> list[str]:
    columns = dataset.items.select(pl.col("title", "brand", "description").fill_null(""), "categories")
    return [
        # the title twice: it says in few words what a description says in many
        " ".join((title, title, brand, *((own or ()) if categories else ()), description))
        for title, brand, description, own in columns.iter_rows()
    ]


@dataclass(frozen=True, kw_only=True)
class LikenessSettings:
    """What of a state counts how much.

    Attributes:
        history_decay: weight of an item of the history relative to the one after it.
        request: weight of the likeness to the state's free text, beside 1 for the whole history.
        profile: the same of the user's profile.
    """

    history_decay: float = 0.8
    request: float = 1.0
    profile: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ContentSettings(LikenessSettings):
    """`categories`: whether an item's categories are among its words."""

    categories: bool = False


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings(LikenessSettings):
    """`model`: Hub id or folder of a sentence-transformers model; None takes that of LLMREC_EMBEDDINGS."""

    model: str | None = None


class TextRanker(ScoreRecommender):
    """Scores an item by its text's likeness to what a state says: items of the history, free text, profile (Rocchio).

    With w_i proportional to history_decay^k (k = 0 for the latest) and summing to one,
    score(j) = sum_i w_i cos(text_i, text_j) + request cos(context, text_j) + profile cos(profile, text_j)
    + 0.001 log(1 + count of j); an item's likeness to itself counts as 0. Nothing is learnt from events but the last
    term, so an item without any is ranked by its text all the same.

    Args:
        settings: the weights.
        seed: run seed, for the order of items of equal score.
    """

    scoring = frozenset({"history_decay", "request", "profile"})
    settings: LikenessSettings

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self.count_N = item_counts(events, dataset.n_items)
        self.memory = Memory(events, dataset.n_items, dataset.manifest.click)
        self.space = self._space(dataset)
        self.text = TextLikeness(self.space.rows_NV)

    @abstractmethod
    def _space(self, dataset: Dataset) -> Space:
        """The items and whatever else is read, in one space."""

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores by the formula, shape (B, N)."""
        score_BN = self._said(states) + POPULARITY * np.log1p(self.count_N)
        weights = ((self.settings.request, "context"), (self.settings.profile, "profile"))
        for weight, part in weights:
            texts = [getattr(state, part).strip() for state in states]
            if weight and any(texts):
                score_BN += weight * _dense(self.space.encode(texts) @ self.space.rows_NV.T)
        return score_BN

    def _said(self, states: Sequence[State]) -> FloatArray:
        weights_BN = self.memory.weights(states, self.settings.history_decay)
        total_B = np.asarray(weights_BN.sum(axis=1)).ravel()
        # A mean and not a sum: a long history is no stronger taste.
        mean_BN = sp.diags(1.0 / np.where(total_B > 0, total_B, 1.0)) @ weights_BN
        return self.text.sum(sp.csr_matrix(mean_BN))


class ContentProfile(TextRanker):
    """`TextRanker` over TF-IDF words."""

    name = "content"
    settings: ContentSettings

    def __init__(self, settings: ContentSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or ContentSettings()

    def _space(self, dataset: Dataset) -> Space:
        return word_space(dataset, categories=self.settings.categories)


class EmbeddingProfile(TextRanker):
    """`TextRanker` over the vectors of an encoder: a sentence-transformers model, or any other.

    Args:
        settings: the weights and the model.
        seed: run seed, for the order of items of equal score.
        encode: an encoder in place of `settings.model`, for example `policy.mean_hidden.TextEncoder`.
        centred: whether the items' mean vector is taken from all (see `EncodedSpace`).
        read: a state as one text, for example a policy's prompt; history, request and profile are then not read
            apart.
        describe: what is read of an item; by default `vectors.item_text`.
    """

    name = "embeddings"
    settings: EmbeddingSettings

    def __init__(
        self,
        settings: EmbeddingSettings | None = None,
        *,
        seed: int = 0,
        encode: Encode | None = None,
        centred: bool = False,
        read: Callable[[Sequence[State]], Sequence[str]] | None = None,
        describe: Callable[[Dataset], Sequence[str]] | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.settings = settings or EmbeddingSettings()
        self._encode, self._centred, self._read, self._describe = encode, centred, read, describe

    @property
    def meaning(self) -> Meaning:
        """Cosines may be negative."""
        return "numbers"

    def _space(self, dataset: Dataset) -> Space:
        encode = self._encode or sentence_encoder(self.settings.model, asked="The baseline embeddings")
        texts = list(map(item_text, dataset.item_list)) if self._describe is None else self._describe(dataset)
        return EncodedSpace(texts, encode, centred=self._centred)

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores by the formula, or cosines to the whole text of each state; (B, N)."""
        if self._read is None or not len(states):
            return super().score(states)
        whole_BN = _dense(self.space.encode(self._read(states)) @ self.space.rows_NV.T)
        return whole_BN + POPULARITY * np.log1p(self.count_N)


def _dense(matrix: Rows) -> FloatArray:
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray())


def _squares(matrix: Rows) -> Rows:
    return matrix * matrix if isinstance(matrix, np.ndarray) else matrix.multiply(matrix)
