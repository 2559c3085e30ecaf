"""The curve of a training, while it runs and when it is finished."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient
from transformers import TrainerControl, TrainerState

from llmrec.errors import RunError
from llmrec.page.app import make_page
from llmrec.page.serving import page_app
from llmrec.page.shown import training_html
from llmrec.page.training import read_training
from llmrec.training.callbacks import LIVE, LiveLog


@pytest.fixture
def live(tmp_path):
    """A run that is being made, and the log of its trainer, four optimiser steps a rollout."""
    trainer = tmp_path / "run.work" / "ppo.partial" / "trainer"
    trainer.mkdir(parents=True)
    log = LiveLog(
        trainer / LIVE, lambda rows: [{"step": r["step"] / 4, "reward": r["reward"]} for r in rows if "reward" in r]
    )
    return tmp_path / "run", trainer, log


def test_a_running_training_is_read_line_by_line_and_again(live):
    run, trainer, log = live
    assert read_training(run).curve == []
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    log.on_train_begin(None, state, control)
    for step, entry in ((4, {"reward": 1.0}), (6, {"loss": 0.3}), (8, {"reward": 1.5})):
        state.log_history.append({"step": step, **entry})
        log.on_log(None, state, control)
    found = read_training(run)
    assert found.running
    assert found.algorithm == "PPO"
    assert found.curve == [{"step": 1.0, "reward": 1.0}, {"step": 2.0, "reward": 1.5}]
    assert "of step 2" in found.sentences[0]
    with (trainer / LIVE).open("a") as file:
        file.write('{"step": 3.0, "rew')  # just being written
    assert read_training(run).curve == found.curve
    assert "<svg" in training_html(found, 5, "en")
    # one that goes on writes what its checkpoint knows
    state.log_history = state.log_history[:1]
    log.on_train_begin(None, state, control)
    assert read_training(run).curve == [{"step": 1.0, "reward": 1.0}]


def test_other_processes_write_nothing(live):
    _run, trainer, log = live
    log.on_train_begin(None, TrainerState(is_world_process_zero=False), TrainerControl())
    assert not (trainer / LIVE).exists()


def test_checkpoints_of_the_gate_are_drawn_beside_it(live):
    run, trainer, _ = live
    score = {
        "step": 65,
        "metric": "NDCG@10",
        "ndcg": 0.2,
        "judge_value": 0.4,
        "reward_value": 0.5,
        "sft": {"ndcg": 0.3, "judge": 0.35, "reward": 0.4},
    }
    place = trainer.parent / "gate" / "step-000065"
    place.mkdir(parents=True)
    (place / "score.json").write_text(json.dumps(score))
    (place.parent / "step-000130").mkdir()  # no score yet
    gate = read_training(run).gate
    assert [entry["step"] for entry in gate] == [0.0, 65.0]
    assert gate[1]["gate/judge"] == 0.4


def test_a_finished_training_comes_from_the_record(home):
    found = read_training(home / "run")
    assert not found.running
    assert len(found.curve) == 150
    assert found.gate


def test_the_page_of_a_run_that_is_being_made(live):
    run, _, _ = live
    page = make_page(run, None, "en")
    assert any(
        "The run is not finished" in str(block.value) for block in page.blocks.values() if hasattr(block, "value")
    )
    assert TestClient(page_app(run)).get("/").status_code == 200
    with pytest.raises(RunError, match="is being made"):
        page_app(run, [run])


def test_nothing_has_begun(tmp_path):
    assert read_training(tmp_path / "run") is None
    assert "No training has begun" in training_html(None, 5, "en")
