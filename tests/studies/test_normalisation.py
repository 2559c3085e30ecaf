"""The studies of normalisation and of models before SFT end with their tables, on data small enough for a minute."""

from __future__ import annotations

import pytest

from llmrec.config import ModelConfig, WorldConfig
from llmrec.dataset.world.world import generate_world
from llmrec.policy.loading import save_causal_lm
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.studies.before_sft import measure_before_sft
from llmrec.studies.normalisation import compare_normalisations

TINY = {"world.users": 30, "world.slates_per_user": 4, "model.nano_pretrain_sequences": 32, "model.nano_layers": 1}


@pytest.mark.slow
def test_normalisations_are_compared_and_finished_seeds_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    options = {"out": tmp_path / "out", "seeds": (0, 1), "items": 12, "steps": 2, "rl_steps": 1, "test_events": 16}
    first = compare_normalisations(**options, overrides=TINY)
    again = compare_normalisations(**options, overrides=TINY)
    assert first["table"] == again["table"]
    sides = first["table"]["systems"]
    assert {"local", "global", "likelihood", "vocabulary", "local, RL", "global, RL"} <= set(sides)


@pytest.mark.slow
def test_a_model_is_measured_before_sft(tmp_path):
    world = generate_world(WorldConfig(users=30, items=12, slates_per_user=4), 0)
    tokenizer = train_tokenizer([i.title for i in world.dataset.item_list] * 2, 300)
    (tmp_path / "model").mkdir()
    save_causal_lm(make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), 0), tokenizer, tmp_path / "model")
    overrides = {"world.users": 30, "world.items": 12, "world.slates_per_user": 4, "text.max_tokens": 160}
    found = measure_before_sft(
        model=str(tmp_path / "model"),
        out=tmp_path / "out",
        dataset="world",
        valid=8,
        test=8,
        pi=True,
        overrides=overrides,
    )
    names = set(found["table"]["systems"])
    assert {"popularity", "covisitation", "pi", "likelihood"} <= names
    assert len(names) == 7
