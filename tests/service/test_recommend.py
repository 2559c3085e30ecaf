"""Answers of the service: what the recommender says, with a certificate, in a log, within limits."""

from __future__ import annotations

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from starlette.testclient import TestClient

from llmrec.catalogue.filters import Filters
from llmrec.enrich.checks import entry_id
from llmrec.enrich.review import DECISIONS
from llmrec.enrich.types import Source
from llmrec.errors import RequestError
from llmrec.files import write_json
from llmrec.online.log import EventReader
from llmrec.recommender import Recommender
from llmrec.service.app import create_app
from llmrec.service.keys import Keys
from llmrec.service.service import EVENTS, Service
from llmrec.service.settings import ServiceSettings
from llmrec.storage import work_folder
from llmrec.types import Interaction, State
from tests.service.conftest import HOSTILE, TITLES, held, until

STATE = {"profile": "Likes rugs.", "history": [{"item_id": "i5", "kind": "click", "time": 3}]}
KEY, ADMIN = "k" * 24, "a" * 24


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        ({"user_id": "user-5"}, {"user": "user-5"}),
        (
            {"prompt": "I liked kettle red, something to read by"},
            {"prompt": "I liked kettle red, something to read by"},
        ),
        ({"prompt": "a new rug"}, {"prompt": "a new rug"}),
        ({"prompt": "old or red lamps", "exact": True}, {"prompt": "old or red lamps", "exact": True}),
        ({"prompt": "a new rug", "by_words": False}, {"prompt": "a new rug", "by_words": False}),
        ({"state": STATE}, {"state": State(None, "Likes rugs.", (Interaction(5, "click", 3),))}),
        ({"user_id": "user-3", "exact": True}, {"user": "user-3", "exact": True}),
        (
            {"user_id": "user-4", "filters": {"categories": ["lamp", "rug"], "max_price": 13.0}},
            {"user": "user-4", "filters": Filters(categories=("lamp", "rug"), price=(None, 13.0))},
        ),
        (
            {"user_id": "user-4", "filters": {"max_per_category": 1}},
            {"user": "user-4", "filters": Filters(max_per_category=1)},
        ),
        ({"user_id": "user-5", "exclude_seen": False}, {"user": "user-5", "exclude_seen": False}),
        ({"user_id": "user-5", "prefer": {"conversion": 3}}, {"user": "user-5", "prefer": {"conversion": 3}}),
        ({"prompt": "a new rug", "prefer": {"click": 2}}, {"prompt": "a new rug", "prefer": {"click": 2}}),
        (
            {"state": STATE | {"context": "a gift"}, "prefer": {"conversion": 1, "click": 3}},
            {
                "state": State(
                    None,
                    "Likes rugs.",
                    (Interaction(5, "click", 3),),
                    (),
                    "prefer clicks clicks clicks, purchases. a gift",
                )
            },
        ),
    ],
)
def test_an_answer_is_the_recommender_s(running, asked, own):
    answer = running.ask(k=3, **asked)
    expected = running.recommender.recommend(k=3, **own)
    assert ids(answer) == [item.item_id for item in expected.items]
    for item, told in zip(answer["items"], expected.items, strict=True):
        assert item["log_probability"] == pytest.approx(told.log_prob, abs=1e-5)
        assert item["probability"] == pytest.approx(math.exp(told.log_prob), rel=1e-5)
        assert item["title"] == told.title
        assert item["propensity"] == 1.0
    assert answer["source"] == "model"
    assert answer["note"] == expected.note
    assert answer["words"] == list(expected.words)


def test_what_is_preferred_is_read(running):
    """The lists above are of a policy that was not trained, but which reads all that it is told."""
    scores = [running.ask(user_id="user-5", k=3, prefer={"click": n})["items"][0]["log_probability"] for n in (1, 3)]
    assert scores[0] != scores[1]


