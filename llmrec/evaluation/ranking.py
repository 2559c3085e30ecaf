"""Offline ranking metrics over the whole catalogue: one held-out target a row, no sampled negatives.

With one target at place r (0 is the best): HR@k = [r < k], NDCG@k = [r < k] / log2(r + 2) (the ideal DCG is 1),
MRR@k = [r < k] / (r + 1). A target that is not recommended is worth 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.baselines.ties import expected_gain, ndcg_gain, target_places
from llmrec.errors import RequestError
from llmrec.types import BoolArray, FloatArray, IntArray, Slate


@dataclass(frozen=True, slots=True)
class RankingMetrics:
    """`per_row` maps "HR@10" and the like to an array (B,), in the order of the table."""

    per_row: dict[str, FloatArray]

    @property
    def means(self) -> dict[str, float]:
        """Mean of each metric over the rows."""
        return {name: float(values_B.mean()) for name, values_B in self.per_row.items()}


def slates_to_items(slates: Sequence[Slate], width: int | None = None) -> IntArray:
    """Item indices of the slates as one array (B, K), padded with -1.

    Args:
        slates: recommendations, best first.
        width: K; by default the longest slate's length. Longer slates are cut.
    """
    width = max((len(s.items_K) for s in slates), default=0) if width is None else width
    items_BK = np.full((len(slates), width), -1, dtype=np.int64)
    for row, slate in enumerate(slates):
        kept = slate.items_K[:width]
        items_BK[row, : len(kept)] = kept
    return items_BK


def ranking_metrics(
    recommended: Sequence[Slate] | IntArray,
    targets_B: Sequence[int] | IntArray,
    k: Sequence[int] = (1, 5, 10),
) -> RankingMetrics:
    """HR, NDCG and MRR at each k of recommended lists.

    Args:
        recommended: slates, or item indices (B, K), best first, -1 where a list is shorter.
        targets_B: item index of the held-out item of each row.
        k: cut-offs.

    Raises:
        RequestError: no rows, rows that do not fit, a negative target, or a cut-off outside 1 .. K.
    """
    items_BK = recommended if isinstance(recommended, np.ndarray) else slates_to_items(recommended)
    targets_B = np.asarray(targets_B, dtype=np.int64)
    if items_BK.ndim != 2 or not len(items_BK) or targets_B.shape != (len(items_BK),):
        raise RequestError(f"Lists of shape {items_BK.shape} and targets of shape {targets_B.shape} do not fit.")
    if targets_B.min() < 0:
        raise RequestError(f"The target of row {int(targets_B.argmin())} is negative; give its item index.")
    length = items_BK.shape[1]
    check_cutoffs(k, length, "the recommended lists hold only")
    match_BK = items_BK == targets_B[:, None]
    # A target that is not in the list stands behind its end, where no cut-off reaches.
    place_B = np.where(match_BK.any(axis=1), match_BK.argmax(axis=1), length)
    return _metrics(place_B, np.ones_like(place_B), k)


def score_metrics(
    scores_BN: FloatArray, targets_B: Sequence[int] | IntArray, k: Sequence[int] = (1, 5, 10)
) -> RankingMetrics:
    """HR, NDCG and MRR of scores over the whole catalogue; ties count as their expectation under a fair order.

    Args:
        scores_BN: higher is better; -inf at items that may not be recommended.
        targets_B: item index of the held-out item of each row.
        k: cut-offs.

    Raises:
        RequestError: no rows, NaN among the scores, rows that do not fit, or a cut-off outside 1 .. N.
    """
    if scores_BN.ndim != 2 or not len(scores_BN):
        raise RequestError(f"Scores need the shape (rows, items) with at least one row, not {scores_BN.shape}.")
    check_cutoffs(k, scores_BN.shape[1], "the catalogue has only")
    return _metrics(*target_places(scores_BN, np.asarray(targets_B, dtype=np.int64)), k)


def coverage(recommended: Sequence[Slate] | IntArray, n_items: int, k: int = 10) -> float:
    """Share of the catalogue's items that stand among the first k of at least one list."""
    items_BK = recommended if isinstance(recommended, np.ndarray) else slates_to_items(recommended)
    shown = np.unique(items_BK[:, :k])
    return float(((shown >= 0) & (shown < n_items)).sum() / n_items)


def illegal_share(
    recommended: Sequence[Slate] | IntArray,
    n_items: int,
    excluded: Sequence[Sequence[int] | IntArray] | None = None,
) -> float:
    """Share of recommended places that hold no item of the catalogue, an excluded one, or one shown further up.

    Args:
        recommended: slates or item indices (B, K); -1 is an empty place, which is not counted.
        n_items: catalogue size.
        excluded: item indices that each row must not show (seen items); negative ones are padding.

    Returns:
        0 for a system that keeps the rules, and where nothing was recommended.
    """
    items_BK = recommended if isinstance(recommended, np.ndarray) else slates_to_items(recommended)
    if excluded is not None and len(excluded) != len(items_BK):
        raise RequestError(f"{len(items_BK)} lists need as many lists of excluded items, not {len(excluded)}.")
    given_BK = items_BK != -1
    illegal_BK = given_BK & ((items_BK < 0) | (items_BK >= n_items))
    same_BKK = items_BK[:, :, None] == items_BK[:, None, :]
    # Below the diagonal: equal to an item further up.
    illegal_BK |= given_BK & np.tril(same_BKK, -1).any(axis=2)
    if excluded is not None and len(items_BK):
        illegal_BK |= given_BK & contains(excluded, items_BK)
    return float(illegal_BK.sum() / max(1, given_BK.sum()))


def contains(sets: Sequence[Sequence[int] | IntArray], items_BK: IntArray) -> BoolArray:
    """Whether each item of row b stands in `sets[b]`, (B, K); negative items stand nowhere."""
    length_B = [len(items) for items in sets]
    item_M = np.concatenate([np.asarray(items, dtype=np.int64) for items in sets] or [np.empty(0, dtype=np.int64)])
    row_M = np.repeat(np.arange(len(sets), dtype=np.int64), length_B)
    row_M, item_M = row_M[item_M >= 0], item_M[item_M >= 0]
    span = 1 + max(int(item_M.max(initial=0)), int(items_BK.max(initial=0)))
    # Row and item in one number, so that one `isin` answers for all rows.
    key_BK = np.arange(len(items_BK), dtype=np.int64)[:, None] * span + items_BK
    found_BK: BoolArray = (items_BK >= 0) & np.isin(key_BK, row_M * span + item_M)
    return found_BK


def _metrics(above_B: IntArray, tied_B: IntArray, k: Sequence[int]) -> RankingMetrics:
    gains: dict[str, Callable[[int], FloatArray]] = {
        "HR": lambda n: np.ones(n),
        "NDCG": ndcg_gain,
        "MRR": lambda n: 1.0 / np.arange(1, n + 1),
    }
    return RankingMetrics(
        {f"{metric}@{n}": expected_gain(above_B, tied_B, gain(n)) for metric, gain in gains.items() for n in k}
    )


def check_cutoffs(k: Sequence[int], length: int, what: str) -> None:
    """Refuses (`RequestError`) cut-offs outside 1 .. `length`, and none at all."""
    if not len(k):
        raise RequestError(f"No cut-off was given; choose 1 to {length}.")
    for cutoff in k:
        if not 1 <= cutoff <= length:
            raise RequestError(f"A metric at {cutoff} was asked for, but {what} {length}; choose 1 to {length}.")
