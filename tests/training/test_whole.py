"""Weights in 16 bits are trained as finely as in 32."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from llmrec.training.trl_seam.whole import COPY, WholeAdamW, is_short
from tests.training.test_sft import SETTINGS, train, weights

RATE = 1e-5


def trained(weight, steps, kind=WholeAdamW, optimizer=None, first=0):
    optimizer = optimizer or kind([weight], lr=RATE, weight_decay=0.01)
    for step in range(first, first + steps):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        weight.grad = gradient.bfloat16().to(weight.dtype)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def start(dtype):
    return torch.nn.Parameter(torch.linspace(-1, 1, 64).bfloat16().to(dtype))


def test_steps_too_small_for_bfloat16_add_up():
    lost, kept, fine = start(torch.bfloat16), start(torch.bfloat16), start(torch.float32)
    trained(lost, 300, torch.optim.AdamW)
    trained(kept, 300)
    trained(fine, 300, torch.optim.AdamW)
    assert torch.equal(kept, fine.bfloat16())
    assert not torch.equal(kept, start(torch.bfloat16))
    large = start(torch.bfloat16).abs() > 0.5
    assert torch.equal(lost[large], start(torch.bfloat16)[large])


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {}])
def test_weights_in_32_bits_are_stepped_as_torch_does(options):
    ours, theirs = start(torch.float32), start(torch.float32)
    trained(ours, 20, optimizer=WholeAdamW([ours], lr=1e-2, weight_decay=0.1, **options))
    trained(theirs, 20, optimizer=torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, **options))
    assert torch.equal(ours, theirs)


def test_a_state_comes_back_to_the_bit():
    straight, resumed = start(torch.bfloat16), start(torch.bfloat16)
    trained(straight, 40)
    before = trained(resumed, 17)
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    other = torch.nn.Parameter(resumed.detach().clone())
    after = WholeAdamW([other], lr=RATE, weight_decay=0.01)
    after.load_state_dict(torch.load(file))
    state = after.state[other]
    assert state[COPY].dtype == state["exp_avg"].dtype == torch.float32
    trained(other, 23, optimizer=after, first=17)
    assert torch.equal(other, straight)


def test_short_weights():
    assert is_short(torch.zeros(1, dtype=torch.bfloat16))
    assert is_short(torch.zeros(1, dtype=torch.float16))
    assert not is_short(torch.zeros(1))
    assert not is_short(torch.zeros(1, dtype=torch.int8))


def test_sft_of_all_weights_in_bfloat16_moves_as_in_float32(shop, tmp_path):
    plain = shop.model()
    fine, short = copy.deepcopy(plain).bfloat16().float(), copy.deepcopy(plain).bfloat16()
    first = weights(copy.deepcopy(short))
    train(shop, tmp_path / "fine", model=fine, settings=SETTINGS)
    train(shop, tmp_path / "short", model=short, settings=SETTINGS)
    moved, wanted = [], []
    for name, value in weights(short).items():
        assert value.dtype == torch.bfloat16
        moved.append((value.float() - first[name].float()).flatten())
        wanted.append((weights(fine)[name] - first[name].float()).flatten())
    both = torch.cat(moved), torch.cat(wanted)
    assert torch.nn.functional.cosine_similarity(*both, dim=0) > 0.9
