"""A finished run opened again: it is the run itself to the bit, or a refusal, and nothing is written."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml

from llmrec.errors import RunError
from llmrec.evaluation.reporting.reported_run import MEASUREMENTS, RowFigures
from llmrec.export import read_bundle
from llmrec.pipeline.opening import open_run
from llmrec.pipeline.report import measurements
from llmrec.pipeline.result import SFT, metrics_of
from llmrec.pipeline.run import evaluate
from llmrec.pipeline.work import Unfinished
from llmrec.storage import work_folder
from tests.cli import tiny


def tree(*folders):
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def run(finished, cache, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(cache))
    return finished[0]


def test_what_is_opened_is_the_run_to_the_bit_and_nothing_is_written(run, cache):
    before = tree(run.parent, cache)
    opened = open_run(run)
    again = evaluate(opened, opened.work, run)
    assert json.loads(json.dumps(metrics_of(again))) == tiny.metrics(run)
    made, kept = measurements(again), RowFigures.load(work_folder(run) / "report" / MEASUREMENTS)
    np.testing.assert_equal({**made.values}, {**kept.values})
    states, beams = again.arena.states, opened.config.evaluation.beams
    slates = opened.policy("sft").recommend(states, 10, beams=beams, seen=again.arena.seen)
    for one, other in zip(slates, again.measured.slates[SFT], strict=True):
        np.testing.assert_array_equal(one.items_K, other.items_K)
    handed_on = read_bundle(run).policy.model.state_dict()
    held = opened.policy("promoted" if again.improved else "sft").model.state_dict()
    assert all(bool((held[name] == weights).all()) for name, weights in handed_on.items())
    assert tree(run.parent, cache) == before


def cut(folder):
    file = next(file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "stage.json")
    file.write_bytes(file.read_bytes()[:5])


@pytest.mark.parametrize(
    ("stage", "damage", "message"),
    [
        ("data", shutil.rmtree, "data is not there, or was made from other settings.*give the command of the run"),
        ("ppo", shutil.rmtree, "ppo is not there"),
        ("sft", cut, "is damaged or gone since the stage was finished; remove .*sft to make"),
        ("simulator", cut, "is damaged or gone since the stage was finished; remove .*simulator to make"),
    ],
)
def test_a_stage_that_is_missing_or_damaged_is_refused_in_a_sentence(run, tmp_path, stage, damage, message):
    copy = copied(run, tmp_path)
    damage(work_folder(copy) / stage)
    before = tree(tmp_path)
    with pytest.raises(RunError, match=message) as error:
        open_run(copy)
    assert len(re.findall(r"\.(?: |$)", str(error.value))) == 1
    assert tree(tmp_path) == before


def test_stages_of_another_configuration_are_not_this_run(run, tmp_path):
    copy = copied(run, tmp_path)
    config = yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))
    config["sft"]["epochs"] = 2
    (copy / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(Unfinished, match="sft is not there, or was made from other settings"):
        open_run(copy)


def test_what_is_no_run_made_here_is_refused(run, tmp_path):
    with pytest.raises(RunError, match=r"config\.yaml does not exist; give the folder of a finished run"):
        open_run(tmp_path)
    shutil.copytree(run, tmp_path / "alone")
    with pytest.raises(RunError, match="alone has no working folder"):
        open_run(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone"]


def test_a_warm_start_with_weights_of_its_own_needs_no_base_model(run, cache):
    (cache / "nano").rename(cache / "away")
    try:
        policy = open_run(run).policy("last")
        assert not (cache / "nano").exists()
    finally:
        (cache / "away").rename(cache / "nano")
    assert policy.catalogue.content_hash == read_bundle(run).policy.catalogue.content_hash


def copied(run, place):
    shutil.copytree(run, place / "copy")
    shutil.copytree(work_folder(run), work_folder(place / "copy"))
    return place / "copy"
