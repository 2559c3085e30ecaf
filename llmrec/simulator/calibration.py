"""Calibration of probabilities on held-out events: Platt scaling, or isotonic regression where events abound.

A calibrator maps logits to probabilities and is two or more plain numbers, saved as an array.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.isotonic import IsotonicRegression

from llmrec.types import FloatArray

ISOTONIC_FROM = 2000
"""Positives (and negatives) from which isotonic regression is chosen: it needs many, and Platt never ties items."""


@dataclass(frozen=True)
class Platt:
    """p = sigmoid(slope * logit + offset) (Platt 1999); the identity by default."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, logit: FloatArray) -> FloatArray:
        """Probabilities of the same shape."""
        return np.asarray(expit(self.slope * logit + self.offset))

    def array(self) -> FloatArray:
        """The two numbers."""
        return np.array([self.slope, self.offset])


@dataclass(frozen=True)
class Isotonic:
    """Pool-adjacent-violators blocks, joined by straight lines between their centres so that few items tie."""

    logit_J: FloatArray = field(repr=False)
    probability_J: FloatArray = field(repr=False)

    def __call__(self, logit: FloatArray) -> FloatArray:
        """Probabilities of the same shape; beyond the first and last centre a faint slope keeps the order."""
        inside = np.interp(logit, self.logit_J, self.probability_J)
        return np.asarray(np.clip(0.999 * inside + 0.001 * expit(logit), 0.0, 1.0))

    def array(self) -> FloatArray:
        """Centres and values, shape (2, J)."""
        return np.stack([self.logit_J, self.probability_J])


Calibrator = Platt | Isotonic


def fit_platt(
    logit_M: FloatArray,
    label_M: FloatArray,
    weight_M: FloatArray | None = None,
    *,
    look_M: FloatArray | None = None,
) -> Platt:
    """Maximum likelihood with Platt's smoothed targets, so that it exists for one-sided labels too.

    Args:
        logit_M: Logits.
        label_M: 0 or 1.
        weight_M: Weights of mean 1, if any.
        look_M: P(the place was looked at), if clicks were lost to places: the likelihood is that of look * p then,
            without smoothing.
    """
    positives = float(label_M.sum())
    negatives = len(label_M) - positives
    # The posterior means of the labels under a uniform prior (Platt 1999): with targets of 0 and 1 the slope would
    # run off to infinity wherever the classes separate.
    target_M = np.where(label_M > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        z = parameters[0] * logit_M + parameters[1]
        if look_M is not None:
            value_M, error = _looked(z, label_M, look_M)
        else:
            value_M = -(target_M * log_expit(z) + (1 - target_M) * log_expit(-z))
            # d/dz of -(t log s(z) + (1 - t) log s(-z)) is s(z) - t.
            error = expit(z) - target_M
        if weight_M is not None:
            value_M, error = value_M * weight_M, error * weight_M
        return float(value_M.sum()), np.array([(error * logit_M).sum(), error.sum()])

    # a slope at or below zero would turn the ranking of items round
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.01, None), (None, None)])
    return Platt(float(found.x[0]), float(found.x[1]))


def _looked(z: FloatArray, label_M: FloatArray, look_M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Minus the log-likelihood of clicks with P(click) = look * sigmoid(z), and its derivative in z."""
    p = expit(z)
    missed = np.maximum(1 - look_M * p, 1e-12)
    # d/dz log s = 1 - s and d/dz log(1 - l s) = -l s (1 - s) / (1 - l s).
    value = -(label_M * (np.log(look_M) + log_expit(z)) + (1 - label_M) * np.log(missed))
    return value, -label_M * (1 - p) + (1 - label_M) * look_M * p * (1 - p) / missed


def fit_isotonic(logit_M: FloatArray, label_M: FloatArray) -> Isotonic:
    """Isotonic regression (pool adjacent violators); each block is kept as its mean logit and mean label."""
    order = np.argsort(logit_M, kind="stable")
    value_M = IsotonicRegression().fit_transform(logit_M[order], label_M[order])
    # Pool adjacent violators answers with steps. A step ties all items within it, so only the blocks' centres are
    # kept and `Isotonic` joins them by straight lines.
    block_M = np.concatenate([[0], np.cumsum(np.diff(value_M) > 0)])
    count_J = np.bincount(block_M)
    return Isotonic(np.bincount(block_M, logit_M[order]) / count_J, np.bincount(block_M, label_M[order]) / count_J)


def fit_calibrator(logit_M: FloatArray, label_M: FloatArray, weight_M: FloatArray | None = None) -> Calibrator:
    """Isotonic where both labels are many, Platt otherwise (and with weights), the identity with no label at all."""
    # Isotonic regression has as many parameters as there are blocks and overfits few events; Platt has two, keeps the
    # order of items and is never flat (Niculescu-Mizil and Caruana 2005 compare them by sample size).
    positives = int(label_M.sum())
    if len(label_M) == 0:
        return Platt()
    if weight_M is not None:
        return fit_platt(logit_M, label_M, weight_M)
    fit = fit_isotonic if min(positives, len(label_M) - positives) >= ISOTONIC_FROM else fit_platt
    return fit(logit_M, label_M)


def calibrator_of(array: FloatArray) -> Calibrator:
    """The calibrator whose `array()` this is."""
    return Platt(float(array[0]), float(array[1])) if array.ndim == 1 else Isotonic(array[0], array[1])
