"""Identifier schemes through the stages: the whole job, what it saves, and what it may not look at."""

from __future__ import annotations

import dataclasses
import json

import polars as pl
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec import Recommender
from llmrec.config import RunConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, RunError
from llmrec.evaluation.verdict import Verdict
from llmrec.export import Weights, read_bundle, write_bundle
from llmrec.files import new_folder
from llmrec.pipeline import finish, improve, run
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.item_tokens import check_naming, name_items, naming_key, training_histories
from llmrec.pipeline.run import check_config, run_job
from llmrec.pipeline.sft import improved_policy, sft_policy, sft_stage
from llmrec.pipeline.work import Work
from llmrec.policy.loading import load_tokenizer, save_causal_lm
from llmrec.policy.nano import train_tokenizer
from llmrec.types import Interaction, State

TINY = {
    "world.users": 60,
    "world.items": 24,
    "world.slates_per_user": 5,
    "model.nano_hidden": 32,
    "model.nano_layers": 1,
    "model.nano_vocabulary": 400,
    "model.nano_pretrain_sequences": 64,
    "text.max_tokens": 128,
    "text.history": "both",
    "identifiers.scheme": "semantic",
    "identifiers.levels": 2,
    "identifiers.codes": 4,
    "identifiers.dimensions": 8,
    "sft.examples": 48,
    "sft.epochs": 1,
    "sft.lora.rank": 2,
    "simulator.epochs": 1,
    "simulator.members": 1,
    "ppo.steps": 2,
    "ppo.prompts": 4,
    "ppo.draws": 4,
    "ppo.save_every": 2,
    "ppo.lora.rank": 2,
    "gate.users": 8,
    "gate.events": 8,
    "evaluation.users": 8,
    "evaluation.test_events": 8,
    "evaluation.bootstrap": 50,
}


def config(**changes):
    tree = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    return RunConfig.read(None, tree)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(config(), Work(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def foreign(data, tmp_path_factory):
    """A model as the Hub has it, with an output head of its own and no idea of the identifiers' words."""
    torch.set_num_threads(1)
    texts = [f"{item.title} {item.description}" for item in data.dataset.item_list]
    tokenizer = train_tokenizer([*texts, "Profile: History: (clicked); Next product:"], 400)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **shape))
    folder = tmp_path_factory.mktemp("base")
    save_causal_lm(model, tokenizer, folder)
    return folder


def log_probs(policy):
    """log pi of every item for a few states, (B, N)."""
    states = [State("u", "a reader", tuple(Interaction(n, "click", n) for n in range(m))) for m in (0, 1, 4)]
    with torch.no_grad():
        return policy.log_prob(states, torch.arange(24).expand(3, -1))


