"""Ranking metrics for rows with several relevant items, over the whole catalogue.

Events of one user with equal time are one unordered set: no order among them is known, so they are one row with
R >= 1 relevant items. With h_i = 1 where place i (0 is the best) holds a relevant item:

    HR@K        = [sum of h_i > 0]
    recall@K    = sum of h_i / R
    precision@K = sum of h_i / K                                    (K, also where the list is shorter)
    NDCG@K      = sum of h_i / log2(i + 2) / the same sum of the best list
    MRR@K       = 1 / (first i with h_i = 1, counted from 1), 0 without one
    MAP@K       = sum of h_i precision@(i + 1) / min(K, R)

all sums over i < K. Items of equal score count as their expectation under a fair order of the tied ones, exactly
(McSherry and Najork 2008): a place of a tie of g items, r of them relevant, holds a relevant one with probability
r / g, and two places of it hold two with r (r - 1) / (g (g - 1)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.baselines.ties import ndcg_gain
from llmrec.errors import RequestError
from llmrec.evaluation.ranking import RankingMetrics, check_cutoffs, contains, slates_to_items
from llmrec.types import BoolArray, Example, FloatArray, IntArray, Slate

METRICS = ("HR", "recall", "precision", "NDCG", "MRR", "MAP")


@dataclass(frozen=True)
class TargetSets:
    """Examples gathered into unordered sets: P rows of one user and moment each.

    Attributes:
        first_P: the first example of each set, whose state (and so whose slate) is that of them all.
        relevant: item indices of each set, distinct and ascending.
    """

    first_P: IntArray
    relevant: list[IntArray]


def target_sets(examples: Sequence[Example]) -> TargetSets:
    """Gathers the targets that share user and time; a row without user or time stays by itself."""
    first: dict[object, int] = {}
    members: dict[object, list[int]] = {}
    for row, example in enumerate(examples):
        state = example.state
        key: object = row if state.user_id is None or state.time is None else (state.user_id, state.time)
        first.setdefault(key, row)
        members.setdefault(key, []).append(example.target)
    return TargetSets(
        np.fromiter(first.values(), dtype=np.int64, count=len(first)),
        [np.unique(np.asarray(items, dtype=np.int64)) for items in members.values()],
    )


def set_metrics(
    recommended: Sequence[Slate] | IntArray,
    relevant: Sequence[Sequence[int] | IntArray],
    k: Sequence[int] = (1, 5, 10),
) -> RankingMetrics:
    """HR, recall, precision, NDCG, MRR and MAP at each k of recommended lists.

    Args:
        recommended: slates, or item indices (B, K), best first, -1 where a list is shorter. An item that stands in
            a list twice counts at its first place only.
        relevant: item indices of the relevant items of each row.
        k: cut-offs.

    Raises:
        RequestError: no rows, rows that do not fit, a row without a relevant item or with a negative one, or a
            cut-off outside 1 .. K.
    """
    items_BK = recommended if isinstance(recommended, np.ndarray) else slates_to_items(recommended)
    _, _, count_B = _flat(relevant)
    if items_BK.ndim != 2 or not len(items_BK) or len(count_B) != len(items_BK):
        raise RequestError(f"Lists of shape {items_BK.shape} and {len(count_B)} sets of relevant items do not fit.")
    check_cutoffs(k, items_BK.shape[1], "the recommended lists hold only")
    hit_BK = contains(relevant, items_BK) & ~_doubled(items_BK)
    place_BK = np.broadcast_to(np.arange(items_BK.shape[1]), items_BK.shape)
    return _expectation(place_BK, np.ones(items_BK.shape), hit_BK.astype(np.float64), count_B, k)


def score_set_metrics(
    scores_BN: FloatArray,
    relevant: Sequence[Sequence[int] | IntArray],
    k: Sequence[int] = (1, 5, 10),
) -> RankingMetrics:
    """`set_metrics` of scores over the whole catalogue, ties worth their expectation under a fair order.

    Args:
        scores_BN: higher is better; -inf at items that may not be recommended (a relevant one is then not found).
        relevant: item indices of the relevant items of each row.
        k: cut-offs.

    Raises:
        RequestError: as `set_metrics`, NaN among the scores, an item outside the catalogue, or a cut-off above it.
    """
    if scores_BN.ndim != 2 or not len(scores_BN):
        raise RequestError(f"Scores need the shape (rows, items) with at least one row, not {scores_BN.shape}.")
    rows, n_items = scores_BN.shape
    row_M, item_M, count_B = _flat(relevant)
    if len(count_B) != rows:
        raise RequestError(f"Scores of {rows} rows and {len(count_B)} sets of relevant items do not fit.")
    if item_M.max() >= n_items:
        raise RequestError(f"Every relevant item must be an item index from 0 to {n_items - 1}.")
    if np.isnan(scores_BN).any():
        raise RequestError("Scores hold NaN, which has no place in a ranking; give -inf to exclude an item.")
    check_cutoffs(k, n_items, "the catalogue has only")
    top = max(k)
    best_BK = -np.sort(np.partition(-scores_BN, top - 1, axis=1)[:, :top], axis=1)
    own_M = scores_BN[row_M, item_M]
    first_BK, size_BK, hits_BK = (np.zeros((rows, top)) for _ in range(3))
    last_B1 = best_BK[:, -1:]
    tied_B = (scores_BN == last_B1).sum(axis=1)  # only the last tie may reach beyond the first `top` places
    for place in range(top):
        value_B1 = best_BK[:, place : place + 1]
        first_BK[:, place] = (best_BK > value_B1).sum(axis=1)
        size_BK[:, place] = np.where(value_B1[:, 0] == last_B1[:, 0], tied_B, (best_BK == value_B1).sum(axis=1))
        same_M = (own_M == value_B1[row_M, 0]) & (own_M > -np.inf)
        hits_BK[:, place] = np.bincount(row_M[same_M], minlength=rows)
    return _expectation(first_BK.astype(np.int64), size_BK, hits_BK, count_B, k)


def _expectation(
    first_BK: IntArray, size_BK: FloatArray, hits_BK: FloatArray, count_B: IntArray, k: Sequence[int]
) -> RankingMetrics:
    """The metrics in expectation.

    Args:
        first_BK: the place at which the tie of each place begins; itself where nothing is tied.
        size_BK: items in that tie.
        hits_BK: relevant items in that tie.
        count_B: R of each row.
        k: cut-offs.
    """
    place_K = np.arange(first_BK.shape[1])
    offset_BK = place_K - first_BK
    chance_BK = hits_BK / size_BK
    total_BK = np.cumsum(chance_BK, axis=1)
    before_BK = np.take_along_axis(total_BK - chance_BK, first_BK, axis=1)  # relevant items above the tie
    # Given that this place holds a relevant item, each of the `offset` places of the tie before it does with (r - 1)
    # / (g - 1).
    beside_BK = offset_BK * (hits_BK - 1.0) / np.maximum(size_BK - 1.0, 1.0)
    precise_BK = np.cumsum(chance_BK * (1.0 + before_BK + beside_BK) / (place_K + 1.0), axis=1)
    left_BK = size_BK - offset_BK
    # Drawing without replacement from the tie: of the g - offset items left, r are relevant as long as none has come.
    none_BK = np.cumprod(np.maximum(left_BK - hits_BK, 0.0) / left_BK, axis=1)  # no hit up to this place
    # P(first hit here) is what "no hit so far" loses at this place.
    hit_BK = np.diff(-none_BK, axis=1, prepend=-1.0)  # the first hit is here
    gain_K = ndcg_gain(len(place_K))
    gained_BK, best_K = np.cumsum(chance_BK * gain_K, axis=1), np.cumsum(gain_K)
    reciprocal_BK = np.cumsum(hit_BK / (place_K + 1.0), axis=1)
    found: dict[str, dict[int, FloatArray]] = {metric: {} for metric in METRICS}
    for n in k:
        # The best list of n places holds min(n, R) relevant items, on top.
        few_B = np.minimum(n, count_B)
        found["HR"][n] = 1.0 - none_BK[:, n - 1]
        found["recall"][n] = total_BK[:, n - 1] / count_B
        found["precision"][n] = total_BK[:, n - 1] / n
        found["NDCG"][n] = gained_BK[:, n - 1] / best_K[few_B - 1]
        found["MRR"][n] = reciprocal_BK[:, n - 1]
        found["MAP"][n] = precise_BK[:, n - 1] / few_B
    return RankingMetrics({f"{metric}@{n}": found[metric][n] for metric in METRICS for n in k})


def _flat(relevant: Sequence[Sequence[int] | IntArray]) -> tuple[IntArray, IntArray, IntArray]:
    """Row and item of every relevant item, doubled ones once, and how many each row has."""
    sets = [np.asarray(items, dtype=np.int64) for items in relevant]
    if not len(sets):
        raise RequestError("There is no row to rank; give at least one set of relevant items.")
    length_B = np.array([len(items) for items in sets], dtype=np.int64)
    if not length_B.all():
        raise RequestError(f"Row {int(length_B.argmin())} has no relevant item; leave such rows out.")
    item_M, row_M = np.concatenate(sets), np.repeat(np.arange(len(sets), dtype=np.int64), length_B)
    if item_M.min() < 0:
        raise RequestError(f"A relevant item of row {row_M[item_M.argmin()]} is negative; give its item index.")
    row_M, item_M = np.divmod(np.unique(row_M * (item_M.max() + 1) + item_M), item_M.max() + 1)
    count_B = np.bincount(row_M, minlength=len(sets)).astype(np.int64)
    return row_M, item_M, count_B


def _doubled(items_BK: IntArray) -> BoolArray:
    """Places whose item stands further up already."""
    doubled_BK: BoolArray = np.zeros(items_BK.shape, dtype=np.bool_)
    for place in range(1, items_BK.shape[1]):
        doubled_BK[:, place] = (items_BK[:, :place] == items_BK[:, place : place + 1]).any(axis=1)
    return doubled_BK
