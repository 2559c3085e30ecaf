"""The loss of tokens under a frozen head against the table of all log-probabilities."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from llmrec.policy import token_loss as module
from llmrec.policy.heads import Head
from llmrec.policy.token_loss import token_loss

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def models():
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**SIZES))
    scaled = CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25))
    capped = Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=5.0))
    return {"plain": llama, "scaled": scaled, "capped": capped}


def asked():
    random = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 16, generator=random, dtype=torch.float64).requires_grad_()
    place = torch.tensor([3, 0, 3, 6, 5, 3, 0])  # 1, 2 and 4 are not asked; some stand there twice
    token = torch.tensor([9, 9, 11, 49, 0, 9, 2])
    return hidden, place, token, torch.tensor([1, 2, 1, 3, 1, 0, 1])


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", ["plain", "scaled", "capped"])
@pytest.mark.parametrize("held", [1, 120, 1 << 20])
def test_value_and_gradient_are_those_of_the_table(kind, trained, held, monkeypatch):
    monkeypatch.setattr(module, "ON_CPU", held)  # one place, two, all of them at a time
    model = models()[kind].double().requires_grad_(trained)
    head = Head(model)
    hidden, place, token, weight = asked()
    table = head.all_logits(hidden).log_softmax(-1)
    expected = -sum(w * table[p, t] for p, t, w in zip(place, token, weight, strict=True))
    loss = token_loss(head, hidden, place, token, weight)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(2.5 * loss, hidden)
    torch.testing.assert_close(gradient, torch.autograd.grad(2.5 * expected, hidden)[0])


def test_a_head_that_is_trained_has_its_gradient():
    model = models()["plain"].double()
    hidden, place, token, weight = asked()
    token_loss(Head(model), hidden, place, token, weight).backward()
    assert model.lm_head.weight.grad.abs().sum() > 0


def test_no_table_of_all_logits_is_kept(monkeypatch):
    monkeypatch.setattr(module, "ON_CPU", 50)
    model = models()["plain"].requires_grad_(False)
    hidden, *rest = asked()
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_loss(Head(model), hidden.float(), *rest)
    assert max(sizes) <= hidden.numel()


def test_without_a_gradient_the_value_is_the_same():
    model = models()["plain"].double().requires_grad_(False)
    hidden, *rest = asked()
    with_gradient = token_loss(Head(model), hidden, *rest)
    torch.testing.assert_close(token_loss(Head(model), hidden.detach(), *rest), with_gradient.detach())
