"""Less memory, the same training: activations computed anew, weights in 16 or 4 bits; and what is refused early."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch

from llmrec.config import GRPOSettings, LoraSettings, ModelConfig, SFTSettings
from llmrec.errors import ConfigError
from llmrec.policy.loading import CHECKPOINTING, check_quantization, load_causal_lm, load_configured, save_causal_lm
from llmrec.training.arguments import check_launch, recomputes
from llmrec.training.lora import adapter_of
from llmrec.training.sft import train_sft
from tests.training.worlds import SMALL, run

LORA = LoraSettings(rank=4, alpha=8)
GRPO = GRPOSettings(steps=2, prompts=4, draws=3, minibatches=2, save_every=2, lora=LORA)
FULL = dataclasses.replace(SMALL, weights="full")
QUANTISED = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (llmrec[quantization])"
)


def weights(model):
    return adapter_of(model).tensors if hasattr(model, "peft_config") else model.state_dict()


@pytest.mark.parametrize("settings", [SMALL, FULL, GRPO], ids=["ppo-lora", "ppo-full", "grpo-lora"])
def test_activations_computed_anew_make_the_same_update(shop, tmp_path, settings):
    settings = dataclasses.replace(settings, steps=1, save_every=1)
    found, entered = [], []
    for again in (False, True):
        model = shop.model()
        setattr(model, CHECKPOINTING, again)
        layer = model.model.layers[0].mlp
        entered.append(0)
        layer.register_forward_pre_hook(lambda *_: entered.append(entered.pop() + 1))
        found.append(weights(run(shop, tmp_path / str(again), settings, model=model).model))
    assert entered[1] > entered[0]  # the backward pass went through the layers once more
    assert all(torch.allclose(found[0][n], found[1][n], rtol=1e-5, atol=1e-8) for n in found[0])


def test_sft_with_activations_computed_anew_makes_the_same_update(shop, tmp_path):
    settings = SFTSettings(
        weights="lora", batch_size=8, epochs=1.0, lora=LORA, save_every=8, mixture={"next_item": 1}
    )
    found = []
    for again in (False, True):
        model = shop.model()
        setattr(model, CHECKPOINTING, again)
        given = (shop.tokenizer, shop.catalogue, shop.renderer, shop.examples(32), shop.items)
        found.append(train_sft(model, *given, settings, seed=5, out=tmp_path / str(again)).adapter.tensors)
    assert all(torch.allclose(found[0][n], found[1][n], rtol=1e-5, atol=1e-8) for n in found[0])


def test_a_small_model_on_a_cpu_keeps_its_activations(shop):
    model = shop.model()
    assert not recomputes(model)
    setattr(model, CHECKPOINTING, True)
    assert recomputes(model)


def test_in_sixteen_bits_sampler_and_scorer_agree(shop, tmp_path):
    """The ratio of the first pass is that of rounding: the estimate of KL(sampler || scorer) is near 0."""
    settings = dataclasses.replace(SMALL, steps=3, iterations=1, minibatches=1, save_every=3)
    curve = run(shop, tmp_path, settings, model=shop.model().to(torch.bfloat16)).curve
    assert all(row["moved_kl"] < 1e-3 and row["grad_norm"] > 0 for row in curve)


def test_autocast_of_the_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match=r"mixed_precision 'bf16'.*model\.dtype: bfloat16"):
        check_launch(())


def test_reporters_are_known_and_installed(monkeypatch):
    check_launch(())
    with pytest.raises(ConfigError, match="'report_to' names 'tensorbord'; choose among tensorboard, trackio, wandb"):
        check_launch(("tensorbord",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'wandb', which is not installed; install it \(pip install wandb\)"):
        check_launch(("wandb",))
    with pytest.raises(ConfigError, match=r"bitsandbytes is not installed.*model\.quantization: none"):
        check_quantization(ModelConfig(quantization="4bit"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"'4bit', which trains on a GPU only.*model\.quantization: none"):
        check_quantization(ModelConfig(quantization="4bit"))


def test_tensorboard_gets_the_curve(shop, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = run(shop, tmp_path, dataclasses.replace(SMALL, steps=2), report_to=("tensorboard",))
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    read = events.EventAccumulator(str(file))
    read.Reload()
    shown = [event.value for event in read.Scalars("train/reward")]
    assert shown == pytest.approx([row["reward"] for row in result.curve])


@QUANTISED
@pytest.mark.parametrize("settings", [SMALL, GRPO], ids=["ppo", "grpo"])
def test_an_adapter_is_trained_on_weights_in_four_bits(shop, tmp_path, settings):
    save_causal_lm(shop.model(hidden=64), shop.tokenizer, _folder(tmp_path / "model"))
    model = differentiable(load_causal_lm(str(tmp_path / "model"), dtype="float32", quantization="4bit"))
    assert type(model.model.layers[0].mlp.down_proj).__name__ == "Linear4bit"
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    result = run(shop, tmp_path / "run", settings, model=model)
    assert all(row["grad_norm"] > 0 for row in result.curve)
    after = {n.replace(".base_layer", ""): p for n, p in result.model.get_base_model().named_parameters()}
    assert all(torch.equal(before[n], after[n]) for n in before)


@QUANTISED
def test_qlora_s_adapter_is_left_apart_and_fits_the_published_weights(shop, tmp_path):
    save_causal_lm(shop.model(hidden=64), shop.tokenizer, _folder(tmp_path / "model"))
    settings = SFTSettings(batch_size=16, epochs=20.0, lora=LORA, learning_rate=5e-3, mixture={"next_item": 1.0})
    config = ModelConfig(quantization="4bit", dtype="float32")
    model = differentiable(load_configured(config, str(tmp_path / "model"), quantization="4bit"))
    given = (shop.tokenizer, shop.catalogue, shop.renderer, shop.examples(16), shop.items)
    result = train_sft(model, *given, settings, seed=5, out=tmp_path / "sft")
    assert result.curve[-1]["loss"] < result.curve[0]["loss"] - 0.3
    assert result.adapter is not None
    assert "Linear4bit" in {type(module).__name__ for module in result.model.modules()}


def differentiable(model):
    """Keeps bitsandbytes from its kernels for inference on a CPU, which have no gradient (a GPU has no such ones)."""
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    return model


def _folder(path):
    path.mkdir()
    return path
