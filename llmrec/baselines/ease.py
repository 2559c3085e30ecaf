"""EASE: a linear autoencoder of the interaction matrix with a zero diagonal, in closed form (Steck 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.linalg import lapack

from llmrec.baselines.base import Meaning, ScoreRecommender, item_counts
from llmrec.baselines.memory import Memory
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.types import FloatArray, State


@dataclass(frozen=True, kw_only=True)
class EASESettings:
    """Parameters of EASE.

    Attributes:
        l2: lambda, the weight of the squared coefficients.
        history_decay: weight of an item of the history relative to the one after it; 1 is the paper's.
        max_items: catalogue size from which on the (N, N) matrix is refused; 20,000 items need 8 GB while fitting.
    """

    l2: float = 100.0
    history_decay: float = 1.0
    max_items: int = 20_000

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise ConfigError(f"l2 of EASE is {self.l2}; give a number above 0.")


class EASE(ScoreRecommender):
    """Scores are the user's row of X times B, where B minimises |X - X B|^2 + l2 |B|^2 with a zero diagonal.

    With P = (X'X + l2 I)^-1: B[i, j] = -P[i, j] / P[j, j] off the diagonal (Steck, "Embarrassingly Shallow
    Autoencoders for Sparse Data", equation 8). A state without items is scored by popularity.

    Args:
        settings: parameters of the formula.
        seed: run seed, for the order of items of equal score.
    """

    name = "ease"
    scoring = frozenset({"history_decay"})

    def __init__(self, settings: EASESettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or EASESettings()

    @property
    def meaning(self) -> Meaning:
        """What the scores are."""
        return "numbers"

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        n_items, limit = dataset.n_items, self.settings.max_items
        if n_items > limit:
            raise DataError(
                f"EASE keeps an item-by-item matrix, which for the {n_items} items of {dataset.manifest.name!r} is "
                f"{n_items**2 * 20 / 1e9:.0f} GB while fitting; leave it out, or raise max_items ({limit})."
            )
        self.count_N = item_counts(events, n_items)
        self.memory = Memory(events, n_items, dataset.manifest.click)
        x_UN = self.memory.matrix_UN
        self.b_NN = item_weights((x_UN.T @ x_UN).toarray(), self.settings.l2)

    def score(self, states: Sequence[State]) -> FloatArray:
        """The (decayed) profiles times B, shape (B, N)."""
        weights_BN = self.memory.weights(states, self.settings.history_decay)
        if self.settings.history_decay == 1.0:
            weights_BN = weights_BN.sign()
        scores_BN = np.asarray(weights_BN.astype(np.float32) @ self.b_NN, dtype=np.float64)
        # Rows without any item would be zeros, hence all items alike.
        scores_BN[np.diff(weights_BN.indptr) == 0] = self.count_N
        return scores_BN


def item_weights(gram_NN: FloatArray, l2: float) -> FloatArray:
    """B of the formula in float32, from X'X (overwritten where it is Fortran-ordered)."""
    # In place: at 20,000 items each copy is 3 GB.
    gram_NN[np.diag_indices_from(gram_NN)] += l2
    # Positive definite, so Cholesky: half the work and memory of a general inverse.
    lower, failed = lapack.dpotrf(np.asfortranarray(gram_NN), lower=1, overwrite_a=1)
    if not failed:
        lower, failed = lapack.dpotri(lower, lower=1, overwrite_c=1)
    if failed:
        raise DataError(f"EASE's matrix cannot be inverted with l2 = {l2}; give a larger l2.")
    inverse_NN = np.tril(lower, -1)
    inverse_NN += inverse_NN.T
    b_NN: FloatArray = (-inverse_NN / np.diag(lower)).astype(np.float32)  # the diagonal is 0 already
    return b_NN
