"""Sequences packed as a forest are read as they are alone: tokens, positions, hidden states, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from llmrec.policy.forest import Forest, forest_hidden
from llmrec.policy.forward import ask_through_forward, with_scoring
from llmrec.policy.scoring import score_items
from llmrec.policy.sharing import supports_sharing
from llmrec.training.packed import collate, pack
from llmrec.training.sft_data import SFTRow
from llmrec.training.trl_seam.sft import predictions
from tests.policy.tiny import ITEMS, SHARING, VOCABULARY, index_of, tiny_model

TOKENS = st.lists(st.integers(1, 4), min_size=1, max_size=9)


def read_back(forest):
    """The sequences that a forest's places spell, by its depths and ends alone: ancestors of each leaf."""
    found = []
    for leaf in range(len(forest)):
        chain = [i for i in range(leaf + 1) if leaf < forest.end_L[i]]
        assert forest.depth_L[chain].tolist() == list(range(len(chain)))
        found.append(tuple(forest.ids_L[chain].tolist()))
    return found


@given(st.lists(TOKENS, min_size=1, max_size=12))
def test_a_forest_holds_each_prefix_once_and_every_sequence(rows):
    forest = Forest.of(rows)
    spelled = read_back(forest)
    prefixes = {tuple(row[:n]) for row in rows for n in range(1, len(row) + 1)}
    assert sorted(spelled) == sorted(prefixes)
    assert [forest.ids_L[places].tolist() for places in forest.places] == rows
    assert all(spelled[places[-1]] == tuple(row) for row, places in zip(rows, forest.places, strict=True))


def material(seed=0):
    """Rows with long shared beginnings, two roots, an equal pair, items that begin alike, and two texts."""
    rng = np.random.default_rng(seed)
    trunk, other = (rng.integers(5, VOCABULARY, n).tolist() for n in (14, 6))
    prompts = [[*trunk[:n], 2, 3] for n in (3, 7, 11, 14, 7)] + [other, [*other, 2]]
    items = [3, 1, 4, 1, 5, 9, 2]
    rows = [SFTRow((*p, *ITEMS[i]), len(ITEMS[i]), i) for p, i in zip(prompts, items, strict=True)]
    texts = [SFTRow((*prompts[1], 7, 11, 1), 3), SFTRow((*other, 8, 9), 2)]
    return [*rows, rows[1], *texts]


def plain_loss(model, rows):
    """The answers' negative log-likelihood, one row at a time."""
    total = 0.0
    for row in rows:
        ids = torch.tensor([row.input_ids])
        log_prob = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        total = total - log_prob.gather(1, ids[0, 1:, None])[-row.answer :].sum()
    return total


def plain_choices(model, rows, index):
    """The same with items scored by the deployed policy, one row an item."""
    total = plain_loss(model, [row for row in rows if row.item is None])
    for row in rows:
        if row.item is not None:
            prompt = torch.tensor([row.input_ids[: -row.answer]])
            scores = score_items(
                model, prompt, torch.ones_like(prompt), torch.tensor([[row.item]]), index, path="plain"
            )
            total = total - scores.item_log_prob_BG.sum()
    return total


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def require_equal(model, packed, plain, error=1e-9):
    ours, theirs = gradient(model, packed), gradient(model, plain)
    torch.testing.assert_close(packed, plain, rtol=error, atol=0.0)
    # the norms of these architectures compute in float32, whatever the model does
    assert float((ours - theirs).norm()) <= 1000 * error * float(theirs.norm())


@pytest.mark.parametrize("name", SHARING)
def test_packed_rows_give_the_loss_and_the_gradient_of_single_ones(name):
    model, rows, index = tiny_model(name), material(), index_of()
    assert supports_sharing(model)
    units = [[rows[:5], rows[5:]]]
    # the second unit lies in a packed row of its own, with padding behind it
    batch = collate([pack(units).data[0]])
    assert batch["ids"].shape[0] == 2
    assert int(batch["weight"].sum()) == sum(row.answer for row in rows)
    require_equal(model, predictions(batch).answer(model)["loss"], plain_loss(model, rows))
    chosen = collate([pack(units, index=index).data[0]])
    assert chosen["ids"].numel() < batch["ids"].numel()  # forced ends of items are not fed
    assert int(chosen["weight"].sum()) == 5
    require_equal(model, predictions(chosen, index).answer(model)["loss"], plain_choices(model, rows, index))


@pytest.mark.parametrize(("name", "error"), [("mamba", 1e-7), ("qwen3", 1e-9)])  # Mamba scans in float32
def test_items_are_choices_in_rows_too(name, error):
    model, rows, index = tiny_model(name), material(), index_of()
    batch = collate([pack([[rows[:5], rows[5:]]], index=index, shared=False).data[0]])
    assert batch["ids"].shape[0] == len(rows)
    asked = predictions(batch, index, shared=False)
    require_equal(model, asked.answer(model)["loss"], plain_choices(model, rows, index), error)


@pytest.mark.parametrize("wrapped", [False, True])
def test_adapters_learn_through_the_taught_forward(wrapped):
    model = tiny_model("llama")
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, exclude_modules=["lm_head"])
    trained = get_peft_model(model, lora).eval()
    with_scoring(trained)
    rows, index = material(), index_of()
    batch = collate([pack([[rows]], index=index).data[0]])
    asked = ask_through_forward(torch.nn.DataParallel(trained) if wrapped else trained, predictions(batch, index))
    plain = plain_choices(trained, rows, index)
    require_equal(trained, asked["loss"], plain)


def test_states_of_a_forest_are_those_of_its_sequences():
    model = tiny_model("gemma3-window")  # the window of 4 counts positions, not places
    rows = [row.input_ids for row in material()]
    forest = Forest.of(rows)
    ids, depth, end = (torch.from_numpy(x).unsqueeze(0) for x in (forest.ids_L, forest.depth_L, forest.end_L))
    with torch.no_grad():
        hidden = forest_hidden(model, ids, depth, end)[0]
        for row, places in zip(rows, forest.places, strict=True):
            alone = forest_hidden(model, torch.tensor([row]), torch.arange(len(row)).unsqueeze(0), None)[0]
            torch.testing.assert_close(hidden[torch.from_numpy(places)], alone, rtol=1e-9, atol=1e-10)
