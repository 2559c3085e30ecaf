"""An endpoint that times out, refuses, breaks off, talks nonsense: retried, survived, or one clear sentence."""

import json
import time

import pytest

from llmrec.enrich.cache import DraftCache
from llmrec.enrich.checks import Checks
from llmrec.enrich.endpoint import EndpointSettings, EndpointWriter
from llmrec.enrich.enriched import Wish, enrich
from llmrec.enrich.prompting import Prompts
from llmrec.enrich.sources import SourceSettings, review_sources, user_sources
from llmrec.errors import ConfigError, RequestError
from tests.enrich.data import REVIEWS, dataset, split
from tests.enrich.serving import chat, serving

RECENT = SourceSettings(recent=2)
KEY = "sk-very-secret-0123456789"


def sources(count=3):
    found = dataset()
    return user_sources(found, split(found), RECENT)[:count]


def writer(address, waits=None, **settings):
    settings = {"url": address, "model": "tiny", "timeout": 2.0, "retries": 2, "parallel": 1, **settings}
    sleep = (lambda seconds: None) if waits is None else waits.append
    return EndpointWriter(EndpointSettings(**settings), Prompts("en", "shop"), sleep=sleep)


def test_a_good_answer_and_what_is_sent(monkeypatch):
    monkeypatch.setenv("LLMREC_ENDPOINT_KEY", KEY)
    with serving(lambda number, body: chat("Likes Tea. Likes Tools", "length")) as (endpoint, address):
        asked = writer(address)
        draft = asked.write(sources(1))[0]
    assert draft.sentences == ("Likes Tea.", "Likes Tools")
    assert draft.cut
    path, headers, body = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "tiny"
    assert body["max_tokens"] == 120
    assert "Oak Board" in body["messages"][0]["content"]
    assert "Late Lamp" not in body["messages"][0]["content"]
    assert KEY not in repr(asked.author) + repr(asked.settings) + json.dumps(body)


@pytest.mark.parametrize(
    "bad",
    [
        (500, {}, b"oops"),
        (503, {}, b""),
        (200, {}, b'{"choices": [{"message": {"con'),
        (200, {}, b"<html>busy</html>"),
        (200, {}, b"\xff\xfe"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
        (200, {}, b"[1, 2]"),
        (200, {}, b"[" * 100_000),
        (200, {"X-Announce": 500}, b'{"choices"'),
        (200, {"X-Sleep": 1.2}, b"{}"),
        (200, {"X-Drip": 0.3}, b"0123456789"),
        (200, {}, b"x" * (3 << 20)),
        chat("   "),
    ],
    ids=[
        "500",
        "503",
        "half",
        "html",
        "bytes",
        "empty",
        "null",
        "list",
        "deep",
        "short",
        "late",
        "drip",
        "huge",
        "blank",
    ],
)
def test_what_is_no_answer_is_asked_again(bad):
    with serving(lambda number, body: bad if number == 0 else chat("Likes Tea.")) as (endpoint, address):
        begin = time.monotonic()
        draft = writer(address, timeout=0.8).write(sources(1))[0]
    assert draft.sentences == ("Likes Tea.",)
    assert len(endpoint.requests) == 2
    assert time.monotonic() - begin < 10


def test_waits_double_and_follow_retry_after():
    waits = []
    answers = [
        (429, {"Retry-After": "7"}, b""),
        (500, {}, b""),
        (429, {"Retry-After": "9999"}, b""),
        chat("Likes Tea."),
    ]
    with serving(lambda number, body: answers[number]) as (_, address):
        assert writer(address, waits, retries=3).write(sources(1))[0].sentences
    assert waits[0] == 7.0
    assert 1.0 <= waits[1] <= 2.0  # the second attempt: between half of 2 and 2 seconds
    assert waits[2] == 60.0  # an endpoint does not stop us for hours


def test_one_text_that_cannot_be_had_is_a_failure_and_many_end_with_a_sentence():
    found = dataset()
    with serving(lambda number, body: (500, {}, b"")) as (endpoint, address):
        assert writer(address).write(sources(1))[0].failure == "the endpoint gave nothing: it answers 500"
        assert len(endpoint.requests) == 3
        with pytest.raises(
            RequestError, match=r"gave no answer to 2 texts in a row \(it answers 500\).*same command"
        ):
            enrich(found, split(found), writer(address, give_up=2), Checks("en"), Wish(sources=RECENT))
    with pytest.raises(RequestError, match="no connection"):  # nobody listens there any more
        writer(address, give_up=1).write(sources(1))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the key is refused"),
        (403, "may not use"),
        (404, "--model"),
        (400, "refuses the request"),
        (302, "leads elsewhere"),
    ],
)
def test_a_refusal_ends_at_once_with_the_mend(status, words, monkeypatch):
    monkeypatch.setenv("LLMREC_ENDPOINT_KEY", KEY)
    headers = {"Location": "http://127.0.0.1:9/steal"} if status == 302 else {}
    answer = (status, headers, f"bad {KEY}".encode() if status == 302 else b"bad")
    with (
        serving(lambda number, body: answer) as (endpoint, address),
        pytest.raises(RequestError, match=words) as error,
    ):
        writer(address).write(sources(1))
    assert len(endpoint.requests) == 1
    assert KEY not in str(error.value)


