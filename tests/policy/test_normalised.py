"""Distributions over a small catalogue, against the model's own logits item by item."""

from __future__ import annotations

import pytest
import torch

from llmrec.policy.normalised import NORMALISATIONS, catalogue_log_probs
from tests.policy.tiny import ITEMS, brute_log_pi, index_of, prompts, tiny_model, unpadded

IDS, MASK = prompts()
INDEX = index_of()


def brute(model, normalisation):
    """(B, N), differentiable."""
    rows = []
    for prompt in unpadded(IDS, MASK):
        if normalisation == "local":
            found = brute_log_pi(model, prompt)
            rows.append(torch.stack([found[i] for i in range(len(ITEMS))]))
            continue
        sums = []
        for row in ITEMS:
            logits = model(input_ids=torch.tensor([[*prompt, *row[:-1]]])).logits[0, len(prompt) - 1 :]
            values = logits if normalisation == "global" else torch.log_softmax(logits, -1)
            sums.append(values[torch.arange(len(row)), torch.tensor(row)].sum())
        own = torch.stack(sums)
        rows.append(own if normalisation == "vocabulary" else torch.log_softmax(own, 0))
    return torch.stack(rows)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("name", ["qwen3", "mamba"])
def test_values_and_gradients_are_those_of_the_models_own_logits(normalisation, name):
    model = tiny_model(name)
    weight_BN = torch.randn((len(IDS), len(ITEMS)), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, gradients = [], []
    for values in (catalogue_log_probs(model, IDS, MASK, INDEX, normalisation), brute(model, normalisation)):
        model.zero_grad()
        (values * weight_BN).sum().backward()
        found.append(values.detach().double())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert torch.allclose(*found, atol=1e-8 if name == "qwen3" else 1e-5)  # Mamba's scan is in 32 bits
    # norms and rotations of these models compute in 32 bits, forwards alike and backwards not
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*gradients, strict=True))
    total = found[0].exp().sum(1)
    assert (
        (total < 1 - 1e-6).all() if normalisation == "vocabulary" else torch.allclose(total, torch.ones_like(total))
    )