def test_the_certificate_holds_against_enumeration(running):
    """The whole catalogue, ranked exactly, is the truth that every certificate is held against."""
    whole = running.recommender.recommend(state=State(), k=len(TITLES), exact=True).items
    for k in (1, 3, 5, 12):
        for exact in (False, True):
            answer = running.ask(state={}, k=k, exact=exact)
            told = answer["certificate"]
            assert told["proven"] or not exact
            sure = told["exact_places"]
            assert ids(answer)[:sure] == [item.item_id for item in whole[:sure]]
            outside = [item.log_prob for item in whole if item.item_id not in ids(answer)]
            if told["bound"] is not None:
                assert told["bound"] >= max(outside) - 1e-5
                assert not told["proven"] or answer["items"][-1]["log_probability"] >= told["bound"] - 1e-6


def test_a_prompt_without_a_word_of_the_catalogue_is_answered_and_said(running):
    told = running.ask(prompt="quantum physics", k=2)
    assert told["related"] is False
    assert told["note"].startswith("No word of “quantum physics” has to do with any item")
    assert len(told["items"]) == 2
    assert running.ask(prompt="a ketle", k=2)["related"] is True
    assert running.ask(user_id="user-1", k=2)["related"] is True
    own = running.recommender.recommend(prompt="quantum physics", k=2)
    assert not own.related
    assert own.to_json()["related"] is False


def test_reasons_stand_beside_the_first_items(running):
    answer = running.ask(user_id="user-5", k=3, explain=2)
    own = running.recommender.recommend(user="user-5", k=3, explain=2)
    assert [item["reason"] for item in answer["items"]] == [
        *(item.explanation.sentence for item in own.items[:2]),
        None,
    ]


def test_exploring_is_repeated_by_its_seed_and_has_the_propensities_of_the_draw(running):
    one, same, other = (running.ask(user_id="user-2", k=4, explore={"seed": seed}) for seed in (7, 7, 8))
    assert one["items"] == same["items"]
    assert one["slate_id"] != same["slate_id"]
    assert one["items"] != other["items"]
    assert not one["certificate"]["proven"]
    chances = [item["propensity"] for item in one["items"]]
    # the first place of a draw at temperature 1 has pi itself, conditioned on what is not seen
    state, seen = running.recommender.user_state("user-2")
    first = running.recommender.bundle.items.index(
        next(i for i in running.recommender.bundle.items if i.item_id == ids(one)[0])
    )
    policy = running.recommender.bundle.policy
    log_prob = policy.log_prob([state], torch.tensor([[first]]), exclude_seen=True, seen=[seen])
    assert chances[0] == pytest.approx(math.exp(float(log_prob.detach())), rel=1e-4)


def test_what_is_served_and_reported_stands_in_the_log(running):
    slate = running.ask(user_id="user-7", k=2)
    item = ids(slate)[1]
    body = {"path": "/v1/feedback", "slate_id": slate["slate_id"], "item_id": item, "kind": "click"}
    first, again = running.ask(**body), running.ask(**body)
    assert not first["repeated"]
    assert again == {**first, "repeated": True}
    with EventReader(running.state / EVENTS) as log:
        logged = log.slate(slate["slate_id"])
    assert logged.served.items_K == tuple(ids(slate))
    assert logged.served.user_id == "user-7"
    assert logged.counted("click", item)
    nobody = running.ask(prompt="my secret wish", k=2)
    with EventReader(running.state / EVENTS) as log:
        assert log.slate(nobody["slate_id"]).served.state is None, "free text of nobody is not kept"


def test_feedback_grows_the_history_and_outlives_the_service(starting, run):
    with starting() as first:
        before = first.ask(user_id="stranger", k=16)
        assert "cold start" in before["note"]
        slate = first.ask(user_id="stranger", k=2)
        chosen = ids(slate)[0]
        first.ask(path="/v1/feedback", slate_id=slate["slate_id"], item_id=chosen, kind="conversion")
        after = first.ask(user_id="stranger", k=16)
        assert chosen not in ids(after)
        assert len(ids(after)) == 15
        request = first.service.users.request("stranger", first.recommender, first.service.deployed.row_of)
        assert [(i.item, i.feedback) for i in request.state.history] == [(int(chosen[1:]), "conversion")]
        place = first.state
    with starting(state=place) as second:
        assert second.ask(user_id="stranger", k=16)["items"] == after["items"]


