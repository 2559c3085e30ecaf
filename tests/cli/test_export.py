"""`llmrec export`: every form is a run of the same catalogue, and whole numbers change what they say they change."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.conversion import convert, made_up_rows
from llmrec.dataset.split import split_at
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError, RunError
from llmrec.export import read_bundle
from llmrec.recommender import Recommender
from llmrec.studies.exports import exports, later_states
from tests.policy.test_exported import NEEDS_GGUF, NEEDS_ONNX


@pytest.fixture(autouse=True)
def _cache(monkeypatch, cache):
    monkeypatch.setenv("LLMREC_CACHE", str(cache))


def lists(folder, run, count=30, **options):
    data = next(run.with_name("tiny.work").glob("**/dataset"))
    recommender = Recommender.load(folder, data=data)
    users = recommender.data.users["user_id"].to_list()[:count]
    found = [recommender.recommend(user=user, k=6, **options).items for user in users]
    ids = [[item.item_id for item in items] for items in found]
    return ids, np.array([[item.log_prob for item in items] for items in found])


@pytest.fixture(scope="module")
def before(run, cache):
    return lists(run, run)


def exported(run, to, out):
    done = CliRunner().invoke(
        app, ["export", str(run), "--to", to, "--out", str(out), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "to", ["merged", pytest.param("onnx", marks=NEEDS_ONNX), pytest.param("gguf", marks=NEEDS_GGUF)]
)
def test_forms_in_floats_give_the_same_lists(run, before, tmp_path, to):
    said = exported(run, to, tmp_path / to)
    assert (said["to"], said["bytes"] > 0) == (to, True)
    ids, scores = lists(tmp_path / to, run)
    assert ids == before[0]
    assert scores == pytest.approx(before[1], abs=1e-4)
    if to == "onnx":  # another search, and a filter, on the other engine
        category = read_bundle(run).items[0].categories[0]
        from llmrec.catalogue.filters import Filters

        asked = {"exact": True, "filters": Filters(categories=(category,)), "count": 5}
        assert lists(tmp_path / to, run, **asked)[0] == lists(run, run, **asked)[0]


@pytest.mark.parametrize(("to", "near"), [("int8", 0.01), ("int4", 0.1)])
def test_whole_numbers_are_near(run, before, tmp_path, to, near):
    exported(run, to, tmp_path / to)
    ids, scores = lists(tmp_path / to, run)
    shared = np.mean([len(set(a) & set(b)) / 6 for a, b in zip(ids, before[0], strict=True)])
    assert shared > 0.8
    assert np.abs(scores - before[1]).max() < near
    weights = [sum(p.stat().st_size for p in folder.glob("*.safetensors")) for folder in (tmp_path / to, run)]
    assert weights[0] < 0.45 * weights[1]
    assert "of the weights before" in (tmp_path / to / "README.md").read_text(encoding="utf-8")


def test_rows_that_4_bits_are_rounded_by_are_prompts_of_the_run_with_an_item_behind_them(run):
    bundle = read_bundle(run)
    rows, policy = made_up_rows(bundle, 12), bundle.policy
    assert rows == made_up_rows(bundle, 12)
    answers = [policy.catalogue.token_ids(item) for item in range(len(bundle.items))]
    prompts = []
    for row in rows:
        ends = [len(row) - len(answer) for answer in answers if row[-len(answer) :] == answer]
        prompts.append(policy.tokenizer.decode(row[: min(ends)]))
        assert ends
    named = [sum(item.title in prompt for item in bundle.items) for prompt in prompts]
    assert len(set(named)) > 3  # histories of several lengths
    assert max(named) <= int(bundle.facts["history_events"])


def test_an_adapter_is_merged_and_changes_nothing(run, tmp_path):
    bundle = read_bundle(run)
    policy = bundle.policy
    policy.model = get_peft_model(policy.model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(0)
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.3)
    from llmrec.types import State

    states = [State(profile=text) for text in ("a gardener", "32 years old")]
    wanted = policy.recommend(states, 5)
    assert wanted != read_bundle(run).policy.recommend(states, 5)
    convert(bundle, "merged", tmp_path / "merged")
    found = read_bundle(tmp_path / "merged").policy.recommend(states, 5)
    assert [slate.items_K for slate in found] == [slate.items_K for slate in wanted]


def test_what_cannot_be_exported_is_one_sentence(run, tmp_path):
    bundle = read_bundle(run)
    with pytest.raises(RequestError, match="--to is 'int2'; give one of merged, int8, int4, onnx, gguf"):
        convert(bundle, "int2", tmp_path / "a")
    convert(bundle, "int8", tmp_path / "int8")
    with pytest.raises(RunError, match="was exported before"):
        convert(read_bundle(tmp_path / "int8"), "merged", tmp_path / "b")
    with pytest.raises(RunError, match="exists already"):
        convert(bundle, "int8", tmp_path / "int8")
    weights = tmp_path / "int8" / "quantised.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(RunError, match=r"quantised\.safetensors"):
        read_bundle(tmp_path / "int8")
    assert [place.name for place in tmp_path.iterdir()] == ["int8"]


def test_the_study_says_what_a_form_costs(run, tmp_path):
    data = next(run.with_name("tiny.work").glob("**/dataset"))
    asked = {
        "forms": ("int8", "int2"),
        "test_events": 60,
        "requests": 5,
        "json_file": tmp_path / "a.json",
        "later": 2,
    }
    found = exports(str(run), data, tmp_path / "out", **asked)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["forms"] == found["forms"]
    whole, int8 = found["forms"]["merged"], found["forms"]["int8"]
    assert list(found["forms"]) == ["merged", "int8"]
    assert "give one of merged, int8" in found["left out"]["int2"]
    change = int8["change"]
    assert change["mean"] == pytest.approx(int8["NDCG@10"] / whole["NDCG@10"] - 1)
    assert change["low"] <= change["mean"] <= change["high"]
    assert int8["bytes"] < whole["bytes"]
    assert 0 < int8["median_ms"] <= int8["p90_ms"]
    # whole weights of so small a model are computed in 32-bit floats
    assert (whole["equal_lists"], whole["log_pi_off"]) == (found["requests"], 0)
    assert int8["equal_lists"] <= found["requests"]
    assert 0 < int8["log_pi_off"] < 0.1
    whole, int8 = whole["later"], int8["later"]
    assert whole["change"] is None
    assert int8["change"]["mean"] == pytest.approx(int8["NDCG@10"] / whole["NDCG@10"] - 1)
    assert int8["change"]["low"] <= int8["change"]["mean"] <= int8["change"]["high"]
    page = (tmp_path / "out" / "study.md").read_text(encoding="utf-8")
    assert "int8 loses" in page
    assert "against all later choices" in page
    assert "int2 is left out" in page


def test_later_states_are_every_so_manieth_choice_with_all_that_follows():
    events = [("a", item, time) for time, item in enumerate("xyzwvx")] + [("b", "z", 9)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "time"], orient="row").with_columns(
        kind=pl.lit("click")
    )
    items = pl.DataFrame({"item_id": list("vwxyz"), "title": list("VWXYZ")})
    users = pl.DataFrame({"user_id": ["a", "b"]})
    about = {"name": "d", "domain": "shop", "click": "click", "conversion": "conversion", "repeat": "allow"}
    data = Dataset.build(items, users, frame, **about)
    found = later_states(data, split_at(data.events, 1, 2), 2)
    # of a the choices z, w, v, x (again) are of the test, of b z
    told = {(one.state.user_id, one.state.time): one.chosen for one in found}
    assert told == {("a", 2): (0, 1, 2, 4), ("a", 4): (0, 2), ("b", 9): (4,)}
    with pytest.raises(RequestError, match="later is -1"):
        later_states(data, split_at(data.events, 1, 2), -1)
