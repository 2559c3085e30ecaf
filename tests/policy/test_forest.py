"""Sequences packed as a forest are read as they are alone: tokens, positions, hidden states, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.policy.forest import Forest, NextTokens, forest_hidden
from llmrec.policy.sharing import supports_sharing
from llmrec.training.packed import collate, pack
from llmrec.training.sft_data import SFTRow
from tests.policy.tiny import SHARING, VOCABULARY, tiny_model

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
    """Rows with long shared beginnings, two roots, an equal pair, and answers that begin alike."""
    rng = np.random.default_rng(seed)
    trunk, other = (rng.integers(5, VOCABULARY, n).tolist() for n in (14, 6))
    prompts = [[*trunk[:n], 2, 3] for n in (3, 7, 11, 14)] + [other, [*other, 2]]
    answers = [[7, 8, 1], [7, 9, 1], [4, 1], [7, 8, 1], [6, 1], [8, 9, 10, 1]]
    rows = [SFTRow((*p, *a), len(a)) for p, a in zip(prompts, answers, strict=True)]
    return [*rows, rows[1], SFTRow((*prompts[1], 7, 11, 1), 3)]


def plain_loss(model, rows):
    """The answers' negative log-likelihood, one row at a time."""
    total = 0.0
    for row in rows:
        ids = torch.tensor([row.input_ids])
        log_prob = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        total = total - log_prob.gather(1, ids[0, 1:, None])[-row.answer :].sum()
    return total


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", SHARING)
def test_packed_rows_give_the_loss_and_the_gradient_of_single_ones(name):
    model, rows = tiny_model(name), material()
    assert supports_sharing(model)
    # two units: the second lies in a packed row of its own, with padding behind it
    batch = collate([pack([[rows[:5], rows[5:]]]).data[0]])
    assert batch["ids"].shape[0] == 2
    packed = NextTokens(*(batch[key] for key in ("ids", "depth", "end", "place", "token", "weight"))).answer(model)
    assert int(batch["weight"].sum()) == sum(row.answer for row in rows)
    ours, theirs = gradient(model, packed["loss"]), gradient(model, plain := plain_loss(model, rows))
    torch.testing.assert_close(packed["loss"], plain, rtol=1e-10, atol=0.0)
    # the norms of these architectures compute in float32, whatever the model does
    assert float((ours - theirs).norm()) <= 1e-6 * float(theirs.norm())


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
