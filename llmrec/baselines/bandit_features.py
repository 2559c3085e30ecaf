"""Features of states and items that linear bandits reason in: few, dense, made from texts and clicks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import polars as pl
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from llmrec.baselines.base import item_counts
from llmrec.baselines.likeness import text_vectors
from llmrec.baselines.memory import Memory
from llmrec.dataset.store import Dataset
from llmrec.types import FloatArray, State

HISTORY_DECAY = 0.8
"""Weight of an item of the history relative to the one after it, in the features of a state."""


class Features(Protocol):
    """Features of items, z, and of states, x."""

    item_NQ: FloatArray
    state_size: int

    def states(self, states: Sequence[State]) -> FloatArray:
        """x of each state, (B, P) with P = `state_size`."""
        ...


class LatentFeatures:
    """Truncated singular value decompositions of the items' texts and of who clicked them.

    z = (1, log(1 + count) scaled to at most 1, `dims` latent coordinates); x = (1, decayed mean of the latent
    coordinates of the state's items). Half of the coordinates come from TF-IDF texts, half from the binary
    interactions; each half is scaled to a root mean square length of 1, coordinates that the data cannot fill are 0.

    Args:
        dataset: texts and the manifest's rules.
        events: `positives` rows (user_id, user, item, time).
        dims: latent coordinates, an even number.
        seed: of the randomised decomposition.
    """

    def __init__(self, dataset: Dataset, events: pl.DataFrame, dims: int, seed: int) -> None:
        self.memory = Memory(events, dataset.n_items, dataset.manifest.click)
        # Half from texts, so that an item nobody clicked has a place among the others.
        halves = (text_vectors(dataset), sp.csr_matrix(self.memory.matrix_UN.T))
        self.latent_ND = np.hstack([latent(half, dims // 2, seed) for half in halves])
        popular_N = np.log1p(item_counts(events, dataset.n_items))
        popular_N = popular_N / max(float(popular_N.max()), 1.0)
        self.item_NQ = np.column_stack([np.ones(dataset.n_items), popular_N, self.latent_ND])
        self.state_size = 1 + dims

    def states(self, states: Sequence[State]) -> FloatArray:
        """x of each state, (B, 1 + dims); (1, 0, ..., 0) for one without items."""
        weights_BN = self.memory.weights(states, HISTORY_DECAY)
        total_B = np.asarray(weights_BN.sum(axis=1)).ravel()
        mean_BD = (weights_BN @ self.latent_ND) / np.where(total_B > 0, total_B, 1.0)[:, None]
        return np.column_stack([np.ones(len(states)), mean_BD])


def latent(matrix: sp.csr_matrix, dims: int, seed: int) -> FloatArray:
    """Left singular vectors times singular values, (rows, dims), scaled to a root mean square row length of 1."""
    found: FloatArray = np.zeros((matrix.shape[0], dims))
    rank = min(dims, *matrix.shape)
    if rank and matrix.nnz:
        left, values, _ = randomized_svd(matrix, n_components=rank, random_state=seed % 2**32)
        found[:, :rank] = left * values
    length = np.sqrt((found**2).sum(axis=1).mean())
    # One prior precision is then as strict to both halves.
    return found / length if length > 0 else found
