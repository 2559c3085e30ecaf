"""`llmrec evaluate` on a finished run: its own data, and data that share some of its items."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError


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
