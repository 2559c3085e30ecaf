"""A local causal model as writer: greedy, bounded by its context, deaf to orders in titles."""

import os
import re
from dataclasses import replace

import polars as pl
import pytest
import torch

from llmrec.enrich.checks import Checks
from llmrec.enrich.model_writer import ModelWriter
from llmrec.enrich.prompting import Prompts
from llmrec.enrich.sources import SourceSettings, review_sources, user_sources
from llmrec.enrich.types import Fact, Source
from llmrec.errors import ConfigError
from llmrec.text.hostile import KINDS, hostile_title
from tests.enrich.data import REVIEWS, dataset, split
from tests.enrich.models import tiny_folder

FOLDER = os.environ.get("LLMREC_PRETRAINED", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def writer(folder):
    return ModelWriter(folder, Prompts("en", "shop"), tokens=12, batch=4)


def sources(language="en"):
    found = dataset(language)
    return user_sources(found, split(found), SourceSettings(recent=2))


def test_answers_are_greedy_step_by_step(writer):
    source = sources()[0]
    prompt, lead = writer.prompts.render(source), writer.prompts.lead(source)
    row = writer._encoded(prompt, lead)
    ends = {writer.tokenizer.eos_token_id, *writer.encoder.control_ids}
    made: list[int] = []
    with torch.no_grad():
        while len(made) < 12:
            token = int(writer.model(torch.tensor([row + made])).logits[0, -1].argmax())
            if token in ends:
                break
            made.append(token)
    answer, cut = writer._answers([row])[0]
    assert answer == writer.tokenizer.decode(made, skip_special_tokens=True)
    assert cut == (len(made) == 12)


def test_a_batch_gives_what_each_gives_alone(writer):
    asked = sources()
    assert writer.write(asked) == [writer.write([source])[0] for source in asked]


def test_the_author_tells_models_prompts_and_settings_apart(writer, folder, tmp_path):
    author = writer.author
    assert author.writer == "model"
    assert author.model == "tiny"  # a folder's name, not where it lies
    assert author.settings[0] == ("tokens", "12")
    other = ModelWriter(tiny_folder(tmp_path / "tiny", seed=1), Prompts("en", "shop"), tokens=12, batch=4)
    assert other.author.model_hash != author.model_hash
    assert ModelWriter(folder, Prompts("en", "film"), tokens=12, batch=4).author.key != author.key
    assert ModelWriter(folder, Prompts("en", "shop"), tokens=12, batch=4).author.key == author.key


def test_a_prompt_longer_than_the_context_loses_its_last_facts(tmp_path):
    short = ModelWriter(tiny_folder(tmp_path / "short", positions=260), Prompts("en", "shop"), tokens=12)
    facts = tuple(Fact("liked", f"A rather long title of a product, number {i}") for i in range(60))
    long = Source("user", "long_term", "a", facts)
    room = 260 - 12
    prompt = short.prompts.fitting(long, lambda text: len(short._encoded(text, short.prompts.lead(long))) <= room)
    assert prompt is not None
    assert "number 0;" in prompt
    assert "number 59" not in prompt
    assert short.write([long])[0].failure in ("", "the answer is empty")
    vast = replace(long, facts=(Fact("liked", "words " * 2000),))
    assert "does not fit" in short.write([vast])[0].failure
    review = review_sources([replace(REVIEWS[0], text="good " * 2000)], lambda item: "Red Kettle")[0]
    shortened = short.prompts.fitting(review, lambda text: len(text) < 700)
    assert shortened is not None
    assert "good good" in shortened
    with pytest.raises(ConfigError, match="reads at most 260 tokens"):
        ModelWriter(str(tmp_path / "short"), Prompts("en", "shop"), tokens=300)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_titles_add_no_control_token(writer, kind):
    found = dataset()
    titles = [hostile_title(kind, title, "Evil Lamp", turn) for turn, title in enumerate(found.items["title"])]
    evil = found.items.with_columns(pl.Series("title", titles))
    other = type(found)(evil, found.users, found.events, found.manifest)
    for source in user_sources(other, split(other), SourceSettings(recent=2)):
        row = writer._encoded(writer.prompts.render(source), "")
        plain = writer.encoder.encode(["plain"])[0]
        controls = [token for token in row if token in writer.encoder.control_ids]
        assert controls == [token for token in plain if token in writer.encoder.control_ids]
        assert all(len(fact.text) <= 400 and "\n" not in fact.text for fact in source.facts)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_field_has_a_prompt_in_both_languages(language):
    prompts = Prompts(language, "film")
    names = ("title", "profile", "category", "liked", "disliked", "chosen", "praised", "blamed", "brand", "price",
             "description", "review")  # fmt: skip
    facts = tuple(Fact(name, f"fact {place}") for place, name in enumerate(names))
    shown = {
        "long_term": {1, 2, 3, 4, 6, 7},
        "recent": {2, 5, 6, 7},
        "description": {0, 2, 6, 7, 8, 9, 10, 11},
        "opinion": {0, 11},
    }
    for field, places in shown.items():
        kind = "review" if field == "opinion" else "item" if field == "description" else "user"
        source = Source(kind, field, "a", facts)
        found = {int(number) for number in re.findall(r"fact (\d+)", prompts.render(source))}
        assert found == places
        assert prompts.lead(source)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="LLMREC_PRETRAINED names no model folder")
def test_a_real_model_writes_sentences_of_which_some_pass():
    asked = sources()
    real = ModelWriter(FOLDER, Prompts("en", "shop"), tokens=40)
    drafts = real.write(asked)
    checks = Checks("en")
    assert any(checks.sift(source, draft)[0] for source, draft in zip(asked, drafts, strict=True))
    assert all(draft.sentences[0].startswith(("Over time this customer", "Lately this customer")) for draft in drafts)