def test_the_whole_job_on_a_model_that_never_saw_the_words(foreign, data, tmp_path, monkeypatch):
    monkeypatch.setattr(improve, "promote", lambda scores: (scores[-1], "The last checkpoint was promoted."))
    monkeypatch.setattr(run, "run_verdict", lambda *_, **__: Verdict("gain", "Improved."))
    monkeypatch.setattr(finish, "write_report", lambda *_, **__: None)  # its plots are tested elsewhere, and slow
    settings = config(model__name=str(foreign), sft__weights="lora")
    done = run_job(settings, tmp_path / "run")
    policy = improved_policy(settings, data, done.sft, done.improvement.promoted)

    bundle = read_bundle(tmp_path / "run")
    assert (bundle.facts["format"], bundle.facts["scheme"], bundle.facts["weights"]) == (2, "semantic", "adapter")
    torch.testing.assert_close(log_probs(bundle.policy), log_probs(policy), atol=1e-5, rtol=0)
    assert bundle.policy.catalogue.scheme == "semantic"
    assert bundle.identifiers.content_hash == done.sft.identifiers.content_hash
    words = bundle.identifiers.words
    assert len(bundle.policy.tokenizer) == len(load_tokenizer(str(foreign))) + len(words)
    rows = bundle.policy.catalogue.tokens_NL
    named = ["".join(bundle.policy.tokenizer.convert_ids_to_tokens(r[r >= 0])[:-1]) for r in rows]
    assert named == bundle.identifiers.texts()

    adapter = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert set(adapter["trainable_token_indices"]) == {"model.embed_tokens", "lm_head"}
    assert adapter["r"] == 4  # SFT's 2 and PPO's 2

    answer = Recommender.load(tmp_path / "run").recommend(prompt=f"I liked {data.dataset.item(0).title}", k=5)
    assert len({item.item_id for item in answer.items}) == 5
    assert answer.items[0].title in {item.title for item in data.dataset.item_list}

    card = tmp_path / "run" / "llmrec.json"
    facts = card.read_text()
    card.write_text(facts.replace(bundle.identifiers.content_hash, "0" * 64))
    with pytest.raises(RunError, match=r"llmrec\.json is not the file that files\.json names"):
        read_bundle(tmp_path / "run")
    (tmp_path / "run" / "files.json").unlink()  # as in a folder of before
    with pytest.raises(RunError, match="identifiers are not those that"):
        read_bundle(tmp_path / "run")
    card.write_text(facts)
    (tmp_path / "run" / "identifiers" / "identifiers.json").unlink()
    with pytest.raises(RunError, match="identifiers"):
        read_bundle(tmp_path / "run")


def test_the_nano_model_learns_the_words_at_the_sft_stage(data, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    work = Work(tmp_path / "work")
    settings = config(identifiers__scheme="atomic", text__history="id")
    base = base_model(settings, data, work)
    assert base_model(config(), data, work) == base, "one nano model for all schemes and histories"
    stage = sft_stage(settings, data, base, work)
    assert not stage.has_adapter
    policy = sft_policy(settings, data, stage)
    assert len(policy.tokenizer) == len(load_tokenizer(base.name)) + data.dataset.n_items
    assert policy.renderer.prompt(State(history=(Interaction(7, "click", 1),))) == (
        "History: <item_7> (clicked)\nNext product:"
    )
    assert policy.catalogue.index.max_length == 2  # its word and the end
    with new_folder(tmp_path / "run") as folder:
        parts = {"policy": policy, "dataset": data.dataset, "config": settings, "identifiers": stage.identifiers}
        write_bundle(folder, weights=Weights(policy.model), metrics={}, card="", **parts)
    torch.testing.assert_close(log_probs(read_bundle(tmp_path / "run").policy), log_probs(policy), atol=1e-5, rtol=0)
    again = sft_stage(settings, data, base, work)
    assert again.identifiers.content_hash == stage.identifiers.content_hash
    titles = config(identifiers__scheme="title", text__history="title")
    assert sft_stage(titles, data, base, work).identifiers is None, "another scheme makes the stage anew"


def naming(settings, data, foreign):
    tokenizer = load_tokenizer(str(foreign))
    return name_items(settings, data, LlamaForCausalLM.from_pretrained(foreign), tokenizer)


def changed(data, parts):
    """The data with items of the events of `parts` reversed: other choices at the same moments."""
    items = data.dataset.items["item_id"].to_list()
    other = dict(zip(items, reversed(items), strict=True))
    frames = [
        frame.with_columns(pl.col("item_id").replace(other)) if part in parts else frame
        for part in ("train", "valid", "test")
        for frame in (data.split.part(part),)
    ]
    manifest = data.dataset.manifest
    rules = {"click": manifest.click, "conversion": manifest.conversion, "repeat": manifest.repeat}
    events = pl.concat(frames).drop("split", strict=False)
    about = {"name": "changed", "domain": manifest.domain, **rules}
    dataset = Dataset.build(data.dataset.items, data.dataset.users, events, **about)
    return RunData(dataset, make_split(dataset, "time"))


def test_identifiers_look_at_the_training_period_alone(data, foreign):
    settings = config(identifiers__collaborative=1.0)
    first = naming(settings, data, foreign).identifiers.content_hash
    later = changed(data, ("valid", "test"))
    assert later.split.valid["item_id"].to_list() != data.split.valid["item_id"].to_list()
    assert training_histories(later) == training_histories(data)
    assert naming(settings, later, foreign).identifiers.content_hash == first
    assert naming(settings, changed(data, ("train",)), foreign).identifiers.content_hash != first


def test_training_histories_are_choices_in_the_order_of_time():
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]})
    users = pl.DataFrame({"user_id": ["u", "v"], "profile": ["", ""]})
    rows = [("v", "c", "click", 5), ("u", "b", "click", 3), ("u", "a", "impression", 4), ("u", "c", "click", 1)]
    rows += [("u", "a", "click", 90), ("v", "b", "click", 95)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "kind", "time"], orient="row")
    dataset = Dataset.build(
        items, users, events, name="t", domain="shop", click="click", conversion="click", repeat="allow"
    )
    split = make_split(dataset, "time", valid_fraction=0.0, test_fraction=0.34)
    assert training_histories(RunData(dataset, split)) == [[2, 1], [2]]


