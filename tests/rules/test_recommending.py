"""Rules in `Recommender` and `llmrec recommend`: who asks decides, new items obey, and bad rules are one sentence."""

import json

import polars as pl
import pytest
import torch
import yaml
from typer.testing import CliRunner

from llmrec import Recommender
from llmrec.cli.main import app
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, RequestError
from llmrec.rules import parse_rules
from llmrec.types import Item, State
from tests.test_assortment import dataset, write_run  # noqa: F401

RULES = [
    {"minimum_age": 18, "items": {"words": ["kettle"]}, "name": "hot water"},
    {"at_most": 2, "items": {"words": ["rug"]}},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):  # noqa: F811
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("ruled") / "run"
    write_run(place, dataset, "title")
    return place


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    place = tmp_path_factory.mktemp("rules") / "rules.yaml"
    place.write_text(yaml.safe_dump({"rules": RULES}))
    return place


def kinds(answer):
    return [item.title.split()[0] for item in answer.items]


def test_who_asks_decides_and_new_items_obey(run, file):
    recommender = Recommender.load(run, rules=file)
    adult = recommender.recommend(state=State(profile="A 40-year-old man."), k=12, exact=True)
    assert kinds(adult).count("rug") == 2
    assert kinds(adult).count("kettle") == 5
    assert adult.note == ""
    child = recommender.recommend(state=State(profile="A 9-year-old girl."), k=10, exact=True)
    assert kinds(child).count("kettle") == 0
    assert len(child.items) == 7
    assert child.note == "Only 7 of 10 items are left under the rules."
    asked = recommender.recommend(prompt="Anything with a kettle?", k=3)
    assert "kettle" not in kinds(asked), "a prompt says no age"
    explained = recommender.recommend(state=State(), k=2, explain=1)
    assert explained.items[0].explanation is not None
    recommender.change_items(add=[Item("n", "kettle tiny")], remove=["i1"])
    assert "kettle" not in kinds(recommender.recommend(state=State(), k=8))
    recommender.set_rules(())
    assert "kettle" in kinds(recommender.recommend(state=State(), k=14))


def test_evaluation_ranks_what_the_rules_leave(run, file, dataset, tmp_path):  # noqa: F811
    from llmrec.studies.held_out import _policy

    dataset.save(tmp_path / "data")
    states = [State(), State(profile="A 40-year-old man.")]

    def shown(rules, k=12):
        ranker, unknown = _policy(str(run), tmp_path / "data", dataset, rules)
        assert unknown == 0
        slates = ranker.recommend(states, k)
        return [[dataset.item(item).title.split()[0] for item in slate.items_K] for slate in slates]

    nobody, adult = shown(file)
    assert "kettle" not in nobody
    assert (nobody.count("rug"), adult.count("rug"), adult.count("kettle")) == (2, 2, 5)
    assert all("kettle" in row and row.count("rug") > 2 for row in shown(None, 14))  # a run without rules of its own


def test_nothing_left_is_one_sentence(run):
    rules = parse_rules([{"minimum_age": 18, "items": {"words": ["kettle", "lamp", "rug"]}}], "a test")
    with pytest.raises(RequestError, match="leaves no item"):
        Recommender.load(run, rules=rules).recommend(state=State(), k=2)
    with pytest.raises(ConfigError, match="which no item has"):
        Recommender.load(run, rules=parse_rules([{"never": {"brands": ["Acme"]}}], "a test"))


def test_on_the_command_line(run, file, tmp_path):
    call = ["recommend", "--model", str(run), "--prompt", "something", "-k", "4", "--json", "--rules"]
    done = CliRunner().invoke(app, [*call, str(file)])
    assert done.exit_code == 0
    assert "kettle" not in done.output
    bad = tmp_path / "bad.yaml"
    for text, said in (("rules: [{at_most: 0}]", "at most 0"), ("x: 1", "one key, rules"), ("rules: [", "YAML")):
        bad.write_text(text)
        done = CliRunner().invoke(app, [*call, str(bad)])
        assert isinstance(done.exception, ConfigError)
        assert said in str(done.exception)


def test_a_person_decides_on_items_of_a_run(tmp_path, dataset):  # noqa: F811
    from llmrec.storage import work_folder

    titles = dataset.items["title"].to_list()
    texts = ["heroin inside" if title == "lamp red" else "" for title in titles]
    table = dataset.items.with_columns(pl.Series("description", texts))
    about = {"name": "home", "domain": "shop", "click": "click", "conversion": "conversion"}
    named = Dataset.build(table, dataset.users, dataset.events, **about)
    place = tmp_path / "run"
    write_run(place, named, "title")
    listed = CliRunner().invoke(app, ["review", str(place), "--json"])
    (entry,) = [json.loads(line) for line in listed.output.splitlines()]
    assert (entry["text"], entry["reason"], entry["decision"]) == ("lamp red", "drugs", "")
    before = Recommender.load(place).recommend(state=State(), k=15)
    assert "lamp red" in [item.title for item in before.items]
    assert CliRunner().invoke(app, ["review", str(place), "--refuse", entry["id"]]).exit_code == 0
    after = Recommender.load(place).recommend(state=State(), k=15)
    assert "lamp red" not in [item.title for item in after.items]
    assert len(after.items) == 14
    assert CliRunner().invoke(app, ["review", str(place), "--accept", entry["id"]]).exit_code == 0
    assert len(Recommender.load(place).recommend(state=State(), k=15).items) == 15
    assert work_folder(place).is_dir()
