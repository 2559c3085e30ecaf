"""Two services on one event log: what one has served and received, the other knows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from llmrec.locks import Busy
from tests.online.postgres import PASSWORD


@pytest.fixture
def url(postgres):
    postgres.run("DROP SCHEMA IF EXISTS llmrec CASCADE")
    return postgres.url()


def history(service, user):
    return [one.item for one in service.users.request(user, service._own, service.deployed.row_of).state.history]


def test_two_services_share_what_they_know_of_users(starting, url):
    with starting(events=url, deadline_s=60.0) as one, starting(events=url, deadline_s=60.0) as other:
        slate = one.ask(user_id="new here", k=3)
        assert slate["items"]
        first, second = (slate["items"][n]["item_id"] for n in (0, 1))
        report = {"path": "/v1/feedback", "slate_id": slate["slate_id"], "kind": "click"}
        assert not other.ask(**report, item_id=first)["repeated"]
        assert one.ask(**report, item_id=first)["repeated"]
        assert not one.ask(**report, item_id=second)["repeated"]
        rows = [one.service.deployed.row_of[item] for item in (first, second)]
        assert history(one.service, "new here") == history(other.service, "new here") == rows
        # a character that the server does not take is refused for one, and not for all of its batch
        assert one.ask(422, user_id="a\x00b", k=3)["error"]["code"] == "refused"
        assert one.ask(user_id="user-1", k=3)["source"] == "model"
        with ThreadPoolExecutor(1) as pool, pytest.raises(Busy):  # a lock is no obstacle within its own thread
            pool.submit(starting(events=url, state=one.state).__enter__).result()
    with starting(events=url, deadline_s=60.0) as again:
        assert history(again.service, "new here") == rows


def test_a_server_that_is_down_is_said_to_clients_and_comes_back(starting, postgres, url):
    with starting(events=url, deadline_s=60.0) as one:
        slate = one.ask(user_id="user-1", k=3)
        report = {"slate_id": slate["slate_id"], "item_id": slate["items"][0]["item_id"], "kind": "click"}
        postgres.kill()
        try:
            assert one.ask(503, path="/v1/feedback", **report)["error"]["code"] == "unavailable"
            assert one.ask(503, user_id="user-1", k=3)["error"]["code"] == "unavailable"
        finally:
            postgres.start()
        assert not one.ask(path="/v1/feedback", **report)["repeated"]
        assert one.ask(user_id="user-1", k=3)["source"] == "model"
        assert PASSWORD not in "".join(one.lines)
