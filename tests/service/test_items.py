"""Items that come and go while a service runs: at once, whole, on the disk, and back again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from llmrec import Recommender
from llmrec.export import read_bundle
from llmrec.types import Item
from tests.service.conftest import TITLES, held
from tests.service.test_recommend import ids

NEW = {"item_id": "n1", "title": "kettle tiny", "categories": ["kettle"], "price": 2.5}


@pytest.fixture(scope="module")
def changing(starting):
    with starting(deadline_s=60.0) as one:
        yield one


def change(one, status=200, **body):
    return one.ask(status, path="/v1/items", **body)


def test_a_change_is_the_assortment_s_and_outlives_the_service(changing, starting, run, dataset):
    changed = change(changing, add=[NEW], remove=["i0", "i6"])
    assert changed == {"catalogue": 2, "items": len(TITLES) - 1}
    own = Recommender(read_bundle(run / "run"), dataset)
    own.change_items(add=[Item("n1", "kettle tiny", "", ("kettle",), "", 2.5)], remove=["i0", "i6"])
    answer, expected = changing.ask(user_id="user-5", k=9), own.recommend(user="user-5", k=9)
    assert ids(answer) == [item.item_id for item in expected.items]
    assert answer["catalogue"] == 2
    whole = changing.ask(state={}, k=len(TITLES) - 1)
    assert "n1" in ids(whole)
    assert not {"i0", "i6"} & set(ids(whole))
    slate = changing.ask(user_id="someone", filters={"candidates": ["n1"]}, k=1)
    changing.ask(path="/v1/feedback", slate_id=slate["slate_id"], item_id="n1", kind="click")
    # stock and prices, of old and of new items
    change(
        changing, in_stock=["i1", "n1"], prices=[{"item_id": "i1", "price": 50.0}, {"item_id": "n1", "price": 60.0}]
    )
    stocked = changing.ask(state={}, filters={"in_stock": True}, k=2)
    assert set(ids(stocked)) == {"i1", "n1"}
    assert ids(changing.ask(state={}, filters={"min_price": 55.0}, k=1)) == ["n1"]
    back = changing.ask(path="/v1/items/rollback")
    assert back == {"catalogue": 2, "items": len(TITLES) - 1}
    assert changing.ask(422, state={}, filters={"in_stock": True})["error"]["code"] == "refused"
    before = changing.ask(user_id="someone", k=5)
    assert "n1" not in ids(before), "what was clicked was seen"
    changing.service.close()
    with starting(state=changing.state, deadline_s=60.0) as again:
        assert again.ask(user_id="someone", k=5)["items"] == before["items"]
        assert again.client.get("/ready").json()["catalogue"] == 2
        assert again.ask(path="/v1/items/rollback") == {"catalogue": 1, "items": len(TITLES)}
        assert again.ask(422, path="/v1/items/rollback")["error"]["code"] == "refused"
        assert "i0" in ids(again.ask(state={}, k=len(TITLES)))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"add": [{"item_id": "i1", "title": "kettle red"}]},
        {"add": [{"item_id": "new", "title": " "}]},
        {"add": [NEW, NEW]},
        {"remove": ["nothing"]},
        {"remove": [f"i{n}" for n in range(len(TITLES))]},
        {"in_stock": ["nothing"]},
        {"prices": [{"item_id": "nothing", "price": 1.0}]},
        {"remove": ["i3"], "prices": [{"item_id": "i3", "price": 1.0}]},
    ],
)
def test_what_cannot_be_changed_changes_nothing(running, body):
    before = running.client.get("/ready").json()
    said = change(running, 422, **body)["error"]["message"]
    assert said.endswith(".")
    assert running.client.get("/ready").json() == before
    assert running.service.shelf.current()[0] == before["catalogue"] == 0


def test_requests_that_run_go_on_with_the_items_that_they_have(starting):
    with starting(deadline_s=60.0) as one, ThreadPoolExecutor(1) as pool, held(one.service) as (entered, free):
        asked = pool.submit(one.ask, state={}, k=len(TITLES))
        assert entered.wait(30)
        one.client.post("/v1/items", json={"remove": ["i4"]}).raise_for_status()
        free.set()
        answer = asked.result()
        assert answer["catalogue"] == 0
        assert "i4" in ids(answer)
        one.ask(path="/v1/feedback", slate_id=answer["slate_id"], item_id="i4", kind="click")
        assert "i4" not in ids(one.ask(state={}, k=len(TITLES) - 1))
