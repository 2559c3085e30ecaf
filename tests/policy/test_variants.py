"""Prompts that begin alike, packed as forests, give the numbers of each prompt alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.policy import variants
from llmrec.policy.scoring import score_items
from llmrec.policy.variants import alike_hidden, variant_log_probs
from tests.policy.tiny import SHARING, VOCABULARY, index_of, tiny_model

PADS = SimpleNamespace(pad_token_id=0)
ITEMS_G = [3, 1, 4, 1, 5]


def prompts_without(entries=9, width=3, seed=0):
    """A prompt, and the same without each of its entries; a beginning of it, and one that stands there twice."""
    trunk = np.random.default_rng(seed).integers(5, VOCABULARY, entries * width + 2).tolist()
    left_out = [trunk[: n * width] + trunk[(n + 1) * width :] for n in range(entries)]
    return [trunk, *left_out, trunk[:7], trunk]


def alone(model, index, rows, items_G):
    with torch.no_grad():
        found = [
            score_items(model, torch.tensor([r]), torch.ones(1, len(r)), torch.tensor([items_G]), index, path="plain")
            for r in rows
        ]
    return np.concatenate([scores.exact_BG.numpy() for scores in found])


@pytest.mark.parametrize("row_tokens", [1, 70, 100_000])
@pytest.mark.parametrize("name", [*SHARING, "mamba"])
def test_log_pi_is_that_of_each_prompt_alone(monkeypatch, name, row_tokens):
    monkeypatch.setattr(variants, "ROW_TOKENS", row_tokens)
    model, index, rows = tiny_model(name), index_of(), prompts_without()
    error = 1e-6 if name == "mamba" else 1e-9  # Mamba scans in float32
    ours = variant_log_probs(model, PADS, index, rows, ITEMS_G)
    np.testing.assert_allclose(ours, alone(model, index, rows, ITEMS_G), rtol=0, atol=error)
    assert (ours[0] == ours[-1]).all()  # equal prompts are one


def test_passes_are_bounded_and_change_nothing(monkeypatch):
    model, index, rows = tiny_model(), index_of(), prompts_without()
    whole = variant_log_probs(model, PADS, index, rows, ITEMS_G)
    monkeypatch.setattr(variants, "PASS_TOKENS", 40)
    np.testing.assert_allclose(variant_log_probs(model, PADS, index, rows, ITEMS_G), whole, rtol=0, atol=1e-9)


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=8), min_size=1, max_size=8), st.integers(1, 40))
def test_any_prompts_in_any_rows(rows, row_tokens):
    model, index = _model(), index_of()
    kept, variants.ROW_TOKENS = variants.ROW_TOKENS, row_tokens
    try:
        ours = variant_log_probs(model, PADS, index, rows, [0, 7])
    finally:
        variants.ROW_TOKENS = kept
    np.testing.assert_allclose(ours, alone(model, index, rows, [0, 7]), rtol=0, atol=1e-9)


_kept: list = []


def _model():
    return (_kept or _kept.append(tiny_model("llama")) or _kept)[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_are_those_of_packed_rows_on_either_side_of_the_padding(side):
    model, index, rows = tiny_model("qwen3"), index_of(), prompts_without(entries=4)
    width = max(map(len, rows))
    at = (lambda r: [0] * (width - len(r)) + r) if side == "left" else (lambda r: r + [0] * (width - len(r)))
    ids, mask = torch.tensor([at(row) for row in rows]), torch.tensor([at([1] * len(row)) for row in rows])
    found = []
    for path in (alike_hidden, "packed"):
        model.zero_grad()
        scores = score_items(model, ids, mask, torch.tensor([ITEMS_G] * len(rows)), index, path=path)
        scores.exact_BG.square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float((found[0] - found[1]).norm()) <= 1e-6 * float(found[1].norm())


def test_what_is_shared_is_read_once(monkeypatch):
    model, index, rows = tiny_model("llama"), index_of(), prompts_without(entries=20)
    fed = []
    inner = variants.run_decoder
    monkeypatch.setattr(
        variants, "run_decoder", lambda m, **given: fed.append(given["input_ids"].numel()) or inner(m, **given)
    )
    monkeypatch.setattr(variants, "ROW_TOKENS", 10**6)
    variant_log_probs(model, PADS, index, rows, [0])
    assert len(fed) == 1
    assert fed[0] < 0.6 * sum(map(len, rows[:-1]))
