from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from llmrec.simulator.calibration import (
    ISOTONIC_FROM,
    Isotonic,
    Platt,
    calibrator_of,
    fit_calibrator,
    fit_isotonic,
    fit_platt,
)


def _sample(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logit = random.normal(-1, 2, n)
    return logit, (random.random(n) < expit(0.6 * logit - 0.4)).astype(float)


def test_platt_is_that_of_scikit_learn() -> None:
    logit, label = _sample(500)
    base = LogisticRegression().fit(logit[:, None], label)
    base.coef_[:], base.intercept_[:] = 1.0, 0.0  # its decision function is the logit itself
    reference = CalibratedClassifierCV(FrozenEstimator(base), method="sigmoid", ensemble=False)
    reference.fit(logit[:, None], label)
    found = fit_platt(logit, label)
    at = np.linspace(-6, 6, 30)
    np.testing.assert_allclose(found(at), reference.predict_proba(at[:, None])[:, 1], atol=2e-4)


def test_platt_finds_the_planted_line() -> None:
    found = fit_platt(*_sample(200_000))
    assert found.slope == pytest.approx(0.6, abs=0.02)
    assert found.offset == pytest.approx(-0.4, abs=0.02)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_platt_exists_for_one_sided_labels(label: float) -> None:
    found = fit_platt(np.linspace(-1, 1, 20), np.full(20, label))
    np.testing.assert_allclose(found(np.zeros(1)), abs(label - 1 / 22), atol=0.02)


def test_platt_never_turns_the_ranking_round() -> None:
    logit, label = _sample(300)
    assert fit_platt(-logit, label).slope > 0


def test_isotonic_blocks_are_those_of_scikit_learn() -> None:
    logit, label = _sample(3000)
    blocks = np.unique(IsotonicRegression().fit_transform(logit, label))
    found = fit_isotonic(logit, label)
    np.testing.assert_allclose(found.probability_J, blocks, atol=1e-12)
    assert (np.diff(found.logit_J) > 0).all()


def test_isotonic_is_near_the_truth_and_never_ties() -> None:
    found = fit_isotonic(*_sample(100_000))
    at = np.linspace(-8, 8, 200)
    assert (np.diff(found(at)) > 0).all()
    inside = np.abs(at) < 4
    assert np.abs(found(at) - expit(0.6 * at - 0.4))[inside].max() < 0.04


def test_the_choice_needs_many_of_both_labels() -> None:
    logit, label = _sample(3 * ISOTONIC_FROM)
    few = label * (np.cumsum(label) < ISOTONIC_FROM)
    assert isinstance(fit_calibrator(logit, few), Platt)
    assert isinstance(fit_calibrator(*_sample(12 * ISOTONIC_FROM)), Isotonic)
    assert fit_calibrator(np.zeros(0), np.zeros(0)) == Platt()


@pytest.mark.parametrize("size", [100, 30_000])
def test_arrays_hold_the_whole_calibrator(size: int) -> None:
    found = fit_calibrator(*_sample(size))
    at = np.linspace(-5, 5, 50)
    np.testing.assert_array_equal(calibrator_of(found.array())(at), found(at))
