"""Hostile bytes over a socket (eval/fuzz_service.py): an answer, no fault, a journal of JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import random
import threading
from pathlib import Path

import pytest
import uvicorn

from llmrec.service.app import create_app
from llmrec.service.logs import Journal, ServerLines
from llmrec.service.server import listen
from tests.service.conftest import until

PLACE = Path(__file__).parents[2] / "eval" / "fuzz_service.py"
spec = importlib.util.spec_from_file_location("fuzz_service", PLACE)
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


@contextlib.contextmanager
def listening(running):
    """The port of a running service."""
    socket = listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(running.service), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[socket])), daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield socket.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def attacked(running, seed, count):
    lines, own = logging.getLogger("uvicorn.error"), ServerLines(running.service.journal)
    lines.addHandler(own)
    try:
        with listening(running) as port:
            statuses, faults = asyncio.run(fuzz.attack(port, fuzz.drawn(seed, count), 8))
    finally:
        lines.removeHandler(own)
    assert not faults
    assert sum(statuses.values()) == count
    events = {json.loads(line)["event"] for line in running.lines}
    assert "fault" not in events
    assert running.ask(user_id="user-1", k=3)["source"] == "model"
    return statuses


def test_hostile_bytes(starting):
    with starting(deadline_s=60.0) as one:
        statuses = attacked(one, 1, 150)
    # what is drawn reaches the model, is refused in each way, and ends before it is read
    assert {"200", "400", "405", "422"} <= set(statuses)


@pytest.mark.slow
def test_ten_thousand_hostile_requests(starting):
    with starting(deadline_s=60.0) as one:
        attacked(one, 2, 10_000)


@pytest.mark.parametrize("prompt", [b'"\\ud83d"', b'["kettle", "a \\udfff"]'])
def test_half_a_character_in_a_completion_is_refused(running, prompt):
    sent = b'{"prompt": ' + prompt + b"}"
    got = running.client.post("/v1/completions", content=sent, headers={"Content-Type": "application/json"})
    assert got.status_code == 422, got.text
    assert "half a character" in got.json()["error"]["message"]


def test_equal_seeds_draw_equal_requests():
    assert list(fuzz.drawn(3, 50)) == list(fuzz.drawn(3, 50))
    assert fuzz.request(random.Random(1)) != fuzz.request(random.Random(2))


@pytest.mark.parametrize(
    ("status", "said", "wrong", "expected"),
    [
        (500, b"", True, "status 500"),
        (503, b"", False, "status 503"),
        (200, b"{}", False, None),
        (422, b"Traceback (most recent call last)", False, "traceback"),
        (0, b"", False, "connection closed"),
        (-1, b"", False, "no answer"),
        (0, b"", True, None),
    ],
)
def test_what_is_a_fault(status, said, wrong, expected):
    assert fuzz.fault(status, said, wrong) == expected


def test_what_the_http_server_says_is_a_line_without_its_values():
    lines = []
    handler = ServerLines(Journal(lines.append))
    made = logging.LogRecord("uvicorn.error", logging.WARNING, "", 1, "Bad %s\nthing", ("secret",), None)
    handler.handle(made)
    (line,) = lines
    told = json.loads(line)
    assert (told["event"], told["level"]) == ("server", "warning")
    assert "secret" not in line
    assert "\n" not in told["said"]
