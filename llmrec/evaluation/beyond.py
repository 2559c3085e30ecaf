"""What accuracy does not say of recommended lists: reach, popularity, novelty, variety, calibration, surprise.

L is the list of a row (the first K places), N the catalogue, "training" the events that the system learnt from.
A measure that a row does not have (an empty list, no history) is NaN there: such rows are left out, for all systems.

    coverage        share of the N items that stand in at least one list
    Gini            of how often each of the N items is shown: 0 all alike, near 1 a few take all
    popularity      mean over L of the share of training users who clicked the item
    percentile      mean over L of the item's popularity percentile
    lift            percentile of L minus that of the user's own history: above 0, L is more popular than the user's
                    taste (Abdollahpouri et al. 2019; on percentiles, since ratios of counts have no steady mean)
    novelty         mean over L of -log2 of the smoothed share of users (Zhou et al. 2010), in bits
    serendipity     share of the relevant items that stand in L and not among the K most popular items that the user
                    could be shown: the useful part of what a primitive recommender does not give (Ge et al. 2010)
    diversity       mean over pairs of L of 1 - cosine of their texts' TF-IDF (Ziegler et al. 2005)
    calibration     KL(p || 0.99 q + 0.01 p) of the categories of the history, p, and of L, q (Steck 2018), in nats;
                    less is better
    personalisation mean over pairs of users of 1 - |L and L'| / |L or L'|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import scipy.sparse as sp
from scipy import stats

from llmrec.baselines.base import history_weights, item_counts, positives
from llmrec.baselines.likeness import DENSE_ITEMS, text_vectors
from llmrec.dataset.store import Dataset
from llmrec.evaluation.ranking import coverage
from llmrec.evaluation.significance import unit_codes
from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, FloatArray, IntArray, State

ALPHA = 0.01
"""Steck's smoothing: how much of p is mixed into q, so that the divergence stays finite."""

PAIRS = 10_000
"""Pairs of users whose lists are compared."""

LOWER_IS_BETTER = ("Gini", "popularity", "percentile", "lift", "calibration")


@dataclass(frozen=True)
class ItemFacts:
    """Facts of the N items of a catalogue, from training events only.

    Attributes:
        count_N: training clicks (by the manifest's rule).
        users_N: training users who clicked it at least once.
        users: training users with a click.
        text_NV: TF-IDF rows of unit length, or of zeros for an item without a known term.
        category_NC: an item's weight in each of C categories, rows sum to 1 (0 without a category).
    """

    count_N: FloatArray
    users_N: FloatArray
    users: int
    text_NV: sp.csr_matrix
    category_NC: sp.csr_matrix

    @classmethod
    def of(cls, dataset: Dataset, train: pl.DataFrame) -> ItemFacts:
        """The facts by the events that a system was trained on."""
        clicks = positives(dataset, train)
        return cls(
            item_counts(clicks, dataset.n_items),
            item_counts(clicks.unique(["user", "item"]), dataset.n_items),
            clicks["user"].n_unique(),
            text_vectors(dataset),
            categories(dataset.items["categories"].to_list()),
        )

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.count_N)

    @cached_property
    def share_N(self) -> FloatArray:
        """Share of the training users who clicked an item."""
        return np.asarray(self.users_N / max(1, self.users))

    @cached_property
    def percentile_N(self) -> FloatArray:
        """(items clicked less often + half of the equally often clicked ones) / N."""
        # Average ranks: items clicked equally often are equally popular, in whatever order they stand.
        return np.asarray((stats.rankdata(self.count_N) - 0.5) / self.n_items)

    @cached_property
    def surprisal_N(self) -> FloatArray:
        """-log2 of the smoothed share of users, log2((users + 1) / (users of the item + 1)), in bits."""
        # One more user on both sides: an item that nobody clicked would be infinitely surprising.
        return np.asarray(np.log2((self.users + 1.0) / (self.users_N + 1.0)))

    @cached_property
    def cosine_NN(self) -> FloatArray | None:
        """Cosines of all texts, where the catalogue is small enough to keep them."""
        if self.n_items > DENSE_ITEMS:
            return None
        text_NV = self.text_NV.astype(np.float32)
        return np.asarray((text_NV @ text_NV.T).toarray())

    def past(self, states: Sequence[State]) -> sp.csr_matrix:
        """How often each item stands in each state's history and session, sparse (B, N)."""
        return history_weights(states, self.n_items, 1.0)


def categories(names: Sequence[Sequence[str]]) -> sp.csr_matrix:
    """Items by categories, sparse (N, C): each of an item's distinct categories weighs the same."""
    distinct = [list(dict.fromkeys(n for n in row if n)) for row in names]
    column = {name: c for c, name in enumerate(dict.fromkeys(n for row in distinct for n in row))}
    rows = [r for r, row in enumerate(distinct) for _ in row]
    weights = [1.0 / len(row) for row in distinct for _ in row]
    columns = [column[name] for row in distinct for name in row]
    return sp.csr_matrix((weights, (rows, columns)), shape=(len(distinct), len(column)), dtype=np.float64)


