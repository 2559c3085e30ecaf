"""Intervals of estimates that are ratios of sums over independent users, and of differences of two such estimates.

Every estimator here is V = sum of over / sum of under: IPS and DR with under = 1 a row, SNIPS with under = w. With
A_u and B_u summed over the rows of user u (a row where no users are given), V deviates from the truth like the mean
of psi_u = (A_u - V B_u) / mean(B): the delta method, which is the linearisation of survey sampling (Woodruff 1971).

`student`: V -+ t(n - 1) s(psi) / sqrt(n). `bootstrap-t` (Efron 1982; Hall 1988): quantiles of the studentised V over
bootstrap samples of users instead of Student's, which follows the skewness of heavy weights. `percentile`: quantiles
of V over bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from llmrec.errors import RequestError
from llmrec.evaluation.significance import Interval, unit_codes
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray

Method = Literal["student", "bootstrap-t", "percentile"]
CELLS = 4_000_000
"""Numbers drawn at a time: bounds the memory of a bootstrap."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """An estimate as sum of over_M / sum of under_M, both (M,): one number a row."""

    over_M: FloatArray
    under_M: FloatArray

    @classmethod
    def mean(cls, values_M: FloatArray) -> Ratio:
        """The mean of `values_M`, which as a ratio holds for users of unequal numbers of rows too."""
        return cls(values_M, np.ones(len(values_M)))

    @property
    def value(self) -> float:
        """The estimate."""
        return float(self.over_M.sum() / self.under_M.sum())


def ratio_interval(
    one: Ratio,
    other: Ratio | None = None,
    *,
    users: Sequence[object] | None = None,
    method: Method = "student",
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The interval of `one`, or of `one` minus `other` measured on the same rows.

    Args:
        one: an estimate.
        other: the estimate to take off, paired row by row.
        users: user of each row; whole users are the independent units.
        method: see the module.
        level: two-sided confidence.
        samples: bootstrap samples.
        seed: run seed.

    Raises:
        RequestError: rows that do not fit, a sum below the line that is not above 0, or fewer than two users.
    """
    pairs = (one,) if other is None else (one, other)
    columns = [column for pair in pairs for column in (pair.over_M, pair.under_M)]
    table_UC = _user_sums(columns, users)
    sign_R = np.array([1.0, -1.0])[: len(pairs)]
    ratio_R = table_UC[:, ::2].sum(axis=0) / table_UC[:, 1::2].sum(axis=0)
    value = float(ratio_R @ sign_R)
    table_UC[:, ::2] -= ratio_R * table_UC[:, 1::2]  # deviations: a large constant in the rewards costs no digits
    # psi_u is linear in the users' sums, so its variance is a quadratic form of the columns' second moments, the same
    # for one resample or a thousand.
    error = float(_deviations(table_UC, sign_R, np.ones((1, len(table_UC))))[1][0])
    if method == "student":
        half = float(stdtrit(len(table_UC) - 1, (1 + level) / 2)) * error
        return Interval(value, value - half, value + half, level)
    away_S, errors_S = _bootstrap(table_UC, sign_R, samples, seed)
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "percentile":
        low, high = value + np.quantile(away_S, ends)
        return Interval(value, float(low), float(high), level)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Bootstrap-t: the studentised deviation is nearly pivotal, so its quantiles carry over from the sample to the
        # truth to higher order (Hall 1988).
        t_S = away_S / errors_S
    # samples that did not move and have no spread are no deviation; the others' infinity stays
    # The quantiles change places: V* above V in the bootstrap world means V above the truth, hence a lower end.
    t_low, t_high = np.quantile(np.where(np.isnan(t_S), 0.0, t_S), ends, method="nearest")
    return Interval(value, value - float(t_high) * error, value - float(t_low) * error, level)