def test_the_model_s_own_hidden_states_can_be_quantised(data, foreign):
    by_model = naming(config(identifiers__embedding="model", identifiers__collaborative=0.0), data, foreign)
    by_text = naming(config(identifiers__collaborative=0.0), data, foreign)
    assert by_model.identifiers.texts() != by_text.identifiers.texts()
    assert by_model.renderer.wording.history == "both"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"identifiers__scheme": "title"}, r"text\.history"),
        ({"identifiers__levels": 0}, r"identifiers\.levels"),
        ({"identifiers__scheme": "title", "text__history": "title", "identifiers__start": "vectors"}, "need no new"),
        ({"sft__epochs": 0}, r"'sft\.epochs' is 0"),
        ({"identifiers__embedding": "column"}, r"identifiers\.source"),
        ({"identifiers__embedding": "column", "identifiers__source": "/no/where.parquet"}, "no such file"),
        ({"identifiers__embedding": "sentence-transformers"}, r"identifiers\.source"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(changes, named):
    with pytest.raises(ConfigError, match=named):
        check_config(config(**changes))


def test_the_key_follows_what_decides_the_names(tmp_path):
    file = tmp_path / "vectors.parquet"
    file.write_bytes(b"one")
    settings = config(identifiers__embedding="column", identifiers__source=str(file))
    check_naming(settings)
    key = naming_key(settings)
    file.write_bytes(b"two")
    assert naming_key(settings) != key
    titles = dataclasses.replace(settings.identifiers, scheme="title")
    assert naming_key(dataclasses.replace(settings, identifiers=titles)) == "title"


@pytest.mark.parametrize(("scheme", "kind"), [("semantic", "interpolation"), ("atomic", "covisitation")])
def test_a_teacher_and_rows_that_start_at_vectors(scheme, kind, data, foreign, tmp_path):
    """SFT by LoRA on a model of somebody else's: what is saved is what was trained, and it learnt something."""
    settings = config(
        identifiers__scheme=scheme,
        identifiers__start="vectors",
        text__elapsed=True,
        model__name=str(foreign),
        sft__epochs=0,
        sft__weights="lora",
        sft__teacher__kind=kind,
        sft__teacher__epochs=3,
        sft__teacher__batch_size=16,
        sft__teacher__learning_rate=0.01,
    )
    base = base_model(settings, data, Work(tmp_path / "base"))
    stage = sft_stage(settings, data, base, Work(tmp_path / "work"))
    assert stage.has_adapter
    assert stage.curve[-1]["loss"] < stage.curve[0]["loss"]
    policy = sft_policy(settings, data, stage)
    total = log_probs(policy).double().exp().sum(1)
    assert torch.allclose(total, torch.ones(3, dtype=torch.float64), atol=1e-5)
    assert policy.renderer.wording.elapsed
    again = sft_stage(settings, data, base, Work(tmp_path / "work"))
    assert torch.equal(log_probs(policy), log_probs(sft_policy(settings, data, again)))
