"""SASRec, GRU4Rec and NCF in the interface of the baselines.

SASRec and GRU4Rec learn by the full softmax over the catalogue at every place of a sequence. With few sampled
negatives and the binary loss, SASRec is overconfident and much weaker than it need be (Petrov and Macdonald 2023,
"gSASRec"); with cross-entropy over all items it beats newer architectures that were published as better than it
(Klenitskiy and Vasilev 2023). A comparison with the weak form would flatter whatever stands beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.decomposition import TruncatedSVD
from torch import Tensor

from llmrec.baselines.base import Meaning, ScoreRecommender, positives
from llmrec.baselines.likeness import text_vectors
from llmrec.baselines.memory import Memory
from llmrec.baselines.neural.networks import GRU4RecNet, ItemTexts, NCFNet, SASRecNet, SequenceNet
from llmrec.baselines.neural.sequences import HeldOut, Sequences, TokenRows, latest
from llmrec.baselines.neural.settings import (
    GRU4RecSettings,
    ItemSettings,
    NCFSettings,
    NeuralSettings,
    SASRecSettings,
    Vectors,
)
from llmrec.baselines.neural.training import FitRecord, Trainer, device_of, scores, seeded, threads
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.files import read_json, write_json
from llmrec.seeding import stream_seed
from llmrec.types import Example, FloatArray, IntArray, State
from llmrec.vectors.sentences import sentence_encoder
from llmrec.vectors.space import EncodedSpace, item_text

WEIGHTS, RECORD = "network.safetensors", "record.json"
"""What is written of a trained network."""
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
    def _network(self, dataset: Dataset, events: pl.DataFrame) -> SequenceNet:
        """A fresh network for the data set's items, of which `events` (rows of `positives`) train."""

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
            trainer = Trainer(lambda: self._network(dataset, events), self.settings, self.seed, self.name, repeats)
            self.net, self.record = trainer.fit(Sequences(events, dataset.n_items), held_out)

    def save(self, folder: Path) -> None:
        """Writes the trained network into `folder`, and how its training went.

        Raises:
            RequestError: not fitted.
        """
        weights = {name: value.detach().cpu().contiguous() for name, value in self._trained().state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        write_json(folder / RECORD, asdict(self.record))

    def load(self, folder: Path, dataset: Dataset, events: pl.DataFrame) -> Self:
        """Takes the network that `save` wrote, in the place of `fit` on the same data set and events.

        Settings and seed must be those of the network that was written.

        Raises:
            DataError: the files cannot be read, or are of another network.
        """
        rows = positives(dataset, events)
        with seeded(0, self.settings):  # fresh weights are drawn, and then not used
            net = self._network(dataset, rows)
        mend = f"remove {folder} to fit {self.name} anew"
        try:
            kept = dict(read_json(folder / RECORD, mend).items())
            curves: dict[str, Any] = {name: tuple(kept.pop(name)) for name in ("train_loss", "valid_ndcg")}
            self.record = FitRecord(**curves, **kept)
            net.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, AttributeError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise DataError(f"{folder} holds no network of {self.name} with these settings; {mend}.") from error
        self.n_items, self.repeat = dataset.n_items, dataset.manifest.repeat
        self.memory = Memory(rows, dataset.n_items, dataset.manifest.click)
        self.net = net.to(device_of(self.settings)).eval()
        return self

    def _trained(self) -> SequenceNet:
        if self.net is None:
            raise RequestError(f"The {self.name} baseline is not fitted; call fit(dataset, events) first.")
        return self.net

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
        net = self._trained()
        with threads(self.settings):
            return scores(net, self._rows(states), self.n_items, self.settings)


class SASRec(NeuralRecommender[SASRecSettings]):
    """Self-attention over the user's sequence (Kang and McAuley 2018), by default with the full softmax.

    With `text_dims` it is called "sasrec-text": what was learnt of an item then speaks for items of like text too.
    Without `ids` beside it items are their texts ("sasrec-only-text"), and those without events are ranked as well.
    """

    name = "sasrec"

    def __init__(self, settings: SASRecSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(settings or SASRecSettings(), seed=seed)
        self.name = named("sasrec", self.settings)

    def _network(self, dataset: Dataset, events: pl.DataFrame) -> SequenceNet:
        return SASRecNet(dataset.n_items, self.settings, item_texts(dataset, events, self.settings, self.seed))


class GRU4Rec(NeuralRecommender[GRU4RecSettings]):
    """A recurrent network over the user's sequence (Hidasi et al. 2016; the losses of Hidasi and Karatzoglou 2018).

    Their sampled losses stand in for the softmax over catalogues too large for it; up to some ten thousand items the
    softmax itself is affordable, and is taken.
    """

    name = "gru4rec"

    def __init__(self, settings: GRU4RecSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(settings or GRU4RecSettings(), seed=seed)
        self.name = named("gru4rec", self.settings)

    def _network(self, dataset: Dataset, events: pl.DataFrame) -> SequenceNet:
        return GRU4RecNet(dataset.n_items, self.settings, item_texts(dataset, events, self.settings, self.seed))


class NCF(NeuralRecommender[NCFSettings]):
    """Neural collaborative filtering, the NeuMF of He et al. 2017: a weighted inner product beside an MLP.

    A user is the mean of the embeddings of the latest `history` items, not a row of a table, so users and events that
    came after training are scored like all others. The order of a user's items does not matter to it.
    """

    name = "ncf"

    def __init__(self, settings: NCFSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(settings or NCFSettings(), seed=seed)

    def _network(self, dataset: Dataset, events: pl.DataFrame) -> SequenceNet:
        del events
        return NCFNet(dataset.n_items, self.settings)


def named(kind: str, settings: ItemSettings) -> str:
    """What a network is called: random streams and records carry it."""
    if not settings.text_dims:
        return kind
    return f"{kind}-text" if settings.ids else f"{kind}-only-text"


def item_texts(dataset: Dataset, events: pl.DataFrame, settings: ItemSettings, seed: int) -> ItemTexts | None:
    """What `settings` ask to know of the items; `events` are the training's, as rows of `positives`."""
    if not settings.text_dims:
        return None
    vectors_NT = text_parts(dataset, settings.text_dims, seed, vectors=settings.vectors, encoder=settings.encoder)
    known_N = np.bincount(events["item"].to_numpy(), minlength=dataset.n_items) > 0
    return ItemTexts(vectors_NT, torch.from_numpy(known_N))


def text_parts(
    dataset: Dataset, dims: int, seed: int, *, vectors: Vectors = "words", encoder: str | None = None
) -> Tensor:
    """Vectors of the items' texts in `dims` dimensions by SVD, rows of unit length (or of zeros), float32 (N, dims).

    Where texts have fewer dimensions than that, the rest are zeros.

    Raises:
        ConfigError: the encoder of sentences is not named, not installed or cannot be loaded.
    """
    text_NV = text_vectors(dataset) if vectors == "words" else sentence_vectors(dataset, encoder)
    # The decomposition has fewer dimensions than rows and columns.
    kept = min(dims, min(text_NV.shape) - 1)
    part_NT = np.zeros((dataset.n_items, dims), dtype=np.float32)
    if kept >= 1 and abs(text_NV).max() > 0:
        svd = TruncatedSVD(kept, random_state=stream_seed(seed, "baseline", "text") % 2**32)
        part_NT[:, :kept] = svd.fit_transform(text_NV)
    length_N = np.linalg.norm(part_NT, axis=1, keepdims=True)
    return torch.from_numpy(part_NT / np.where(length_N > 1e-6, length_N, 1.0))


def sentence_vectors(dataset: Dataset, encoder: str | None) -> FloatArray:
    """The items' texts as vectors of a sentence-transformers model around their mean, (N, H)."""
    encode = sentence_encoder(encoder, asked="Setting vectors 'sentences' of a neural recommender")
    return np.asarray(EncodedSpace([item_text(item) for item in dataset.item_list], encode, centred=True).rows_NV)
