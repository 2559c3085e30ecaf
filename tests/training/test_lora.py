"""An adapter alone, merged, and joined with a second one must describe the same function."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from llmrec.config import LoraSettings
from llmrec.errors import RunError
from llmrec.training.lora import Adapter, adapter_of, combine_adapters, make_lora, merge

IDS = torch.arange(2, 14).unsqueeze(0)


def randomised(model, seed):
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_a_fresh_adapter_changes_nothing_and_comes_from_its_own_stream(shop):
    before = logits(shop.model())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = make_lora(shop.model(), LoraSettings(rank=4, alpha=8), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = make_lora(shop.model(), LoraSettings(rank=4, alpha=8), seed=3)
    assert torch.equal(logits(first), before)
    one, two = adapter_of(first).tensors, adapter_of(second).tensors
    assert all(torch.equal(one[name], two[name]) for name in one)
    adapted = {name.split(".")[-3] for name in one}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_two_adapters_joined_equal_the_merged_one_with_the_second_on_top(shop, tmp_path):
    first = randomised(make_lora(shop.model(), LoraSettings(rank=4, alpha=8), seed=0), 5)
    sft = adapter_of(first)
    second = randomised(make_lora(merge(first), LoraSettings(rank=2, alpha=6), seed=1), 6)
    expected = logits(second)
    combine_adapters(sft, adapter_of(second)).save(tmp_path)
    joined = PeftModel.from_pretrained(shop.model(), tmp_path)
    assert joined.peft_config["default"].r == 6
    torch.testing.assert_close(logits(joined), expected, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(expected, logits(shop.model()), atol=1e-3)


def test_adapters_of_different_layers_are_refused(shop):
    adapter = adapter_of(make_lora(shop.model(), LoraSettings(rank=4, alpha=8)))
    less = Adapter(adapter.config, dict(list(adapter.tensors.items())[2:]))
    with pytest.raises(RunError, match="only one of them adapts"):
        combine_adapters(adapter, less)
