"""SFT learns its examples, resumes to the same weights after a kill, and leaves a plain model behind."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from llmrec.config import LoraSettings, SFTSettings
from llmrec.errors import ConfigError
from llmrec.policy.adapters import WEIGHTS
from llmrec.policy.new_tokens import grow_embeddings
from llmrec.training import sft
from llmrec.training.callbacks import BarCallback
from llmrec.training.lora import make_lora
from llmrec.training.sft import train_lm, train_sft
from tests.policy.tiny import SHARING, tiny_model

SETTINGS = SFTSettings(
    epochs=6.0, batch_size=16, save_every=5, learning_rate=3e-3, lora=LoraSettings(rank=4, alpha=8)
)  # 24 examples, 32 rows an epoch with the other tasks: 12 steps


def train(shop, out, model=None, settings=SETTINGS, **options):
    model = shop.model() if model is None else model
    data = (shop.catalogue, shop.renderer, shop.examples(24), shop.items, settings)
    return train_sft(model, shop.tokenizer, *data, seed=3, out=out, **options)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one) and one.keys() == two.keys()


class Killed(BaseException):
    pass


def kill_at(monkeypatch, step):
    go_on = BarCallback.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == step:
            raise Killed
        go_on(self, args, state, control, **rest)

    monkeypatch.setattr(BarCallback, "on_step_end", on_step_end)


def test_loss_falls_and_the_model_is_plain_again(shop, tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=12.0)
    result = train(shop, tmp_path, settings=settings)
    assert result.adapter is None
    assert result.curve[-1]["loss"] < 0.8 * result.curve[0]["loss"]
    assert result.curve[-1]["step"] == 24  # 12 * (24 + 4 * round(1.5)) rows / 16
    assert result.seconds > 0
    assert not result.model.training
    assert "forward" not in result.model.__dict__


@pytest.mark.parametrize("weights_kind", ["full", "lora"])
def test_a_killed_training_resumes_to_the_same_weights(shop, tmp_path, monkeypatch, weights_kind):
    settings = dataclasses.replace(SETTINGS, weights=weights_kind)
    whole = train(shop, tmp_path / "whole", settings=settings)
    with monkeypatch.context() as patch:
        kill_at(patch, 8)
        with pytest.raises(Killed):
            train(shop, tmp_path / "cut", settings=settings)
    torn = tmp_path / "cut" / "checkpoint-7"  # a checkpoint that the kill cut off: it has no mark
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    steps = []
    monkeypatch.setattr(
        BarCallback, "on_step_end", lambda self, args, state, control, **_: steps.append(state.global_step)
    )
    again = train(shop, tmp_path / "cut", settings=settings)
    assert steps == [6, 7, 8, 9, 10, 11, 12]
    assert same(weights(again.model), weights(whole.model))
    assert again.curve == whole.curve[: len(again.curve)]  # the last entry is asked for by what was patched away
    assert len(again.curve) == 2
    if weights_kind == "lora":
        assert same(again.adapter.tensors, whole.adapter.tensors)


def test_new_tokens_learn_under_lora_and_outlive_a_kill(shop, coded, tmp_path, monkeypatch):
    settings = dataclasses.replace(SETTINGS, weights="lora", epochs=3.0)

    def trained(out):
        model = shop.model()  # it does not know the new words
        grow_embeddings(model, coded.tokenizer, coded.new_tokens, seed=0)
        before = model.get_input_embeddings().weight.detach().clone()
        result = train(coded, out, model, settings, new_tokens=coded.new_tokens)
        return before, result

    before, whole = trained(tmp_path / "whole")
    after = whole.model.get_input_embeddings().weight
    assert (after != before).any(dim=1).nonzero().squeeze(1).tolist() == sorted(coded.new_tokens)
    assert not any("embed_tokens.weight" in name for name in whole.adapter.tensors)
    with monkeypatch.context() as patch:
        kill_at(patch, 8)
        with pytest.raises(Killed):
            trained(tmp_path / "cut")
    assert not any("embed_tokens.weight" in name for name in load_file(tmp_path / "cut" / "checkpoint-5" / WEIGHTS))
    assert same(weights(trained(tmp_path / "cut")[1].model), weights(whole.model))


def test_another_seed_or_setting_never_resumes(shop, tmp_path, monkeypatch):
    short = dataclasses.replace(SETTINGS, epochs=1.0, save_every=1)
    train(shop, tmp_path, settings=short)
    steps = []
    monkeypatch.setattr(
        BarCallback, "on_step_end", lambda self, args, state, control, **_: steps.append(state.global_step)
    )
    train(shop, tmp_path, settings=short)
    assert steps == []  # finished before: nothing is done again
    train(shop, tmp_path, settings=dataclasses.replace(short, learning_rate=1e-4))
    train(shop, tmp_path, settings=short, resume=False)
    assert steps == [1, 2, 1, 2]


def test_lora_adapter_is_what_was_merged(shop, tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=2.0, weights="lora")
    result = train(shop, tmp_path, settings=settings)
    base = shop.model()
    peft = make_lora(base, settings.lora)
    frozen = {n: p for n, p in shop.model().state_dict().items() if "proj" not in n}
    assert all(torch.equal(result.model.state_dict()[n], p) for n, p in frozen.items())
    names = {n.replace(".weight", ".default.weight"): t for n, t in result.adapter.tensors.items()}
    peft.load_state_dict(names, strict=False)
    ids = torch.arange(2, 20).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(peft.eval()(ids).logits, result.model(ids).logits, atol=2e-6, rtol=1e-5)


def test_every_weight_of_a_full_training_changes(shop, tmp_path):
    model = shop.model()
    before = weights(model)
    train(shop, tmp_path, model, dataclasses.replace(SETTINGS, epochs=1.0))
    assert [n for n, t in model.state_dict().items() if torch.equal(t, before[n])] == []


def test_language_model_pretraining_learns_the_texts(shop, tmp_path):
    texts = [f"{item.title} is {item.description}" for item in shop.items]
    result = train_lm(shop.model(), shop.tokenizer, texts, 24, 640, seed=0, out=tmp_path, batch_size=16, save_every=5)
    assert result.curve[-1]["loss"] < 0.7 * result.curve[0]["loss"]


def test_auto_takes_lora_for_a_large_model(shop, monkeypatch):
    assert not sft.uses_lora(shop.model(), SETTINGS)
    monkeypatch.setattr(sft, "SMALL", 1000)
    assert sft.uses_lora(shop.model(), SETTINGS)
    assert not sft.uses_lora(shop.model(), dataclasses.replace(SETTINGS, weights="full"))


def test_bad_settings_are_named_before_anything_is_written(shop, tmp_path):
    with pytest.raises(ConfigError, match=r"sft\.batch_size"):
        train(shop, tmp_path / "x", settings=dataclasses.replace(SETTINGS, batch_size=0))
    with pytest.raises(ConfigError, match=r"sft\.history_dropout"):
        train(shop, tmp_path / "x", settings=dataclasses.replace(SETTINGS, history_dropout=1.5))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", [*SHARING, "mamba", "bloom"])
def test_padding_on_the_right_needs_no_mask(name):
    model = tiny_model(name)
    ids = torch.randint(5, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:], mask[2, 6:] = 0, 0
    with torch.no_grad():
        masked = model(input_ids=ids * mask, attention_mask=mask, use_cache=False).logits
        plain = model(input_ids=ids * mask, use_cache=False).logits
    assert torch.equal(masked[mask.bool()], plain[mask.bool()])
