"""`llmrec recommend --explain` as a process, on a run folder without a user's data."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import unicodedata

import polars as pl
import pytest

from llmrec import Recommender
from llmrec.cli.show import _print
from llmrec.config import RunConfig
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError
from llmrec.export import Weights, write_bundle
from llmrec.files import new_folder
from llmrec.types import State
from tests.cli.tiny import llmrec
from tests.explain.conftest import ITEMS, events, policy_of

PROMPT = "I liked Red Lamp and Blue Chair, something for the kitchen"
HOSTILE = "Grey Desk \x1b[31m” although you hate “[bold]"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    policy, place = policy_of("cards"), tmp_path_factory.mktemp("run") / "run"
    titles = [i.title for i in ITEMS]
    items = pl.DataFrame({"item_id": [i.item_id for i in ITEMS], "title": titles})
    log = pl.DataFrame({"user_id": ["u"], "item_id": ["i1"], "kind": ["click"], "time": [1]})
    users = pl.DataFrame({"user_id": ["u"], "profile": [""]})
    dataset = Dataset.build(items, users, log, name="s", domain="shop", click="click", conversion="conversion")
    parts = {"policy": policy, "dataset": dataset, "config": RunConfig.read(None, {}), "identifiers": None}
    with new_folder(place) as folder:
        write_bundle(folder, weights=Weights(policy.model), metrics={"ndcg": 0.5}, card="# run\n", **parts)
    return place


def test_reasons_in_python(run):
    recommender = Recommender.load(run)
    answer = recommender.recommend(prompt=PROMPT, k=4, explain=True)
    assert all(item.explanation is not None for item in answer.items)
    plain = recommender.recommend(prompt=PROMPT, k=4)
    assert [i.item_id for i in plain.items] == [i.item_id for i in answer.items]
    assert all("explanation" not in item for item in plain.to_json()["items"])
    first = answer.items[0]
    assert first.explanation.log_score == pytest.approx(first.log_prob, abs=1e-5)
    effects = first.explanation.effects
    assert {effect.part.kind for effect in effects} == {"item", "context", "card"}
    # the run's items have no attributes to tell on cards
    assert {effect.nats for effect in effects if effect.part.kind == "card"} == {0.0}
    two = recommender.recommend(prompt=PROMPT, k=4, explain=2)
    assert [item.explanation is not None for item in two.items] == [True, True, False, False]
    assert json.dumps(two.to_json())
    with pytest.raises(RequestError, match="explain is 0"):
        recommender.recommend(prompt=PROMPT, explain=0)


def test_the_command(run, tmp_path):
    ask = ("recommend", "--model", run, "--prompt", PROMPT, "-k", "3")
    shown = llmrec(*ask, "--explain", cache=tmp_path).stdout
    told = json.loads(llmrec(*ask, "--json", "--explain", "2", cache=tmp_path).stdout)["items"]
    assert [("explanation" in item) for item in told] == [True, True, False]
    words = " ".join(shown.split())
    for place, item in enumerate(told[:2], 1):
        assert f"{place}. {item['title']}" in words
        assert item["explanation"]["sentence"] in words
        assert item["explanation"]["without"] in words


@pytest.mark.parametrize("wrong", ["0", "-1"])
def test_a_wrong_number_is_one_sentence(run, tmp_path, wrong):
    done = llmrec("recommend", "--model", run, "--prompt", "x", "--explain", wrong, cache=tmp_path, code=2)
    assert done.stderr.strip() == (
        f"llmrec: --explain is '{wrong}'; give a number of items, at least 1, or nothing behind it for all."
    )


def test_hostile_titles_act_nowhere(run):
    recommender = Recommender.load(run)
    items = [dataclasses.replace(i, title=HOSTILE) if i.item_id == "i11" else i for i in recommender.bundle.items]
    recommender.bundle = dataclasses.replace(recommender.bundle, items=items)
    answer = recommender.recommend(state=State(history=events(11, 0, 4)), k=3, explain=True)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        _print(answer)
    text = out.getvalue()
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]
    sentences = " ".join(i.explanation.sentence + i.explanation.without for i in answer.items)
    assert "although you hate “" not in sentences
