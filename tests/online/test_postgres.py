"""The event log on a PostgreSQL server: what holds of a file, several writers, and errors that tell no password."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace

import psycopg
import pytest

from llmrec.cli.show import forget_users
from llmrec.errors import RequestError, RunError
from llmrec.online.events import LoggedState, Outcome
from llmrec.online.log import EventLog, EventReader
from tests.online.postgres import PASSWORD
from tests.online.test_log import (  # noqa: F401  (the same tests on a server)
    SLATE,
    clock,
    test_a_batch_is_logged_whole_or_not_at_all,
    test_feedback_counts_within_the_window_and_slates_ripen_when_it_is_over,
    test_feedback_that_cannot_be_logged,
    test_reading_in_parts_gives_each_slate_once,
    test_slates_that_cannot_be_logged,
    test_the_same_twice_counts_once_and_another_under_its_name_is_refused,
    test_threads_share_a_log,
)


@pytest.fixture
def url(postgres):
    postgres.run("DROP SCHEMA IF EXISTS llmrec CASCADE")
    return postgres.url()


@pytest.fixture
def log(url, clock):  # noqa: F811
    with EventLog(url, window_s=100, clock=clock) as made:
        yield made


def test_what_is_written_is_read_as_it_was(log, url):
    log.serve([SLATE, replace(SLATE, slate_id="s2", user_id=None, state=None)])
    log.receive([Outcome("s1", "b", "conversion", 12.5), Outcome("s1", "b", "click")])
    with EventReader(url) as reader:
        first, second = reader.slates(mature=False)
        assert reader.marks() == log.marks()
        assert list(reader.shown(since=0)) == [SLATE.items_K, SLATE.items_K]
        assert [(r.outcome.kind, r.outcome.value) for r in reader.outcomes_of("ann")] == [
            ("conversion", 12.5),
            ("click", None),
        ]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader._db.execute("DELETE FROM feedback")
    assert first.served == SLATE
    assert second.served == replace(SLATE, slate_id="s2", user_id=None, state=None)
    assert log.user_of("s1") == (True, "ann")
    assert log.user_of("s3") == (False, None)


def test_writers_on_one_log_wait_for_one_another(url):
    """Four writers at once: no number is given out twice, none is left out, and each may report on another's slate."""

    def work(name: int) -> None:
        with EventLog(url) as own:
            for number in range(15):
                own.serve([replace(SLATE, slate_id=f"{name}-{number}")])
                own.receive([Outcome(f"{name}-{number}", "a", "click")])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with EventLog(url) as one, EventLog(url) as other:
        assert one.counts() == {"slates": 60, "outcomes": 60, "late": 0, "jumps": 0}
        found = list(one.slates(mature=False))
        assert sorted([s.seq for s in found] + [r.seq for s in found for r in s.received]) == list(range(1, 121))
        assert other.receive([Outcome("1-3", "b", "click")])[0].seq == 121
        assert one.receive([Outcome("1-3", "b", "click")])[0].repeated
        assert one.serve([replace(SLATE, slate_id="last")])[0].seq == 122
        with pytest.raises(RequestError, match="its own window"):
            EventLog(url, window_s=5)


def test_what_was_acknowledged_outlives_the_server(postgres, url):
    with EventLog(url) as log:
        log.serve([SLATE])
        log.receive([Outcome("s1", "a", "click")])
        postgres.kill()
        with pytest.raises(RunError) as told:
            log.receive([Outcome("s1", "b", "click")])
        assert PASSWORD not in str(told.value)
        postgres.start()
        # the connection is made anew, and what was refused is not there
        assert log.counts() == {"slates": 1, "outcomes": 1, "late": 0, "jumps": 0}
        assert log.receive([Outcome("s1", "b", "click")])[0].seq == 3


def test_a_connection_that_breaks_within_a_transaction_writes_nothing(postgres, log):
    log.serve([SLATE])
    begin = log._db.begin

    def broken():
        begin()
        postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'llmrec'")

    log._db.begin = broken
    with pytest.raises(RunError, match=r"cannot be used|does not answer"):
        log.receive([Outcome("s1", "a", "click")])
    log._db.begin = begin
    assert log.counts()["outcomes"] == 0
    assert log.receive([Outcome("s1", "a", "click")])[0].seq == 2


