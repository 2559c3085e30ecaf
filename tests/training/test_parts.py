"""A step in parts of so many tokens: the same loss and the same gradient, however it is divided."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config import SFTSettings
from llmrec.errors import ConfigError
from llmrec.training import sft
from llmrec.training.callbacks import BarCallback
from llmrec.training.packed import COLUMNS, collate, pack
from llmrec.training.row_fitting import FitPlan, fit_packed, fit_rows
from llmrec.training.sft import check_sft
from llmrec.training.sft_data import SFTRow
from llmrec.training.trl_seam import PackedSFTTrainer, SFTTrainer
from llmrec.training.trl_seam.parts import halved, rows_in_parts
from llmrec.training.trl_seam.sft import part_of

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(LENGTHS, st.integers(0, 100), st.integers(1, 12))
def test_parts_hold_every_row_once_within_the_bound(lengths, most, wanted):
    length_B = torch.tensor(lengths)
    parts = rows_in_parts(length_B, most)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    if most == 0:
        assert len(parts) == 1
    for part in parts:
        assert len(part) == 1 or not most or len(part) * int(length_B[part].max()) <= most
    more = halved(parts, min(wanted, len(lengths)))
    assert len(more) == max(len(parts), min(wanted, len(lengths)))
    assert torch.equal(torch.cat(more), torch.cat(parts))
    assert all(len(part) for part in more)


ROWS = [SFTRow(tuple(2 + (n * 7 + place * 3) % 20 for place in range(5 + n % 4)), 1 + n % 3) for n in range(12)]


def trained(shop, out, micro, packed=None):
    """Curve, gradients of each step, and tokens of every forward, of two steps of six rows."""
    seen, gradients = [], []
    kind = SFTTrainer if packed is None else PackedSFTTrainer
    own = kind.__dict__["compute_loss"]

    def compute_loss(self, model, inputs, *rest, **more):
        seen.append(inputs["input_ids" if packed is None else "ids"].numel())
        return own(self, model, inputs, *rest, **more)

    def on_pre_optimizer_step(self, args, state, control, model, **rest):
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})

    model, plan = shop.model().double(), FitPlan("SFT", 6, 1e-3, 0.0, 1, micro_tokens=micro)
    common = {"seed": 0, "out": out, "resume": False, "report_to": ()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "compute_loss", compute_loss)
        patch.setattr(BarCallback, "on_pre_optimizer_step", on_pre_optimizer_step, raising=False)
        if packed is None:
            curve = fit_rows(model, shop.tokenizer, ROWS, plan, **common).curve
        else:
            curve = fit_packed(model, shop.tokenizer, packed, plan, **common).curve
    return curve, gradients, seen


@pytest.mark.parametrize("layout", ["rows", "packed", "choices"])
def test_a_step_in_parts_has_the_gradient_of_the_whole_one(shop, tmp_path, layout):
    packed = None
    if layout != "rows":
        index = shop.catalogue.index if layout == "choices" else None
        rows = ROWS
        if index is not None:  # half of them items of the catalogue, the others text
            prompts = [row.input_ids[:4] for row in ROWS]
            items = [(*prompt, *shop.catalogue.token_ids(n)) for n, prompt in enumerate(prompts)]
            rows = [SFTRow(ids, len(ids) - 4, item=n) if n % 2 else ROWS[n] for n, ids in enumerate(items)]
        packed = pack([[[row] for row in rows[:6]], [[row] for row in rows[6:]]], index=index, longest=16)
    one, first, whole = trained(shop, tmp_path / "whole", 0, packed)
    two, second, parts = trained(shop, tmp_path / "parts", 16, packed)
    assert len(whole) == 2 < len(parts)
    assert max(parts) <= max(16, max(len(row.input_ids) for row in ROWS))
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in two] == pytest.approx([row[key] for row in one], rel=1e-6)
    for name, gradient in first[0].items():
        assert float((second[0][name] - gradient).norm()) <= 1e-6 * float(gradient.norm()), name


def test_a_part_of_packed_rows_predicts_what_lies_in_it():
    packed = pack([[[row] for row in ROWS[:6]]], longest=16)
    whole = collate([packed.data[0]])
    rows = whole["ids"].shape[0]
    assert rows > 2
    parts = [part_of(whole, low, low + 1) for low in range(rows)]
    assert torch.equal(torch.cat([part["ids"] for part in parts]), whole["ids"])
    assert torch.equal(torch.cat([part["token"] for part in parts]), whole["token"])
    width = whole["ids"].shape[1]
    back = torch.cat([part["place"] + row * width for row, part in enumerate(parts)])
    assert torch.equal(back, whole["place"])
    assert set(parts[0]) == set(COLUMNS) - {"length"}


def test_by_default_large_models_are_taken_in_parts_and_small_ones_whole(monkeypatch):
    model = torch.nn.Linear(2, 2)
    cpu, gpu = (SimpleNamespace(type=name) for name in ("cpu", "cuda"))
    monkeypatch.setattr(sft, "device_of", lambda _: cpu)
    assert sft.micro_tokens(model, SFTSettings()) == 0
    monkeypatch.setattr(sft, "SMALL", 3)
    assert sft.micro_tokens(model, SFTSettings()) == 2048
    monkeypatch.setattr(sft, "device_of", lambda _: gpu)
    assert sft.micro_tokens(model, SFTSettings()) == 32_768
    assert sft.micro_tokens(model, SFTSettings(micro_tokens=7)) == 7


def test_a_negative_number_of_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"sft\.micro_tokens"):
        check_sft(dataclasses.replace(SFTSettings(), micro_tokens=-1), taught=False)
