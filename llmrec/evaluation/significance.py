"""Intervals for means and paired differences: bootstrap over rows or users, and Student's t over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy import stats

from llmrec.errors import RequestError
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray

CELLS = 4_000_000
"""Numbers gathered at a time: bounds the memory of a bootstrap at some 64 MB."""
ROUNDING = 1e-6
"""Share of a figure below which a difference is rounding: equal slates in another order differ by that of float32."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its two-sided confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    level: float = 0.95

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above 0: a significant gain."""
        return self.low > 0.0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval lies below 0: a significant loss."""
        return self.high < 0.0

    def mark(self, figure: float) -> Literal["▲", "▼", ""]:
        """What this difference says of a system whose own figure is `figure`.

        "▲" where it is significantly above the other system, "▼" for below, else nothing; an interval that excludes 0
        by no more than the rounding of the figure says nothing.
        """
        # Two runs of one policy may order equal slates differently: sums of float32 then differ in the last digits,
        # for every user alike, and an interval would exclude 0 by them.
        rounding = ROUNDING * abs(figure)
        return "▲" if self.low > rounding else "▼" if self.high < -rounding else ""


@dataclass(frozen=True, slots=True)
class RelativeBound:
    """mean(a) / mean(b) - 1 and its one-sided lower confidence bound."""

    relative: float
    low: float
    level: float = 0.95

    def not_inferior(self, margin: float) -> bool:
        """Whether a is shown to lose less than `margin` (0.03 is 3%) of b."""
        return self.low > -margin


