"""Where a run may go: nothing of a person's is replaced, nor another run unasked, and one process works there."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.config import RunConfig
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, LLMRecError, RunError
from llmrec.files import entries
from llmrec.pipeline.place import check_same, check_same_data
from llmrec.pipeline.recipes import demo_config
from tests.cli import tiny
from tests.dataset.tiny import tiny as tiny_data
from tests.overrides import given

EVENTS = [("a", "v", "click", 1), ("a", "w", "click", 2), ("b", "v", "click", 3)]


def refusal(*words):
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert isinstance(done.exception, LLMRecError), done.exception
    return str(done.exception)


def a_run(place, config, content_hash="0"):
    """What tells a finished run from other folders."""
    place.mkdir(parents=True)
    (place / "llmrec.json").write_text(json.dumps({"format": 1, "dataset": {"content_hash": content_hash}}))
    (place / "config.yaml").write_text(yaml.safe_dump(config.tree()))
    return place


@pytest.mark.parametrize("asked", ["nosuch/../mine", "sub/../mine/", "link", "./mine/."])
@pytest.mark.parametrize("command", ["demo", "run", "items", "report", "world", "download"])
def test_a_persons_folder_is_refused_however_it_is_written(tmp_path, monkeypatch, asked, command):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(mine)
    run = a_run(tmp_path / "sub" / "run", demo_config())
    words = {
        "demo": ["demo", "--out", asked],
        "run": ["run", "--out", asked],
        "items": ["items", run, "--remove", mine / "notes.txt", "--out", asked],
        "report": ["report", run, "--out", asked],
        "world": ["data", "world", asked, "--force"],
        "download": ["data", "download", "movielens-100k", "--accept-terms", "--dest", asked],
    }
    monkeypatch.chdir(tmp_path)
    before = entries(tmp_path)
    said = refusal(*words[command])
    assert "mine" in said or asked in said
    assert any(why in said for why in ("exist", "is not", "holds", "is there already")), said
    assert entries(tmp_path) == before
    assert (mine / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("seed=1", "seed is 0 there, 1 here"),
        ("sft.learning_rate=0.5", "sft.learning_rate is "),
        ("world.domain=film", "world.domain is shop there, film here"),
    ],
)
def test_a_run_of_another_configuration_is_not_replaced(tmp_path, change, named):
    place = a_run(tmp_path / "run", demo_config())
    check_same(place, demo_config())
    said = refusal("demo", "--out", place, "--set", change)
    assert f"is a run of another configuration ({named}" in said
    assert "--force" in said
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    check_same(place, demo_config(0, given(change)), force=True)


def test_the_same_source_written_otherwise_is_the_same_and_other_data_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tiny_data(EVENTS)
    data.save(tmp_path / "d")
    one, two = (
        RunConfig.read(None, {"data.dataset": "folder", "data.source": s})
        for s in ("d", str(tmp_path / "x" / ".." / "d"))
    )
    place = a_run(tmp_path / "run", one, data.manifest.content_hash)
    check_same(place, two)
    check_same_data(place, data)
    other = data.with_events(data.events.head(2))
    with pytest.raises(RunError, match="is a run on other data"):
        check_same_data(place, other)
    check_same_data(place, other, force=True)
    (place / "config.yaml").write_text("unknown: 1")
    with pytest.raises(RunError, match=r"its config.yaml is missing or of another version"):
        check_same(place, one)


def test_a_data_set_that_is_replaced_keeps_what_a_person_put_into_it(tmp_path):
    tiny_data(EVENTS).save(tmp_path / "d")
    (tmp_path / "d" / "notes.txt").write_text("mine")
    assert "add --force" in refusal("data", "clean", tmp_path / "d", tmp_path / "d")
    assert "is to be cleaned" in refusal("data", "clean", tmp_path / "d", tmp_path / "x" / ".." / "d", "--force")
    assert "is not a world" in refusal("data", "world", tmp_path / "d", "--force")
    tiny_data(EVENTS).save(tmp_path / "d")
    assert (tmp_path / "d" / "notes.txt").read_text() == "mine"
    assert Dataset.load(tmp_path / "d").n_items == 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(DataError, match="is no llmrec data set"):
        tiny_data(EVENTS).save(tmp_path / "nosuch" / ".." / "other")


HOLD = """
import sys, time
from pathlib import Path
from llmrec.files import reserved
from llmrec.pipeline.work import Work
with Work(Path(sys.argv[1])).alone(), reserved(Path(sys.argv[2])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_process_on_a_run_or_a_data_set_is_told_who_holds_it(tmp_path):
    line = [sys.executable, "-c", HOLD, tmp_path / "x.work", tmp_path / "d"]
    process = subprocess.Popen([str(w) for w in line], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        for words in (["demo", "--out", tmp_path / "x"], ["data", "world", tmp_path / "d"]):
            said = refusal(*words)
            assert f"is in use by process {process.pid} on " in said
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert CliRunner().invoke(app, ["data", "world", str(tmp_path / "d"), "--users", "50"]).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "x.work"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_in_one_line_that_it_resumes_and_leaves_no_lock(tmp_path, cache, number, code):
    out = tmp_path / "x"
    line = tiny.command("demo", "--out", out, *tiny.arguments(**{"sft.epochs": 500}))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(line, env=tiny.environment(cache), stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (tmp_path / "x.work" / "sft.partial" / "key.json").exists():
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=100) == code
    said = (tmp_path / "log").read_text()
    assert said.strip().splitlines()[-1].startswith("llmrec: stopped; nothing is half-written, and the same command")
    assert "Traceback" not in said
    assert "Aborted" not in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "x.work"]
    assert not [p for p in (tmp_path / "x.work").iterdir() if p.name.startswith(".")]
    assert (tmp_path / "x.work" / "data" / "stage.json").is_file()


@pytest.mark.slow
def test_with_force_a_run_is_replaced_and_a_persons_files_stay(finished, cache, tmp_path):
    out, _ = finished
    place = tmp_path / "run"
    shutil.copytree(out, place)
    shutil.copytree(out.with_name(f"{out.name}.work"), tmp_path / "run.work")
    (place / "notes.txt").write_text("mine")
    (place / "README.md").write_text("my own words")
    (place / "old.json").write_text("of an older run")
    listed = json.loads((place / "files.json").read_text())
    assert set(listed["sha256"]) == set(entries(out)) - {"files.json"}
    words = ["demo", "--out", place, *tiny.arguments(**{"evaluation.bootstrap": 100})]
    assert "evaluation.bootstrap is 200 there, 100 here" in tiny.llmrec(*words, cache=cache, code=2).stderr
    done = tiny.llmrec(*words, "--force", cache=cache)
    assert done.stderr.count("done before") >= 3
    assert set(entries(place)) == {*entries(out), "notes.txt", "README.md.kept", "old.json"}
    assert (place / "notes.txt").read_text() == "mine"
    assert (place / "README.md.kept").read_text() == "my own words"
    assert (place / "README.md").read_text() != "my own words"
