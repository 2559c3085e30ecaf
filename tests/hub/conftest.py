"""A tiny finished run folder, made once, and a Hub on loopback."""

import json

import polars as pl
import pytest
import torch

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.identifiers import build_catalogue, make_identifiers
from llmrec.config import IdentifierSettings, LoraSettings, ModelConfig, RunConfig
from llmrec.dataset.store import Dataset
from llmrec.export import Weights, write_bundle
from llmrec.files import new_folder
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import load_tokenizer, save_causal_lm
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.policy.new_tokens import add_words, grow_embeddings
from llmrec.text.render import StateRenderer
from llmrec.training.lora import adapter_of, make_lora, merge

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


@pytest.fixture(scope="session")
def coded_folders(tmp_path_factory, dataset):
    """A base model, and a run folder that adapts it to films written by words which it never saw.

    Returns the folder of the base model, the run folder (whose base is called "alice/base"), and the policy.
    """
    words = [f"<item_{n}>" for n in range(len(TITLES))]
    base = train_tokenizer([*TITLES * 3, "Profile: History: (rated 4) Next film:"], 400)
    model = make_nano(base, ModelConfig(nano_hidden=32, nano_layers=1), seed=0).eval()
    home = tmp_path_factory.mktemp("coded")
    save_causal_lm(model, base, home / "base")
    tokenizer = load_tokenizer(str(home / "base"))
    identifiers = make_identifiers(IdentifierSettings(scheme="atomic"), dataset.item_list, seed=0)
    new = add_words(tokenizer, identifiers.words)
    grow_embeddings(model, tokenizer, new, seed=0)
    adapted = make_lora(model, LoraSettings(rank=2), new_tokens=new)
    with torch.no_grad():
        for parameter in (p for p in adapted.parameters() if p.requires_grad):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    renderer = StateRenderer(
        dataset.item_list,
        tokenizer,
        domain="film",
        language="en",
        max_tokens=96,
        identifiers=words,
        history="both",
    )
    catalogue = build_catalogue(identifiers, dataset.items["item_id"].to_list(), renderer.titles, tokenizer)
    adapter = adapter_of(adapted)
    policy = LanguagePolicy(merge(adapted), tokenizer, catalogue, renderer, "exclude")
    with new_folder(home / "run") as folder:
        write_bundle(
            folder,
            weights=Weights(policy.model, adapter, "alice/base"),
            policy=policy,
            dataset=dataset,
            config=RunConfig(),
            metrics={"ndcg": 0.1},
            card="---\nlibrary_name: llmrec\n---\n# coded\n",
            identifiers=identifiers,
        )
    return home / "base", home / "run", policy
