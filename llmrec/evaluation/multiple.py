"""Several comparisons at once: p-values of paired differences, and Holm's correction of what is significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrec.errors import RequestError
from llmrec.evaluation.significance import Interval, resampled_means
from llmrec.evaluation.table import Comparison
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray


@dataclass(frozen=True, slots=True)
class Tested:
    """One of several paired differences that are tested together.

    Attributes:
        difference: mean and interval at the level of every single one.
        corrected: mean and interval at the level at which Holm's method tests it: it excludes 0 only if the
            difference is significant among all.
        p_value: two-sided, by the bootstrap.
        adjusted: the p-value after Holm's correction, to be held against 1 - level.
    """

    difference: Interval
    corrected: Interval
    p_value: float
    adjusted: float


def holm(p_values: Sequence[float] | FloatArray) -> FloatArray:
    """Holm's adjusted p-values (1979): the i-th smallest of m times m - i + 1, never falling, at most 1.

    Rejecting where they are at most alpha keeps the chance of any false rejection at alpha, however the tests depend
    on one another.

    Raises:
        RequestError: no p-value, or one outside 0..1.
    """
    p_M = np.asarray(p_values, dtype=np.float64)
    if p_M.ndim != 1 or not p_M.size:
        raise RequestError("Holm's correction needs one p-value or more.")
    good_M = (p_M >= 0) & (p_M <= 1)
    if not good_M.all():
        raise RequestError(f"A p-value lies in 0..1, but that of test {int(np.argmin(good_M))} does not.")
    order_M = np.argsort(p_M, kind="stable")
    # Step-down: a p-value may not be adjusted below that of a smaller one, or a test would be rejected after one
    # before it was not.
    steps_M = np.minimum(1.0, np.maximum.accumulate(p_M[order_M] * np.arange(len(p_M), 0, -1)))
    adjusted_M = np.empty_like(p_M)
    adjusted_M[order_M] = steps_M
    return adjusted_M


def paired_holm(
    differences: Mapping[str, FloatArray],
    *,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Tested]:
    """Tests the means of several paired differences against 0 by the bootstrap, with Holm's correction.

    The p-value is that of the percentile interval: twice the smaller share of bootstrap means on one side of 0, one
    more counted on each side (Davison & Hinkley 1997, section 4.2). From the smallest p on, an interval of level
    1 - alpha / m, then 1 - alpha / (m - 1) and so on must exclude 0; where one does not, the rest keep its level.

    Args:
        differences: by name, one value a row (B,).
        users: the user of each row, as in `bootstrap_interval`.
        samples: bootstrap samples; at least 200 a difference are drawn, since corrected levels lie far out.
        level: 1 - alpha, two-sided.
        seed: run seed.

    Raises:
        RequestError: nothing to test, or as `bootstrap_interval`.
    """
    if not differences:
        raise RequestError("There is no difference to test; name one or more.")
    # The tail at level alpha / m must hold several samples, or the corrected interval ends at the extreme of all.
    samples = max(samples, 200 * len(differences))
    values = {name: _checked(row_B, name) for name, row_B in differences.items()}
    means = {
        name: resampled_means((row_B,), users, samples, numpy_stream(seed, "bootstrap", name))[:, 0]
        for name, row_B in values.items()
    }
    p_M = np.array([_two_sided(means_S) for means_S in means.values()])
    adjusted_M, names = holm(p_M), list(values)
    found: dict[str, Tested] = {}
    left, going_on = len(names), True
    for row in np.argsort(p_M, kind="stable").tolist():
        mean, means_S = float(values[names[row]].mean()), means[names[row]]
        # In Holm's order: each rejection leaves one test fewer to share alpha with; from the first that is not
        # rejected on, all keep that level.
        corrected = _percentiles(mean, means_S, 1 - (1 - level) / left)
        going_on = going_on and (corrected.above_zero or corrected.below_zero)
        left = max(1, left - 1) if going_on else left
        found[names[row]] = Tested(
            _percentiles(mean, means_S, level), corrected, float(p_M[row]), float(adjusted_M[row])
        )
    return {name: found[name] for name in names}


def simultaneous(
    means_K: Sequence[float] | FloatArray, draws_KS: FloatArray, *, level: float = 0.95
) -> list[Interval]:
    """Intervals of K correlated means that hold all at once with probability `level` (max-T).

    With se_k the standard deviation of the k-th mean over bootstrap samples that are the same for all of them, and
    c the `level` quantile over samples of max_k |mean*_k - average of mean*_k| / se_k,

        mean_k -+ c se_k   for all k

    (Romano and Wolf 2005, "Exact and Approximate Stepdown Methods for Multiple Hypothesis Testing"; the first step).
    Means that vary together cost less than Bonferroni's K tests: c lies between 1.96, where they are one and the
    same, and Bonferroni's quantile, where they are independent. A mean without any spread has an interval of width 0.

    Args:
        means_K: the K means.
        draws_KS: the same means in S samples, (K, S), sample by sample.
        level: of all together.

    Raises:
        RequestError: no mean, or draws that do not fit.
    """
    apart_KS, error_K = _apart(means_K, draws_KS)
    reach = _reach(np.abs(apart_KS), error_K, level)
    return [
        Interval(float(mean), float(mean - reach * error), float(mean + reach * error), level)
        for mean, error in zip(means_K, error_K, strict=True)
    ]


def simultaneous_lower(
    means_K: Sequence[float] | FloatArray, draws_KS: FloatArray, *, level: float = 0.95
) -> FloatArray:
    """One-sided lower limits of K correlated means that hold all at once with probability `level`, (K,).

    As `simultaneous`, with c the quantile of max_k (average of mean*_k - mean*_k) / se_k, and mean_k - c se_k for all
    k: between 1.64 standard errors, where all means are one and the same, and the quantile of K independent ones.

    Args:
        means_K: the K means.
        draws_KS: the same means in S samples, (K, S), sample by sample.
        level: of all together.

    Raises:
        RequestError: no mean, or draws that do not fit.
    """
    apart_KS, error_K = _apart(means_K, draws_KS)
    lower_K: FloatArray = np.asarray(means_K, dtype=np.float64) - _reach(-apart_KS, error_K, level) * error_K
    return lower_K


def _apart(means_K: Sequence[float] | FloatArray, draws_KS: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Draws less their average, (K, S), and their standard deviation, (K,)."""
    draws_KS = np.asarray(draws_KS, dtype=np.float64)
    if draws_KS.ndim != 2 or len(draws_KS) != len(means_K) or draws_KS.shape[1] < 2:
        raise RequestError(f"{len(means_K)} means need draws of shape ({len(means_K)}, S), not {draws_KS.shape}.")
    return draws_KS - draws_KS.mean(axis=1, keepdims=True), draws_KS.std(axis=1, ddof=1)