@pytest.mark.parametrize(
    ("status", "code", "body"),
    [
        (422, "invalid_request", {}),
        (422, "invalid_request", {"user_id": "u", "prompt": "p"}),
        (422, "invalid_request", {"user_id": "u", "k": 0}),
        (422, "invalid_request", {"user_id": "u", "k": "3"}),
        (422, "invalid_request", {"user_id": ""}),
        (422, "invalid_request", {"user_id": "u", "other": 1}),
        (422, "invalid_request", {"user_id": "u", "explore": {}, "exact": True}),
        (422, "invalid_request", {"state": {"history": [{"item_id": "i1", "kind": "looked"}]}}),
        (422, "invalid_request", {"user_id": "u", "prefer": {"click": 4}}),
        (422, "invalid_request", {"user_id": "u", "prefer": {"click": 1.5}}),
        (422, "refused", {"user_id": "u", "prefer": {"revenue": 1}}),
        (422, "refused", {"user_id": "u", "k": 17}),
        (422, "refused", {"user_id": "u", "k": 11, "explain": 11}),
        (422, "refused", {"user_id": "u", "filters": {"categories": ["lampp"]}}),
        (422, "refused", {"user_id": "u", "filters": {"candidates": ["nothing"]}}),
        (422, "refused", {"user_id": "u", "filters": {"min_price": 1000.0}}),
        (422, "refused", {"user_id": "u", "filters": {"in_stock": True}}),
        (404, "unknown_slate", {"path": "/v1/feedback", "slate_id": "x", "item_id": "i1", "kind": "click"}),
        (422, "invalid_request", {"path": "/v1/feedback", "slate_id": "x", "item_id": "i1", "kind": "impression"}),
        (404, "not_found", {"path": "/v1/nothing"}),
        (405, "method_not_allowed", {"path": "/health"}),
    ],
)
def test_what_cannot_be_met_is_said_in_one_sentence(running, status, code, body):
    told = running.ask(status, **body)["error"]
    assert told["code"] == code
    assert told["request_id"]
    assert told["message"].endswith((".", "?"))
    assert "\n" not in told["message"]
    assert len(told["message"]) < 600


