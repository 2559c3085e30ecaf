"""Ranks under ties: what a target is worth when items of equal score are ordered by a fair coin.

Counting a tied target as first flatters a system that scores everything alike, counting it as last punishes it.
So every figure here is the expectation over all orders of the tied items (McSherry and Najork 2008).
"""

from __future__ import annotations

import numpy as np

from llmrec.errors import RequestError
from llmrec.types import FloatArray, IntArray


def target_places(scores_BN: FloatArray, targets_B: IntArray) -> tuple[IntArray, IntArray]:
    """How many items stand above each row's target, and how many share its score (itself included).

    A target with score -inf cannot be recommended: it stands below all N items, tied with itself alone.

    Args:
        scores_BN: higher is better; -inf marks an item that may not be recommended.
        targets_B: item index of the target of each row.

    Returns:
        (above_B, tied_B).

    Raises:
        RequestError: NaN among the scores, shapes that do not fit, or a target outside the catalogue.
    """
    rows, n_items = scores_BN.shape
    if targets_B.shape != (rows,):
        raise RequestError(f"{rows} rows of scores need {rows} targets, but {targets_B.shape} were given.")
    if rows and (targets_B.min() < 0 or targets_B.max() >= n_items):
        raise RequestError(f"Every target must be an item index from 0 to {n_items - 1}.")
    if np.isnan(scores_BN).any():
        raise RequestError("Scores hold NaN, which has no place in a ranking; give -inf to exclude an item.")
    own_B1 = scores_BN[np.arange(rows), targets_B][:, None]
    above_B = (scores_BN > own_B1).sum(axis=1).astype(np.int64)
    tied_B = (scores_BN == own_B1).sum(axis=1).astype(np.int64)
    # A target that may not be recommended ties with every other excluded item; its place is behind all of them, for
    # certain.
    legal_B = own_B1[:, 0] > -np.inf
    return np.where(legal_B, above_B, n_items), np.where(legal_B, tied_B, 1)


def expected_gain(above_B: IntArray, tied_B: IntArray, gain_K: FloatArray) -> FloatArray:
    """Mean of `gain_K[place]` over the places above .. above + tied - 1; a place from K on gains nothing."""
    total = np.concatenate(([0.0], np.cumsum(gain_K)))
    k = len(gain_K)
    first_B, last_B = np.minimum(above_B, k), np.minimum(above_B + tied_B, k)
    # Running sums of the gain: the sum over the places of a tie is one difference.
    gained: FloatArray = (total[last_B] - total[first_B]) / tied_B
    return gained


def ndcg_gain(k: int) -> FloatArray:
    """1 / log2(place + 2) for the places 0 .. k-1: NDCG of a single target there (its ideal DCG is 1)."""
    gain_K: FloatArray = 1.0 / np.log2(np.arange(k) + 2.0)
    return gain_K


def fair_top(scores_BN: FloatArray, k: int, rng: np.random.Generator) -> IntArray:
    """Item indices of the k best scores of each row, best first; equal scores in a random order drawn from `rng`.

    Returns:
        items_BK; -1 where fewer than k items have a score above -inf.
    """
    rows, n_items = scores_BN.shape
    # Shuffled columns make whatever order the selection gives to equal scores a fair one.
    shuffle_BN = rng.permuted(np.broadcast_to(np.arange(n_items), (rows, n_items)), axis=1)
    negated_BN = -np.take_along_axis(scores_BN, shuffle_BN, axis=1)
    # The selection alone, not a sort of the catalogue; sorting the chosen columns keeps the shuffled order among
    # equals.
    if k < n_items:
        best_BK = np.argpartition(negated_BN, k - 1, axis=1)[:, :k]
        best_BK.sort(axis=1)
    else:
        best_BK = np.broadcast_to(np.arange(n_items), (rows, n_items))
    negated_BK = np.take_along_axis(negated_BN, best_BK, axis=1)
    order_BK = np.argsort(negated_BK, axis=1, kind="stable")
    items_BK = np.take_along_axis(shuffle_BN, np.take_along_axis(best_BK, order_BK, axis=1), axis=1)
    missing_BK = np.isposinf(np.take_along_axis(negated_BK, order_BK, axis=1))
    return np.where(missing_BK, -1, items_BK).astype(np.int64)
