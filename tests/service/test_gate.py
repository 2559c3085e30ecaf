"""What stands before the routes: the short way to a route gives what the framework gives, and faults are said once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter

import pytest

from llmrec.errors import RequestError, RunError
from llmrec.online.events import Receipt
from llmrec.service.app import create_app
from llmrec.service.batches import Closed, TooBusy
from llmrec.service.gate import Gate
from llmrec.service.service import UnknownSlate
from llmrec.service.wire import FeedbackBody, RecommendAnswer, RecommendBody
from tests.service.test_wire import fuzz

JSON = "application/json"
ANSWER = RecommendAnswer(
    slate_id="s", source="model", version=0, catalogue=0, items=[], certificate=None, tokens=None, note="é <b>"
)


@pytest.fixture
def both(running, monkeypatch):
    """The application, the same without its short ways, and the bodies that came through."""
    seen = []

    async def recommend(body):
        seen.append(body)
        return ANSWER

    def feedback(body):
        seen.append(body)
        return Receipt(7)

    monkeypatch.setattr(running.service, "recommend", recommend)
    monkeypatch.setattr(running.service, "feedback", feedback)
    app = create_app(running.service)
    return app, Gate(app.app, app.service, app.keys, {}), seen


async def told(app, path, sent, kind=JSON, method="POST"):
    """Status, headers and body of one request, straight into the application."""
    headers = [] if kind is None else [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("x", 1), "client": ("y", 2)}
    sending = [{"type": "http.request", "body": sent, "more_body": False}]
    got = []

    async def receive():
        return sending.pop() if sending else {"type": "http.disconnect"}

    async def send(message):
        got.append(message)

    await app(scope | {"root_path": "", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    assert [message["type"] for message in got] == ["http.response.start", "http.response.body"]
    named = {name: value for name, value in got[0]["headers"] if name != b"x-request-id"}
    body = json.loads(got[1]["body"]) if got[1]["body"] else None
    if isinstance(body, dict) and "error" in body:
        assert body["error"].pop("request_id") == dict(got[0]["headers"])[b"x-request-id"].decode()
        named.pop(b"content-length")
    return got[0]["status"], named, body


async def same(both, path, sent, kind=JSON):
    """Status of a request that both answer alike."""
    app, slow, seen = both
    quick, bodies = await told(app, path, sent, kind), list(seen)
    seen.clear()
    assert quick == await told(slow, path, sent, kind), sent
    assert bodies == seen, sent
    seen.clear()
    return quick[0]


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/feedback"])
def test_any_body_is_read_as_the_framework_reads_it(both, path):
    draw = random.Random(5)

    async def check():
        return Counter([await same(both, path, fuzz.body(draw, path)) for _ in range(400)])

    statuses = asyncio.run(check())
    # each way is gone
    assert min(statuses[200], statuses[400], statuses[422]) >= 5, statuses


USER = b'{"user_id": "u", '
BODIES = [
    *(
        USER + b'"k": ' + k + b"}"
        for k in (b"3", b"3.0", b"true", b'"3"', b"3e0", b"-0", b"9" * 5000, b"null", b"03")
    ),
    *(
        USER + b'"filters": {"max_price": ' + x + b"}}"
        for x in (b"NaN", b"1e400", b"-Infinity", b"7", b"9" * 5000, b'"7"')
    ),
    USER + b'"k": 3, "k": 4}',
    b'{"user_id": "\\ud83d"}',
    b'{"user_id": "a\\u0000b"}',
    b'{"user_id": "\xff"}',
    b'\xef\xbb\xbf{"user_id": "u"}',
    '{"user_id": "u"}'.encode("utf-16"),
    b'{"user_id": "u"} x',
    b' \n{"user_id": "u"}\t',
    b'{"user_id": "u",}',
    b"[" * 2000 + b"]" * 2000,
    b"",
    b"null",
    b"[]",
]


@pytest.mark.parametrize("sent", BODIES, ids=[str(place) for place in range(len(BODIES))])
def test_numbers_and_texts_at_the_edge(both, sent):
    asyncio.run(same(both, "/v1/recommend", sent))


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (JSON, 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.shop+json", 200),
        ("application/jsonp", 422),
        ("text/plain", 422),
        ("application/x-www-form-urlencoded", 422),
        (None, 422),
    ],
)
def test_kinds_of_content(both, kind, status):
    assert asyncio.run(same(both, "/v1/recommend", USER + b'"k": 3}', kind)) == status


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/feedback"])
@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (TooBusy(2.5), 429, "too_busy", {b"retry-after": b"3"}),
        (Closed(), 503, "closing", {b"retry-after": b"1"}),
        (UnknownSlate("No such slate."), 404, "unknown_slate", {}),
        (RequestError("No such thing."), 422, "refused", {}),
        (RunError("The disk at /secret is full."), 503, "unavailable", {b"retry-after": b"5"}),
        (ValueError("a fault"), 500, "fault", {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_are_said_alike(both, running, monkeypatch, path, error, status, code, headers):
    async def recommend(body):
        raise error

    def feedback(body):
        raise error

    monkeypatch.setattr(running.service, "recommend", recommend)
    monkeypatch.setattr(running.service, "feedback", feedback)
    sent = {
        "/v1/recommend": b'{"user_id": "u"}',
        "/v1/feedback": b'{"slate_id": "s", "item_id": "i", "kind": "click"}',
    }
    before = len(running.lines)

    async def check():
        quick, slow = [await told(app, path, sent[path]) for app in both[:2]]
        for one in (quick, slow):
            if status == 500:  # names its request
                one[2]["error"]["message"] = one[2]["error"]["message"].partition(" has the request id ")[0]
        assert quick == slow
        return quick

    got, named, body = asyncio.run(check())
    assert (got, body["error"]["code"]) == (status, code)
    assert headers.items() <= named.items()
    lines = [json.loads(line) for line in running.lines[before:]]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["route"], line["status"]) for line in requests] == [(path, status)] * 2
    # a fault of each, under the request's id, and nothing of what it said
    faults = [line["request_id"] for line in lines if line["event"] == "fault"]
    assert faults == ([line["request_id"] for line in requests] if status in (500, 503) and code != "closing" else [])
    assert not any("secret" in line or "a fault" in line for line in running.lines[before:])


def test_a_route_of_the_framework_that_fails_is_a_fault(both, running, monkeypatch):
    def fails(body):
        raise ValueError("secret")

    monkeypatch.setattr(running.service, "change_items", fails)
    before = len(running.lines)
    status, _, body = asyncio.run(told(both[0], "/v1/items", b'{"remove": ["i1"]}'))
    assert (status, body["error"]["code"]) == (500, "fault")
    fault, request = (json.loads(line) for line in running.lines[before:])
    assert fault["event"] == "fault"
    assert fault["request_id"] == request["request_id"]
    assert "secret" not in fault["where"]


def test_the_short_way_is_what_is_taken(both, running, monkeypatch):
    async def never(scope, receive, send):
        raise AssertionError("the framework was asked")

    monkeypatch.setattr(both[0], "app", never)
    status, headers, body = asyncio.run(told(both[0], "/v1/recommend", b'{"user_id": "u"}'))
    assert (status, headers[b"content-type"]) == (200, JSON.encode())
    assert RecommendAnswer.model_validate(body) == ANSWER
    status, _, body = asyncio.run(told(both[0], "/v1/feedback", b'{"slate_id":"s","item_id":"i","kind":"click"}'))
    assert (status, body) == (200, {"seq": 7, "repeated": False, "late": False})
    assert both[2] == [RecommendBody(user_id="u"), FeedbackBody(slate_id="s", item_id="i", kind="click")]
    # another method of the path is the framework's to refuse
    assert asyncio.run(told(both[0], "/v1/recommend", b"", method="GET"))[0] == 500
