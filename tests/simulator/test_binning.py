"""Equal predictions stand in one bin, whatever the order of the rows; intervals over users cover planted errors."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.simulator.binning import bins_of, calibration_error, calibration_interval, mass_bins


def test_calibration_error_by_hand() -> None:
    # two bins of two: |1/2 - 0.2| and |1 - 0.7|
    assert calibration_error(np.array([0.0, 1, 1, 1]), np.array([0.2, 0.2, 0.7, 0.7]), bins=2) == pytest.approx(0.3)
    assert calibration_error(np.array([1.0]), np.array([1.0])) == 0
    assert calibration_error(np.array([]), np.array([])) == 0
    # 0.1 fills the first part and half of the second, whose middle it holds: |1/3 - 0.1| 3 + |1 - 0.4| over 4
    assert calibration_error(np.array([1.0, 0, 0, 1]), np.array([0.1, 0.1, 0.1, 0.4]), bins=2) == pytest.approx(
        (0.7 + 0.6) / 4
    )


@pytest.mark.parametrize("bins", [1, 2, 15])
@pytest.mark.parametrize("labels", [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1, 0, 0, 0, 1]])
def test_a_constant_prediction_that_is_right_has_no_error(bins: int, labels: list[int]) -> None:
    label, constant = np.array(labels, dtype=float), np.full(10, 0.3)
    assert calibration_error(label, constant, bins) == pytest.approx(0.0, abs=1e-12)
    assert bins_of(constant, label, bins) == [{"predicted": pytest.approx(0.3), "observed": 0.3, "count": 10.0}]


def test_the_order_of_rows_says_nothing() -> None:
    random = np.random.default_rng(0)
    probability = random.choice([0.05, 0.2, 0.2001, 0.6], size=500)
    label = (random.random(500) < probability).astype(float)
    worst = np.lexsort((label, probability))
    assert calibration_error(label[worst], probability[worst]) == pytest.approx(calibration_error(label, probability))
    by_value = {p: label[probability == p] for p in np.unique(probability)}
    rows = bins_of(probability, label, 15)
    assert [row["observed"] for row in rows] == pytest.approx([y.mean() for y in by_value.values()])
    expected = sum(abs(y.sum() - p * len(y)) for p, y in by_value.items()) / 500
    assert calibration_error(label, probability) == pytest.approx(expected)


@pytest.mark.parametrize(("size", "bins"), [(20, 5), (22, 5), (3, 10)])
def test_without_ties_the_bins_are_as_equal_as_they_can_be(size: int, bins: int) -> None:
    probability = np.random.default_rng(1).random(size)
    counts = np.bincount(mass_bins(probability, bins))
    assert counts.tolist() == [len(part) for part in np.array_split(np.arange(size), min(bins, size))]
    assert (np.diff(mass_bins(probability, bins)[np.argsort(probability)]) >= 0).all()


@pytest.mark.parametrize("turn", [1.0, -1.0])
@pytest.mark.parametrize("shift", [0.0, 0.05, 0.12])
def test_the_interval_covers_the_error_of_planted_models(shift: float, turn: float) -> None:
    """Users come with 6 rows each; predictions are right, or off by `shift` (below the middle by `turn` times it)."""
    random, covered = np.random.default_rng(2), 0
    for trial in range(200):
        user = np.repeat(np.arange(80), 6)
        own = random.uniform(-0.1, 0.1, 80)[user]  # not known to the model, and 0 on average
        seen = random.uniform(0.25, 0.7, 480)
        off = np.where(seen > 0.45, shift, turn * shift)
        label = (random.random(480) < seen + own + off).astype(float)
        low, high = calibration_interval(label, seen, user, 10, draws=200, seed=trial)
        error = calibration_error(label, seen, 10)
        assert 0 <= low <= error <= high
        true = np.abs(np.bincount(mass_bins(seen, 10), off)).sum() / 480
        covered += low <= true <= high
    assert covered >= 180, covered


def test_observed_rates_have_intervals_over_users() -> None:
    """One user's rows go together: with all clicks from one of two users the rate is 0, 1/2 or 1 in a resample."""
    user, label = np.repeat([0, 1], 50), np.repeat([0.0, 1.0], 50)
    (row,) = bins_of(np.full(100, 0.5), label, 10, user)
    assert (row["observed"], row["low"], row["high"]) == (0.5, 0.0, 1.0)
    (row,) = bins_of(np.full(100, 0.5), label, 10, np.arange(100))
    assert 0.38 < row["low"] < 0.45
    assert 0.55 < row["high"] < 0.62