def test_bodies_that_are_no_json_or_too_long(running):
    post = running.client.post
    for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"k": 1e999}', b'{"user_id": "\\ud800"}'):
        got = post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
        assert 400 <= got.status_code < 500, (body[:20], got.text)
        assert got.json()["error"]["message"].endswith(".")
    # what `curl -d` says of a body where nothing else is asked for
    curl = post(
        "/v1/recommend", content=b'{"user_id": "u"}', headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert (curl.status_code, curl.json()["error"]["code"]) == (422, "invalid_request")
    assert "'Content-Type: application/json'" in curl.json()["error"]["message"]
    long = post("/v1/recommend", content=b" " * ((1 << 20) + 1))
    assert long.status_code == 413
    assert long.json()["error"]["code"] == "too_long"


def test_one_that_cannot_be_met_does_not_spoil_its_batch(running):
    """Both are in one group: the filter of candidates that are all seen fails alone."""
    service = running.service
    state, _ = running.recommender.user_state("user-5")
    seen = running.recommender.bundle.items[state.history[0].item].item_id
    with ThreadPoolExecutor(3) as pool, held(service) as (entered, free):
        first = pool.submit(running.ask, user_id="user-1", k=1)
        assert entered.wait(30)
        bad = pool.submit(running.ask, 422, user_id="user-5", filters={"candidates": [seen]}, k=1)
        good = pool.submit(running.ask, user_id="user-4", filters={"candidates": ["i8", "i9"]}, k=1)
        until(lambda: len(service.batcher) == 2)
        free.set()
        assert "leaves no item" in bad.result()["error"]["message"]
        assert ids(good.result())[0] in ("i8", "i9")
        assert first.result()


def test_a_full_queue_answers_429_and_a_deadline_the_fallback(starting):
    with (
        starting(waiting=2, deadline_s=30.0) as one,
        ThreadPoolExecutor(4) as pool,
        held(one.service) as (entered, free),
    ):
        working = pool.submit(one.ask, user_id="user-1", k=1)
        assert entered.wait(30)
        late = one.ask(user_id="user-5", k=4, deadline_ms=20, filters={"max_per_category": 1})
        assert late["source"] == "fallback"
        assert late["fallback_reason"] == "deadline"
        assert len(ids(late)) == 3 + ("kettle" not in TITLES[-1]), "one of each category"
        assert late["certificate"] is None
        assert late["items"][0]["log_probability"] is None
        # what was shown can be reported, whoever chose it
        one.ask(path="/v1/feedback", slate_id=late["slate_id"], item_id=ids(late)[0], kind="click")
        queued = [pool.submit(one.ask, user_id=f"user-{n}", k=1) for n in (2, 3)]
        until(lambda: sum(not job.claimed for job in list(one.service.batcher._jobs)) == 2)
        got = one.client.post("/v1/recommend", json={"user_id": "user-4"})
        assert got.status_code == 429
        assert int(got.headers["retry-after"]) >= 1
        free.set()
        assert working.result()["source"] == "model"
        assert all(job.result()["source"] == "model" for job in queued)


def test_the_fallback_obeys_filters_and_leaves_out_what_was_seen(running):
    fallback, read = running.service.deployed.fallback, running.recommender.read
    asked = read(user="user-5", filters=Filters(categories=("lamp",), exclude=("i6",)))
    found = fallback.items(asked, 16, None)
    seen = set(running.recommender.user_state("user-5")[1].tolist())
    assert set(found) == set(range(5, 10)) - {6} - seen
    everything = fallback.items(read(user="user-5"), 16, False)
    assert sorted(everything) == list(range(len(TITLES)))
    scores = fallback.covisitation.score([asked.state])[0]
    assert list(everything) == sorted(everything, key=lambda item: -scores[item])


def test_keys_let_in_and_keep_out(running):
    keys = Keys.read(_file(running, f"{KEY}\nadmin {ADMIN}\n"))
    with TestClient(create_app(running.service, keys)) as client:
        post = {"url": "/v1/recommend", "json": {"user_id": "user-1", "k": 1}}
        assert client.post(**post).status_code == 401
        assert client.post(**post, headers={"Authorization": "Bearer " + "x" * 24}).status_code == 401
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": ADMIN}):
            assert client.post(**post, headers=headers).status_code == 200
        assert client.post("/v1/items", json={}, headers={"X-API-Key": KEY}).status_code == 403
        assert client.get("/metrics").status_code == 401
        assert client.get("/health").status_code == client.get("/ready").status_code == 200


@pytest.mark.parametrize("text", ["short", "with spaces in the middle", "schlüssel" * 4, ""])
def test_bad_keys_are_refused_and_not_repeated(running, text):
    with pytest.raises(RequestError) as refused:
        Keys.read(_file(running, text))
    assert not text or text not in str(refused.value)


def test_keys_of_the_environment(monkeypatch):
    monkeypatch.setenv("LLMREC_API_KEYS", f"{KEY},admin {ADMIN}")
    keys = Keys.read(None)
    assert keys.allows(KEY)
    assert keys.allows(ADMIN, admin=True)
    assert not keys.allows(KEY, admin=True)
    monkeypatch.delenv("LLMREC_API_KEYS")
    assert not Keys.read(None).any
    assert Keys.read(None).allows(None)


def _file(running, text):
    place = running.state / "keys.txt"
    place.write_text(text, encoding="utf-8")
    return place


def test_lines_and_answers_hold_hostile_text_harmlessly(running):
    running.lines.clear()
    answer = running.ask(state={}, k=16)
    hostile = next(item for item in answer["items"] if item["item_id"] == f"i{len(TITLES) - 1}")
    assert hostile["title"] == HOSTILE, "JSON gives texts as they are"
    raw = running.client.post("/v1/recommend", json={"state": {}, "k": 16})
    assert raw.headers["content-type"] == "application/json"
    assert "\x1b" not in raw.text
    running.ask(422, user_id="ann@example.org\n{}", k=99)
    running.ask(prompt="call me at 555-0199 about kettle red", k=1)
    written = "\n".join(running.lines)
    assert len(written.splitlines()) == len(running.lines) == 4
    for secret in ("ann@", "555-0199", "kettle", "script", "\x1b", "testclient"):
        assert secret not in written
    told = json.loads(running.lines[0])
    assert told["route"] == "/v1/recommend"
    assert told["status"] == 200
    assert told["ms"] > 0


def test_metrics_and_openapi(running):
    running.ask(user_id="user-1", k=1)
    text = running.client.get("/metrics").text
    assert 'llmrec_requests_total{route="/v1/recommend",status="200"}' in text
    assert 'llmrec_slates_total{source="model"}' in text
    assert "user-1" not in text
    document = running.client.get("/openapi.json").json()
    assert {"/v1/recommend", "/v1/feedback", "/health", "/ready", "/metrics"} <= set(document["paths"])
    for example in document["components"]["schemas"]["RecommendBody"]["examples"]:
        example = json.loads(json.dumps(example).replace("item-7", "i7"))
        assert running.client.post("/v1/recommend", json=example).status_code == 200


def test_a_closed_service_is_not_ready_and_answers_503(starting):
    with starting() as one:
        assert one.client.get("/ready").json()["ready"]
        assert one.service.close()
        assert one.client.get("/ready").status_code == 503
        assert one.ask(503, user_id="user-1", k=1)["error"]["code"] == "closing"


def test_completions_are_titles_of_items(running):
    told = running.ask(path="/v1/completions", prompt=["I liked kettle red", "a lamp"], n=2, temperature=0.0)
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2, 3]
    assert all(choice["text"] in TITLES for choice in told["choices"])
    own = running.recommender.recommend(prompt="a lamp", k=2)
    assert [choice["item_id"] for choice in told["choices"][2:]] == [item.item_id for item in own.items]
    assert told["usage"]["prompt_tokens"] > 20
    for body in ({"prompt": []}, {"prompt": ""}, {"prompt": "x", "stream": True}, {"prompt": "x", "n": 17}):
        running.ask(422, path="/v1/completions", **body)


