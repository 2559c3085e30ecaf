"""The short way through adapted layers against PEFT's own: equal values, equal gradients, and PEFT's wherever asked."""

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from llmrec.config import LoraSettings
from llmrec.training.fused_lora import FusedLinear, _Adapted, fuse
from llmrec.training.lora import make_lora

IDS = torch.arange(2, 26).view(2, 12)


def llama(**more):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=60, num_key_value_heads=1, **sizes, **more))


def twins(model, dtype=torch.float64, **options):
    """PEFT's model and the same one fused, with adapters that do something."""
    config = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    plain = get_peft_model(model.to(dtype), config)
    for name, parameter in plain.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, dtype=torch.float64).mul(0.2).to(dtype)
    return plain, fuse(copy.deepcopy(plain))


def outcome(model):
    model.zero_grad()
    logits = model(IDS).logits
    logits.float().logsumexp(-1).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), grads


def assert_equal(first, second, **bounds):
    torch.testing.assert_close(second[0], first[0], **bounds)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(second[1][name], gradient, **bounds, msg=name)


@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradient_are_those_of_peft(bias):
    plain, fused = twins(llama(attention_bias=bias, mlp_bias=bias))
    layers = [module for module in fused.modules() if isinstance(module, Linear)]
    assert [type(layer) for layer in layers] == [FusedLinear] * 14
    x = torch.zeros(1, 1, 16, dtype=torch.float64)
    assert layers[0]._plain_adapter(x) == "default"
    assert_equal(outcome(plain), outcome(fused))


def test_in_float32_they_differ_by_rounding():
    plain, fused = twins(llama(), torch.float32)
    assert_equal(outcome(plain), outcome(fused), atol=2e-5, rtol=2e-5)


def test_the_function_has_the_gradient_of_its_value():
    random = torch.Generator().manual_seed(0)
    shapes = ((5, 3), (4, 3), (4,), (2, 3), (4, 2))
    x, w, bias, a, b = (torch.randn(s, generator=random, dtype=torch.float64) for s in shapes)
    for tensor in (x, a, b):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a, b: _Adapted.apply(x, w, bias, a, b, 0.7), (x, a, b))
    by_hand = x @ w.t() + bias + 0.7 * x @ (b @ a).t()
    torch.testing.assert_close(_Adapted.apply(x, w, bias, a, b, 0.7), by_hand)


def test_nothing_is_computed_for_inputs_that_ask_for_no_gradient():
    x, w, a, b = (torch.randn(s) for s in ((5, 3), (4, 3), (2, 3), (4, 2)))
    u = 0.5 * x @ a.t()
    kept = SimpleNamespace(saved_tensors=(x, w, a, b, u), scale=0.5)
    asked = ((False, True, True), (True, False, False), (False, False, True))
    for of_x, of_a, of_b in asked:
        kept.needs_input_grad = (of_x, False, False, of_a, of_b, False)
        dx, _, _, da, db, _ = _Adapted.backward(kept, torch.ones(5, 4))
        assert [value is not None for value in (dx, da, db)] == [of_x, of_a, of_b]


def test_recomputed_activations_give_the_same_gradient():
    plain, fused = twins(llama())
    for model in (plain, fused):
        model.train()
        model.enable_input_require_grads()
    fused.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(outcome(plain), outcome(fused))


def test_switched_off_merged_and_combined_adapters_take_the_way_of_peft():
    plain, fused = twins(llama())
    with torch.no_grad():
        bare = llama().double()(IDS).logits
        with fused.disable_adapter():
            torch.testing.assert_close(fused(IDS).logits, bare)
        with_adapter = plain(IDS).logits
        torch.testing.assert_close(fused(IDS).logits, with_adapter)
        torch.testing.assert_close(fused.merge_and_unload()(IDS).logits, with_adapter)


def test_adapters_in_32_bits_on_weights_in_16_stay_near_the_exact_function():
    """y is rounded three times where PEFT rounds it twice; adapters here are larger than the weights, the worst case."""
    exact, _ = twins(llama())
    plain, fused = twins(llama(), torch.float32)
    for model in (plain, fused):
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.bfloat16()
    layer = next(module for module in fused.modules() if type(module) is FusedLinear)
    assert layer._plain_adapter(torch.zeros(1, 1, 16, dtype=torch.bfloat16)) == "default"
    value, gradients = outcome(exact)
    far = []
    for model in (plain, fused):
        logits, found = outcome(model)
        assert {g.dtype for g in found.values()} == {torch.float32}
        apart = torch.cat([(found[name] - gradients[name]).flatten() for name in found])
        all_of_it = torch.cat([gradients[name].flatten() for name in found])
        far.append(((logits - value).norm() / value.norm(), apart.norm() / all_of_it.norm()))
    for one, other in zip(far[1], far[0], strict=True):
        assert one < 3 * other  # of values and of gradients


@pytest.mark.parametrize("way", ["dropout", "dora", "hook", "half", "trained base"])
def test_what_is_more_than_the_sum_is_left_to_peft(way):
    options = {"dropout": {"lora_dropout": 0.5}, "dora": {"use_dora": True}}.get(way, {})
    plain, fused = twins(llama(), torch.float32, **options)
    layer = next(module for module in fused.modules() if type(module) is FusedLinear)
    x = torch.zeros(1, 1, 16)
    if way == "hook":
        layer.base_layer.register_forward_pre_hook(lambda *_: None)
    if way == "half":
        layer.base_layer.weight.data = layer.base_layer.weight.data.bfloat16()  # and x is not
    if way == "trained base":
        layer.base_layer.weight.requires_grad_()
    fused.train()
    assert layer._plain_adapter(x) is None
    if way == "dropout":  # of a model that is being judged there is none
        fused.eval()
        assert layer._plain_adapter(x) == "default"
        assert_equal(outcome(plain.eval()), outcome(fused), atol=2e-5, rtol=2e-5)


def test_transposed_layers_stay_as_they_are():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    assert not any(isinstance(module, FusedLinear) for module in make_lora(gpt2, LoraSettings(rank=2)).modules())


def test_adapters_made_here_are_fused():
    assert any(isinstance(module, FusedLinear) for module in make_lora(llama(), LoraSettings(rank=2)).modules())
