"""A source alone: what is recognised is said and used, anything else is refused; it is never passed over for a world."""

import dataclasses
import gzip
import json

import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.config import DataConfig, RunConfig
from llmrec.dataset.importers.layouts import recognise
from llmrec.errors import ConfigError, DataError
from llmrec.pipeline.pilot import wants_pilot
from llmrec.pipeline.recipes import demo_config, recipes_root, with_defaults
from llmrec.pipeline.run import check_config
from tests.overrides import given

REVIEW_2018 = {"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": 1}
REVIEW_2023 = {"user_id": "u", "parent_asin": "i", "rating": 5.0, "timestamp": 1}


def folder(place, *names):
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("{}")
    return place


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["u.data", "u.item", "README"], "movielens"),
        (["ratings.dat", "movies.dat", "users.dat"], "movielens"),
        (["ratings.csv", "movies.csv", "tags.csv"], "movielens"),
        (["ratings.csv.gz", "jokes.json"], "jester"),
        (["items.jsonl.gz", "users.jsonl.gz", "train.csv.gz", "test.csv.gz"], "amazon-minionerec"),
        (["transactions.csv", "products.csv"], "complete-journey"),
        (["hillstrom.csv.gz"], "hillstrom"),
        (["train.ascii", "test.ascii"], "coat"),
        (["random/all/item_context.csv", "random/all/all.csv"], "open-bandit"),
        (["mapping.yaml", "sales.csv"], "table"),
        (["events.parquet", "items.csv"], "table"),
        (["manifest.json", "events.parquet", "items.parquet"], "folder"),
    ],
)
def test_layouts_are_recognised_by_their_files(tmp_path, names, kind):
    place = folder(tmp_path / "mydata", *names)
    assert recognise(place) == (kind, place)


@pytest.mark.parametrize("review", [REVIEW_2018, REVIEW_2023])
def test_amazon_is_recognised_by_its_first_rows(tmp_path, review):
    folder(tmp_path)
    with gzip.open(tmp_path / "Toys.jsonl.gz", "wt") as file:
        file.write(json.dumps(review) + "\n")
    (tmp_path / "meta.jsonl").write_text('{"title": "x", "asin": "i"}\n')
    assert recognise(tmp_path) == ("amazon", tmp_path)


def test_a_world_and_a_stage_hold_their_data_set_within(tmp_path):
    place = folder(tmp_path / "world", "world.json", "dataset/manifest.json")
    assert recognise(place) == ("folder", place / "dataset")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["notes.txt"], "holds no data of a known layout; say what it is with --dataset"),
        (["events.csv", "mapping.yaml", "u.data", "u.item"], "may be movielens or table; say what it is"),
        (["a.jsonl", "b.jsonl"], "holds no data of a known layout"),
        (["llmrec.json", "items.parquet"], "holds no data of a known layout"),
    ],
)
def test_what_is_not_recognised_is_refused_by_every_command(tmp_path, monkeypatch, names, said):
    place = folder(tmp_path / "mydata", *names)
    with pytest.raises(DataError, match=said):
        recognise(place)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "--source", "mydata", "--out", "x"])
    assert isinstance(done.exception, DataError)
    assert [p.name for p in tmp_path.iterdir()] == ["mydata"]
    with pytest.raises(DataError, match=r"sales\.csv is a file of unknown layout"):
        recognise(folder(tmp_path, "sales.csv") / "sales.csv")
    with pytest.raises(DataError, match="does not exist"):
        recognise(tmp_path / "mydate")


def test_a_recognised_source_brings_its_recipe_and_is_said(tmp_path, capsys):
    place = folder(tmp_path / "ml", "u.data", "u.item")
    config = with_defaults(None, {"data.source": place})
    assert (config.data.dataset, config.data.source) == ("movielens", str(place))
    assert config == with_defaults(None, {"data.dataset": "movielens", "data.source": place})
    assert "recognised as movielens (--dataset movielens)" in " ".join(capsys.readouterr().err.split())
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(f"data:\n  source: {place}\nseed: 3\n")
    assert with_defaults(yaml, {}).data.dataset == "movielens"
    assert recognise(folder(tmp_path, "mine.yaml") / "mine.yaml")[0] == "table"


@pytest.mark.parametrize(
    ("yaml", "overrides"),
    [
        ("data: {dataset: world, source: PLACE}", {}),
        ("data: {dataset: world}", {"data.source": "PLACE"}),
        ("seed: 1", {"data.dataset": "world", "data.source": "PLACE"}),
    ],
)
def test_a_world_that_is_asked_for_reads_no_source(tmp_path, yaml, overrides):
    (tmp_path / "c.yaml").write_text(yaml)
    with pytest.raises(ConfigError, match="world is generated and reads nothing, so PLACE would not be used"):
        with_defaults(tmp_path / "c.yaml", overrides)


def test_python_and_the_demo_refuse_it_as_well(tmp_path):
    for config in (demo_config(0, given("data.source=PLACE")), RunConfig.read(None, given("data.source=PLACE"))):
        with pytest.raises(ConfigError, match="world is generated and reads nothing"):
            check_config(config)


def test_data_without_a_recipe_has_that_of_ones_own():
    asked = {"data.dataset": "folder", "data.source": "shop"}
    config, plain = with_defaults(None, asked), RunConfig.read(None, asked)
    assert config.gate.met == "drawn"
    assert (config.algorithm, plain.algorithm) == ("tilted", "ppo")
    assert (config.improvement.weights, plain.improvement.weights) == ("full", "lora")
    assert (config.sft.layout, config.sft.epochs, config.simulator.blend) == ("timelines", 3, True)
    assert wants_pilot(config)  # the coefficient is left to be found
    ppo = with_defaults(None, asked | {"algorithm": "ppo"})
    assert ppo.gate.patience * ppo.improvement.save_every <= ppo.improvement.steps / 2
    # what is asked for wins, and a model that brings weights of its own gets an adapter
    assert with_defaults(None, asked | {"ppo.weights": "lora", "gate.met": "first"}).gate.met == "first"
    large = with_defaults(None, asked | {"model.name": "org/model"})
    assert (large.algorithm, large.improvement.weights, large.gate.met) == ("ppo", "lora", "drawn")
    assert large.sft == plain.sft
    assert large.improvement.learning_rate < plain.improvement.learning_rate
    for algorithm in ("ppo", "grpo", "dpo", "off_policy"):
        config = with_defaults(None, asked | {"algorithm": algorithm}, algorithm=algorithm)
        check_config(dataclasses.replace(config, data=DataConfig()))


def test_data_sets_with_a_recipe_and_worlds_have_nothing_of_it():
    movies = {"data.dataset": "movielens", "data.source": "x"}
    assert with_defaults(None, movies) == RunConfig.read(recipes_root() / "movielens.yaml", movies)
    assert with_defaults(None, {"seed": 1}) == RunConfig.read(None, {"seed": 1})
    grpo = {"seed": 1, "algorithm": "grpo"}
    assert with_defaults(None, grpo, algorithm="grpo") == RunConfig.read(recipes_root() / "grpo.yaml", grpo)
