"""`LanguageModelRecommender`: frames in, the main job behind it, and a run folder that is like any other."""

from __future__ import annotations

import polars as pl
import pytest
from sklearn.base import clone

import llmrec
from llmrec import LanguageModelRecommender
from llmrec.dataset.importers.guessing import guessed_columns
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.estimator import frame_of
from llmrec.recommender import Recommender
from tests.cli import tiny


@pytest.fixture(scope="module")
def own(run):
    return Dataset.load(next(run.with_name("tiny.work").glob("**/dataset")))


def test_names_are_guessed_where_one_is_meant():
    names = ["Customer ID", "sku", "timestamp", "eventType", "colour"]
    assert guessed_columns(names, "events") == {
        "user_id": "Customer ID",
        "item_id": "sku",
        "kind": "eventType",
        "time": "timestamp",
    }
    assert guessed_columns(["id", "name"], "items", {"item_id": "id"}) == {"item_id": "id", "title": "name"}
    assert guessed_columns(["item_id", "product", "title"], "items") == {"item_id": "item_id", "title": "title"}


@pytest.mark.parametrize(
    ("names", "table", "given", "words"),
    [
        (["user_id", "product", "sku"], "events", {}, "2 columns that could be 'item_id' .*'product', 'sku'"),
        (["user_id", "what"], "events", {}, "no column for 'item_id' .*'user_id', 'what'"),
        (["item_id", "titel"], "items", {}, "no column for 'title'"),
        (["item_id", "title"], "items", {"title": "nmae"}, "items has no column 'nmae'"),
        (["item_id", "title"], "items", {"colour": "title"}, "'colour', which is no column of items"),
    ],
)
def test_a_name_that_is_not_clear_is_asked_for(names, table, given, words):
    with pytest.raises(DataError, match=words):
        guessed_columns(names, table, given)


def test_frames_of_any_kind_are_the_same_table():
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    columns = {"user": ["a", "b"], "n": [1, 2], "kind": ["click", "click"]}
    polars = pl.DataFrame(columns)
    frame = pandas.DataFrame(columns)
    frame["kind"] = frame["kind"].astype("category")
    for data in (polars, polars.lazy(), columns, frame, polars.to_arrow(), datasets.Dataset.from_dict(columns)):
        assert frame_of(data, "events").equals(polars)
    with pytest.raises(DataError, match="Table events is a int"):
        frame_of(3, "events")
    with pytest.raises(DataError, match="Column 'mixed' of table items"):
        frame_of(pandas.DataFrame({"ok": [1], "mixed": [object()]}), "items")
    with pytest.raises(DataError, match="Column 'mixed' of table items"):
        frame_of(pl.DataFrame({"mixed": [{"a": 1}]}), "items")


def test_a_finished_run_recommends_is_evaluated_and_copied(run, tmp_path):
    assert llmrec.LanguageModelRecommender is LanguageModelRecommender
    model = LanguageModelRecommender.from_pretrained(run)
    user = model.dataset_.users["user_id"][3]
    assert model.recommend(user=user, k=5) == Recommender.load(run).recommend(user=user, k=5)
    found = model.evaluate(test_events=40, baselines=("popularity",))
    assert set(found.table.systems) == {"popularity", str(run)}
    model.save(tmp_path / "copy")
    copy = LanguageModelRecommender.from_pretrained(tmp_path / "copy")
    assert copy.recommend(prompt="a gardener", k=3) == model.recommend(prompt="a gardener", k=3)
    assert not (tmp_path / "copy.work").exists()


def test_what_is_not_fitted_says_so():
    model = LanguageModelRecommender("nano", seed=3, settings={"sft.epochs": 1})
    assert clone(model).get_params() == model.get_params()
    for use in (lambda: model.recommend(user="a"), model.evaluate, lambda: model.save("x")):
        with pytest.raises(RequestError, match="Nothing is fitted yet"):
            use()
    with pytest.raises(DataError, match="names the table 'itmes'"):
        model.fit({"user": ["a"], "item": ["b"]}, {"item": ["b"], "title": ["B"]}, columns={"itmes": {}})
    with pytest.raises(DataError, match="no column for 'title'"):
        model.fit({"user": ["a"], "item": ["b"]})


@pytest.mark.slow
def test_frames_are_fitted_by_the_main_job(own, cache, monkeypatch, tmp_path):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setenv("LLMREC_CACHE", str(cache))
    events = own.events.rename({"user_id": "customer", "item_id": "sku", "time": "timestamp", "kind": "action"})
    events = events.with_columns(action=pl.col("action").replace({"conversion": "buy"})).drop("order", strict=False)
    settings = {key: value for key, value in tiny.SETTINGS.items() if not key.startswith("world.")}
    model = LanguageModelRecommender(algorithm="ppo", out=tmp_path / "run", settings=settings, name="frames")
    tables = (
        pandas.DataFrame(events.to_dict(as_series=False)),
        own.items,
        pandas.DataFrame(own.users.to_dict(as_series=False)),
    )
    with pytest.raises(DataError, match="buy"):
        model.fit(*tables)
    assert model.fit(*tables, kinds={"buy": "conversion"}) is model
    assert model.dataset_.manifest.name == "frames"
    assert model.dataset_.events.height == own.events.height
    assert sorted(model.dataset_.users["user_id"]) == sorted(own.users["user_id"])
    user = own.users["user_id"][0]
    assert model.recommend(user=user, k=5) == Recommender.load(tmp_path / "run").recommend(user=user, k=5)
    assert model.run_ == tmp_path / "run"
    assert str(tmp_path / "run") in model.evaluate(test_events=30).table.systems
