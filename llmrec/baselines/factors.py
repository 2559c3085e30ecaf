"""Matrix factorisation: ALS and BPR, trained by the package `implicit` (optional extra "baselines").

Both give item factors that states of unseen users, and of known users with later items, are folded into.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit
from threadpoolctl import threadpool_limits

from llmrec.baselines.base import Meaning, ScoreRecommender, item_counts
from llmrec.baselines.memory import Memory
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, RunError
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.types import FloatArray, IntArray, State

PAIRS = 1_000_000
"""Pairs of an own and a drawn item that BPR's folding in holds at a time."""


@dataclass(frozen=True, kw_only=True)
class ALSSettings:
    """Parameters of `ALS`: `alpha` is the confidence of a click, where that of no click is 1."""

    factors: int = 64
    regularization: float = 0.01
    alpha: float = 10.0
    iterations: int = 15

    def __post_init__(self) -> None:
        _check(self)
        if not self.alpha > 1:
            raise ConfigError(
                f"alpha of als is {self.alpha}; a click needs more confidence than 1, that of no click."
            )


@dataclass(frozen=True, kw_only=True)
class BPRSettings:
    """Parameters of `BPR`; `steps` are the gradient steps of folding in."""

    factors: int = 64
    regularization: float = 0.01
    learning_rate: float = 0.05
    iterations: int = 100
    steps: int = 50

    def __post_init__(self) -> None:
        _check(self)


class _Factorisation(ScoreRecommender):
    """What ALS and BPR share: the training matrix, and one thread so that equal seeds give equal factors."""

    settings: Any

    @property
    def meaning(self) -> Meaning:
        """What the scores are."""
        return "numbers"

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        if importlib.util.find_spec("implicit") is None:
            raise RunError(f"The {self.name} baseline needs the package implicit; pip install 'llmrec[baselines]'.")
        self.count_N = item_counts(events, dataset.n_items)
        self.memory = Memory(events, dataset.n_items, dataset.manifest.click)
        self.user_UF = np.zeros((0, self.settings.factors))
        self.item_NF = np.zeros((dataset.n_items, self.settings.factors))
        self.bias_N = np.log1p(self.count_N)
        if events.height:  # the package cannot train on nothing
            self._train()

    def _train(self) -> None:
        raise NotImplementedError

    @contextlib.contextmanager
    def _training(self) -> Iterator[Any]:
        """A callback for `implicit`, which moves a bar; BLAS's own threads would fight with the package's."""
        with threadpool_limits(1, "blas"), Bar(f"Training {self.name}", self.settings.iterations) as bar:
            yield lambda *_: bar.advance()