def _user_sums(columns: Sequence[FloatArray], users: Sequence[object] | None) -> FloatArray:
    """Sums of C columns (M,) over the rows of each user: (U, C)."""
    sizes = {column.shape for column in columns}
    if len(sizes) != 1 or columns[0].ndim != 1:
        raise RequestError(f"Columns of an estimate must have one number a row, but their shapes are {sizes}.")
    table_MC = np.column_stack(columns)
    if not np.isfinite(table_MC).all():
        row = int(np.argmin(np.isfinite(table_MC).all(axis=1)))
        raise RequestError(f"Row {row} of an estimate is not a finite number; mend its weight or reward.")
    table_UC = table_MC if users is None else _grouped(table_MC, users)
    if len(table_UC) < 2:
        raise RequestError(f"An interval needs at least two users (or rows), but there is {len(table_UC)}.")
    if (table_UC[:, 1::2].sum(axis=0) <= 0).any():
        raise RequestError("The policy shows nothing of what was logged, so the log cannot value it.")
    return table_UC


def _grouped(table_MC: FloatArray, users: Sequence[object]) -> FloatArray:
    if len(users) != len(table_MC):
        raise RequestError(f"{len(table_MC)} rows need {len(table_MC)} users, but {len(users)} were given.")
    unit_M = unit_codes(users)
    # Rows of one user add up to one unit: only users are independent, and a user with many rows is one draw.
    return np.column_stack([np.bincount(unit_M, table_MC[:, c]) for c in range(table_MC.shape[1])])


def _deviations(table_UC: FloatArray, sign_R: FloatArray, count_SU: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The estimate less its value on all users, and its standard error, each (S,).

    User u counts count_SU[s, u] times; `table_UC` holds (A_u - V B_u, B_u) for each ratio. A sample that drew no
    weight at all has the estimate nan.
    """
    users, width = table_UC.shape
    ones, others = np.triu_indices(width)
    sums_SX = count_SU @ np.column_stack([table_UC, table_UC[:, ones] * table_UC[:, others]])
    mean_SC = sums_SX[:, :width] / users
    gram_SCC = np.empty((len(count_SU), width, width))
    gram_SCC[:, ones, others] = gram_SCC[:, others, ones] = sums_SX[:, width:] / users
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_SR = mean_SC[:, ::2] / mean_SC[:, 1::2]
        slope_SC = np.empty_like(mean_SC)
        # The gradient of the ratio mean(A) / mean(B): 1 / mean(B) in A and -V / mean(B) in B.
        slope_SC[:, ::2] = sign_R / mean_SC[:, 1::2]
        slope_SC[:, 1::2] = -sign_R * ratio_SR / mean_SC[:, 1::2]
        spread_S = np.einsum("sc,scd,sd->s", slope_SC, gram_SCC, slope_SC)
        error_S: FloatArray = np.sqrt(np.maximum(spread_S, 0.0) / (users - 1))
    return ratio_SR @ sign_R, error_S


def _bootstrap(table_UC: FloatArray, sign_R: FloatArray, samples: int, seed: int) -> tuple[FloatArray, FloatArray]:
    found = [_deviations(table_UC, sign_R, count_SU) for count_SU in _counts(len(table_UC), samples, seed)]
    away_S, errors_S = (np.concatenate(part) for part in zip(*found, strict=True))
    kept_S = np.isfinite(away_S)
    return away_S[kept_S], errors_S[kept_S]


def _counts(users: int, samples: int, seed: int) -> Iterator[FloatArray]:
    """How often each user is in each bootstrap sample, a few samples at a time: (s, U)."""
    rng = numpy_stream(seed, "bootstrap", "off-policy", "ratio")
    chunk = max(1, CELLS // users)
    for start in range(0, samples, chunk):
        size = min(chunk, samples - start)
        # Counts per sample by one bincount: sample s has the codes s U .. (s + 1) U - 1.
        drawn_SU: IntArray = rng.integers(users, size=(size, users)) + users * np.arange(size)[:, None]
        yield np.bincount(drawn_SU.ravel(), minlength=size * users).reshape(size, users).astype(np.float64)
