from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from llmrec.errors import DataError
from llmrec.simulator.metrics import (
    auc,
    fit_report,
    item_means,
    log_losses,
    paired_interval,
    value_agreement,
)
from llmrec.simulator.metrics import read_log as read
from llmrec.types import Prediction, State
from tests.simulator.planted import Impressions


def test_auc_and_log_loss_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    label, score = (random.random(300) < 0.3).astype(float), random.integers(1, 20, 300) / 20
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score))
    assert log_losses(label, score * 0.99).mean() == pytest.approx(log_loss(label, score * 0.99))
    assert auc(np.ones(3), np.arange(3.0)) is None


def test_paired_interval_covers_by_group() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        group = np.repeat(np.arange(50), 8)
        values = 0.3 + random.standard_normal(50)[group] + 0.1 * random.standard_normal(400)
        mean, low, high = paired_interval(values, group, draws=300, seed=trial)
        assert low < mean < high
        covered += low < 0.3 < high
    assert 88 <= covered <= 99


def test_item_means_by_hand() -> None:
    log = read(Impressions([State()], np.zeros(4, int), np.array([0, 0, 0, 1]), np.eye(4)[0], np.eye(4)[0]), 2)
    found = item_means(log, np.array([0, 1]), 2, strength=4.0)
    np.testing.assert_allclose(found.click_BK, [(1 + 1) / 7, (0 + 1) / 5])
    np.testing.assert_allclose(found.conversion_BK, [1.0, 1.0])


class _Fixed:
    proxy = "Ratings stand in for clicks."

    def __init__(self, click: float, conversion: float = 0.5) -> None:
        self.click, self.conversion = click, conversion

    def predict(self, states, items_BK):
        return Prediction(np.full(items_BK.shape, self.click), np.full(items_BK.shape, self.conversion))


def _log() -> Impressions:
    states = [State(user_id=f"u{k}") for k in range(4)]
    click = np.array([1, 0, 0, 1, 0, 1, 1, 0.0])
    return Impressions(states, np.repeat([3, 1, 2, 0], 2), np.arange(8) % 3, click, click * 0)


def test_report_is_plain_and_carries_the_proxy() -> None:
    report = fit_report(_Fixed(0.5), _log())
    assert json.loads(json.dumps(report)) == report
    assert report["proxy"] == "Ratings stand in for clicks."
    assert report["click"]["log_loss"] == pytest.approx(np.log(2))
    assert report["click"]["auc"] == pytest.approx(0.5)
    assert report["conversion_given_click"]["auc"] is None
    assert report["conversion_given_click"]["calibration_error"] == pytest.approx(0.5)
    assert report["click_and_conversion"]["calibration_error"] == pytest.approx(0.25)


@pytest.mark.parametrize("click", [1.5, -0.1, float("nan")])
def test_probabilities_outside_0_to_1_are_refused(click: float) -> None:
    with pytest.raises(DataError, match=r"a probability lies in 0\.\.1"):
        fit_report(_Fixed(click), _log())


def test_no_held_out_event_is_refused() -> None:
    nothing = np.zeros(0)
    with pytest.raises(DataError, match="no held-out impression"):
        fit_report(_Fixed(0.5), Impressions([], nothing.astype(int), nothing.astype(int), nothing, nothing))


def test_value_agreement_by_hand() -> None:
    class Model(_Fixed):
        def predict_all(self, states):
            return Prediction(np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]), np.zeros((2, 3)))

    true = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]])
    found = value_agreement(Model(0.1), [State(), State()], true, click=1.0, conversion=3.0)
    assert found["spearman"] == pytest.approx(0.0)
    assert found["pearson"] == pytest.approx((1 + np.corrcoef([3, 2, 1], [1, 2, 4])[0, 1]) / 2)
    assert (found["top1"], found["best1"]) == (2.0, 3.5)
    assert found["top10"] == pytest.approx(found["best10"])