class ALS(_Factorisation):
    """Weighted matrix factorisation (Hu, Koren and Volinsky 2008) by alternating least squares.

    Score: x' y_j, where y_j are the trained item factors and x solves the normal equations of the state's items I,
    (Y'Y + (alpha - 1) sum_I y_i y_i' + regularization) x = alpha sum_I y_i, which is also how training finds a user's
    factors. So a known user's later items count at once. A state without items is scored by popularity.

    Args:
        settings: parameters.
        seed: run seed, for the first factors and the order of items of equal score.

    Raises:
        RunError: on fitting, where `implicit` is not installed.
    """

    name = "als"

    def __init__(self, settings: ALSSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings: ALSSettings = settings or ALSSettings()

    def _train(self) -> None:
        from implicit.cpu.als import AlternatingLeastSquares

        with self._training() as advance:
            model = AlternatingLeastSquares(
                factors=self.settings.factors,
                regularization=self.settings.regularization,
                alpha=self.settings.alpha,
                iterations=self.settings.iterations,
                num_threads=1,
                random_state=stream_seed(self.seed, "als") % 2**32,
            )
            model.fit(self.memory.matrix_UN, show_progress=False, callback=advance)
        self.user_UF = np.asarray(model.user_factors, dtype=np.float64)
        self.item_NF = np.asarray(model.item_factors, dtype=np.float64)
        self._gram_FF = self.item_NF.T @ self.item_NF + self.settings.regularization * np.eye(self.settings.factors)

    def fold_in(self, states: Sequence[State]) -> FloatArray:
        """User factors of the states by the normal equations, (B, F)."""
        alpha = self.settings.alpha
        factor_BF = np.zeros((len(states), self.settings.factors))
        for row, state in enumerate(states):
            items = list(dict.fromkeys(self.memory.items(state)))
            if items and len(self.user_UF):
                liked_LF = self.item_NF[items]
                # (C - I) is alpha - 1 at the state's items and 0 elsewhere, so Y'CY is the Gram matrix of all items
                # plus a few rows.
                left_FF = self._gram_FF + (alpha - 1.0) * liked_LF.T @ liked_LF
                factor_BF[row] = np.linalg.solve(left_FF, alpha * liked_LF.sum(axis=0))
        return factor_BF

    def score(self, states: Sequence[State]) -> FloatArray:
        """Inner products with the item factors, shape (B, N)."""
        factor_BF = self.fold_in(states)
        scores_BN = factor_BF @ self.item_NF.T
        scores_BN[~factor_BF.any(axis=1)] = self.count_N
        return np.asarray(scores_BN)


class BPR(_Factorisation):
    """Bayesian personalised ranking (Rendle et al. 2009), stochastic gradient steps on pairs, with item biases.

    A training user has the trained factors as long as the state's items are those of training (a state without a
    time: are among them). Otherwise x maximises, from zero and with the item factors fixed, the same criterion over
    the state's items I and items j drawn uniformly once for all states: mean of log sigma(s_i - s_j) -
    regularization / 2 |x|^2 with s_i = x' y_i + bias_i. A state without items is scored by the biases.

    Args:
        settings: parameters.
        seed: run seed, for the first factors, the drawn items and the order of items of equal score.

    Raises:
        RunError: on fitting, where `implicit` is not installed.
    """

    name = "bpr"
    drawn = 50

    def __init__(self, settings: BPRSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings: BPRSettings = settings or BPRSettings()

    def _train(self) -> None:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        with self._training() as advance:
            model = BayesianPersonalizedRanking(
                factors=self.settings.factors,
                learning_rate=self.settings.learning_rate,
                regularization=self.settings.regularization,
                iterations=self.settings.iterations,
                num_threads=1,
                random_state=stream_seed(self.seed, "bpr") % 2**32,
            )
            model.fit(self.memory.matrix_UN, show_progress=False, callback=advance)
        # The package keeps the items' biases in the last column, against which every user has a 1.
        self.user_UF = np.asarray(model.user_factors, dtype=np.float64)[:, :-1]
        self.item_NF = np.asarray(model.item_factors, dtype=np.float64)[:, :-1]
        self.bias_N = np.asarray(model.item_factors, dtype=np.float64)[:, -1]
        draw = numpy_stream(self.seed, "bpr", "fold in")
        self._drawn_J = draw.integers(self.n_items, size=self.drawn)

    def fold_in(self, states: Sequence[State]) -> FloatArray:
        """User factors of the states, (B, F): trained ones where they say all, fitted ones elsewhere."""
        factor_BF = np.zeros((len(states), self.settings.factors))
        open_rows: dict[int, list[int]] = {}  # by the power of two that the number of items reaches
        items_B = [np.unique(self.memory.items(state)).astype(np.int64) for state in states]
        for row, (state, items_I) in enumerate(zip(states, items_B, strict=True)):
            if len(items_I) and len(self.user_UF):
                if self._is_as_trained(state, items_I):
                    factor_BF[row] = self.user_UF[self.memory.row(state)]
                else:
                    # Rows of like length together, so that padding is at most half of a batch.
                    open_rows.setdefault(len(items_I).bit_length(), []).append(row)
        for length, rows in open_rows.items():
            width = max(1, PAIRS // (self.drawn << length))
            for start in range(0, len(rows), width):
                part = rows[start : start + width]
                factor_BF[part] = self._fit([items_B[row] for row in part])
        return factor_BF

    def _is_as_trained(self, state: State, items_I: IntArray) -> bool:
        user = self.memory.row(state)
        if user < 0:
            return False
        known = self.memory.matrix_UN[user].indices
        nothing_new = bool(np.isin(items_I, known).all())
        return nothing_new and (state.time is None or len(items_I) == len(known))

    def _fit(self, items: Sequence[IntArray]) -> FloatArray:
        """Nesterov's accelerated ascent on the concave criterion of each row's items, (B, F)."""
        length_B = np.array([len(items_I) for items_I in items])
        own_BI = np.zeros((len(items), int(length_B.max())), dtype=np.int64)
        share_BI = (np.arange(own_BI.shape[1]) < length_B[:, None]) / length_B[:, None]  # 0 at padding
        for row, items_I in enumerate(items):
            own_BI[row, : len(items_I)] = items_I
        own_BIF, other_JF = self.item_NF[own_BI], self.item_NF[self._drawn_J]
        norm_B = ((own_BIF**2).sum(axis=2) * share_BI).sum(axis=1) + (other_JF**2).sum(axis=1).mean()
        # sigma' <= 1/4, and |a - b|^2 <= 2 |a|^2 + 2 |b|^2
        rate_B1 = 1.0 / (0.5 * norm_B + self.settings.regularization)[:, None]
        point_BF = last_BF = np.zeros((len(items), self.settings.factors))
        for step in range(self.settings.steps):
            own = np.einsum("bif,bf->bi", own_BIF, point_BF) + self.bias_N[own_BI]
            other = point_BF @ other_JF.T + self.bias_N[self._drawn_J]
            # 1 - sigma(s_i - s_j): how wrong each pair is ordered, which weighs its part of the gradient.
            missed_BIJ = expit(other[:, None, :] - own[:, :, None]) * (share_BI / self.drawn)[:, :, None]
            slope_BF = np.einsum("bi,bif->bf", missed_BIJ.sum(axis=2), own_BIF) - missed_BIJ.sum(axis=1) @ other_JF
            new_BF = point_BF + rate_B1 * (slope_BF - self.settings.regularization * point_BF)
            # Nesterov's momentum, step / (step + 3): an error of order 1 / step^2 on a smooth concave criterion.
            point_BF, last_BF = new_BF + step / (step + 3.0) * (new_BF - last_BF), new_BF
        return last_BF

    def score(self, states: Sequence[State]) -> FloatArray:
        """Inner products with the item factors plus the items' biases, shape (B, N)."""
        return np.asarray(self.fold_in(states) @ self.item_NF.T + self.bias_N)


def _check(settings: ALSSettings | BPRSettings) -> None:
    if settings.factors < 1 or settings.iterations < 1 or settings.regularization < 0:
        raise ConfigError(
            f"factors {settings.factors}, iterations {settings.iterations} and regularization "
            f"{settings.regularization} must be at least 1, 1 and 0."
        )
