"""Rules hold for whatever the service answers, by a checker that shares no code with the search
(`llmrec.studies.obeyed`)."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from starlette.testclient import TestClient

from llmrec.config import RunConfig
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.online.log import EventReader
from llmrec.pipeline.run import check_config, run_rules
from llmrec.recommender import Recommender
from llmrec.rules import RuleBook, parse_rules
from llmrec.service.app import create_app
from llmrec.service.logs import Journal
from llmrec.service.service import EVENTS, Service
from llmrec.service.settings import ServiceSettings
from llmrec.studies.obeyed import Person, broken, holds, is_of, made_items, made_person, made_rules, may_see
from llmrec.types import Slate
from tests.service.conftest import write_run
from tests.service.test_recommend import ids

ITEMS = made_items(0, 60)
ROW = {item.item_id: row for row, item in enumerate(ITEMS)}
PEOPLE = {f"p{n}": made_person(np.random.default_rng(n)) for n in range(25)}
NOBODY = Person(None, None, None)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A run folder over made-up items and people."""
    random = np.random.default_rng(1)
    events = [(user, f"i{random.integers(60)}", n) for n, user in enumerate([*PEOPLE] * 6)]
    items = {
        "item_id": [i.item_id for i in ITEMS],
        "title": [i.title for i in ITEMS],
        "description": [i.description for i in ITEMS],
        "categories": [list(i.categories) for i in ITEMS],
        "brand": [i.brand for i in ITEMS],
        "price": [i.price for i in ITEMS],
    }
    data = Dataset.build(
        pl.DataFrame(items),
        pl.DataFrame({"user_id": [*PEOPLE], "profile": [person.profile for person in PEOPLE.values()]}),
        pl.DataFrame(events, schema=["user_id", "item_id", "time"], orient="row").with_columns(kind=pl.lit("click")),
        name="made-up",
        domain="shop",
        click="click",
        conversion="conversion",
    )
    home = tmp_path_factory.mktemp("rules")
    data.save(home / "data")
    write_run(home / "run", data)
    return home, {user: [ROW[i] for u, i, _ in events if u == user] for user in PEOPLE}


class Ruled:
    """A service under rules, as a file would hold them."""

    def __init__(self, shop, state, trees, **settings):
        home, self.seen = shop
        self.recommender = Recommender.load(home / "run", data=home / "data", rules=parse_rules(trees, "the set"))
        options = ServiceSettings(**{"deadline_s": 60.0, **settings})
        self.service = Service(self.recommender, state, options, Journal(lambda line: None))
        self.client = TestClient(create_app(self.service), raise_server_exceptions=False)

    def __enter__(self):
        self.client.__enter__()
        return self

    def __exit__(self, *error):
        self.client.__exit__(*error)
        self.service.close()

    def post(self, path="/v1/recommend", **body):
        return self.client.post(path, json=body)


def request(random, user):
    """A random request, with the person that it is for as the checker knows them, and whether lists stay short
    of what rules could give because the request itself asks for less."""
    who = int(random.integers(4))
    body, person = [
        ({"user_id": user}, PEOPLE[user]),
        ({"state": {"profile": PEOPLE[user].profile}}, PEOPLE[user]),
        ({"prompt": "wine and horror, I want what is forbidden"}, NOBODY),
        ({"user_id": "a stranger"}, NOBODY),
    ][who]
    body |= {"k": int(random.integers(1, 11))}
    narrow = bool(random.random() < 0.3)
    kind = int(random.integers(5))
    if kind == 0:
        body["exact"] = True
    elif kind == 1:
        body["deadline_ms"] = 1
    elif kind == 2:
        body["explore"] = {"seed": int(random.integers(100))}
    if narrow:
        body["filters"] = {"exclude": [f"i{n}" for n in random.choice(60, 20, replace=False)]}
    return body, person, narrow


def possible(random):
    """A set of rules that do not contradict one another, as a file would hold it."""
    while True:
        trees = made_rules(random, ITEMS)
        try:
            RuleBook.of(parse_rules(trees, "the set"), ITEMS)
        except ConfigError:
            continue
        return trees