def beyond_accuracy(
    items_BK: IntArray,
    facts: ItemFacts,
    past_BN: sp.csr_matrix,
    targets_B: IntArray,
    seen: Sequence[IntArray] | None,
    users: Sequence[object],
    *,
    seed: int = 0,
) -> dict[str, FloatArray | float]:
    """All measures of the module, by name, with @K: arrays (B,) where they belong to a row, else numbers.

    Args:
        items_BK: item indices, best first, -1 where a list is shorter.
        facts: of the catalogue.
        past_BN: `facts.past` of the rows' states.
        targets_B: the relevant item of each row.
        seen: items that each row may not be shown, or None where repeats are allowed.
        users: user of each row.
        seed: run seed, for the pairs of `personalisation`.
    """
    k = items_BK.shape[1]
    percentile_B = list_mean(facts.percentile_N, items_BK)
    found: dict[str, FloatArray | float] = {
        "coverage": coverage(items_BK, facts.n_items, k),
        "Gini": gini(exposure(items_BK, facts.n_items)),
        "popularity": list_mean(facts.share_N, items_BK),
        "percentile": percentile_B,
        "lift": percentile_B - past_mean(facts.percentile_N, past_BN),
        "novelty": list_mean(facts.surprisal_N, items_BK),
        "serendipity": serendipity(items_BK, targets_B, facts.count_N, seen),
        "diversity": intra_list_distance(items_BK, facts),
    }
    apart = personalisation(items_BK, users, seed=seed)
    if apart is not None:
        found["personalisation"] = apart
    if facts.category_NC.shape[1]:
        found["calibration"] = miscalibration(items_BK, past_BN, facts.category_NC)
    return {f"{name}@{k}": value for name, value in found.items()}


def exposure(items_BK: IntArray, n_items: int) -> FloatArray:
    """How often each item is shown, (N,)."""
    shown = items_BK[(items_BK >= 0) & (items_BK < n_items)]
    return np.bincount(shown, minlength=n_items).astype(np.float64)


def gini(amount_N: FloatArray) -> float:
    """Gini coefficient of amounts from 0 up: 0 where all are equal (or 0), 1 - 1/N where one has all."""
    sorted_N, count = np.sort(np.asarray(amount_N, dtype=np.float64)), len(amount_N)
    total = sorted_N.sum()
    # sum of |x_i - x_j| over all pairs, over 2 N sum x, from the sorted amounts.
    return float((2 * np.arange(1, count + 1) - count - 1) @ sorted_N / (count * total)) if total > 0 else 0.0


def list_mean(value_N: FloatArray, items_BK: IntArray) -> FloatArray:
    """Mean of a value of items over each list, (B,); NaN for an empty one."""
    shown_BK = items_BK >= 0
    # Empty places index item 0 and count nothing.
    total_B = np.where(shown_BK, value_N[np.maximum(items_BK, 0)], 0.0).sum(axis=1)
    return _ratio(total_B, shown_BK.sum(axis=1))


def past_mean(value_N: FloatArray, past_BN: sp.csr_matrix) -> FloatArray:
    """Mean of a value of items over each history, (B,); NaN for an empty one."""
    return _ratio(past_BN @ value_N, np.asarray(past_BN.sum(axis=1)).ravel())


def serendipity(
    items_BK: IntArray, targets_B: IntArray, count_N: FloatArray, seen: Sequence[IntArray] | None
) -> FloatArray:
    """1 where the target stands in the list and K or more items that the user may be shown are more popular, (B,).

    The primitive recommender ranks by popularity. All items that tie with its last place are expected of it, so a
    list by popularity has no serendipity, however its ties fall.
    """
    k = items_BK.shape[1]
    hit_B = (items_BK == targets_B[:, None]).any(axis=1)
    sorted_N = np.sort(count_N)
    # Items clicked strictly more often than the target; those that tie with it are as likely to stand in the popular
    # list.
    more_B = len(count_N) - np.searchsorted(sorted_N, count_N[targets_B], side="right")
    if seen is not None:
        more_B = more_B - np.array(
            [(count_N[items] > count_N[t]).sum() for items, t in zip(seen, targets_B, strict=True)]
        )
    surprising_B: FloatArray = (hit_B & (more_B >= k)).astype(np.float64)
    return surprising_B


