"""Weights of 8 and 4 bits that make up for one another: by hand, and against each weight rounded by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.policy import compensated as module
from llmrec.policy.compensated import compensated, second_moments
from llmrec.policy.quantised import GROUP, load_quantised, save_quantised
from llmrec.policy.rounded import floats, quantise
from tests.policy.tiny import tiny_model

ROWS = [[3, 9, 4, 17, 5], [8, 2, 11], [6, 6, 21, 13, 7, 10, 4]]


def loss(x, weight, codes, scale):
    return float((x @ (floats(codes, scale).double() - weight.double()).t()).square().sum())


@pytest.mark.parametrize(("bits", "most"), [(4, 7), (8, 127)])
def test_what_one_column_loses_the_next_takes_up(bits, most):
    # the second and the third input are always the same, so 0.4 and 0.4 are worth 0.8 of either: 0 and 1
    weight = torch.tensor([[most, 0.4, 0.4, 0.0], [most, 0.4, -0.4, 3.0]])
    alone = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    alone[:, 2] = alone[:, 1]
    codes, scale = compensated(weight, alone.t() @ alone, bits, 4)
    assert scale.tolist() == [[1.0], [1.0]]
    assert quantise(weight, bits, 4)[0].tolist() == [[most, 0, 0, 0], [most, 0, 0, 3]]
    assert codes.tolist() == [[most, 0, 1, 0], [most, 0, 0, 3]]  # 0.4 - 0.4 is nothing to make up for


def test_inputs_that_do_not_move_together_leave_each_weight_by_itself():
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    codes, scale = compensated(weight, torch.diag(torch.arange(64.0)), 4, 32)  # the first input is always 0
    wanted = quantise(weight, 4, 32)
    assert torch.equal(codes, wanted[0])
    assert torch.equal(scale, wanted[1])


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shared=st.floats(0.3, 3.0), groups=st.integers(1, 3))
def test_less_is_lost_of_what_inputs_that_move_together_give(bits, seed, shared, groups):
    draw = torch.Generator().manual_seed(seed)
    inputs = 32 * groups
    x = torch.randn(300, inputs, generator=draw)
    x += shared * torch.randn(300, 3, generator=draw) @ torch.randn(3, inputs, generator=draw)
    weight = torch.randn(20, inputs, generator=draw)
    group = 32 if bits == 4 else inputs
    found = loss(x.double(), weight, *compensated(weight, x.t() @ x, bits, group))
    assert found < loss(x.double(), weight, *quantise(weight, bits, group))


def test_blocks_of_columns_say_how_fast_and_not_what(monkeypatch):
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(200, 96, generator=draw) @ torch.randn(96, 96, generator=draw)
    weight = torch.randn(8, 96, generator=draw)
    found = []
    for block in (1, 40, 96):
        monkeypatch.setattr(module, "BLOCK", block)
        found.append(compensated(weight, x.t() @ x, 8, 96))
    assert all(torch.equal(codes, found[0][0]) and torch.equal(scale, found[0][1]) for codes, scale in found)


@pytest.mark.parametrize("held", [1, 1 << 30])
def test_moments_are_those_of_what_layers_are_given(held):
    model = tiny_model("llama", torch.float32)
    block = model.model.layers[0]
    layers = {"q": block.self_attn.q_proj, "last": model.model.layers[-1].mlp.down_proj, "gate": block.mlp.gate_proj}
    found = dict(second_moments(model, layers, ROWS, held))
    assert list(found) == list(layers)
    x = torch.cat([block.input_layernorm(model.get_input_embeddings()(torch.tensor(row))) for row in ROWS]).detach()
    assert torch.allclose(found["q"], x.t() @ x, rtol=1e-4, atol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in layers.values())


# the embedding's rows are rounded by themselves, which at 8 bits is most of what is left
@pytest.mark.parametrize(("bits", "most"), [(4, 0.8), (8, 0.9)])
def test_what_a_model_says_of_such_texts_changes_less(tmp_path, bits, most):
    model = tiny_model("qwen2", torch.float32)
    rows = [torch.randint(2, 60, (24,), generator=torch.Generator().manual_seed(at)).tolist() for at in range(24)]
    ids = torch.tensor(rows)
    with torch.no_grad():
        wanted = model(input_ids=ids).logits.log_softmax(-1)
    off = {}
    for name, given_rows in (("alone", ()), ("together", rows)):
        (tmp_path / name).mkdir()
        save_quantised(model, tmp_path / name, bits, given_rows)
        with torch.no_grad():
            found = load_quantised(tmp_path / name)(input_ids=ids).logits.log_softmax(-1)
        off[name] = float((wanted.exp() * (wanted - found)).sum(-1).mean())
    assert off["together"] < most * off["alone"], (off, GROUP)