@pytest.mark.parametrize(("seed", "sets"), [(2, 12), pytest.param(3, 120, marks=pytest.mark.slow)])
def test_no_answer_breaks_a_rule(shop, tmp_path, seed, sets):
    random, answers = np.random.default_rng(seed), Counter()
    for turn in range(sets):
        trees = possible(random)
        with Ruled(shop, tmp_path / str(turn), trees) as one:
            for _ in range(25):
                user = f"p{random.integers(25)}"
                body, person, narrow = request(random, user)
                hidden = one.seen[user] if body.get("user_id") == user else []
                got = one.post(**body)
                told = got.json()
                if got.status_code == 422:
                    left = [n for n, i in enumerate(ITEMS) if n not in hidden and may_see(i, person, trees)]
                    assert narrow or not left, told
                    answers["refused"] += 1
                    continue
                assert got.status_code == 200, told
                slate = Slate(tuple(ROW[item] for item in ids(told)), ())
                wrong = broken(slate, body["k"], ITEMS, person, hidden, trees)
                if narrow:  # floors and places may be out of reach of what the caller left
                    wrong = [said for said in wrong if "could be" not in said]
                    assert not set(ids(told)) & set(body["filters"]["exclude"])
                assert not wrong, (trees, body, told)
                assert told["rules"]["count"] == len(trees)
                answers["explore" if "explore" in body else told["source"]] += 1
                if "explore" in body and told["source"] == "model":
                    assert all(0 < item["propensity"] <= 1 for item in told["items"])
            figures = one.client.get("/metrics").text
            assert f"llmrec_rules {len(trees)}.0" in figures
    assert answers["model"] > 100
    assert answers["fallback"] > 15
    assert answers["explore"] > 15


def test_completions_obey(shop, tmp_path):
    trees = [{"forbidden_words": ["bet", "night"]}, {"at_most": 1, "per": "category"}]
    with Ruled(shop, tmp_path, trees) as one:
        told = one.post("/v1/completions", prompt=["bet on the night", "tea"], n=8).json()
        rows = [ROW[choice["item_id"]] for choice in told["choices"]]
    for part in (rows[:8], rows[8:]):
        assert not broken(Slate(tuple(part), ()), 8, ITEMS, NOBODY, [], trees)


def test_a_slate_that_explores_obeys(shop, tmp_path):
    trees = [{"minimum_age": 18, "items": {"categories": ["wine"]}}, {"at_most": 1, "per": "category"}]
    with Ruled(shop, tmp_path, trees) as one:
        for seed in range(30):
            for told, age in (("A woman, 40 years old.", 40), ("A girl, 9 years old.", 9)):
                drawn = one.post(state={"profile": told}, k=5, explore={"seed": seed})
                assert drawn.status_code == 200, drawn.text
                rows = tuple(ROW[item] for item in ids(drawn.json()))
                assert not broken(Slate(rows, ()), 5, ITEMS, Person(age, None, None), [], trees)
        filters = {"categories": ["wine"]}
        assert one.post(state={}, k=2, explore={"seed": 1}, filters=filters).status_code == 422  # of no known age
        exact = one.post(state={}, k=2, explore={"seed": 1}, exact=True)
        assert exact.status_code == 422


def test_items_and_prices_that_come_later_obey(shop, tmp_path):
    trees = [{"forbidden_words": ["bet"]}, {"never": {"price": {"high": 3}}}, {"never": {"categories": ["yoga"]}}]
    with Ruled(shop, tmp_path, trees) as one:
        held = one.post(state={}, k=10).json()["rules"]
        yoga = [i.item_id for i in ITEMS if "yoga" in i.categories]
        change = {
            "add": [{"item_id": "n1", "title": "Bet now"}, {"item_id": "n2", "title": "Ba", "price": 2.5}],
            "remove": yoga,  # the last of its category: the rule stays for those that may come
        }
        assert one.post("/v1/items", **change).status_code == 200
        allowed = {i.item_id for i in ITEMS if "yoga" not in i.categories and (i.price is None or i.price > 3)}
        allowed -= {i.item_id for i in ITEMS if holds(i, ["bet"])}
        told = one.post(state={}, k=len(allowed)).json()
        assert set(ids(told)) == allowed
        assert told["rules"] == held
        cheap = min(allowed)
        priced = {"prices": [{"item_id": cheap, "price": 1.0}], "add": [{"item_id": "n3", "title": "Yoga",
                  "categories": ["yoga"]}]}  # fmt: skip
        assert one.post("/v1/items", **priced).status_code == 200
        told = one.post(state={}, k=len(allowed)).json()
        assert set(ids(told)) == allowed - {cheap}
        assert not told["rules"]["complete"]
        assert "under the rules" in told["note"]
        before = one.client.get("/ready").json()
        refused = one.post("/v1/items", remove=sorted(allowed - {cheap}))
        assert refused.status_code == 422
        assert "forbid every item" in refused.json()["error"]["message"]
        assert one.client.get("/ready").json() == before


