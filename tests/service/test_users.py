"""States of users as feedback comes in: what is kept in memory is what the log tells."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrec.online.events import Outcome, Served
from llmrec.online.log import EventLog
from llmrec.service.users import Users
from llmrec.types import Interaction, State

NAMES = itertools.count()
ROWS, OTHER = {"a": 0, "b": 1, "c": 2}, {"c": 0, "a": 1}
PAST = State("", (Interaction(2, "click", 5),))


class Reader:
    """A recommender that knows one user."""

    bundle = SimpleNamespace(facts={"history_events": 3})

    def has_user(self, user_id):
        return user_id == "ann"

    def user_state(self, user_id):
        return PAST, np.array([2])


@pytest.fixture
def log(tmp_path):
    now = iter(range(1000, 10_000))
    with EventLog(tmp_path / "events.sqlite", window_s=100_000, clock=lambda: next(now) // 3) as made:
        made.serve(
            [Served(f"{user}{n}", user, ("a", "b", "c"), (1.0,) * 3, 1, "") for user in ("ann", "bo") for n in (1, 2)]
        )
        yield made


def told(users, user, rows):
    request = users.request(user, Reader(), rows)
    return request.state.history, request.seen.tolist(), request.note


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["ann1", "ann2", "bo1"]), st.sampled_from("abc"), st.booleans()), max_size=9)
)
def test_what_is_kept_is_what_the_log_tells(log, reports):
    users = Users(log)
    for number, (slate, item, asked) in enumerate(reports):
        kind = "conversion" if number % 3 == 2 else "click"
        users.receive(Outcome(slate, item, kind, feedback_id=f"report {next(NAMES)}"))
        for user in ("ann", "bo") if asked else ():
            assert told(users, user, ROWS) == told(Users(log), user, ROWS)
    for user in ("ann", "bo", "nobody"):
        assert told(users, user, OTHER) == told(Users(log), user, OTHER)
        assert told(users, user, ROWS) == told(Users(log), user, ROWS)


def test_only_what_is_new_is_read(log, monkeypatch):
    users = Users(log)
    assert not users.at_hand("ann", ROWS)
    users.receive(Outcome("ann1", "a", "click"))
    before = told(users, "ann", ROWS)
    assert users.at_hand("ann", ROWS)
    assert not users.at_hand("ann", OTHER)
    asked = []
    read = log.outcomes_of
    monkeypatch.setattr(log, "outcomes_of", lambda *given: asked.append(given) or read(*given))
    receipt = users.receive(Outcome("ann2", "b", "click"))
    history, seen, _ = told(users, "ann", ROWS)
    assert asked == [("ann", receipt.seq - 1, receipt.seq)]
    assert users.receive(Outcome("ann2", "b", "click")).repeated
    assert asked == [("ann", receipt.seq - 1, receipt.seq)]
    assert told(users, "ann", ROWS) == (history, seen, told(Users(log), "ann", ROWS)[2])
    assert (history[:-1], history[-1].item, seen) == (before[0], 1, [2, 0, 1])
    for newest in (None, receipt.seq, 0, 10**6):  # a way to look; what is found is the same
        assert [r.seq for r in read("ann", receipt.seq - 1, newest)] == [receipt.seq]
    assert read("ann", receipt.seq) == read("bo", 0) == []
    monkeypatch.setattr("llmrec.online.log._PART", 0)  # much has come since: the user's slates are gone through
    assert [r.seq for r in read("ann", receipt.seq - 1)] == [receipt.seq]


def test_what_is_kept_of_a_user_does_not_grow_with_reports(log):
    users, kept = Users(log), []
    told(users, "ann", ROWS)
    for number in range(30):  # three at each moment, as the clock of this log goes
        users.receive(Outcome("ann1", "abc"[number % 3], "click", feedback_id=f"report {number}"))
        kept.append(users._kept["ann"])
    assert max(len(past.since) for past in kept) <= Reader.bundle.facts["history_events"] + 3
    assert kept[-1].items == (0, 1, 2)
    assert told(users, "ann", ROWS) == told(Users(log), "ann", ROWS)
    assert len(told(users, "ann", ROWS)[0]) == 3
