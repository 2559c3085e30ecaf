"""`llmrec online` as a person meets it: a run that serves and learns, a log of another program, and bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import polars as pl
import pytest

from llmrec.cli.main import main
from llmrec.files import write_json
from llmrec.online.cycle import CYCLE, FORMAT, Decision, Progress
from llmrec.online.log import EventLog, EventReader
from llmrec.online.versions import Versions
from tests.cli import tiny

SLATE = {"slate_id": "s1", "user_id": "ann", "items": ["i1", "i2"], "propensities": [0.5, 0.25], "version": 1}
STATE = {"profile": "likes tea", "history": [["i2", "click", 12, None]], "time": 99}


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process; gives its exit code, output and error."""

    def called(*parts):
        monkeypatch.setattr(sys, "argv", ["llmrec", "online", *map(str, parts)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return called


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_slates_and_feedback_of_another_program_are_recorded_once(call, tmp_path):
    log = tmp_path / "e.sqlite"
    slates = lines(tmp_path / "s.jsonl", SLATE, {**SLATE, "slate_id": "s2", "state": STATE})
    feedback = lines(tmp_path / "f.jsonl", {"slate_id": "s2", "item_id": "i1", "kind": "click"})
    code, said, _ = call("record", log, "--slates", slates, "--feedback", feedback)
    assert (code, said.split(" in ")[0]) == (0, "2 slates and 1 reports are new")
    assert "0 slates and 0 reports are new" in call("record", log, "--slates", slates, "--feedback", feedback)[1]
    with EventReader(log) as reader:
        one, two = reader.slates(mature=False)
    assert one.served.state is None
    assert one.served.propensity_K == (0.5, 0.25)
    assert two.served.state.history == (("i2", "click", 12, None),)
    assert two.counted("click", "i1")


@pytest.mark.parametrize(
    ("slates", "feedback", "said"),
    [
        ([], [{"slate_id": "s9", "item_id": "i1", "kind": "click"}], "slate 's9', which was never served"),
        ([SLATE], [{"slate_id": "s1", "item_id": "i7", "kind": "click"}], "which slate 's1' did not show"),
        ([SLATE], [{"slate_id": "s1", "item_id": "i1", "kind": "smile"}], "choose one of"),
        ([{**SLATE, "propensities": [0.5, 1.5]}], [], "propensity 1.5 at place 1"),
        ([SLATE, {**SLATE, "version": 2}], [], "is in the log with other content"),
        ([{**SLATE, "colour": 1}], [], "Unknown key 'colour'"),
        ([{**SLATE, "state": {"history": [["i1"]]}}], [], "A choice in line 1"),
        ([[1]], [], "is no JSON object"),
    ],
)
def test_lines_that_cannot_be_recorded_are_named(call, tmp_path, slates, feedback, said):
    places = lines(tmp_path / "s.jsonl", *slates), lines(tmp_path / "f.jsonl", *feedback)
    code, _, error = call("record", tmp_path / "e.sqlite", "--slates", places[0], "--feedback", places[1])
    assert code == 2
    assert said in error
    assert "ine" in error
    assert len(error.strip().splitlines()) == 1


def test_what_else_is_refused_in_one_sentence(call, tmp_path):
    log = tmp_path / "e.sqlite"
    slates = lines(tmp_path / "s.jsonl", SLATE)
    broken = tmp_path / "b.jsonl"
    broken.write_text('{"slate_id":', encoding="utf-8")
    held = Versions(tmp_path / "v")
    held.add(lambda folder: (folder / "w").write_text("1"), {"origin": "another"})
    held.promote(1, "first")
    with EventLog(log, window_s=60):
        refusals = [
            (("record", log, "--slates", slates), "is written by this process already"),
            (("record", tmp_path / "n.sqlite"), "Name a file of --slates"),
            (("record", tmp_path / "n.sqlite", "--slates", broken), "Line 1 of"),
            (("record", tmp_path / "n.sqlite", "--slates", tmp_path / "none"), "does not exist"),
            (("status", tmp_path / "nothing"), "serves nothing"),
            (("rollback", tmp_path / "v"), "no version before the served one"),
            (("update", tmp_path / "v", tmp_path / "w", "--events", log), "is not a run folder"),
            (("update", tmp_path / "v", tmp_path / "w", "--events", tmp_path / "no"), "is no event log"),
            (("update", tmp_path, tmp_path / "w", "--events", log, "--set", "cycle.evry=3"), "cycle.every"),
        ]
        for parts, said in refusals:
            code, _, error = call(*parts)
            assert (code, said in error) == (2, True), (parts, error)
            assert len(error.strip().splitlines()) == 1, error
    code, _, error = call("record", log, "--slates", slates)
    assert (code, "counts feedback within 60 seconds" in error) == (2, True), error


def test_a_clock_that_jumps_back_is_counted_and_told(call, tmp_path):
    now = [10_000]
    with EventLog(tmp_path / "e.sqlite", window_s=60, clock=lambda: now[0]) as log:
        for moment in (10_050, 9_000, 9_010):
            now[0] = moment
            log.tick()
    held = Versions(tmp_path / "v")
    for number in (1, 2):
        held.add(lambda folder: (folder / "w").write_text("1"))
        held.promote(number, f"the {number}.")
    code, said, _ = call("status", tmp_path / "v", "--events", tmp_path / "e.sqlite")
    assert (code, "jumped back 1 times" in said) == (0, True)
    assert call("rollback", tmp_path / "v", "--reason", "odd lists")[1] == "Version 1 is served.\n"
    told = json.loads(call("status", tmp_path / "v", "--json")[1])
    assert (told["serving"]["number"], told["serving"]["withdrawn"]) == (1, [2])


def test_an_alarm_that_waits_for_its_update_is_told(call, tmp_path):
    held = Versions(tmp_path / "v")
    held.add(lambda folder: (folder / "w").write_text("1"))
    held.promote(1, "the first")
    alarm, refused = Decision("alarm", 7, 60, 1, "less", 3), Decision("refused", 9, 70, 2, "no gain")
    for decisions, waits in (((alarm, refused), True), ((alarm, Decision("promoted", 9, 70, 2, "gain")), False)):
        progress = asdict(Progress(seq=9, time=70, served=1, decisions=decisions))
        write_json(tmp_path / "v" / CYCLE, {"format": FORMAT, **progress})
        code, said, error = call("status", tmp_path / "v")
        assert (code, "No update has answered the alarm at slate 7 yet:" in said) == (0, waits), error
        told = json.loads(call("status", tmp_path / "v", "--json")[1])["unanswered_alarm"]
        assert told == ({"seq": 7} if waits else None)


SMALL = (
    *("--days", 6, "--visits", 30, "-k", 3, "--temperature", 1.0),
    *("--set", "cycle.every=60", "--set", "cycle.least=40", "--set", "off_policy.slate=3", "--set", "samples=100"),
    *("--set", "off_policy.learning_rate=3e-3", "--set", "gate.effective_samples=10"),
)


@pytest.mark.slow
@pytest.mark.parametrize("learning", [(), ("--set", "learner=none", "--set", "item_worths=true")])
def test_a_run_serves_its_world_and_learns_and_goes_on_after_a_kill(finished, cache, tmp_path, learning):
    run, out, settings = finished[0], tmp_path / "online", (*SMALL, *learning)
    command = tiny.command("online", "simulate", run, "--out", out, *settings)
    child = subprocess.Popen(command, env=tiny.environment(cache), stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not (out / "versions" / "0002").is_dir():
        time.sleep(0.05)
    # two writers: the second is told who is there
    if child.poll() is None:
        os.kill(child.pid, signal.SIGSTOP)
        other = tiny.llmrec("online", "simulate", run, "--out", out, *settings, cache=cache, code=2)
        assert "is in use by process" in other.stderr
    child.kill()
    child.communicate()
    done = tiny.llmrec("online", "simulate", run, "--out", out, *settings, cache=cache)
    assert "version 1 begun" in done.stdout
    whole = tmp_path / "whole"
    tiny.llmrec("online", "simulate", run, "--out", whole, *settings, cache=cache)
    for name in ("report.md", "report.svg", "versions/cycle.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert (out / "versions" / "0002" / "layer.json").is_file() == bool(learning)
    told = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert told["by_day"]["slates"] == [30] * 6
    assert len(told["by_day"]["value"]) == 6
    assert {one["kind"] for one in told["decisions"]} & {"promoted", "refused"}
    # another simulation in the same folder, and versions of another model
    other = tiny.llmrec("online", "simulate", run, "--out", out, *settings, "--seed", 5, cache=cache, code=2)
    assert "holds a simulation with another seed" in other.stderr
    strange = tmp_path / "strange"
    shutil.copytree(out / "versions", strange)
    first = strange / "0001" / "version.json"
    first.write_text(first.read_text(encoding="utf-8").replace(told["origin"], "0" * 64), encoding="utf-8")
    events = out / "events.sqlite"
    said = tiny.llmrec(
        "online", "update", run, strange, "--events", events, *SMALL[8:], *learning, cache=cache, code=2
    )
    assert "versions of another model" in said.stderr


@pytest.mark.slow
def test_an_update_from_the_log_of_another_program(finished, cache, tmp_path):
    run, out = finished[0], tmp_path / "online"
    tiny.llmrec("online", "simulate", run, "--out", out, *SMALL, cache=cache)
    events, own = out / "events.sqlite", tmp_path / "own"
    done = tiny.llmrec("online", "update", run, own, "--events", events, *SMALL[8:], cache=cache)
    assert "version 1 begun: the warm start" in done.stdout
    assert "is served." in done.stdout
    assert Versions(own).numbers() == [1, 2]
    again = tiny.llmrec("online", "update", run, own, "--events", events, *SMALL[8:], cache=cache, code=2)
    assert "serve more first" in again.stderr or "is on trial" in again.stderr


@pytest.mark.slow
def test_a_simulation_obeys_rules(finished, cache, tmp_path):
    run, out, rules = finished[0], tmp_path / "online", tmp_path / "rules.yaml"
    rules.write_text("rules: [{at_most: 1, per: category}]", encoding="utf-8")
    tiny.llmrec("online", "simulate", run, "--out", out, *SMALL, "--rules", rules, cache=cache)
    items = pl.read_parquet(run / "items.parquet")
    category = {item: names[0] for item, names in zip(items["item_id"], items["categories"], strict=True)}
    with EventReader(out / "events.sqlite") as log:
        shown = [one.served.items_K for one in log.slates(mature=False)]
    assert len(shown) == 180
    assert all(len({category[item] for item in slate}) == len(slate) == 3 for slate in shown)
    other = tiny.llmrec("online", "simulate", run, "--out", out, *SMALL, cache=cache, code=2)
    assert "another set of rules" in other.stderr
    rules.write_text("rules: [{never: {brands: [Nobody]}}]", encoding="utf-8")
    bad = tiny.llmrec(
        "online", "simulate", run, "--out", tmp_path / "b", *SMALL, "--rules", rules, cache=cache, code=2
    )
    assert "which no item has" in bad.stderr
