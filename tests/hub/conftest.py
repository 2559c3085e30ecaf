"""A tiny finished run folder, made once, and a Hub on loopback."""

import json

import polars as pl
import pytest

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import ModelConfig, RunConfig
from llmrec.dataset.store import Dataset
from llmrec.export import Weights, write_bundle
from llmrec.files import new_folder
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.text.render import StateRenderer

TITLES = ["Fargo (1996)", "Seven (a.k.a. Se7en) (1995)", "Heat (1995)", "Twelve Monkeys (1995)", "Toy Story (1995)"]


@pytest.fixture(scope="session")
def dataset():
    items = pl.DataFrame({"item_id": [f"m{i}" for i in range(len(TITLES))], "title": TITLES})
    users = pl.DataFrame({"user_id": ["ann", "new"], "profile": ["likes crime", ""]})
    events = pl.DataFrame(
        {
            "user_id": ["ann", "ann"],
            "item_id": ["m0", "m2"],
            "kind": ["rating"] * 2,
            "time": [10, 20],
            "value": [5.0, 4.0],
        }
    )
    return Dataset.build(
        items,
        users,
        events,
        name="tiny films",
        domain="film",
        click="rating",
        conversion="rating>=4",
        repeat="exclude",
    )


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, dataset):
    tokenizer = train_tokenizer([*TITLES * 3, "Profile: History: (rated 4) Next film:"], 400)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), seed=0).eval()
    renderer = StateRenderer(dataset.item_list, tokenizer, domain="film", language="en", max_tokens=96)
    catalogue = Catalogue.from_titles(
        dataset.items["item_id"].to_list(), renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix
    )
    policy = LanguagePolicy(model, tokenizer, catalogue, renderer, "exclude")
    place = tmp_path_factory.mktemp("runs") / "tiny"
    with new_folder(place) as folder:
        write_bundle(
            folder,
            weights=Weights(model),
            policy=policy,
            dataset=dataset,
            config=RunConfig(),
            metrics={"ndcg": 0.1},
            card="---\nlibrary_name: llmrec\n---\n# tiny\n",
        )
    dataset.save(place.parent / "tiny.work" / "data" / "dataset")
    assert json.loads((place / "llmrec.json").read_text())["weights"] == "full"
    return place
