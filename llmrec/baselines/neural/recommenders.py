"""SASRec, GRU4Rec and NCF in the interface of the baselines.

SASRec and GRU4Rec learn by the full softmax over the catalogue at every place of a sequence. With few sampled
negatives and the binary loss, SASRec is overconfident and much weaker than it need be (Petrov and Macdonald 2023,
"gSASRec"); with cross-entropy over all items it beats newer architectures that were published as better than it
(Klenitskiy and Vasilev 2023). A comparison with the weak form would flatter whatever stands beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, Self, TypeVar

import numpy as np
import polars as pl
import torch
from sklearn.decomposition import TruncatedSVD
from torch import Tensor

from llmrec.baselines.base import Meaning, ScoreRecommender, positives
from llmrec.baselines.likeness import text_vectors
from llmrec.baselines.memory import Memory
from llmrec.baselines.neural.networks import GRU4RecNet, NCFNet, SASRecNet, SequenceNet
from llmrec.baselines.neural.sequences import HeldOut, Sequences, TokenRows, latest
from llmrec.baselines.neural.settings import GRU4RecSettings, NCFSettings, NeuralSettings, SASRecSettings
from llmrec.baselines.neural.training import FitRecord, Trainer, scores, threads
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.seeding import stream_seed
from llmrec.types import Example, FloatArray, IntArray, State

S = TypeVar("S", bound=NeuralSettings)


class NeuralRecommender(ScoreRecommender, Generic[S]):
    """A network over the user's sequence; subclasses give the network.

    After `fit`, `record` says how the training went.

    Args:
        settings: see `NeuralSettings`.
        seed: run seed: weights, order of the batches, dropout, and the order of items of equal score.

    Raises:
        ConfigError: a setting that cannot be meant.
    """

    name = "neural"
    record: FitRecord

    def __init__(self, settings: S, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        settings.check()
        self.settings: S = settings
        self.net: SequenceNet | None = None

    @abstractmethod
    def _network(self, dataset: Dataset) -> SequenceNet:
        """A fresh network for the data set's items."""

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self._train(dataset, events, [], None)

    def fit_until(
        self,
        dataset: Dataset,
        events: pl.DataFrame,
        valid: Sequence[Example],
        *,
        seen: Sequence[IntArray] | None = None,
    ) -> Self:
        """Fits on `events` and stops where the NDCG@10 on the examples `valid` is best, as papers commonly do.

        `record.kept` then says for how many epochs to train on both (`valid_fraction` 0).

        Args:
            dataset: items, texts and the manifest's rules.
            events: training events only.
            valid: examples of the validation part.
            seen: item indices excluded for each example where the manifest excludes repeats; by default those in its
                state.

        Raises:
            DataError: no click to train on, or no validation example.
        """
        if not valid:
            raise DataError(f"Stopping {self.name} by validation examples needs at least one; widen that part.")
        self.n_items, self.repeat = dataset.n_items, dataset.manifest.repeat
        self._train(dataset, positives(dataset, events), valid, seen)
        return self

    def _train(
        self,
        dataset: Dataset,
        events: pl.DataFrame,
        valid: Sequence[Example],
        seen: Sequence[IntArray] | None,
    ) -> None:
        if events.is_empty():
            raise DataError(f"There is no click to train {self.name} on; check the split and the manifest's 'click'.")
        self.memory = Memory(events, dataset.n_items, dataset.manifest.click)
        held_out = None
        if valid:
            past = [np.array(e.state.seen(), dtype=np.int64) for e in valid] if seen is None else list(seen)
            targets_V = np.array([e.target for e in valid], dtype=np.int64)
            held_out = HeldOut(self._rows([e.state for e in valid]), targets_V, past)
        repeats = dataset.manifest.repeat == "allow"
        with threads(self.settings):
            trainer = Trainer(lambda: self._network(dataset), self.settings, self.seed, self.name, repeats)
            self.net, self.record = trainer.fit(Sequences(events, dataset.n_items), held_out)

    def _rows(self, states: Sequence[State]) -> TokenRows:
        return latest([self.memory.items(state) for state in states], self.n_items, self.settings.history)

    @property
    def meaning(self) -> Meaning:
        """What the scores are: log-probabilities under the loss "softmax", log-odds under "bce"."""
        return "log-probabilities" if self.settings.loss == "softmax" else "numbers"

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores of all items, shape (B, N), after the clicks of history and session.

        Where a state has a user and a time, what training says of that user before it comes first (see `Memory`).
        Log-probabilities of the next item under the loss "softmax", log-odds under "bce". A state without any event
        is scored as the beginning of a sequence.

        Raises:
            RequestError: not fitted, or an item outside the catalogue.
        """
        if self.net is None:
            raise RequestError(f"The {self.name} baseline is not fitted; call fit(dataset, events) first.")
        with threads(self.settings):
            return scores(self.net, self._rows(states), self.n_items, self.settings)


class SASRec(NeuralRecommender[SASRecSettings]):
    """Self-attention over the user's sequence (Kang and McAuley 2018), by default with the full softmax.

    With `text_dims` it is called "sasrec-text": what was learnt of an item then speaks for items of like text too.
    """

    name = "sasrec"

    def __init__(self, settings: SASRecSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(settings or SASRecSettings(), seed=seed)
        self.name = "sasrec-text" if self.settings.text_dims else "sasrec"

    def _network(self, dataset: Dataset) -> SequenceNet:
        text_NT = text_parts(dataset, self.settings.text_dims, self.seed) if self.settings.text_dims else None
        return SASRecNet(dataset.n_items, self.settings, text_NT)


class GRU4Rec(NeuralRecommender[GRU4RecSettings]):
    """A recurrent network over the user's sequence (Hidasi et al. 2016; the losses of Hidasi and Karatzoglou 2018).

    Their sampled losses stand in for the softmax over catalogues too large for it; up to some ten thousand items the
    softmax itself is affordable, and is taken.
    """

    name = "gru4rec"

    def __init__(self, settings: GRU4RecSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(settings or GRU4RecSettings(), seed=seed)

    def _network(self, dataset: Dataset) -> SequenceNet:
        return GRU4RecNet(dataset.n_items, self.settings)


class NCF(NeuralRecommender[NCFSettings]):
    """Neural collaborative filtering, the NeuMF of He et al. 2017: a weighted inner product beside an MLP.

    A user is the mean of the embeddings of the latest `history` items, not a row of a table, so users and events that
    came after training are scored like all others. The order of a user's items does not matter to it.
    """

    name = "ncf"

    def __init__(self, settings: NCFSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(settings or NCFSettings(), seed=seed)

    def _network(self, dataset: Dataset) -> SequenceNet:
        return NCFNet(dataset.n_items, self.settings)


def text_parts(dataset: Dataset, dims: int, seed: int) -> Tensor:
    """The items' TF-IDF vectors in `dims` dimensions by SVD, rows of unit length (or of zeros), float32 (N, dims).

    Where texts have fewer dimensions than that, the rest are zeros.
    """
    text_NV = text_vectors(dataset)
    # The decomposition has fewer dimensions than rows and columns.
    kept = min(dims, min(text_NV.shape) - 1)
    part_NT = np.zeros((dataset.n_items, dims), dtype=np.float32)
    if kept >= 1 and text_NV.nnz:
        svd = TruncatedSVD(kept, random_state=stream_seed(seed, "baseline", "text") % 2**32)
        part_NT[:, :kept] = svd.fit_transform(text_NV)
    length_N = np.linalg.norm(part_NT, axis=1, keepdims=True)
    return torch.from_numpy(part_NT / np.where(length_N > 1e-6, length_N, 1.0))
