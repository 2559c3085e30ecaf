"""The event log: what is acknowledged stays, in order, whatever clocks, clients and kills do."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from llmrec.errors import RequestError, RunError
from llmrec.locks import Busy
from llmrec.online.events import LoggedState, Outcome, Served
from llmrec.online.log import EventLog, EventReader
from llmrec.types import Interaction, State

STATE = LoggedState("27, likes tea", (("a", "click", 5, None), ("b", "rating", 6, 4.5)), context="now", time=9)
SLATE = Served("s1", "ann", ("a", "b", "c"), (0.5, 0.25, 1.0), 3, "epsilon", STATE)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: int = 1000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(tmp_path, clock):
    with EventLog(tmp_path / "log" / "events.sqlite", window_s=100, clock=clock) as made:
        yield made


def test_what_is_written_is_read_as_it_was(log):
    assert [r.seq for r in log.serve([SLATE, replace(SLATE, slate_id="s2", user_id=None, state=None)])] == [1, 2]
    assert log.receive([Outcome("s1", "b", "click"), Outcome("s1", "b", "conversion", 12.5)])[1].seq == 4
    with EventReader(log.path) as reader:
        first, second = reader.slates(mature=False)
    assert (first.served, first.seq, first.time, first.clock) == (SLATE, 1, 1000, 1000)
    assert [(r.outcome.kind, r.outcome.value, r.late) for r in first.received] == [
        ("click", None, False),
        ("conversion", 12.5, False),
    ]
    assert first.counted("click", "b")
    assert not first.counted("click", "a")
    assert second.served == replace(SLATE, slate_id="s2", user_id=None, state=None)
    assert second.received == ()


def test_a_state_comes_back_with_the_rows_of_another_catalogue():
    state = State("ann", "p", (Interaction(0, "click", 5), Interaction(1, "rating", 6, 2.0)), context="c", time=9)
    logged = LoggedState.from_json(LoggedState.of(state, ["x", "y"]).as_json())
    moved = logged.state("ann", {"y": 7})
    assert moved == State("ann", "p", (Interaction(7, "rating", 6, 2.0),), context="c", time=9)
    assert logged.state("ann", {"x": 0, "y": 1}) == state


def test_the_same_twice_counts_once_and_another_under_its_name_is_refused(log):
    log.serve([SLATE])
    assert log.serve([SLATE])[0] == replace(log.serve([SLATE])[0], seq=1, repeated=True)
    click = Outcome("s1", "a", "click")
    assert not log.receive([click])[0].repeated
    again = log.receive([click, click])
    assert [(r.seq, r.repeated) for r in again] == [(2, True), (2, True)]
    assert log.counts() == {"slates": 1, "outcomes": 1, "late": 0, "jumps": 0}
    with pytest.raises(RequestError, match="give each its own id"):
        log.serve([replace(SLATE, version=4)])
    log.receive([Outcome("s1", "a", "rating", 4, "first")])
    with pytest.raises(RequestError, match="give each report its own feedback_id"):
        log.receive([Outcome("s1", "a", "rating", 5, "first")])
    assert not log.receive([Outcome("s1", "a", "rating", 5, "second")])[0].repeated


def test_a_batch_is_logged_whole_or_not_at_all(log):
    log.serve([SLATE])
    with pytest.raises(RequestError, match="was never served"):
        log.receive([Outcome("s1", "a", "click"), Outcome("other", "a", "click")])
    with pytest.raises(RequestError, match="did not show"):
        log.receive([Outcome("s1", "a", "click"), Outcome("s1", "z", "click")])
    with pytest.raises(RequestError, match="propensity 0"):
        log.serve([replace(SLATE, slate_id="s2"), replace(SLATE, slate_id="s3", propensity_K=(0.5, 0.0, 1.0))])
    assert log.counts() == {"slates": 1, "outcomes": 0, "late": 0, "jumps": 0}
    assert log.receive([Outcome("s1", "a", "click")])[0].seq == 2  # numbers have no gaps


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slate_id": ""}, "slate id"),
        ({"slate_id": "x" * 600}, "1 to 512 characters"),
        ({"user_id": "half \ud83d"}, "half a character"),
        ({"items_K": ()}, "at least one item"),
        ({"items_K": ("a", "a", "b")}, "none of them twice"),
        ({"propensity_K": (0.5,)}, "3 items but 1 propensities"),
        ({"propensity_K": (0.5, float("nan"), 1.0)}, "above 0 and at most 1"),
        ({"propensity_K": (0.5, 1.1, 1.0)}, "above 0 and at most 1"),
        ({"state": LoggedState("x" * (1 << 21))}, "cut its history"),
    ],
)
def test_slates_that_cannot_be_logged(log, change, said):
    with pytest.raises(RequestError, match=said):
        log.serve([replace(SLATE, **change)])
    assert log.last_seq == 0


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome("s1", "a", "impression"), "give one of click, conversion, rating, cart"),
        (Outcome("s1", "a", "shrug"), "is not known"),
        (Outcome("s1", "a", "rating", float("inf")), "finite"),
        (Outcome("s1", "", "click"), "item id"),
    ],
)
def test_feedback_that_cannot_be_logged(log, outcome, said):
    log.serve([SLATE])
    with pytest.raises(RequestError, match=said):
        log.receive([outcome])


def test_feedback_counts_within_the_window_and_slates_ripen_when_it_is_over(log, clock):
    log.serve([SLATE])
    clock.now += 100
    assert not log.receive([Outcome("s1", "a", "click")])[0].late
    assert list(log.slates()) == []  # its last second may still bring some
    clock.now += 1
    assert log.receive([Outcome("s1", "b", "click")])[0].late
    (one,) = log.slates()
    assert one.counted("click", "a")
    assert not one.counted("click", "b")
    log.serve([replace(SLATE, slate_id="s2")])
    assert [found.served.slate_id for found in log.slates()] == ["s1"]
    clock.now += 101
    assert log.tick() == clock.now
    assert [found.served.slate_id for found in log.slates()] == ["s1", "s2"]
    assert [found.served.slate_id for found in log.slates(mature=False)] == ["s1", "s2"]


def test_a_clock_that_jumps_keeps_order_and_windows(log, clock):
    log.serve([SLATE])
    clock.now = 200  # back by 800
    assert log.serve([replace(SLATE, slate_id="s2")])[0].seq == 2
    clock.now = 260
    assert not log.receive([Outcome("s1", "a", "click")])[0].late  # 60 seconds of a window of 100
    clock.now = 301
    assert log.receive([Outcome("s2", "a", "click")])[0].late  # 101 seconds, by a clock that did not jump
    times = [(one.seq, one.time, one.clock) for one in log.slates(mature=False)]
    assert times == [(1, 1000, 1000), (2, 1000, 200)]
    assert log.counts()["jumps"] == 1
    clock.now = 250
    log.close()
    with EventLog(log.path, window_s=100, clock=clock) as again:
        again.serve([replace(SLATE, slate_id="s3")])
        (last,) = again.slates(after=3, mature=False)
        assert (last.time, last.clock) == (1101, 250)
        assert again.counts()["jumps"] == 2


def test_one_writer_at_a_time(log, tmp_path):
    with pytest.raises(Busy, match="written by this process already"):
        EventLog(log.path)
    code = f"from llmrec.online.log import EventLog; from pathlib import Path; EventLog(Path({str(log.path)!r}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = ran.stderr.strip().splitlines()[-1]
    assert "Busy" in said
    assert f"is in use by process {os.getpid()}" in said
    log.close()
    EventLog(log.path, window_s=100).close()


def test_threads_share_a_log(log):
    def work(name: int) -> None:
        for number in range(20):
            log.serve([replace(SLATE, slate_id=f"{name}-{number}")])
            log.receive([Outcome(f"{name}-{number}", "a", "click")])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.counts() == {"slates": 80, "outcomes": 80, "late": 0, "jumps": 0}
    assert log.last_seq == 160


def test_reading_in_parts_gives_each_slate_once(log):
    log.serve([replace(SLATE, slate_id=str(number)) for number in range(1100)])
    assert [one.seq for one in log.slates(mature=False)] == list(range(1, 1101))
    assert [one.seq for one in log.slates(1000, mature=False, before=1003)] == [1001, 1002]


def test_a_forgotten_user_is_in_no_file(log):
    told = replace(SLATE, user_id="secret-user", state=LoggedState("secret-profile"))
    log.serve([replace(told, slate_id=f"x{n}") for n in range(50)] + [SLATE])
    log.receive([Outcome("x1", "a", "rating", 3, "secret-report"), Outcome("s1", "a", "click")])
    last = log.last_seq
    assert log.forget("secret-user") == 50
    assert log.forget("secret-user") == 0
    held = b"".join(path.read_bytes() for path in log.path.parent.iterdir())
    assert b"secret" not in held
    assert [one.served for one in log.slates(mature=False)] == [SLATE]
    assert log.serve([replace(SLATE, slate_id="next")])[0].seq == last + 1
    with pytest.raises(RequestError, match="removed with its user"):
        log.receive([Outcome("x1", "a", "click")])


def test_entries_are_not_changed_or_taken_away(log):
    log.serve([SLATE])
    other = sqlite3.connect(log.path)
    for statement in ("UPDATE slate SET version = 9", "DELETE FROM slate"):
        with pytest.raises(sqlite3.IntegrityError, match="only added to"):
            other.execute(statement)
    other.close()


def test_entries_are_synced_before_they_are_acknowledged(log):
    assert log._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert log._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_files_that_are_no_log(tmp_path, log):
    with pytest.raises(RunError, match="no event log"):
        EventReader(tmp_path / "nothing.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, and long enough to be taken for one. " * 50)
    with pytest.raises(RunError, match="damaged or no event log"):
        EventLog(text)
    other = tmp_path / "other.sqlite"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE t(x)")
    db.close()
    for kind in (EventLog, EventReader):
        with pytest.raises(RunError, match="no event log of llmrec"):
            kind(other)
    log.close()
    db = sqlite3.connect(log.path)
    db.execute("PRAGMA user_version=7")
    db.close()
    with pytest.raises(RunError, match="of version 7"):
        EventReader(log.path)
    with pytest.raises(RunError, match="cannot be used"):
        EventLog(text / "under")


def test_another_window_and_a_closed_log(log):
    log.close()
    with pytest.raises(RequestError, match="within 100 seconds, not 5"):
        EventLog(log.path, window_s=5)
    with pytest.raises(RunError, match="open the log again"):
        log.serve([SLATE])


def kills(folder: Path, count: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.online.kills", str(folder), "--kills", str(count), "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


def test_kills_lose_nothing(tmp_path):
    found = kills(tmp_path, 50)
    assert found["kills"] == 50
    assert found["entries"] >= found["acknowledged"] > 50