def test_entries_are_not_changed_or_taken_away(postgres, log):
    log.serve([SLATE])
    for statement in ("UPDATE llmrec.slate SET version = 9", "DELETE FROM llmrec.slate"):
        with pytest.raises(psycopg.errors.RaiseException, match="only added to"):
            postgres.run(statement)
    assert log._db.execute("SHOW synchronous_commit").fetchone()[0] == "on"


def test_a_forgotten_user_is_gone(log):
    told = replace(SLATE, user_id="secret-user", state=LoggedState("secret-profile"))
    log.serve([replace(told, slate_id=f"x{n}") for n in range(5)] + [SLATE])
    log.receive([Outcome("x1", "a", "rating", 3, "secret-report"), Outcome("s1", "a", "click")])
    assert (log.forget("secret-user"), log.forget("secret-user")) == (5, 0)
    assert [one.served for one in log.slates(mature=False)] == [SLATE]
    with pytest.raises(RequestError, match="removed with its user"):
        log.receive([Outcome("x1", "a", "click")])


def test_text_that_the_server_does_not_take(log):
    with pytest.raises(RequestError, match="NUL"):
        log.serve([replace(SLATE, user_id="a\x00b")])
    log.serve([replace(SLATE, items_K=("a\x00", "b", "c"), state=LoggedState("p\x00q \u202e é 茶"))])
    (one,) = log.slates(mature=False)
    assert (one.served.items_K[0], one.served.state.profile) == ("a\x00", "p\x00q \u202e é 茶")
    with pytest.raises(RequestError, match="NUL"):
        log.outcomes_of("a\x00b")


def test_places_that_hold_no_log(postgres, url):
    with pytest.raises(RunError, match="no URL of PostgreSQL") as told:
        EventLog(f"mysql://ann:{PASSWORD}@host/shop")
    assert PASSWORD not in str(told.value)
    with pytest.raises(RunError, match="holds no event log"):
        EventReader(url)
    postgres.run("CREATE SCHEMA llmrec")
    for kind in (EventLog, EventReader):
        with pytest.raises(RunError, match="schema llmrec that is no event log"):
            kind(url)
    postgres.run("DROP SCHEMA llmrec")
    with EventLog(url) as log:
        postgres.run("COMMENT ON SCHEMA llmrec IS 'event log of llmrec, version 7'")
        with pytest.raises(RunError, match="of version 7"):
            EventReader(url)
    with pytest.raises(RunError, match="open the log again"):
        log.serve([SLATE])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "wrong-0815"}, "refuses the user or the password"),
        ({"user": "nobody-here"}, "refuses the user or the password"),
        ({"database": "nowhere"}, "no such database; make it by createdb"),
        ({"database": "shop?unknown=1"}, "URL of the event log cannot be read"),
    ],
)
def test_servers_that_refuse(postgres, change, said):
    with pytest.raises(RunError, match=said) as told:
        EventLog(postgres.url(**change))
    assert PASSWORD not in str(told.value)
    assert "0815" not in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_a_user_is_forgotten_on_a_server(log, url):
    log.serve([SLATE])
    told = forget_users([url], ["ann"], None)
    assert "1 users and 1 slates removed" in told
    assert PASSWORD not in told + json.dumps(told.facts)
    assert log.counts()["slates"] == 0
    with pytest.raises(RequestError, match="knows user 'ann'"):
        forget_users([url], ["ann"], None)


@pytest.mark.slow
def test_the_command_line_says_that_a_server_is_down():
    place = f"postgresql://llmrec:{PASSWORD}@127.0.0.1:1/shop"
    command = [sys.executable, "-m", "llmrec", "forget", place, "--user", "ann"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, len(ran.stderr.strip().splitlines())) == (2, 1), ran.stderr
    assert "postgresql://llmrec@127.0.0.1:1/shop does not answer" in ran.stderr
    assert PASSWORD not in ran.stderr + ran.stdout
