"""`llmrec evaluate`: baselines alone, and a finished run on its own data and on data that share some of its items."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, LLMRecError, RequestError
from tests import forked


def asked(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def places(finished):
    out = Path(finished[0])
    return out, next((out.parent / f"{out.name}.work").glob("**/dataset"))


def test_a_run_on_its_own_data_and_on_others(places, tmp_path):
    out, data = places
    done = asked(out, "--data", data, "--test-events", 40, "--json", tmp_path / "a.json", "--baseline", "popularity")
    assert done.exit_code == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert set(found["systems"]) == {"popularity", str(out)}
    assert found["unknown items"] == {str(out): 0}
    # the same events, the items in another order and one of them under another name
    own = Dataset.load(data)
    names = own.items["item_id"].to_list()
    items = own.items.with_columns(pl.col("item_id").replace({names[0]: "new"})).reverse()
    events = own.events.with_columns(pl.col("item_id").replace({names[0]: "new"}))
    kept = {key: getattr(own.manifest, key) for key in ("name", "domain", "click", "conversion", "repeat")}
    Dataset.build(items, own.users, events, **kept).save(tmp_path / "data")
    done = asked(out, "--data", tmp_path / "data", "--test-events", 40, "--json", tmp_path / "b.json")
    assert done.exit_code == 0
    other = json.loads((tmp_path / "b.json").read_text())
    assert other["unknown items"] == {str(out): 1}
    # what is recommended is nearly the same: one item less, and one that states do not tell of
    first, second = (one["systems"][str(out)]["NDCG@10"]["mean"] for one in (found, other))
    assert abs(first - second) < 0.15
    assert other["systems"]["popularity"]["NDCG@10"]["mean"] > 0


def test_what_cannot_be(places, tmp_path):
    out, data = places
    with pytest.raises(RequestError, match="give a date"):
        asked(out, "--data", data, "--since", "tomorrow")
    own = Dataset.load(data)
    kept = {key: getattr(own.manifest, key) for key in ("name", "domain", "click", "conversion", "repeat")}
    items, events = (t.with_columns(item_id="x" + pl.col("item_id")) for t in (own.items, own.events))
    Dataset.build(items, own.users, events, **kept).save(tmp_path / "data")
    with pytest.raises(DataError, match="knows no item"):
        asked(out, "--data", tmp_path / "data", "--baseline", "popularity", "--test-events", 10)


def walk(folder, *, repeat="allow"):
    """Twenty users walk through eight items in order, one a day, each from a start of their own."""
    events = [(f"u{u:02d}", f"i{(u + day) % 8}", day) for u in range(20) for day in range(12)]
    schema = {"user_id": pl.String, "item_id": pl.String, "time": pl.Int64}
    table = pl.DataFrame(events, schema, orient="row").with_columns(pl.lit("click").alias("kind"))
    profiles = [f"A {20 + u}-year-old {'man' if u % 2 else 'woman'}." for u in range(20)]
    users = pl.DataFrame({"user_id": [f"u{u:02d}" for u in range(20)], "profile": profiles})
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(8)], "title": [f"item number {i}" for i in range(8)]})
    rule = {"click": "click", "conversion": "click", "repeat": repeat}
    Dataset.build(items, users, table, name="walk", domain="shop", **rule).save(folder)
    return folder


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    return walk(tmp_path_factory.mktemp("walk") / "data")


def process(*words, **environment):
    command = [sys.executable, "-m", "llmrec", "evaluate", *map(str, words)]
    plain = {name: value for name, value in forked.environment().items() if name != "COLUMNS"}
    return forked.run(command, env={**plain, **environment})


def test_the_tables_of_a_walk_that_covisitation_knows(walked, tmp_path):
    asked_for = ("--data", walked, "--k", 1, "--k", 4, "--defaults", "--seed", 3, "--json", tmp_path / "out.json")
    done = process(*asked_for, COLUMNS="160")
    assert done.returncode == 0, done.stderr
    for title in ("held-out events of walk", "unordered sets", "Repeats apart", "Beyond accuracy", "NDCG@4 by age"):
        assert title in done.stdout  # what was found can be piped; progress stands on standard error
        assert title not in done.stderr
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found["systems"]["covisitation"]["HR@1"]["mean"] == 1.0  # everybody goes on to the next item
    assert found["systems"]["covisitation"]["HR@1"]["difference"]["low"] > 0
    assert found["dataset_hash"] == Dataset.load(walked).manifest.content_hash
    assert found["split"]["name"] == "time"
    assert "--defaults --seed 3" in found["command"]
    assert {"sets", "repeats", "beyond", "by gender"} <= set(found["further"])
    assert found["further"]["by gender"]["rows"] == {"man": 20, "woman": 20}


def test_a_pipe_gets_whole_columns(walked):
    done = process("--data", walked, "--k", 1, "--k", 4, "--defaults")
    assert done.returncode == 0, done.stderr
    (header, *_) = [line for line in done.stdout.splitlines() if "system" in line]
    assert "NDCG@4" in header
    assert "…" not in done.stdout


def test_all_baselines_are_held_against_popularity(walked, monkeypatch):
    told = {}
    monkeypatch.setattr(
        "llmrec.studies.held_out.held_out", lambda dataset, **options: told.update(options) or Quiet()
    )
    assert asked("--data", walked, "--baseline", "all").exit_code == 0
    assert (told["systems"], told["reference"], told["runs"]) == (["all"], "popularity", ())


class Quiet:
    def show(self):
        pass


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--k", 5, "--k", 100),
            "A metric at 100 was asked for, but the catalogue of 'walk' has only 8; choose 1 to",
        ),
        (("--baseline", "popularty"), "Baseline 'popularty' is unknown; did you mean 'popularity'?"),
        (("--reference", "random"), "no system of this table; name it by --baseline"),
        (("--split", "given"), "names no train and test part"),
    ],
)
def test_what_is_asked_of_baselines_and_cannot_be(walked, words, sentence):
    with pytest.raises(LLMRecError) as refused:
        asked("--data", walked, "--defaults", *words)
    assert sentence in str(refused.value)


def test_no_held_out_event_is_left(tmp_path):
    all_seen = walk(tmp_path / "data", repeat="exclude")  # in the last days everybody has seen every item
    with pytest.raises(LLMRecError, match="no held-out event"):
        asked("--data", all_seen, "--defaults")


@pytest.mark.parametrize("words", [("--test-events", -3), ("--history-events", -1), ("--k", 0)])
def test_numbers_out_of_range(walked, words):
    done = asked("--data", walked, *words)
    assert done.exit_code == 2
    assert words[0] in done.stderr


@pytest.mark.parametrize(
    ("settings", "split", "fits"),
    [
        ({"split": "leave-last-out"}, "time", False),
        ({"test_fraction": 0.05}, "time", False),
        ({"test_fraction": 0.05, "split": "leave-last-out"}, "leave-last-out", True),
        ({}, "time", True),
    ],
)
def test_a_run_that_was_trained_on_another_split(settings, split, fits, walked, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": settings}), encoding="utf-8")
    with pytest.raises(LLMRecError) as refused:  # the folder holds no model, which is seen afterwards
        asked(tmp_path, "--data", walked, "--split", split, "--defaults", "--baseline", "popularity")
    assert ("may have learnt what it would be tested on" in str(refused.value)) is not fits
