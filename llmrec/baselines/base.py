"""What every recommender answers, and the part that all score-based ones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
import polars as pl
import scipy.sparse as sp
from scipy.special import softmax

from llmrec.baselines.memory import decayed
from llmrec.baselines.ties import fair_top
from llmrec.covisits import TIE_BREAK
from llmrec.dataset.store import Dataset, Signal
from llmrec.errors import RequestError
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray, Ranker, Slate, State

BATCH = 256
"""States scored at a time: bounds the dense (B, N) scores."""

POPULARITY = TIE_BREAK


Meaning = Literal["weights", "log-probabilities", "numbers"]
"""Of scores: at least 0 and proportional, log-probabilities, or any numbers where more is better."""


class FittableRanker(Ranker, Protocol):
    """A ranker that learns from the events of a data set and scores all of its items."""

    name: str

    def fit(self, dataset: Dataset, events: pl.DataFrame) -> Self:
        """Learns from `events` (the training part only) and returns itself."""
        ...

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores of all items for each state, shape (B, N); higher is better."""
        ...


@runtime_checkable
class KeptRanker(FittableRanker, Protocol):
    """One that can be written down once it is fitted, since fitting takes minutes."""

    def save(self, folder: Path) -> None:
        """Writes what fitting found into a folder."""
        ...

    def load(self, folder: Path, dataset: Dataset, events: pl.DataFrame) -> Self:
        """Takes what `save` wrote in the place of `fit` on the same data set and events, and returns itself."""
        ...


def positives(dataset: Dataset, events: pl.DataFrame) -> pl.DataFrame:
    """The events that count as a click by the manifest, oldest first within each user.

    Returns:
        Columns user_id, user (code), item (item index), time and order. Events of equal time stand in their
        `order` where it is known, else in the order of the table.
    """
    index = pl.DataFrame({"item_id": dataset.items["item_id"], "item": np.arange(dataset.n_items, dtype=np.int64)})
    return (
        events.filter(Signal.parse(dataset.manifest.click).mask())
        .join(index, on="item_id", how="inner", maintain_order="left")
        .select("user_id", pl.col("user_id").rank("dense").cast(pl.Int64).alias("user"), "item", "time", "order")
        .sort("user", "time", maintain_order=True)
    )


def item_counts(events: pl.DataFrame, n_items: int) -> FloatArray:
    """Number of rows of `positives` for each item, shape (N,)."""
    return np.bincount(events["item"].to_numpy(), minlength=n_items).astype(np.float64)


def history_weights(states: Sequence[State], n_items: int, decay: float) -> sp.csr_matrix:
    """Sparse (B, N): the sum of decay^k over a state's items, k = 0 for the latest of history and session."""
    return decayed([[i.item for i in (*state.history, *state.session)] for state in states], n_items, decay)


def exclude(scores_BN: FloatArray, excluded: Sequence[Sequence[int] | IntArray]) -> FloatArray:
    """A copy of the scores with -inf at each row's excluded items (negative indices are padding)."""
    masked_BN = scores_BN.astype(np.float64, copy=True)
    for row, items in enumerate(excluded):
        index = np.asarray(items, dtype=np.int64)
        masked_BN[row, index[index >= 0]] = -np.inf
    return masked_BN


class ScoreRecommender(ABC):
    """A recommender that ranks by scores over the whole catalogue; subclasses give `_learn` and `score`.

    Args:
        seed: run seed, for the order of items of equal score.
    """

    name: str = "scores"
    scoring: frozenset[str] = frozenset()
    """Names of the settings that only `score` reads: another value of theirs needs no new fit."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.n_items = 0
        self.repeat = "exclude"

    def fit(self, dataset: Dataset, events: pl.DataFrame) -> Self:
        """Learns from the events that the manifest calls a click; `events` must be of the training part only."""
        self.n_items, self.repeat = dataset.n_items, dataset.manifest.repeat
        self._learn(dataset, positives(dataset, events))
        return self

    @abstractmethod
    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        """Learns from `positives` rows (user_id, user, item, time)."""

    @abstractmethod
    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores of all items for each state, shape (B, N); higher is better."""

    @property
    def meaning(self) -> Meaning:
        """What the scores are."""
        return "weights"

    def distribution(self, states: Sequence[State], power: float = 1.0) -> FloatArray:
        """The scores as probabilities of the next item: (B, N), each row with the sum 1 (or 0 where all weights are).

        Weights and probabilities are taken to `power` and normalised; of numbers it is the softmax of `power` times
        their standard scores in the row.
        """
        score_BN = np.asarray(self.score(states), dtype=np.float64)
        if self.meaning == "weights":
            top_B1 = score_BN.max(axis=1, keepdims=True)
            # By the largest first: powers of very small weights would all become 0.
            sharp_BN = np.divide(score_BN, top_B1, out=np.zeros_like(score_BN), where=top_B1 > 0) ** power
            total_B1 = sharp_BN.sum(axis=1, keepdims=True)
            found_BN: FloatArray = np.divide(sharp_BN, total_B1, out=np.zeros_like(sharp_BN), where=total_B1 > 0)
            return found_BN
        if self.meaning == "numbers":
            spread_B1 = score_BN.std(axis=1, keepdims=True)
            # Scores of different models have no common unit; in their own standard deviations one temperature means
            # the same to all.
            score_BN = (score_BN - score_BN.mean(axis=1, keepdims=True)) / np.where(spread_B1 > 0, spread_B1, 1.0)
        softened_BN: FloatArray = softmax(power * score_BN, axis=1)
        return softened_BN

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        seen: Sequence[IntArray] | None = None,
        exclude_seen: bool | None = None,
    ) -> list[Slate]:
        """The k best items for each state, equal scores in a fair order that depends on the seed alone.

        Args:
            states: what is known of each user.
            k: places of a slate.
            seen: item indices to exclude for each state; by default those of its history and session.
            exclude_seen: whether seen items are excluded; by default what the data set's manifest says.

        Returns:
            One slate a state; `log_probs_K` holds the scores. Shorter than k where fewer items are allowed.

        Raises:
            RequestError: not fitted yet, or k outside 1 .. catalogue size.
        """
        self._check(k)
        if seen is not None and len(seen) != len(states):
            raise RequestError(f"{len(states)} states need {len(states)} lists of seen items, not {len(seen)}.")
        hide = self.repeat == "exclude" if exclude_seen is None else exclude_seen
        rng = numpy_stream(self.seed, "baseline", self.name, "ties")
        slates: list[Slate] = []
        for start in range(0, len(states), BATCH):
            batch = states[start : start + BATCH]
            scores_BN = self.score(batch)
            if hide:
                given = seen[start : start + BATCH] if seen is not None else [s.seen() for s in batch]
                # Before the selection, so that a slate is full as long as anything is left.
                scores_BN = exclude(scores_BN, given)
            slates += _slates(scores_BN, fair_top(scores_BN, k, rng))
        return slates

    def _check(self, k: int) -> None:
        if not self.n_items:
            raise RequestError(f"The {self.name} baseline is not fitted; call fit(dataset, events) first.")
        if not 1 <= k <= self.n_items:
            raise RequestError(f"k is {k}, but the catalogue has {self.n_items} items; ask for 1 to {self.n_items}.")


def _slates(scores_BN: FloatArray, items_BK: IntArray) -> list[Slate]:
    slates = []
    for scores_N, items_K in zip(scores_BN, items_BK, strict=True):
        kept = items_K[items_K >= 0]
        slates.append(Slate(tuple(kept.tolist()), tuple(scores_N[kept].tolist())))
    return slates
