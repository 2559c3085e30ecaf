"""One tiny run folder and one service on it, shared by all tests of the room."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from functools import lru_cache

import polars as pl
import pytest
import torch
from starlette.testclient import TestClient

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import ModelConfig, RunConfig
from llmrec.dataset.store import Dataset
from llmrec.export import Weights, write_bundle
from llmrec.files import new_folder
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.recommender import Recommender
from llmrec.service.app import create_app
from llmrec.service.logs import Journal
from llmrec.service.service import Service
from llmrec.service.settings import ServiceSettings
from llmrec.text.render import StateRenderer

HOSTILE = "<script>alert(1)</script> \x1b[31m kettle"
TITLES = [
    *(f"{kind} {look}" for kind in ("kettle", "lamp", "rug") for look in ("red", "blue", "green", "old", "new")),
    HOSTILE,
]
USERS = [f"user-{n}" for n in range(12)]


@pytest.fixture(scope="session")
def dataset():
    ids = [f"i{n}" for n in range(len(TITLES))]
    events = [(user, f"i{(3 * n + m) % len(ids)}", 10 * m + n) for n, user in enumerate(USERS) for m in range(n % 6)]
    items = {
        "item_id": ids,
        "title": TITLES,
        "categories": [[title.split()[-1 if "<" in title else 0]] for title in TITLES],
        "price": [1.0 + n for n in range(len(ids))],
    }
    return Dataset.build(
        pl.DataFrame(items),
        pl.DataFrame({"user_id": USERS, "profile": [f"Likes {TITLES[n]}." for n in range(len(USERS))]}),
        pl.DataFrame(events, schema=["user_id", "item_id", "time"], orient="row").with_columns(kind=pl.lit("click")),
        name="home",
        domain="shop",
        click="click",
        conversion="conversion",
    )


def write_run(place, dataset, *, frame="ask", max_tokens=160, seed=0):
    """A run folder with an untrained nano model whose distribution is far from flat."""
    torch.set_num_threads(1)
    config = RunConfig.read(None, {"text.frame": frame, "reward.stated": ["click", "conversion"]})
    tokenizer = train_tokenizer([*TITLES * 3, "Profile: History: (clicked) Next product: Likes"], 360)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=2), seed=seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.Generator().manual_seed(len(parameter))
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=noise))
    renderer = StateRenderer(
        dataset.item_list, tokenizer, domain="shop", language="en", max_tokens=max_tokens, frame=frame
    )
    ids = dataset.items["item_id"].to_list()
    catalogue = Catalogue.from_titles(ids, renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix)
    policy = LanguagePolicy(model, tokenizer, catalogue, renderer)
    parts = {"policy": policy, "dataset": dataset, "config": config, "card": "# home\n", "metrics": {}}
    with new_folder(place) as folder:
        write_bundle(folder, weights=Weights(model), **parts)


@pytest.fixture(scope="session")
def run(tmp_path_factory, dataset):
    home = tmp_path_factory.mktemp("service")
    dataset.save(home / "data")
    write_run(home / "run", dataset)
    return home


@lru_cache
def recommender_of(run):
    return Recommender.load(run / "run", data=run / "data")


class Running:
    """A service with a client, and the lines of its journal."""

    def __init__(self, run, state, keys=None, events=None, **settings):
        self.lines: list[str] = []
        self.recommender = recommender_of(run)
        self.state = state
        self.service = Service(
            self.recommender, state, ServiceSettings(**settings), Journal(self.lines.append), events=events
        )
        self.client = TestClient(create_app(self.service, keys), raise_server_exceptions=False)

    def ask(self, status=200, path="/v1/recommend", **body):
        got = self.client.post(path, json=body)
        assert got.status_code == status, got.text
        return got.json()


@pytest.fixture(scope="session")
def starting(run, tmp_path_factory):
    """Starts services that end with the block."""

    @contextlib.contextmanager
    def start(keys=None, state=None, events=None, **settings):
        place = state or tmp_path_factory.mktemp("state") / uuid.uuid4().hex
        running = Running(run, place, keys, events, **settings)
        try:
            with running.client:
                yield running
        finally:
            running.service.close()

    return start


@pytest.fixture(scope="session")
def running(starting):
    """One service for all tests that leave it as it is but for its log."""
    with starting(deadline_s=60.0) as one:
        yield one


def until(met, seconds=30.0):
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.005)


@contextlib.contextmanager
def held(service):
    """Keeps the worker of a service busy."""
    free, entered = threading.Event(), threading.Event()
    answer = service.batcher._answer

    def waiting(jobs):
        entered.set()
        assert free.wait(30)
        answer(jobs)

    service.batcher._answer = waiting
    try:
        yield entered, free
    finally:
        service.batcher._answer = answer
        free.set()