def intra_list_distance(items_BK: IntArray, facts: ItemFacts) -> FloatArray:
    """Mean over the pairs of a list of 1 - cosine of their texts, (B,); NaN with fewer than two items.

    A text without a known term is like no other.
    """
    shown_BK = items_BK >= 0
    count_B = shown_BK.sum(axis=1)
    pairs_B = count_B * (count_B - 1) / 2
    cosine_NN = facts.cosine_NN
    safe_BK = np.maximum(items_BK, 0)
    if cosine_NN is None:
        picked = sp.csr_matrix(
            (shown_BK.ravel().astype(np.float64), safe_BK.ravel(), np.arange(len(items_BK) + 1) * items_BK.shape[1]),
            shape=(len(items_BK), facts.n_items),
        )
        sum_BV, own_N = picked @ facts.text_NV, np.asarray(facts.text_NV.multiply(facts.text_NV).sum(axis=1)).ravel()
        # |sum v|^2 = sum |v|^2 + 2 sum over pairs v_i . v_j: all pairs of a list without an item-by-item matrix.
        alike_B = (np.asarray(sum_BV.multiply(sum_BV).sum(axis=1)).ravel() - picked @ own_N) / 2
    else:
        alike_B = np.zeros(len(items_BK))
        for place in range(1, items_BK.shape[1]):
            cosine_BK = cosine_NN[safe_BK[:, :place], safe_BK[:, place : place + 1]]
            both_BK = shown_BK[:, :place] & shown_BK[:, place : place + 1]
            alike_B += np.where(both_BK, cosine_BK, 0.0).sum(axis=1)
    return 1.0 - _ratio(alike_B, pairs_B)


def miscalibration(items_BK: IntArray, past_BN: sp.csr_matrix, category_NC: sp.csr_matrix) -> FloatArray:
    """Steck's divergence of the categories of a list from those of the history, (B,).

    NaN where the history or the list is empty or holds no category; log(1 / 0.01) where the list holds none of the
    history's categories.
    """
    shown_BK = items_BK >= 0
    rows = np.nonzero(shown_BK)[0]
    shape = (len(items_BK), category_NC.shape[0])
    listed = sp.csr_matrix((np.ones(len(rows)), (rows, items_BK[shown_BK])), shape=shape)
    p_BC, past_B = _shares(past_BN @ category_NC)
    q_BC, list_B = _shares(listed @ category_NC)
    p_BC = p_BC.tocoo()
    # Only categories of the history: elsewhere p is 0 and the term p log(p / q) with it.
    q_M = np.asarray(q_BC[p_BC.row, p_BC.col]).ravel() if p_BC.nnz else np.empty(0)
    # Mixing p into q keeps the logarithm finite where the list lacks a category; a category outside p adds nothing.
    term_M = p_BC.data * np.log(p_BC.data / ((1 - ALPHA) * q_M + ALPHA * p_BC.data))
    divergence_B = np.bincount(p_BC.row, weights=term_M, minlength=len(items_BK))
    return np.where((past_B > 0) & (list_B > 0), np.maximum(divergence_B, 0.0), np.nan)


def personalisation(
    items_BK: IntArray, users: Sequence[object], *, seed: int = 0, pairs: int = PAIRS
) -> float | None:
    """Mean Jaccard distance of the lists of two users, over `pairs` pairs of rows; None with a single user.

    The pairs are drawn from the stream "personalisation"; two empty lists are the same.
    """
    user_B = unit_codes(users)
    if not user_B.any():  # one user, number 0, or none
        return None
    # All pairs of users would be B^2 / 2; the mean of a sample has an error of half a hundredth at most.
    a_P, b_P = numpy_stream(seed, "personalisation").integers(len(user_B), size=(2, pairs))
    apart_P = user_B[a_P] != user_B[b_P]
    one_PK, two_PK = items_BK[a_P[apart_P]], items_BK[b_P[apart_P]]
    if not len(one_PK):
        return None
    same_PKK = (one_PK[:, :, None] == two_PK[:, None, :]) & (one_PK >= 0)[:, :, None]
    both_P = same_PKK.any(axis=2).sum(axis=1)
    either_P = (one_PK >= 0).sum(axis=1) + (two_PK >= 0).sum(axis=1) - both_P
    return float(1.0 - np.where(either_P > 0, both_P / np.maximum(either_P, 1), 1.0).mean())


def _shares(weight_BC: sp.csr_matrix) -> tuple[sp.csr_matrix, FloatArray]:
    """Rows divided by their sums, and the sums."""
    sum_B = np.asarray(weight_BC.sum(axis=1)).ravel()
    scale_B = np.divide(1.0, sum_B, out=np.zeros_like(sum_B), where=sum_B > 0)
    return sp.csr_matrix(sp.diags(scale_B) @ weight_BC), sum_B


def _ratio(over_B: FloatArray, under_B: FloatArray | IntArray | BoolArray) -> FloatArray:
    """over / under, NaN where under is 0."""
    under_B = np.asarray(under_B, dtype=np.float64)
    ratio_B: FloatArray = np.divide(over_B, under_B, out=np.full(len(under_B), np.nan), where=under_B > 0)
    return ratio_B
