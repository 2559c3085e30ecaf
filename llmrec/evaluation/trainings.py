"""Intervals of what is to be expected of a training: over users and over trainings (seeds) together.

Row b of training s has the figure x_sb. With S trainings on the same rows of U users the mean is taken for the figure
of the next training on the next users, so both are drawn:

    V = V_users + V_trainings,    V_users = d^2 / U,    V_trainings = var_s(mean_b x_sb) / S

with d the standard deviation by user of the trainings' mean row (`significance.user_deviation`) and var_s the sample
variance over trainings (S - 1). What one training finds by luck in some user's rows stands in both, so V errs on the
wide side. The interval is mean +- t sqrt(V), t the quantile of Student's distribution with the degrees of freedom
V^2 / (V_users^2 / (U - 1) + V_trainings^2 / (S - 1)) (Satterthwaite 1946): with three trainings it is far from the
normal one as soon as they differ by more than users do. Of a system that does not depend on chance S is 1 and
V_trainings 0. Where a system that does has been trained once, nothing is known of the next training, and the interval
is over users alone.

Differences of two systems are taken row by row and training by training: seeds in common, as those of a policy and
what was trained on top of it, are then no noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from llmrec.errors import RequestError
from llmrec.evaluation.multiple import holm
from llmrec.evaluation.significance import Interval, RelativeBound, user_deviation
from llmrec.evaluation.table import Cell, Comparison
from llmrec.types import FloatArray


@dataclass(frozen=True, slots=True)
class TrainingSpread:
    """A mean over trainings and rows.

    Attributes:
        mean: of all x_sb.
        users: V_users.
        trainings: V_trainings.
        degrees: Satterthwaite's degrees of freedom.
    """

    mean: float
    users: float
    trainings: float
    degrees: float

    @property
    def error(self) -> float:
        """Standard error, sqrt(V)."""
        return float(np.sqrt(self.users + self.trainings))

    def interval(self, level: float = 0.95) -> Interval:
        """Two-sided."""
        half = float(stats.t.ppf((1 + level) / 2, self.degrees)) * self.error
        return Interval(self.mean, self.mean - half, self.mean + half, level)

    def lower(self, level: float = 0.95) -> float:
        """One-sided lower bound."""
        return self.mean - float(stats.t.ppf(level, self.degrees)) * self.error

    @property
    def p_value(self) -> float:
        """Two-sided, of a mean of 0; 1 where nothing varies and the mean is 0."""
        if self.error == 0.0:
            return float(self.mean == 0.0)
        return float(2.0 * stats.t.sf(abs(self.mean) / self.error, self.degrees))


def spread(values_SB: FloatArray, users: Sequence[object] | None = None) -> TrainingSpread:
    """The mean of `values_SB` and how far it may be off.

    Args:
        values_SB: figure of each training and row, (S, B).
        users: the user of each row; without them each row is one.

    Raises:
        RequestError: another shape, fewer than two users, or a value that is not finite.
    """
    values_SB = np.asarray(values_SB, dtype=np.float64)
    if values_SB.ndim != 2 or not values_SB.size:
        raise RequestError(f"Trainings need figures of shape (trainings, rows), not {values_SB.shape}.")
    n_trainings, n_users = len(values_SB), values_SB.shape[1] if users is None else len(set(users))
    # The spread over users of the mean training: one training's own luck with a user is averaged over S trainings
    # first.
    of_users = user_deviation(values_SB.mean(axis=0), users) ** 2 / n_users
    of_trainings = float(values_SB.mean(axis=1).var(ddof=1)) / n_trainings if n_trainings > 1 else 0.0
    # Satterthwaite: the sum of two independent variance estimates is treated as chi-square with the degrees of
    # freedom that match its own variance.
    parts = of_users**2 / (n_users - 1) + (of_trainings**2 / (n_trainings - 1) if n_trainings > 1 else 0.0)
    # Where nothing varies at all any number of degrees gives the same interval of length 0.
    degrees = (of_users + of_trainings) ** 2 / parts if parts > 0 else float(n_users - 1)
    return TrainingSpread(float(values_SB.mean()), of_users, of_trainings, degrees)


def paired(a_SB: FloatArray, b_SB: FloatArray) -> FloatArray:
    """a - b training by training, (S, B); a system with one training is held against each of the other's.

    Raises:
        RequestError: rows, or numbers of trainings above one, that do not fit.
    """
    if a_SB.shape[1] != b_SB.shape[1] or (len(a_SB) != len(b_SB) and 1 not in (len(a_SB), len(b_SB))):
        raise RequestError(f"Figures of shape {a_SB.shape} and {b_SB.shape} cannot be paired; measure the same rows.")
    # Broadcasting pairs a system that was made once with every training of the other.
    return a_SB - b_SB


def relative_bound(
    a_SB: FloatArray, b_SB: FloatArray, *, users: Sequence[object] | None = None, level: float = 0.95
) -> RelativeBound:
    """mean(a) / mean(b) - 1 with its one-sided lower bound, to first order in both means (delta method).

    Raises:
        RequestError: as `paired`, or a mean of b that is not above 0.
    """
    base = float(b_SB.mean())
    if base <= 0:
        raise RequestError(f"A relative difference needs a reference above 0, but its mean is {base:.4g}.")
    ratio = float(a_SB.mean()) / base
    # d(a / b) = (da - (a / b) db) / b: the ratio's deviation as a mean over rows.
    found = spread(paired(a_SB, ratio * b_SB) / base, users)
    return RelativeBound(ratio - 1.0, ratio - 1.0 + found.lower(level) - found.mean, level)


def compare_trainings(
    title: str,
    values: Mapping[str, Mapping[str, FloatArray | float]],
    *,
    reference: str | None = None,
    users: Sequence[object] | None = None,
    **options: Any,
) -> Comparison:
    """A table whose intervals are over users and trainings, with marks before and after Holm's correction.

    The corrected p-values are of all systems of one column together: each column asks its own question.

    Args:
        title: see `Comparison`.
        values: by system and metric; figures (S, B) of all systems are over the same rows.
        reference: system that the others are compared with.
        users: user of each row.
        options: percent, lower_is_better, note, labels.

    Raises:
        RequestError: the reference is not among the systems, or rows that do not fit.
    """
    if reference is not None and reference not in values:
        raise RequestError(f"The reference {reference!r} is not among the systems {', '.join(values)}.")
    cells = {system: {m: _cell(value, users) for m, value in row.items()} for system, row in values.items()}
    base = {} if reference is None else values[reference]
    for metric, base_SB in base.items():
        if not isinstance(base_SB, np.ndarray):
            continue
        apart = {
            system: spread(paired(own_SB, base_SB), users)
            for system, row in values.items()
            if system != reference and isinstance(own_SB := row.get(metric), np.ndarray)
        }
        adjusted = holm([found.p_value for found in apart.values()]) if apart else ()
        for (system, found), p_value in zip(apart.items(), adjusted, strict=True):
            cell = cells[system][metric]
            cells[system][metric] = replace(cell, difference=found.interval(), adjusted=float(p_value))
    return Comparison(title, cells, reference, **options)


def _cell(value: FloatArray | float, users: Sequence[object] | None) -> Cell:
    if not isinstance(value, np.ndarray):
        return Cell(float(value))
    found = spread(value, users)
    return Cell(found.mean, found.interval())
