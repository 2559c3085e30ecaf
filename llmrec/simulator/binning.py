"""Predicted against observed rates in bins of nearly equal mass, with intervals over users.

Equal predictions stand in one bin: what happened to events that a model cannot tell apart is one rate, and cutting
them by the order of the rows would measure that order. So a constant prediction that is right on the whole has no
calibration error. Where no two predictions are equal the bins are as equal as they can be.
"""

from __future__ import annotations

import numpy as np

from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray

BINS = 15
CELLS = 4_000_000
"""Bootstrap weights drawn at a time: bounds their memory at 32 MB."""


def mass_bins(probability_M: FloatArray, bins: int) -> IntArray:
    """The bin of each prediction, (M,), numbered from 0 in rising order; at most `bins`, none empty.

    Sorted, the predictions are cut into equal parts; all of one value go where the middle one of them falls.
    """
    _, value_M, count_V = np.unique(probability_M, return_inverse=True, return_counts=True)
    # A run of equal predictions must not be cut by the order of its rows: as a whole it goes to the part that its
    # middle row falls into, which keeps the masses as equal as ties allow.
    middle_V = np.cumsum(count_V) - count_V + (count_V - 1) // 2
    parts = np.array_split(np.arange(len(probability_M)), max(1, min(bins, len(probability_M))))
    part_M = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    # Parts that lost every row to a neighbour's run vanish from the numbering, so that no bin is empty.
    found_M: IntArray = np.unique(part_M[middle_V][value_M], return_inverse=True)[1].astype(np.int64)
    return found_M


def calibration_error(label_M: FloatArray, probability_M: FloatArray, bins: int = BINS) -> float:
    """Expected calibration error over `mass_bins`: mean |mean label - mean probability|, weighted by mass.

    Chance alone keeps it above 0 for a model that is right; see `calibration_interval`.
    """
    # The sum of label - probability over bin j is n_j (mean label - mean probability), so sum |gap| / M is the error
    # weighted by mass, sum of n_j / M |difference of means| (Naeini et al. 2015).
    gap_J = np.bincount(mass_bins(probability_M, bins), label_M - probability_M)
    return float(np.abs(gap_J).sum()) / max(1, len(label_M))


def calibration_interval(
    label_M: FloatArray,
    probability_M: FloatArray,
    group_M: IntArray,
    bins: int = BINS,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% interval of the calibration error by a bootstrap over groups (users); the bins stay as they are.

    With g the gaps of the bins (their sums over all rows), the error is sum |g|, which chance lifts, and lifts once
    more in a resample. So the upper end is the 97.5% quantile of sum |g*|, and the lower end takes the 97.5% quantile
    of sum |g* - g| off the error, from which the true one differs by no more than sum |g - true g|. It is 0 for a
    model that may be right. Both ends err on the wide side.
    """
    bin_M = mass_bins(probability_M, bins)
    # A row's residual stands in the column of its bin: the sums of users then resample all bins at once, each user's
    # rows together.
    columns_MJ = np.zeros((len(label_M), int(bin_M.max(initial=0)) + 1))
    columns_MJ[np.arange(len(label_M)), bin_M] = label_M - probability_M
    sums_RJ, count_R = resampled_sums(columns_MJ, group_M, draws, seed)
    gaps_RJ, gap_J = sums_RJ / count_R[:, None], columns_MJ.sum(axis=0) / max(1, len(label_M))
    error = calibration_error(label_M, probability_M, bins)
    # |error - true error| <= sum |g - true g| by the triangle inequality, and g* - g stands for g - true g.
    chance = float(np.quantile(np.abs(gaps_RJ - gap_J).sum(axis=1), 0.975))
    most = float(np.quantile(np.abs(gaps_RJ).sum(axis=1), 0.975))
    return max(0.0, error - chance), max(error, most)


def bins_of(
    predicted_M: FloatArray,
    observed_M: FloatArray,
    bins: int,
    group_M: IntArray | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, float]]:
    """`mass_bins` as plain values: mean prediction, observed rate and count of each.

    With groups (users) also "low" and "high", the 95% bootstrap interval of the observed rate over whole groups.
    """
    bin_M = mass_bins(predicted_M, bins)
    count_J = np.bincount(bin_M)
    rows = [np.bincount(bin_M, predicted_M) / count_J, np.bincount(bin_M, observed_M) / count_J, count_J]
    names = ["predicted", "observed", "count"]
    if group_M is not None and len(bin_M):
        member_MJ = np.eye(len(count_J))[bin_M]
        sums_RC, _ = resampled_sums(np.hstack([member_MJ * observed_M[:, None], member_MJ]), group_M, draws, seed)
        over_RJ, under_RJ = np.hsplit(sums_RC, 2)
        # A resample may hold no row of a bin; it says nothing of that bin's rate and is left out of its quantiles.
        rate_RJ = np.divide(over_RJ, under_RJ, out=np.full(over_RJ.shape, np.nan), where=under_RJ > 0)
        rows += list(np.nanquantile(rate_RJ, [0.025, 0.975], axis=0))
        names += ["low", "high"]
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*rows, strict=True)]


def resampled_sums(columns_MC: FloatArray, group_M: IntArray, draws: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Sums of columns, (R, C), and numbers of rows, (R,), over R bootstrap samples of whole groups."""
    _, place_M = np.unique(group_M, return_inverse=True)
    count_U = np.bincount(place_M).astype(float)
    sum_UC = np.stack([np.bincount(place_M, column_M) for column_M in columns_MC.T], axis=1)
    # Drawing U users with replacement and counting them is one multinomial draw, and all columns' sums over all draws
    # are one matrix product.
    stream, share_U = numpy_stream(seed, "simulator", "bootstrap"), np.full(len(count_U), 1 / len(count_U))
    sums, counts = [], []
    for start in range(0, draws, chunk := max(1, CELLS // len(count_U))):
        weights_RU = stream.multinomial(len(count_U), share_U, size=min(chunk, draws - start))
        sums.append(weights_RU @ sum_UC)
        counts.append(weights_RU @ count_U)
    return np.concatenate(sums), np.concatenate(counts)
