"""The comparison of identifier schemes: sides must agree, nothing after the rows is learned from, figures are whole."""

from __future__ import annotations

import pytest

from llmrec.config import WorldConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.errors import ConfigError
from llmrec.files import read_json
from llmrec.pipeline.data import RunData
from llmrec.studies.identifiers import compare_identifiers
from llmrec.studies.warm_starts import extended
from tests.overrides import given

TINY = [
    "world.users=60",
    "world.items=30",
    "world.slates_per_user=3",
    "model.nano_hidden=32",
    "model.nano_layers=1",
    "model.nano_vocabulary=400",
    "model.nano_pretrain_sequences=64",
    "text.max_tokens=64",
    "sft.examples=64",
    "sft.epochs=1",
    "identifiers.codes=8",
    "identifiers.levels=2",
    "identifiers.dimensions=8",
]


def compared(out, *sides, **options):
    return compare_identifiers(dataset="world", out=out, sides=sides, overrides=given(*TINY), **options)


def test_sides_that_do_not_agree_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Side 'b' in the command line has other data"):
        compared(tmp_path / "out", ["a"], ["b", "data.split=leave-last-out"])
    with pytest.raises(ConfigError, match="cannot be set"):
        compared(tmp_path / "out", ["a"], ["b", "seed=3"])
    assert not (tmp_path / "out").exists()


def test_extending_the_training_period_leaves_the_rows_out_of_it():
    world = generate_world(WorldConfig(users=60, items=30, slates_per_user=3), 0)
    data = RunData(world.dataset, make_split(world.dataset, "time"), world)
    longer = extended(data)
    assert longer.split.train.height == data.split.train.height + data.split.valid.height
    assert longer.split.train["time"].max() < data.split.test["time"].min()
    assert longer.split.test.equals(data.split.test)


def test_every_side_is_trained_once_and_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    sides = (
        ["title"],
        ["semantic", "identifiers.scheme=semantic", "text.history=id"],
        ["atomic", "identifiers.scheme=atomic", "text.history=both"],
    )
    figures = compared(tmp_path / "out", *sides, limit=40, json_file=tmp_path / "figures.json")
    facts, (to_title, to_covisitation) = figures["facts"], figures["tables"]
    assert (facts["title"]["words_added"], facts["atomic"]["words_added"]) == (0, 30)
    assert facts["atomic"]["tokens_per_item"] == 1
    assert len(facts["semantic"]["perplexity"]) == 2
    assert all(fact["shared"] == 0 and fact["users_per_second"] > 0 for fact in facts.values())
    assert (to_title["reference"], to_covisitation["reference"]) == ("title", "covisitation")
    assert to_title["systems"].keys() == {"popularity", "covisitation", "title", "semantic", "atomic"}
    assert "difference" in to_title["systems"]["semantic"]["NDCG@10"]
    saved = read_json(tmp_path / "figures.json")
    again = compared(tmp_path / "out", *sides[:2], limit=40)
    for name in ("title", "semantic"):
        assert again["facts"][name]["sft_seconds"] == saved["facts"][name]["sft_seconds"]
        rank, before = (table["tables"][1]["systems"][name] for table in (again, saved))
        assert rank["NDCG@10"]["mean"] == before["NDCG@10"]["mean"]
