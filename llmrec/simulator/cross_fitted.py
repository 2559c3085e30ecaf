"""Behaviour models that never saw the user they are asked about: one a fold, each fitted on the others' users.

A model that is asked about rows it was fitted on knows their noise. Where it stands beside what was logged, as in a
doubly robust estimate, that noise is taken off twice and the correction by the log does nothing (Chernozhukov et al.
2018, "Double/debiased machine learning for treatment and structural parameters").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.folds import unit_folds
from llmrec.simulator.ensemble import Predictor, mean_prediction
from llmrec.simulator.log import ImpressionLog, Subset, of_users
from llmrec.types import FloatArray, IntArray, Prediction, State

Fit = Callable[[Subset, Subset | None], Predictor]
"""Fits a model on a log, and what is calibrated on another one (None: there is none)."""


@dataclass(frozen=True)
class CrossFitted:
    """Predicts each state by the model whose fit held its user back; whoever is in no fold by the mean of all.

    Attributes:
        models: one a fold.
        fold_of: the fold of each user.
    """

    models: tuple[Predictor, ...]
    fold_of: Mapping[str | None, int]

    @classmethod
    def of(cls, log: ImpressionLog, valid: ImpressionLog | None, fit: Fit, *, folds: int, seed: int) -> CrossFitted:
        """Shares the users of `log` out to folds and fits; `valid` is divided in the same way.

        Raises:
            RequestError: fewer than two folds, or fewer users than folds.
        """
        users = sorted({state.user_id for state in log.states}, key=str)
        fold_U = unit_folds(len(users), folds, seed, "simulator", "folds").tolist()
        fold_of = dict(zip(users, fold_U, strict=True))
        strangers = set() if valid is None else {state.user_id for state in valid.states} - fold_of.keys()
        models = []
        for fold in range(folds):
            others = {user for user, own in fold_of.items() if own != fold}
            kept = None if valid is None else of_users(valid, others | strangers)
            models.append(fit(of_users(log, others), kept))
        return cls(tuple(models), fold_of)

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """P(click) and P(conversion | click) of the items, (B, K)."""
        return self._asked(states, lambda model, rows: model.predict([states[r] for r in rows], items_BK[rows]))

    def predict_all(self, states: Sequence[State]) -> Prediction:
        """The same of every item, (B, N)."""
        return self._asked(states, lambda model, rows: model.predict_all([states[r] for r in rows]))

    def _asked(self, states: Sequence[State], ask: Callable[[Predictor, IntArray], Prediction]) -> Prediction:
        fold_B = np.array([self.fold_of.get(state.user_id, -1) for state in states], dtype=np.int64)
        tables: dict[str, FloatArray] = {}
        for fold in np.unique(fold_B).tolist():
            rows = np.flatnonzero(fold_B == fold)
            models = self.models if fold < 0 else (self.models[fold],)
            found = mean_prediction([ask(model, rows) for model in models])
            for name, part in (("click", found.click_BK), ("conversion", found.conversion_BK)):
                table = tables.setdefault(name, np.zeros((len(states), part.shape[1])))
                table[rows] = part
        return Prediction(tables["click"], tables["conversion"])