def _reach(apart_KS: FloatArray, error_K: FloatArray, level: float) -> float:
    """How many standard errors the farthest of the K means strays in a share `level` of the samples."""
    moved_K = error_K > 0
    if not moved_K.any():
        return 0.0
    return float(np.quantile((apart_KS[moved_K] / error_K[moved_K, None]).max(axis=0), level))


def corrected_marks(
    table: Comparison,
    values: Mapping[str, Mapping[str, FloatArray | float]],
    *,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """The same table with its marks (▲ ▼) after Holm's correction over all its differences to the reference.

    Args:
        table: made by `Comparison.of` with a reference.
        values: what it was made of: by system and metric, arrays (B,) over the same rows.
        users: the user of each row, as in `Comparison.of`.
        samples: bootstrap samples, as in `paired_holm`.
        level: 1 - alpha of all marks together.
        seed: run seed.

    Raises:
        RequestError: a table without a reference or without differences, or values of other systems.
    """
    if table.reference is None or set(values) != set(table.systems):
        raise RequestError("Marks need a table with a reference, and the values of just its systems.")
    base = values[table.reference]
    differences = {
        (system, metric): np.asarray(value) - np.asarray(base[metric])
        for system, row in values.items()
        for metric, value in row.items()
        if system != table.reference and isinstance(value, np.ndarray) and isinstance(base.get(metric), np.ndarray)
    }
    named = {f"{system}\x1f{metric}": values_B for (system, metric), values_B in differences.items()}
    tested = paired_holm(named, users=users, samples=samples, level=level, seed=seed)
    cells = {system: dict(row) for system, row in table.cells.items()}
    for (system, metric), found in zip(differences, tested.values(), strict=True):
        cells[system][metric] = replace(cells[system][metric], difference=found.corrected)
    note = f"Marks are corrected for {len(tested)} comparisons (Holm)."
    return replace(table, cells=cells, note=f"{table.note} {note}".strip())


def _two_sided(means_S: FloatArray) -> float:
    # The test that inverts the percentile interval; one more on both sides keeps p above 0, which no finite number of
    # samples shows.
    side = min(int((means_S <= 0).sum()), int((means_S >= 0).sum()))
    return min(1.0, 2.0 * (1 + side) / (1 + len(means_S)))


def _percentiles(mean: float, means_S: FloatArray, level: float) -> Interval:
    low, high = np.quantile(means_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), level)


def _checked(values_B: FloatArray, name: str) -> FloatArray:
    array_B = np.asarray(values_B, dtype=np.float64)
    if array_B.ndim != 1 or not array_B.size or not np.isfinite(array_B).all():
        raise RequestError(f"The difference {name!r} needs a finite number in every row, and one row or more.")
    return array_B