def test_a_prompt_longer_than_the_context_is_shortened():
    def answer(number, body):
        if len(body["messages"][0]["content"]) > 250:
            return 400, {}, b'{"error": {"message": "maximum context length is 80 tokens"}}'
        return chat("Likes Tea.")

    with serving(answer) as (endpoint, address):
        assert writer(address).write(sources(1))[0].sentences == ("Likes Tea.",)
        lengths = [len(body["messages"][0]["content"]) for _, _, body in endpoint.requests]
        assert lengths[0] > 250 >= lengths[-1]
    with serving(lambda number, body: (413, {}, b"")) as (_, address):
        assert "does not fit" in writer(address).write(sources(1))[0].failure


def test_opinions_are_read_from_json_and_half_of_it_is_not_believed():
    answers = [
        chat('Sure! {"sentiment": "positive", "aspects": {"quality": "positive", "Unicorn": "negative"}}'),
        chat('{"sentiment": "positive", "aspe'),
        chat('{"sentiment": "great"}'),
        chat('{"sentiment": "negative", "aspects": ["x"]}'),
    ]
    source = review_sources(REVIEWS[:1], lambda item: "Red Kettle")
    with serving(lambda number, body: answers[min(number, 3)]) as (_, address):
        good = writer(address).write(source)[0]
        assert good.opinion.sentiment == "positive"
        assert Checks("en").opinion(source[0], good.opinion).aspects == (("quality", "positive"),)
        assert "JSON" in writer(address).write(source)[0].failure
    found = dataset()
    with serving(lambda number, body: chat('{"half')) as (_, address):
        made = enrich(found, split(found), writer(address), Checks("en"), Wish(sources=RECENT), reviews=REVIEWS)
    assert {text.author.writer for text in made.texts if text.source.kind == "review"} == {"extractive"}


def test_what_was_written_is_kept_and_an_endpoint_that_comes_back_is_asked_for_the_rest(tmp_path):
    found = dataset()
    cache = DraftCache(tmp_path / "drafts")
    wish = Wish(what=("users",), sources=RECENT)
    with serving(lambda number, body: chat("Likes Tea.") if number < 2 else (500, {}, b"")) as (endpoint, address):
        first = enrich(found, split(found), writer(address), Checks("en"), wish, cache=cache, fallback=False)
        assert [bool(text.sentences) for text in first.texts].count(True) == 2
        before = len(endpoint.requests)
        endpoint.answer = lambda number, body: chat("Likes Tea.")
        again = enrich(found, split(found), writer(address), Checks("en"), wish, cache=cache, fallback=False)
    assert all(text.sentences for text in again.texts)
    assert len(endpoint.requests) > before
    files = list(cache.folder.rglob("*.json"))
    assert len(files) == 3
    files[0].write_text('{"sentences": [3')  # damaged: written anew
    assert [cache.get(text.source, text.author) is None for text in again.texts].count(True) == 1


def test_requests_keep_the_pace():
    waits = []
    with serving(lambda number, body: chat("Likes Tea.")) as (_, address):
        writer(address, waits, per_minute=30).write(sources(3))
    assert len(waits) == 2
    assert waits[0] == pytest.approx(2, abs=0.5)
    assert waits[1] == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "no http or https address"),
        ("ftp://x/v1", "no http or https address"),
        ("https://me:secret@host/v1", "holds a password"),
        ("https://host/v1?key=secret", "holds a password, a query"),
        ("http://host:99999/v1", "is no address"),
        ("http://example.org/v1", "not encrypted"),
    ],
)
def test_addresses_that_are_refused(url, words, monkeypatch):
    monkeypatch.setenv("LLMREC_ENDPOINT_KEY", KEY)
    with pytest.raises(ConfigError, match=words) as error:
        writer(url)
    assert "secret" not in str(error.value).replace("sk-very-secret", "")


def test_settings_that_are_refused(monkeypatch):
    for settings in ({"retries": -1}, {"parallel": 0}, {"timeout": 0}, {"per_minute": 0}):
        with pytest.raises(ConfigError):
            writer("http://localhost/v1", **settings)
    monkeypatch.setenv("LLMREC_ENDPOINT_KEY", "two words")
    with pytest.raises(ConfigError, match="holds no key"):
        writer("http://localhost/v1")