def test_what_a_person_refused_is_never_shown(run, dataset, tmp_path):
    """`llmrec review RUN --refuse` holds for users, states and prompts alike, in the policy's lists
    and the fallback's."""
    place = tmp_path / "run"
    shutil.copytree(run / "run", place)
    shutil.copytree(run / "data", tmp_path / "data")
    with_all = Recommender.load(place, data=tmp_path / "data")
    title = with_all.recommend(user="user-5", k=1).items[0].title
    refused = with_all.recommend(user="user-5", k=1).items[0].item_id
    work_folder(place).mkdir()
    write_json(work_folder(place) / DECISIONS, {entry_id(Source("item", "description", refused, ())): "refuse"})
    service = Service(
        Recommender.load(place, data=tmp_path / "data"), tmp_path / "state", ServiceSettings(deadline_s=60.0)
    )
    asked = [{"user_id": "user-5"}, {"state": {"profile": "Likes rugs."}}, {"prompt": f"like {title}"}]
    try:
        with TestClient(create_app(service)) as client:
            for body in asked:
                for more in ({}, {"deadline_ms": 1}):
                    answer = client.post("/v1/recommend", json={**body, **more, "k": 10}).json()
                    assert answer["items"]
                    assert refused not in ids(answer)
            for seed in range(5):
                body = {"user_id": "user-5", "k": 10, "explore": {"seed": seed}}
                drawn = client.post("/v1/recommend", json=body).json()
                assert len(drawn["items"]) == 10
                assert refused not in ids(drawn)
    finally:
        service.close()
