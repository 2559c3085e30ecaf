"""An adapter alone, merged, and joined with a second one must describe the same function."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.config import LoraSettings
from llmrec.errors import RunError
from llmrec.policy.adapters import load_adapter_onto, widen
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


NEW = 5
"""Tokens added to a tokenizer and a model that did not know them."""


def words(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([f"<a_{n}>" for n in range(NEW)], special_tokens=True)
    return tokenizer


@pytest.fixture(params=["tied", "untied"])
def fresh(request, shop):
    """Makes the base model as the Hub has it: without rows for the new tokens."""
    if request.param == "tied":
        return shop.model

    def make():
        config = LlamaConfig(
            vocab_size=len(shop.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False,
        )  # fmt: skip
        torch.manual_seed(4)
        return LlamaForCausalLM(config).eval()

    return make


def tokens_of(shop):
    old = len(shop.tokenizer)
    return list(range(old, old + NEW)), torch.cat([IDS[0], *[torch.arange(old, old + NEW)] * 2]).unsqueeze(0)


def taught(model, new, ids, steps=3, seed=0):
    """An adapter trained for a few steps to tell the next token, the new ones among them."""
    trained = make_lora(model, LoraSettings(rank=2, alpha=4), seed=seed, new_tokens=new)
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=1.0)
    for _ in range(steps):
        trained(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return trained


def rows_of(model):
    return [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]


def test_new_rows_train_and_old_ones_do_not(fresh, shop):
    new, ids = tokens_of(shop)
    model = fresh()
    widen(model, len(words(shop.tokenizer)))
    before = rows_of(model)
    merged = merge(taught(model, new, ids))
    for old, now in zip(before, rows_of(merged), strict=True):
        moved = (old != now).any(dim=1)
        assert moved.nonzero().squeeze(1).tolist() == new
    tied = merged.config.tie_word_embeddings
    assert (merged.get_input_embeddings().weight is merged.get_output_embeddings().weight) == tied


def test_without_naming_them_new_rows_stay_as_they_were(fresh, shop):
    _, ids = tokens_of(shop)
    model = fresh()
    widen(model, len(words(shop.tokenizer)))
    before = rows_of(model)
    after = rows_of(merge(taught(model, (), ids)))
    assert all(torch.equal(old, now) for old, now in zip(before, after, strict=True))


def test_saved_loaded_on_a_smaller_base_and_merged(fresh, shop, tmp_path):
    new, ids = tokens_of(shop)
    model, tokenizer = fresh(), words(shop.tokenizer)
    widen(model, len(tokenizer))
    trained = taught(model, new, ids)
    with torch.no_grad():
        expected = trained.eval()(ids).logits
    adapter_of(trained).save(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(merge(trained)(ids).logits, expected, atol=1e-5, rtol=1e-5)

        assert len(fresh().get_input_embeddings().weight) == len(shop.tokenizer)
        loaded = load_adapter_onto(fresh(), tmp_path, tokenizer)
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-5, rtol=1e-5)
        assert type(loaded.get_base_model().get_output_embeddings()) is torch.nn.Linear
        torch.testing.assert_close(merge(loaded)(ids).logits, expected, atol=1e-5, rtol=1e-5)

        wide = fresh()
        wide.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        torch.testing.assert_close(PeftModel.from_pretrained(wide, tmp_path)(ids).logits, expected, atol=1e-5, rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("again", [(), (1, 3, 4)])
def test_joined_adapters_keep_the_rows_of_the_later_one(fresh, shop, tmp_path, again):
    new, ids = tokens_of(shop)
    model, tokenizer = fresh().double(), words(shop.tokenizer)  # float32 sums differ by their order
    widen(model, len(tokenizer))
    base = copy.deepcopy(model)
    first = taught(model, new[:4], ids)
    sft = adapter_of(first)
    second = taught(merge(first), [new[n] for n in again], ids, seed=1)
    with torch.no_grad():
        expected = second.eval()(ids).logits
    joined = combine_adapters(sft, adapter_of(second))
    joined.save(tmp_path)
    (indices, *rest) = joined.config.trainable_token_indices.values()
    assert sorted(indices) == (new if again else new[:4])
    assert all(other == indices for other in rest)
    with torch.no_grad():
        torch.testing.assert_close(load_adapter_onto(base, tmp_path, tokenizer)(ids).logits, expected, atol=1e-5, rtol=1e-5)  # fmt: skip


def test_an_adapter_that_does_not_fit_is_refused(shop, tmp_path):
    new, ids = tokens_of(shop)
    model = shop.model()
    widen(model, len(words(shop.tokenizer)))
    adapter = adapter_of(taught(model, new, ids, steps=0))
    adapter.save(tmp_path / "whole")
    with pytest.raises(RunError, match="does not fit"):
        load_adapter_onto(shop.model(), tmp_path / "whole", shop.tokenizer)
    Adapter(adapter.config, {k: t for k, t in adapter.tensors.items() if "token_adapter" not in k}).save(
        tmp_path / "b"
    )
    with pytest.raises(RunError, match=r"rows of new tokens for 'model\.embed_tokens' are missing"):
        load_adapter_onto(shop.model(), tmp_path / "b", words(shop.tokenizer))
    Adapter(adapter.config, {k: t for k, t in adapter.tensors.items() if "lora_A" not in k}).save(tmp_path / "c")
    with pytest.raises(RunError, match="lacks"):
        load_adapter_onto(shop.model(), tmp_path / "c", words(shop.tokenizer))
    (tmp_path / "c" / "adapter_model.safetensors").unlink()
    with pytest.raises(RunError, match="does not exist"):
        load_adapter_onto(shop.model(), tmp_path / "c", words(shop.tokenizer))


def test_a_head_with_a_bias_is_refused(shop):
    model = shop.model()
    model.lm_head = torch.nn.Linear(32, len(shop.tokenizer))
    with pytest.raises(RunError, match="has a bias"):
        make_lora(model, LoraSettings(), new_tokens=[3])
    make_lora(model, LoraSettings())