def test_a_share_of_the_day_holds_after_every_slate_of_the_log(shop, tmp_path):
    """Clients at once, some with deadlines that the fallback meets, some whose filter leaves none of the items."""
    wanted = {"categories": ["tea", "toys"]}
    own = {n for n, item in enumerate(ITEMS) if is_of(item, wanted)}
    without = {"exclude": [f"i{n}" for n in own]}
    trees, narrow = [{"at_least": "30%", "of": "day", "items": wanted}], set()

    def ask(one, number):
        # words of a prompt bring items first, and give way to the rule
        who = {"prompt": "something in wine"} if number % 7 == 0 else {"state": {"profile": f"{number}"}}
        body = {**who, "k": 1 + number % 7}
        body |= {"filters": without} if number % 5 == 0 else {}
        body |= {"deadline_ms": 1} if number % 3 == 0 else {}
        body |= {"explain": 1} if number % 11 == 0 else {}
        body |= {"explore": {}} if number % 4 == 0 else {}
        told = one.post(**body).json()
        if number % 5 == 0:
            narrow.add(told["slate_id"])
        return told["source"]

    sources = Counter()
    for part in range(2):  # what was shown before the process began counts
        with Ruled(shop, tmp_path, trees) as one, ThreadPoolExecutor(6) as pool:
            if part:  # what the last process could not show is made up for by the first slate of this one
                first = one.post(state={}, k=10).json()
                assert len(own.intersection(ROW[item] for item in ids(first))) == 10
            sources.update(pool.map(lambda n, one=one: ask(one, n), range(60 * part, 60 * part + 60)))
            for _ in range(5 - 5 * part):
                narrow.add(one.post(state={}, k=10, filters=without).json()["slate_id"])
    assert min(sources["model"], sources["fallback"]) > 10
    shown = had = 0
    with EventReader(tmp_path / EVENTS) as log:
        for logged in log.slates(mature=False):
            rows = [ROW[item] for item in logged.served.items_K]
            count, shown = len(own.intersection(rows)), shown + len(rows)
            need = min(max(math.ceil(0.3 * shown - 1e-9) - had, 0), len(rows))
            had += count
            assert count >= need or logged.served.slate_id in narrow, (shown, had, rows)
    assert had / shown == pytest.approx(0.3, abs=0.1), "no more than what the share needs by far"


def test_a_run_s_own_rules(shop, tmp_path):
    """Rules under the key `rules` of a run's configuration hold where nobody names others."""
    home, _ = shop
    config = yaml.safe_load((home / "run" / "config.yaml").read_text())
    assert config["rules"] == []
    place = tmp_path / "run"
    place.mkdir()
    for file in (home / "run").rglob("*"):
        if file.is_file() and file.name != "files.json":
            (place / file.relative_to(home / "run")).parent.mkdir(exist_ok=True, parents=True)
            (place / file.relative_to(home / "run")).write_bytes(file.read_bytes())
    own = [{"never": {"brands": ["Acme"]}}]
    (place / "config.yaml").write_text(yaml.safe_dump({**config, "rules": own}))
    allowed = {i.item_id for i in ITEMS if i.brand != "Acme"}
    kept = Recommender.load(place).recommend(prompt="anything", k=len(allowed))
    assert {item.item_id for item in kept.items} == allowed
    free = Recommender.load(place, rules=()).recommend(prompt="anything", k=len(ITEMS))
    assert len(free.items) == len(ITEMS)
    (place / "config.yaml").write_text(yaml.safe_dump({**config, "rules": [{"never": {"brand": ["Acme"]}}]}))
    with pytest.raises(ConfigError, match="brand"):
        Recommender.load(place)


def test_rules_of_a_configuration_are_refused_before_anything_is_trained():
    config = RunConfig.read(None, {"rules": [{"never": {"brands": ["Acme"]}}]})
    check_config(config)
    data: Any = SimpleNamespace(dataset=SimpleNamespace(item_list=ITEMS))
    rules = run_rules(config, data)
    assert rules is not None
    assert rules.book.groups["rule 1"].sum() == sum(item.brand == "Acme" for item in ITEMS)
    with pytest.raises(ConfigError, match="rule 1 of the configuration says nothing"):
        check_config(RunConfig.read(None, {"rules": [{"name": "none"}]}))
    with pytest.raises(ConfigError, match="Key 'rules' in the command line"):
        RunConfig.read(None, {"rules": ["never"]})
    with pytest.raises(ConfigError, match="'Acma', which no item has; did you mean 'Acme'"):
        run_rules(RunConfig.read(None, {"rules": [{"never": {"brands": ["Acma"]}}]}), data)
