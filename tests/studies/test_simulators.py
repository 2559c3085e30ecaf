from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import ConfigError, DataError
from llmrec.studies.simulator_fit import cells_answer, reliability_plot
from llmrec.studies.simulators import SimulatorCells, selected


@pytest.fixture
def data(tmp_path):
    """A made experiment in Hillstrom's layout: buyers of men's goods visit more, and more so by the men's e-mail."""
    random, lines = np.random.default_rng(0), []
    for _ in range(1200):
        arm = random.choice(["Mens E-Mail", "Womens E-Mail", "No E-Mail"])
        mens = random.integers(0, 2)
        visit = random.random() < 0.08 + 0.5 * mens * (arm == "Mens E-Mail") + 0.3 * mens
        bought = visit and random.random() < 0.4
        lines.append(
            f"3,2) $100 - $200,142,{mens},1,Urban,0,Web,{arm},{int(visit)},{int(bought)},{20.5 if bought else 0}"
        )
    header = "recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,conversion,spend"
    (tmp_path / "data" / "hillstrom").mkdir(parents=True)
    (tmp_path / "data" / "hillstrom" / "hillstrom.csv").write_text("\n".join([header, *lines]) + "\n")
    return tmp_path / "data"


def test_cells_are_measured_once_and_the_best_is_selected_on_validation(data, tmp_path, monkeypatch) -> None:
    study = SimulatorCells("hillstrom", data, tmp_path / "cells", seed=1)
    cells = [study.cell(model) for model in ("item-mean", "logistic")]
    baseline, logistic = (cell["test"]["click"] for cell in cells)
    assert baseline["auc"] == baseline["baseline_auc"]
    assert baseline["log_loss_gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert logistic["baseline_log_loss"] == baseline["log_loss"]
    assert logistic["log_loss_gain"]["low"] > 0
    assert cells[1]["arms"]["degrees"] == 6
    assert np.array(cells[1]["arms"]["simulated"]).sum(axis=1) == pytest.approx([1, 1, 1])
    assert selected(cells)["model"] == "logistic"
    answer = cells_answer({"hillstrom": cells}, ["item-mean", "logistic"])
    assert answer.figures["selected"]["hillstrom"]["beats_item_mean"]
    assert "hillstrom, selected on validation: logistic beats the item mean" in answer.sentences[0]
    assert not cells_answer({"hillstrom": cells}, ["item-mean", "logistic", "gru"]).sentences  # one is missing

    again = SimulatorCells("hillstrom", data, tmp_path / "cells", seed=1)
    monkeypatch.setattr(SimulatorCells, "parts", lambda _: pytest.fail("a finished cell was computed again"))
    assert [again.cell(model) for model in ("item-mean", "logistic")] == cells
    with pytest.raises(pytest.fail.Exception):
        SimulatorCells("hillstrom", data, tmp_path / "cells", seed=2).cell("item-mean")


def test_unknown_names_and_missing_data(data, tmp_path) -> None:
    with pytest.raises(ConfigError, match="choose of movielens-100k, amazon-industrial, complete-journey, hillstrom"):
        SimulatorCells("netflix", data, tmp_path)
    with pytest.raises(ConfigError, match="choose of item-mean, factorised"):
        SimulatorCells("hillstrom", data, tmp_path).cell("oracle")
    with pytest.raises(DataError, match="set LLMREC_DATA"):
        SimulatorCells("movielens-100k", data, tmp_path).cell("item-mean")
    with pytest.raises(ConfigError, match="name another model"):
        selected([{"model": "item-mean"}])


def test_reliability_has_a_panel_for_each_bucket():
    curve = [{"predicted": 0.1, "observed": 0.2, "count": 10}, {"predicted": 0.5, "observed": 0.4, "count": 20}]
    cell = {"buckets": {"user_activity": {"few": {"reliability": curve}, "many": {"reliability": curve}}}}
    assert "user activity: few" in reliability_plot(cell)
