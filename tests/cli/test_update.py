"""`llmrec update`: a new run from a finished one on data that go on, with the old one left as it is."""

from __future__ import annotations

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.export import read_bundle
from llmrec.pipeline.update import update_run
from llmrec.recommender import Recommender
from llmrec.written import hashes_of, run_hash

QUICK = [
    f"--set={key}"
    for key in (
        "simulator.epochs=1",
        "gate.users=10",
        "gate.exam=warn",
        "evaluation.users=10",
        "evaluation.bootstrap=50",
    )
]


def saved(own, place, **changes):
    tables = {"items": own.items, "users": own.users, "events": own.events} | changes.pop("tables", {})
    kept = {
        key: getattr(own.manifest, key) for key in ("name", "domain", "language", "click", "conversion", "repeat")
    }
    Dataset.build(**tables, **{**kept, **changes}).save(place)
    return place


@pytest.fixture(scope="module")
def own(run):
    return Dataset.load(next(run.with_name("tiny.work").glob("**/dataset")))


@pytest.fixture(scope="module")
def newer(own, tmp_path_factory):
    """The same log with its last third once more behind it, and one item more."""
    last, span = own.events["time"].max(), own.events["time"].max() - own.events["time"].min()
    late = own.events.filter(pl.col("time") > last - span // 3).with_columns(pl.col("time") + span // 3 + 1)
    more = own.items.head(1).with_columns(item_id=pl.lit("brand-new"), title=pl.lit("Brand New Sander"))
    tables = {"events": pl.concat([own.events, late]), "items": pl.concat([own.items, more])}
    return saved(own, tmp_path_factory.mktemp("newer") / "data", tables=tables)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, cache):
    monkeypatch.setenv("LLMREC_CACHE", str(cache))


def asked(run, newer, out, *more):
    line = ["update", str(run), "--data", str(newer), "--out", str(out), *more]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.slow
def test_a_run_goes_on_and_the_old_one_stays(run, newer, tmp_path):
    before, out = hashes_of(run), tmp_path / "new"
    said = asked(run, newer, out, *QUICK, "--set", "gate.smallest_gain=1000")  # nothing is promoted
    assert "SFT continued" in said
    assert "Not improved" in said
    assert hashes_of(run) == before
    facts = json.loads((out / "llmrec.json").read_text(encoding="utf-8"))
    assert facts["lineage"]["run"] == run.name
    assert facts["lineage"]["hash"] == run_hash(run)
    assert facts["lineage"]["dataset"]["name"] == "world-shop-en-0"
    assert facts["weights"] == "full"
    # what was not promoted is the old policy, over the items of now
    old, new = Recommender.load(run), Recommender.load(out, data=newer)
    assert new.bundle.policy.catalogue.item_ids == (*old.bundle.policy.catalogue.item_ids, "brand-new")
    new.change_items(remove=["brand-new"])
    asked_of = {"prompt": "I liked Gilded Trowel", "k": 8}
    both = [[item.item_id for item in one.recommend(**asked_of).items] for one in (old, new)]
    assert both[0] == both[1]
    # the same command finds everything done
    stage = out.with_name("new.work") / "continued_sft" / "stage.json"
    when = stage.stat().st_mtime_ns
    again = json.loads(asked(run, newer, out, *QUICK, "--set", "gate.smallest_gain=1000", "--json"))
    assert (again["run"], again["improved"]) == (str(out), False)
    assert "SFT continued (last)" in again["summary"]["systems"]
    assert stage.stat().st_mtime_ns == when


@pytest.mark.slow
def test_a_reward_can_be_what_it_goes_on_by_and_an_update_goes_on_too(run, newer, own, tmp_path):
    asked(run, newer, tmp_path / "new", *QUICK, "--algorithm", "ppo", "--set", "ppo.steps=2")
    last = Dataset.load(newer).events["time"].max() + 1
    late = own.events.with_columns(pl.col("time") - own.events["time"].min() + last)
    tables = {"events": pl.concat([Dataset.load(newer).events, late]), "items": Dataset.load(newer).items}
    third = saved(own, tmp_path / "third", tables=tables)
    asked(tmp_path / "new", third, tmp_path / "newest", *QUICK)
    facts = read_bundle(tmp_path / "newest").facts
    assert facts["lineage"]["before"]["run"] == run.name


def test_what_cannot_be_gone_on_with_is_one_sentence(run, newer, own, tmp_path):
    times = own.events["time"].sort()
    early = saved(
        own, tmp_path / "early", tables={"events": own.events.filter(pl.col("time") < times[len(times) // 2])}
    )
    tables = {name: getattr(own, name).with_columns(item_id="x" + pl.col("item_id")) for name in ("items", "events")}
    other = saved(own, tmp_path / "other", tables=tables)
    films = saved(own, tmp_path / "films", domain="film")
    for data, out, match in (
        (newer, run, "is the run, or lies in it"),
        (newer, run / "new", "is the run, or lies in it"),
        (early, tmp_path / "new", "the run was trained on events up to"),
        (other, tmp_path / "new", "none of the run's items"),
        (films, tmp_path / "new", "domain 'film'"),
    ):
        with pytest.raises((RunError, DataError), match=match):
            update_run(str(run), data, out)
    with pytest.raises(ConfigError, match=r"sft\.skip"):
        update_run(str(run), newer, tmp_path / "new", overrides={"evaluation.controls": ["all"]})
    assert not (tmp_path / "new").exists()
