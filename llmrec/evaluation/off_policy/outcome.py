"""What an item would have earned in a state, learnt from the log: the model part of the direct method and of DR.

A model never predicts rows of users that it was fitted on (cross-fitting, Chernozhukov et al. 2018): then DR is
unbiased whatever the model is, and its rows stay independent given the other folds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from llmrec.errors import RequestError
from llmrec.evaluation.off_policy.log import BanditLog
from llmrec.evaluation.significance import unit_codes
from llmrec.folds import unit_folds
from llmrec.types import FloatArray, IntArray

WIDEST = 4000
"""Columns of a design beyond which a fit by normal equations takes too long."""
ALPHAS = 10.0 ** np.arange(-2.0, 5.5, 0.5)


class OutcomeModel(Protocol):
    """Expected reward of every item in a logged state."""

    def fit(self, log: BanditLog, rows: IntArray) -> OutcomeModel:
        """A model fitted on these rows of the log only."""
        ...

    def predict(self, log: BanditLog, rows: IntArray) -> FloatArray:
        """q(state, item) for these rows and all items: (R, N)."""
        ...


@dataclass(frozen=True)
class TableOutcome:
    """Predictions made elsewhere (a simulator, a model of other data), q (M, N); nothing is fitted."""

    q_MN: FloatArray

    def fit(self, log: BanditLog, rows: IntArray) -> TableOutcome:
        """Itself."""
        if self.q_MN.shape != (len(log), log.n_items) or not np.isfinite(self.q_MN).all():
            raise RequestError(f"The outcomes must be {len(log)} by {log.n_items} finite numbers.")
        return self

    def predict(self, log: BanditLog, rows: IntArray) -> FloatArray:
        """The given numbers."""
        return self.q_MN[rows]


@dataclass(frozen=True)
class _Design:
    """[x, z_a, one column an item, x (outer) z_a] of standardised state numbers x and item numbers z."""

    middle_F: FloatArray
    scale_F: FloatArray
    items_NZ: FloatArray
    described: int

    @classmethod
    def of(cls, log: BanditLog, rows: IntArray, intercepts: bool) -> _Design:
        states_RF = np.empty((len(rows), 0)) if log.states_MF is None else log.states_MF[rows]
        described_ND = np.empty((log.n_items, 0)) if log.items_ND is None else _standard(log.items_ND)
        features, described = states_RF.shape[1], described_ND.shape[1]
        width = features * (1 + described) + described + log.n_items * intercepts
        if width > WIDEST:
            raise RequestError(
                f"The outcome model would have {width} columns, more than {WIDEST}; describe the items by fewer "
                "numbers (items_ND) and give intercepts=False."
            )
        # An intercept an item, shrunk like every slope: an item seldom shown stays near what its description says.
        own_NN = np.eye(log.n_items) if intercepts else np.empty((log.n_items, 0))
        return cls(states_RF.mean(axis=0), _scale(states_RF), np.column_stack([described_ND, own_NN]), described)

    def states(self, log: BanditLog, rows: IntArray) -> FloatArray:
        if log.states_MF is None:
            return np.empty((len(rows), 0))
        found: FloatArray = (log.states_MF[rows] - self.middle_F) / self.scale_F
        return found

    def logged(self, log: BanditLog, rows: IntArray) -> FloatArray:
        """The design of the items shown, (R, columns)."""
        x_RF, z_RZ = self.states(log, rows), self.items_NZ[log.item_M[rows]]
        crossed = x_RF[:, :, None] * z_RZ[:, None, : self.described]
        return np.column_stack([x_RF, z_RZ, crossed.reshape(len(rows), -1)])

    def all_items(self, log: BanditLog, rows: IntArray, slope_C: FloatArray) -> FloatArray:
        """design @ slope for every item, (R, N), without making the design."""
        x_RF = self.states(log, rows)
        features, width = x_RF.shape[1], self.items_NZ.shape[1]
        # x' C z for all items is (x' C) Z': rows by items without rows by items by columns.
        crossed_FD = slope_C[features + width :].reshape(features, self.described)
        own_N = self.items_NZ @ slope_C[features : features + width]
        found: FloatArray = x_RF @ (crossed_FD @ self.items_NZ[:, : self.described].T) + own_N
        return found + (x_RF @ slope_C[:features])[:, None]


@dataclass(frozen=True)
class RidgeOutcome:
    """Ridge regression of the reward on state, item and their products.

    Attributes:
        alpha: penalty; by default the best of `ALPHAS` by generalised cross-validation (Golub, Heath and Wahba 1979).
        intercepts: give every item its own (shrunk) intercept beside `items_ND`.
    """

    alpha: float | None = None
    intercepts: bool = True
    _design: _Design | None = field(default=None, repr=False)
    _slope_C: FloatArray | None = field(default=None, repr=False)
    _constant: float = field(default=0.0, repr=False)

    def fit(self, log: BanditLog, rows: IntArray) -> RidgeOutcome:
        """The regression on these rows."""
        design = _Design.of(log, rows, self.intercepts)
        x_RC, y_R = design.logged(log, rows), log.reward_M[rows]
        # Centring takes the intercept out of the penalty: a constant added to the rewards moves the constant alone.
        middle_C, level = x_RC.mean(axis=0), float(y_R.mean())
        x_RC = x_RC - middle_C
        slope_C = _ridge(x_RC, y_R - level, self.alpha)
        return RidgeOutcome(self.alpha, self.intercepts, design, slope_C, level - float(middle_C @ slope_C))

    def predict(self, log: BanditLog, rows: IntArray) -> FloatArray:
        """See `OutcomeModel`."""
        if self._design is None or self._slope_C is None:
            raise RequestError("The outcome model is not fitted; call fit first.")
        return self._design.all_items(log, rows, self._slope_C) + self._constant


@dataclass(frozen=True)
class LogisticOutcome:
    """Logistic regression of a reward of 0 or 1 on state, item and their products.

    Attributes:
        penalty: weight of half the squared slopes, beside the sum of the log losses.
        intercepts: as in `RidgeOutcome`.
    """

    penalty: float = 10.0
    intercepts: bool = True
    _design: _Design | None = field(default=None, repr=False)
    _fitted: Any = field(default=None, repr=False)

    def fit(self, log: BanditLog, rows: IntArray) -> LogisticOutcome:
        """The regression on these rows; rewards that are all equal are predicted as they are."""
        y_R = log.reward_M[rows]
        if not np.isin(y_R, (0.0, 1.0)).all():
            raise RequestError("A logistic outcome model needs rewards of 0 and 1; take the ridge one for others.")
        design = _Design.of(log, rows, self.intercepts)
        if y_R.min() == y_R.max():
            return LogisticOutcome(self.penalty, self.intercepts, design, float(y_R[0]))
        from sklearn.linear_model import LogisticRegression  # here: it takes seconds to import

        model = LogisticRegression(C=1 / self.penalty, solver="newton-cholesky", max_iter=100)
        return LogisticOutcome(self.penalty, self.intercepts, design, model.fit(design.logged(log, rows), y_R))

    def predict(self, log: BanditLog, rows: IntArray) -> FloatArray:
        """See `OutcomeModel`."""
        if self._design is None:
            raise RequestError("The outcome model is not fitted; call fit first.")
        if isinstance(self._fitted, float):
            return np.full((len(rows), log.n_items), self._fitted)
        logit = self._design.all_items(log, rows, self._fitted.coef_[0]) + self._fitted.intercept_[0]
        # Clipped where the exponential would overflow; the probability is 0 or 1 there anyway.
        found: FloatArray = 1.0 / (1.0 + np.exp(-np.clip(logit, -500, 500)))
        return found


@dataclass(frozen=True)
class CrossFitted:
    """One model a fold, each fitted on the users of the other folds.

    Attributes:
        models: the fitted models.
        fold_M: fold of each row of the log.
    """

    models: tuple[OutcomeModel, ...]
    fold_M: IntArray

    @classmethod
    def of(cls, model: OutcomeModel, log: BanditLog, *, folds: int = 5, seed: int = 0) -> CrossFitted:
        """Shares users out to folds at random and fits.

        Raises:
            RequestError: fewer than two folds, or fewer users than folds.
        """
        unit_M = np.arange(len(log)) if log.users is None else unit_codes(log.users)
        fold_M = unit_folds(int(unit_M.max()) + 1, folds, seed, "off-policy", "folds")[unit_M]
        models = tuple(model.fit(log, np.flatnonzero(fold_M != fold)) for fold in range(folds))
        return cls(models, fold_M)


def _ridge(x_RC: FloatArray, y_R: FloatArray, alpha: float | None) -> FloatArray:
    """Slopes (columns,) of centred columns and rewards."""
    if alpha is not None:
        solved_C: FloatArray = np.linalg.solve(x_RC.T @ x_RC + alpha * np.eye(x_RC.shape[1]), x_RC.T @ y_R)
        return solved_C
    # One eigendecomposition serves all penalties: in its axes a ridge fit divides by (eigenvalue + alpha).
    values_C, axes_CC = np.linalg.eigh(x_RC.T @ x_RC)
    values_C = np.maximum(values_C, 0.0)
    along_C = axes_CC.T @ (x_RC.T @ y_R)
    alphas_A = ALPHAS[:, None]
    # Generalised cross-validation: residual sum of squares over (rows - degrees of freedom)^2, one degree for the
    # mean.
    freedom_A = (values_C / (values_C + alphas_A)).sum(axis=1) + 1
    # |y - X b|^2 in the eigenvectors' axes: y'y - sum of a^2 (v + 2 alpha) / (v + alpha)^2 with a the projections of
    # X'y.
    left_A = y_R @ y_R - (along_C**2 * (values_C + 2 * alphas_A) / (values_C + alphas_A) ** 2).sum(axis=1)
    best = ALPHAS[np.argmin(np.maximum(left_A, 0.0) / np.maximum(len(y_R) - freedom_A, 1e-9) ** 2)]
    slope_C: FloatArray = axes_CC @ (along_C / (values_C + best))
    return slope_C


def _scale(values_RF: FloatArray) -> FloatArray:
    spread_F = values_RF.std(axis=0) if len(values_RF) else np.ones(values_RF.shape[1])
    return np.where(spread_F > 0, spread_F, 1.0)


def _standard(values_ND: FloatArray) -> FloatArray:
    found: FloatArray = (values_ND - values_ND.mean(axis=0)) / _scale(values_ND)
    return found
