"""Which stage of how many, and what is left: by hand, with a clock that is told."""

from __future__ import annotations

import pytest

from llmrec.config import RunConfig
from llmrec.pipeline import ahead
from llmrec.pipeline.ahead import Ahead, about
from llmrec.pipeline.order import ahead_of
from llmrec.pipeline.recipes import demo_config
from llmrec.pipeline.work import Work
from llmrec.progress import Bar, whole_told


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, as a list with one entry."""
    now = [100.0]
    monkeypatch.setattr(ahead.time, "monotonic", lambda: now[0])
    return now


def test_what_is_left_follows_from_what_the_stages_took(clock):
    run = Ahead({"data": 1, "sft": 200, "ppo": 100, "evaluation": 50})
    assert run.begin("data") == "stage 1 of 4"
    clock[0] += 30
    run.end("data", made=True)
    assert run.begin("sft") == "stage 2 of 4"  # data says nothing of how long a model takes
    assert run.told(0.01) == ""
    clock[0] += 40
    # a tenth in 40 s: 360 s of the rest of SFT, and 2 s a unit of weight: 300 s behind it
    assert run.left(0.1) == pytest.approx(360 + 2 * 150)
    assert run.told(0.1) == "about 11 min left in all"
    clock[0] += 160
    run.end("sft", made=True)  # 200 s for 200
    assert run.begin("ppo") == "stage 3 of 4, about 2 min left in all"
    clock[0] += 25
    assert run.left(0.5) == pytest.approx(25 + 50 * 250 / 300)


def test_what_was_made_before_or_is_left_out_takes_no_time(clock):
    run = Ahead({"nano": 50, "sft": 200, "ppo": 100})
    run.begin("sft")  # the base model was cached
    run.end("sft", made=False)
    assert run.begin("ppo") == "stage 3 of 3"
    clock[0] += 10
    assert run.left(0.25) == pytest.approx(30)
    assert run.begin("something else") == ""


def test_times_are_not_told_to_the_second():
    assert [about(s) for s in (0, 44, 89, 100, 3600, 9000)] == ["10 s", "40 s", "90 s", "2 min", "60 min", "2.5 h"]


def test_the_stages_of_a_configuration():
    demo = ahead_of(demo_config(0, {})).weights
    assert list(demo) == ["data", "simulator", "exam", "nano", "sft", "ppo", "evaluation", "report"]
    # its own measure is the unit
    assert demo["sft"] == pytest.approx(215)
    assert demo["ppo"] == pytest.approx(150)
    more = ahead_of(
        demo_config(0, {"ppo.steps": 260, "pilot.run": "always", "evaluation.controls": ["continued_sft"]})
    ).weights
    assert list(more)[5:8] == ["pilot", "ppo", "control-continued_sft"]
    assert more["ppo"] == more["control-continued_sft"] == pytest.approx(300)
    own = ahead_of(RunConfig.read(None, {"data.dataset": "folder", "data.source": "x", "model.name": "a/b"}))
    assert not {"data", "nano"} & set(own.weights)


def test_stages_and_bars_say_it(tmp_path, capsys, clock):
    work = Work(tmp_path / "w")
    work.ahead = Ahead({"sft": 100, "ppo": 100})
    work.stage("sft", 1, lambda folder, _: (folder / "x").touch())
    work.stage("sft", 1, lambda folder, _: None)
    work.stage("other", 1, lambda folder, _: (folder / "x").touch())
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("sft (stage 1 of 2)")
    assert said[1].startswith("sft (stage 1 of 2")
    assert "done before" in said[1]
    assert said[2] == "other"
    run = Ahead({"sft": 100, "ppo": 100})
    run.begin("sft")
    clock[0] += 60
    with whole_told(run.told), Bar("SFT", 10, every_s=0.0, stage=True) as bar:
        bar.advance(5, "loss 1.0")
    assert "loss 1.0; about 3 min left in all" in capsys.readouterr().err
    with whole_told(run.told), Bar("rows", 10, every_s=0.0) as bar:
        bar.advance(5)
    assert "in all" not in capsys.readouterr().err