def bootstrap_interval(
    values_B: FloatArray,
    *,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    name: Sequence[object] = (),
    replicas_RB: FloatArray | None = None,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of the mean of `values_B`.

    Args:
        values_B: one value a row.
        users: the user of each row; given, whole users are drawn and not rows (rows of one user are not independent).
        samples: bootstrap samples.
        level: two-sided confidence.
        seed: run seed.
        name: further parts of the random stream's name.
        replicas_RB: the same rows as each of R replicates of what measures them says, (R, B). The interval then holds
            the error of the measure beside the chance of who was met, see `bootstrap_means`.

    Raises:
        RequestError: no row, a value that is not finite, or users or replicas that do not fit.
    """
    values_B = _finite(values_B, "values")
    # The percentile interval needs no assumption on the shape of heavy-tailed values; with few users it is a little
    # too narrow, as the sample's spread is.
    means_S = bootstrap_means(values_B, replicas_RB, users=users, samples=samples, seed=seed, name=name)
    low, high = np.quantile(means_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values_B.mean()), float(low), float(high), level)


def bootstrap_means(
    values_B: FloatArray,
    replicas_RB: FloatArray | None = None,
    *,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    seed: int = 0,
    name: Sequence[object] = (),
) -> FloatArray:
    """Means over S bootstrap samples of the users, (S,).

    With replicas both sources of chance are drawn in one sample: sample s draws the users who are met, and takes the
    figures of replicate s modulo R, a model that was fitted on a sample of *its* users. Those who are met and those
    whom the model learnt from are different people, so the two are drawn independently, and the variance of the means
    is that over the users met plus that over the replicates.

    Raises:
        RequestError: as `bootstrap_interval`.
    """
    random = numpy_stream(seed, "bootstrap", *name)
    if replicas_RB is None:
        return np.asarray(resampled_means((_finite(values_B, "values"),), users, samples, random)[:, 0])
    replicas_RB = np.asarray(replicas_RB, dtype=np.float64)
    if replicas_RB.ndim != 2 or replicas_RB.shape[1] != len(values_B) or not np.isfinite(replicas_RB).all():
        raise RequestError(
            f"Replicas of {len(values_B)} rows are finite numbers of shape (R, {len(values_B)}), not "
            f"{replicas_RB.shape}."
        )
    table_UX = _unit_sums(tuple(replicas_RB), users)
    units, number = len(table_UX), len(replicas_RB)
    means_S, chunk = np.empty(samples), max(1, CELLS // units)
    for start in range(0, samples, chunk):
        size = min(chunk, samples - start)
        drawn_SU = random.integers(units, size=(size, units))
        drawn_SU += units * np.arange(size)[:, None]
        times_SU = np.bincount(drawn_SU.ravel(), minlength=size * units).reshape(size, units)
        which_S = (start + np.arange(size)) % number
        sums_S = np.einsum("su,us->s", times_SU, table_UX[:, which_S], optimize=True)
        means_S[start : start + size] = sums_S / (times_SU @ table_UX[:, -1])
    return means_S


def paired_bootstrap(
    a_B: FloatArray,
    b_B: FloatArray,
    *,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    name: Sequence[object] = (),
    replicas: tuple[FloatArray, FloatArray] | None = None,
) -> Interval:
    """Percentile bootstrap interval of mean(a - b), both measured on the same rows; arguments as above.

    `replicas` are those of a and b, each (R, B), replicate by replicate of one and the same model.
    """
    a_B, b_B = _pair(a_B, b_B)
    # The difference of each row is resampled: what both systems find hard in a user cancels within the row, and what
    # a replicate believes of an item cancels where both show it.
    apart_RB = None if replicas is None else paired_replicas(*replicas)
    draw: dict[str, Any] = {"samples": samples, "level": level, "seed": seed, "name": name, "replicas_RB": apart_RB}
    return bootstrap_interval(a_B - b_B, users=users, **draw)


def paired_replicas(a_RB: FloatArray, b_RB: FloatArray) -> FloatArray:
    """Differences within replicate and row, (R, B).

    Raises:
        RequestError: replicas of different shapes.
    """
    if np.shape(a_RB) != np.shape(b_RB):
        raise RequestError(f"Paired replicas have one shape, not {np.shape(a_RB)} and {np.shape(b_RB)}.")
    return np.asarray(a_RB, dtype=np.float64) - np.asarray(b_RB, dtype=np.float64)


def noninferiority_bound(
    a_B: FloatArray,
    b_B: FloatArray,
    *,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    name: Sequence[object] = (),
) -> RelativeBound:
    """One-sided lower bound of the relative difference mean(a) / mean(b) - 1 on the same rows.

    Raises:
        RequestError: as `bootstrap_interval`, or mean(b) not above 0 (then nothing is relative to it).
    """
    a_B, b_B = _pair(a_B, b_B)
    relative_S = relative_draws(a_B, b_B, users=users, samples=samples, seed=seed, name=name)
    # A resample in which the reference earns nothing has no ratio; it says nothing of how the two compare.
    low = float(np.nanquantile(relative_S, 1.0 - level))
    return RelativeBound(float(a_B.mean() / b_B.mean() - 1.0), low, level)


def relative_draws(
    a_B: FloatArray,
    b_B: FloatArray,
    *,
    users: Sequence[object] | None = None,
    samples: int = 1000,
    seed: int = 0,
    name: Sequence[object] = (),
) -> FloatArray:
    """mean(a) / mean(b) - 1 in S bootstrap samples, the same for all pairs of the same rows, (S,).

    NaN where b earns nothing in a sample. Arguments as `bootstrap_interval`.

    Raises:
        RequestError: as `noninferiority_bound`.
    """
    a_B, b_B = _pair(a_B, b_B)
    if b_B.mean() <= 0:
        raise RequestError(f"A relative difference needs a reference above 0, but its mean is {b_B.mean():.4g}.")
    means_S2 = resampled_means((a_B, b_B), users, samples, numpy_stream(seed, "bootstrap", *name))
    relative_S = np.full(len(means_S2), np.nan)
    np.divide(means_S2[:, 0], means_S2[:, 1], out=relative_S, where=means_S2[:, 1] > 0)
    return relative_S - 1.0


def t_interval(values: Sequence[float] | FloatArray, *, level: float = 0.95) -> Interval:
    """Student's t interval of the mean of a few independent values, one a seed.

    Raises:
        RequestError: fewer than two values, or one that is not finite.
    """
    array = _finite(np.asarray(values, dtype=np.float64), "values")
    if len(array) < 2:
        raise RequestError("A t interval needs at least two values; run more seeds.")
    # A handful of seeds: their bootstrap would have few distinct samples, Student's distribution knows how uncertain
    # the spread itself is.
    mean, error = float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array)))
    half = float(stats.t.ppf((1 + level) / 2, len(array) - 1)) * error
    return Interval(mean, mean - half, mean + half, level)


def wilson_bounds(rate_J: FloatArray, count_J: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Wilson's 95% score interval (1927) of rates over counts, both (J,)."""
    z2 = 1.96**2
    centre = (rate_J + z2 / (2 * count_J)) / (1 + z2 / count_J)
    half = np.sqrt(rate_J * (1 - rate_J) * z2 / count_J + z2**2 / (4 * count_J**2)) / (1 + z2 / count_J)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def user_deviation(values_B: FloatArray, users: Sequence[object] | None = None) -> float:
    """Standard deviation by user: that of the mean of `values_B` is this over the root of the number of users.

    With one row a user it is the sample standard deviation. With several, rows of one user vary together, and the
    number of rows may differ: the mean is a ratio of sums, whose deviation is taken to first order (delta method).

    Raises:
        RequestError: fewer than two users, or as `bootstrap_interval`.
    """
    table_U2 = _unit_sums((_finite(values_B, "values"),), users)
    number = len(table_U2)
    if number < 2:
        raise RequestError("A standard deviation needs at least two users; meet more of them.")
    sum_U, count_U = table_U2.T
    # Residuals of the users' sums, s_u - (mean) n_u: the variance of a ratio of sums to first order, which with one
    # row a user is the sample variance.
    rest_U = sum_U - sum_U.sum() / count_U.sum() * count_U
    return float(np.sqrt((rest_U**2).sum() / (number - 1)) * number / count_U.sum())


def linearised(numerator_B: FloatArray, denominator_B: FloatArray) -> FloatArray:
    """A ratio of sums as a mean over rows: R + (x - R y) / mean(y) with R = sum(x) / sum(y), shape (B,).

    The mean is R exactly and its variance that of the delta method (Deng et al. 2018, "Applying the Delta Method in
    Metric Analytics"), so a rate per impression can be treated like any mean over users. All 0 where sum(y) is 0.

    Raises:
        RequestError: rows that do not fit, or that are not finite.
    """
    x_B, y_B = _pair(numerator_B, denominator_B)
    if y_B.sum() == 0:
        return np.zeros_like(x_B)
    ratio = x_B.sum() / y_B.sum()
    # The residuals x - R y add up to 0, so the mean of these rows is R itself.
    linear_B: FloatArray = ratio + (x_B - ratio * y_B) / y_B.mean()
    return linear_B


class UserFigures:
    """Measures of a system user by user, with intervals over users; rows of one user are clustered.

    Attributes:
        users_B: names the user of each row.
    """

    __slots__ = ()
    users_B: tuple[str, ...]

    @property
    def per_user(self) -> dict[str, FloatArray]:
        """The measures by their names in tables and JSON, each (B,)."""
        raise TypeError(f"{type(self).__name__} must say what it measures.")

    @property
    def replicas(self) -> dict[str, FloatArray]:
        """By measure what each replicate of who measures says, (R, B); empty where nothing is known of its error."""
        return {}

    @property
    def means(self) -> dict[str, float]:
        """Mean over users of each measure."""
        return {name: float(values_B.mean()) for name, values_B in self.per_user.items()}

    def intervals(self, *, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """Bootstrap interval over users of each measure."""
        return {
            name: bootstrap_interval(
                values_B, users=self.users_B, samples=samples, seed=seed, replicas_RB=self.replicas.get(name)
            )
            for name, values_B in self.per_user.items()
        }

    def minus(self, other: Self, *, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """Paired interval over users of this system minus `other`, met by the same users in the same order."""
        if self.users_B != other.users_B:
            raise RequestError("A paired comparison needs the same users in the same order for both systems.")
        mine, theirs = self.replicas, other.replicas
        return {
            name: paired_bootstrap(
                values,
                other.per_user[name],
                users=self.users_B,
                samples=samples,
                seed=seed,
                replicas=(mine[name], theirs[name]) if name in mine and name in theirs else None,
            )
            for name, values in self.per_user.items()
        }


def _finite(values: FloatArray, what: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise RequestError(f"An interval needs at least one row of {what}, but their shape is {array.shape}.")
    if not np.isfinite(array).all():
        raise RequestError(f"Row {int(np.argmin(np.isfinite(array)))} of the {what} is not a finite number.")
    return array


def _pair(a_B: FloatArray, b_B: FloatArray) -> tuple[FloatArray, FloatArray]:
    a_B, b_B = _finite(a_B, "first system"), _finite(b_B, "second system")
    if a_B.shape != b_B.shape:
        raise RequestError(f"Paired systems need the same rows, but they have {len(a_B)} and {len(b_B)}.")
    return a_B, b_B


def unit_codes(users: Sequence[object]) -> IntArray:
    """Users numbered from 0 in the order in which they appear, (B,)."""
    codes: dict[object, int] = {}
    return np.array([codes.setdefault(user, len(codes)) for user in users], dtype=np.int64)


def resampled_means(
    columns: Sequence[FloatArray],
    users: Sequence[object] | None,
    samples: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Means of C columns (B,) over bootstrap samples of rows, or of users with all their rows: (samples, C)."""
    table_UC = _unit_sums(columns, users)
    units = len(table_UC)
    chunk = max(1, CELLS // table_UC.size)
    sums = []
    for start in range(0, samples, chunk):
        # Whole users are drawn, with all their rows: rows of one user are not independent, and the number of rows a
        # user brings is part of the chance.
        drawn_SU = rng.integers(units, size=(min(chunk, samples - start), units))
        sums.append(table_UC[drawn_SU].sum(axis=1))
    sums_SC = np.concatenate(sums)
    # The last column counts rows, so each sample's mean is over the rows that it happens to hold.
    means_SC: FloatArray = sums_SC[:, :-1] / sums_SC[:, -1:]
    return means_SC


def _unit_sums(columns: Sequence[FloatArray], users: Sequence[object] | None) -> FloatArray:
    """Sum of each column and number of rows (last column) of each unit that is drawn."""
    table_BC = np.column_stack([*columns, np.ones(len(columns[0]))])
    if users is None:
        return table_BC
    if len(users) != len(table_BC):
        raise RequestError(f"{len(table_BC)} rows need {len(table_BC)} users, but {len(users)} were given.")
    unit_B = unit_codes(users)
    table_UC = np.zeros((int(unit_B.max()) + 1, table_BC.shape[1]))
    np.add.at(table_UC, unit_B, table_BC)
    return table_UC
