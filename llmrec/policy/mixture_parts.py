"""What a mixture is made of: scores of all items, and the candidates that several parts propose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmrec.catalogue.filters import Attributes
from llmrec.errors import RequestError
from llmrec.policy.decoding import check_k
from llmrec.types import FloatArray, IntArray, Slate, State

Scorer = Callable[[Sequence[State]], FloatArray]
"""Scores of all items for each state: (B, N), finite and at least 0; only their proportions in a row matter."""


class Distributed(Protocol):
    """A recommender whose scores can be read as probabilities of the next item."""

    def distribution(self, states: Sequence[State], power: float = 1.0) -> FloatArray:
        """(B, N)."""
        ...


@dataclass(frozen=True)
class Scores:
    """Recommenders of scores as one part: the mean of their distributions, each to `power`."""

    models: tuple[Distributed, ...]
    power: float = 1.0

    def __call__(self, states: Sequence[State]) -> FloatArray:
        """Probabilities of all items, (B, N)."""
        mean_BN: FloatArray = np.mean([model.distribution(states, self.power) for model in self.models], axis=0)
        return mean_BN


@dataclass(frozen=True)
class Items:
    """What all parts of a mixture agree on: how many items, whether repeats are recommended, what filters look at."""

    n_items: int
    repeat: str
    attributes: Attributes | None = dataclasses.field(default=None, compare=False)


@dataclass(frozen=True)
class Candidates:
    """Items of B states that may be recommended, with what each part gives them.

    Attributes:
        items_BC: item indices, each once in a row, in rising order; -1 at padding.
        parts_PBC: p_m of each part; 0 at padding. Where a score knows nothing of a state, it has the mean of the
            policies there; without a policy, that of the scores which know something.
        outside_PB: what each part gives an item that is no candidate, at most.
    """

    items_BC: IntArray
    parts_PBC: FloatArray
    outside_PB: FloatArray

    def mixed(self, weights_BP: FloatArray) -> FloatArray:
        """p of every candidate, (B, C), -1 at padding."""
        mixed_BC = np.einsum("bp,pbc->bc", weights_BP, self.parts_PBC)
        return np.where(self.items_BC >= 0, mixed_BC, -1.0)

    def top(self, weights_BP: FloatArray, k: int) -> list[tuple[Slate, bool]]:
        """The k best candidates, and whether no item outside is as good."""
        mixed_BC, outside_B = self.mixed(weights_BP), np.einsum("bp,pb->b", weights_BP, self.outside_PB)
        found = []
        for b, order_C in enumerate(np.argsort(-mixed_BC, axis=1, kind="stable")):
            kept_K = order_C[self.items_BC[b, order_C] >= 0]
            mixed_K = mixed_BC[b, kept_K := kept_K[:k]]
            with np.errstate(divide="ignore"):  # a candidate of a part without weight
                slate = Slate(tuple(self.items_BC[b, kept_K].tolist()), tuple(np.log(mixed_K).tolist()))
            found.append((slate, bool(mixed_K[-1] > outside_B[b] if len(mixed_K) == k else outside_B[b] == 0.0)))
        return found


def candidate_depth(n_items: int, k: int, depth: int | None) -> int:
    """Items taken from each part for a list of k: by default 2k and at least 20, at most the catalogue.

    Raises:
        RequestError: k below 1 or above the catalogue's size, or a depth below k.
    """
    check_k(k, n_items)
    if depth is not None and depth < k:
        raise RequestError(f"A depth of {depth} cannot fill {k} places; take at least as many items from each part.")
    return min(n_items, max(2 * k, 20) if depth is None else depth)


def normalised_scores(scorer: Scorer, states: Sequence[State], hidden_BE: IntArray, n_items: int) -> FloatArray:
    """The scores over the items that are not hidden, (B, N): each row has the sum 1, or 0 where it knows none.

    Raises:
        RequestError: scores that are negative, not finite or of another shape than (B, N).
    """
    scores_BN: FloatArray = np.array(scorer(states), dtype=np.float64)
    if scores_BN.shape != (len(states), n_items):
        raise RequestError(
            f"The scores of a mixture's part have the shape {scores_BN.shape}, not {(len(states), n_items)}; give a "
            "score for each state and each item of the catalogue."
        )
    if not np.isfinite(scores_BN).all() or (scores_BN < 0).any():
        raise RequestError("A score of a mixture's part is negative or not finite; give scores of at least 0.")
    row, at = np.nonzero(hidden_BE >= 0)
    scores_BN[row, hidden_BE[row, at]] = 0.0
    top_B1 = scores_BN.max(1, keepdims=True)
    scores_BN = np.divide(scores_BN, top_B1, out=scores_BN, where=top_B1 > 0)  # so that no sum can overflow
    total_B1 = scores_BN.sum(1, keepdims=True)
    np.divide(scores_BN, total_B1, out=scores_BN, where=total_B1 > 0)
    return scores_BN


def best_items(score_BN: FloatArray, depth: int) -> tuple[list[IntArray], FloatArray]:
    """The items of the `depth` greatest scores above 0 of each state, and the least of these scores, (B,)."""
    best_BD = np.argsort(-score_BN, axis=1, kind="stable")[:, :depth]
    value_BD = np.take_along_axis(score_BN, best_BD, 1)
    return [items[value > 0.0] for items, value in zip(best_BD, value_BD, strict=True)], value_BD[:, -1]


def taken(score_BN: FloatArray, items_BX: IntArray) -> FloatArray:
    """The scores of items, 0 at padding."""
    return np.where(items_BX >= 0, np.take_along_axis(score_BN, items_BX.clip(min=0), 1), 0.0)


def filled(values: Sequence[FloatArray], scores: Mapping[int, FloatArray]) -> FloatArray:
    """The parts' values, (P, B, X); a score that knows nothing of a state takes what the other parts say of it."""
    silent = {p: score_BN.sum(1, keepdims=True) <= 0.0 for p, score_BN in scores.items()}
    searched = [value_BX for p, value_BX in enumerate(values) if p not in scores]
    if searched:
        otherwise_BX = np.mean(searched, axis=0)
    else:  # a silent score adds nothing to the sum
        otherwise_BX = np.sum(values, axis=0) / np.maximum(np.sum(~np.stack(list(silent.values())), axis=0), 1)
    return np.stack(
        [np.where(silent[p], otherwise_BX, value) if p in silent else value for p, value in enumerate(values)]
    )
