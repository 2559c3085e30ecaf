"""A behaviour model must find the truth that was planted in the log."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from llmrec.simulator.diagnostics import reliability
from llmrec.simulator.metrics import fit_report, predict_log, read_log
from tests.simulator.conftest import Fitted

ARCHITECTURES = ("factorised", "crossed")


def _row_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_discriminates_nearly_as_well_as_the_truth(fitted: Fitted, name: str) -> None:
    log = read_log(fitted.held_out, len(fitted.world.items))
    found = predict_log(fitted.models[name], fitted.held_out.states, log)
    rows = np.arange(500, 600)[log.row_M]
    oracle = roc_auc_score(log.click_M, fitted.world.click_SN[rows, log.item_M])
    assert roc_auc_score(log.click_M, found.click_BK) > oracle - 0.02
    clicked = log.click_M > 0
    oracle = roc_auc_score(log.conversion_M[clicked], fitted.world.conversion_SN[rows, log.item_M][clicked])
    assert roc_auc_score(log.conversion_M[clicked], found.conversion_BK[clicked]) > oracle - 0.03


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_follow_the_true_values_across_items(fitted: Fitted, name: str) -> None:
    found = fitted.models[name].predict_all(fitted.held_out.states)
    click, conversion = fitted.world.click_SN[500:], fitted.world.conversion_SN[500:]
    assert _row_correlation(found.click_BK, click) > 0.95
    assert _row_correlation(found.click_BK * (1 + 3 * found.conversion_BK), click * (1 + 3 * conversion)) > 0.93
    assert np.abs(found.click_BK - click).mean() < 0.05


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_report_is_calibrated_and_beats_the_item_means(fitted: Fitted, name: str) -> None:
    report = fit_report(fitted.models[name], fitted.held_out, train=fitted.train)
    for head in ("click", "conversion_given_click", "click_and_conversion"):
        assert report[head]["log_loss_gain"]["low"] > 0, head
        assert report[head]["auc"] > report[head]["baseline_auc"]
    assert report["click"]["calibration_error"] < 0.03
    assert report["click_and_conversion"]["calibration_error"] < 0.03
    curve = reliability(fitted.models[name], fitted.held_out)["click"]
    assert sum(part["count"] for part in curve) == len(fitted.held_out.item_M)
    assert max(abs(part["predicted"] - part["observed"]) for part in curve) < 0.12


def test_an_item_that_came_later_is_judged_by_its_text(fitted: Fitted, tmp_path) -> None:
    from llmrec.simulator.behaviour import load_behaviour
    from llmrec.types import Item

    fitted.models["factorised"].save(tmp_path / "model")
    fresh = [Item("new-red", "red thing", "plain words", ("red",)), Item("new-blue", "blue thing", "", ("blue",))]
    model = load_behaviour(tmp_path / "model", [*fitted.world.items, *fresh])
    states = fitted.held_out.states
    click = model.predict_all(states).click_BK
    red = np.array(["likes red" in state.profile for state in states])
    assert (click[red, -2] > click[red, -1]).mean() > 0.95
    blue = np.array(["likes blue" in state.profile for state in states])
    assert (click[blue, -1] > click[blue, -2]).mean() > 0.95
    np.testing.assert_allclose(click[:, :-2], fitted.models["factorised"].predict_all(states).click_BK, atol=1e-6)
