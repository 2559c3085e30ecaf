"""Attention by blocks of queries against torch's, in value and gradient, under masks of many kinds."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.policy import block_attention as blocks
from llmrec.policy.forest import Forest, forest_hidden
from llmrec.policy.scoring import score_items
from tests.policy.tiny import CONFIGS, ITEMS, index_of, prompts, tiny_model


def parts(queries, heads=6, shared=2, rows=2, dtype=torch.float64, values=5):
    random = torch.Generator().manual_seed(queries)
    shapes = ((rows, heads, queries, 4), (rows, shared, queries, 4), (rows, shared, queries, values))
    return [torch.randn(s, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def reference(q, k, v, mask, scale=None):
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask.unsqueeze(1), scale=scale)


def tree_mask(queries, rows, seed):
    """Every place sees itself and some of those before it; each row has trees of its own."""
    random = torch.Generator().manual_seed(seed)
    seen = torch.rand(rows, queries, queries, generator=random) < 0.3
    seen = seen.tril() | torch.eye(queries, dtype=torch.bool)
    seen[0, queries // 2 :, : queries // 2] = False
    return seen


@pytest.mark.parametrize("queries", [1, 7, 128, 129, 300])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_value_and_gradient_are_those_of_torch(queries, scale):
    q, k, v = parts(queries)
    mask = tree_mask(queries, 2, 3)
    weight = torch.randn(2, 6, queries, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for attend in (blocks.block_attention, reference):
        out = attend(q, k, v, mask, scale)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (q, k, v))))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_queries_that_see_nothing_have_zeros_and_no_gradient():
    q, k, v = parts(300)
    mask = tree_mask(300, 2, 3)
    mask[0, 5], mask[1, 128:256] = False, False
    out = blocks.block_attention(q, k, v, mask)
    out.sum().backward()
    for tensor in (out, q.grad):
        assert not tensor[0, :, 5].any()
        assert not tensor[1, :, 128:256].any()
        assert tensor[0, :, 6].any()
    assert all(t.grad.isfinite().all() for t in (q, k, v))


def test_in_bfloat16_it_is_as_near_to_the_exact_value_as_torchs():
    q, k, v = parts(200, dtype=torch.bfloat16)
    mask = tree_mask(200, 2, 5)
    exact = reference(*(t.double() for t in (q, k, v)), mask)
    far = [(attend(q, k, v, mask) - exact).abs().max() for attend in (blocks.block_attention, reference)]
    assert far[0] <= 1.5 * far[1]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 9))
def test_blocks_hold_every_key_that_is_seen(queries, block, seed):
    mask = tree_mask(queries, 1, seed)[0]
    found = blocks.spans(mask, block)
    assert [(a, b) for a, b, _, _ in found] == [(a, min(a + block, queries)) for a in range(0, queries, block)]
    assert blocks.spans(torch.zeros_like(mask), block) == []
    for start, stop, first, last in found:
        outside = mask[start:stop].clone()
        outside[:, first:last] = False
        assert not outside.any()
        assert mask[start:stop, [first, last - 1]].any(0).all()


@pytest.fixture(scope="module")
def wide():
    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=90, num_key_value_heads=4, **sizes)).double()


def forests():
    random = torch.Generator().manual_seed(0)
    trunk = torch.randint(90, (150,), generator=random).tolist()
    rows = [[*trunk[:cut], *torch.randint(90, (9,), generator=random).tolist()] for cut in (40, 90, 150)]
    made = [Forest.of(rows), Forest.of([trunk[::-1]])]
    width = max(map(len, made))
    tables = torch.zeros(3, 2, width, dtype=torch.long)
    tables[2] = torch.arange(width) + 1
    for row, forest in enumerate(made):
        for table, values in zip(tables, (forest.ids_L, forest.depth_L, forest.end_L), strict=True):
            table[row, : len(forest)] = torch.from_numpy(values)
    return tables


def test_hidden_states_of_a_forest_do_not_depend_on_it(wide, monkeypatch):
    ids, depth, end = forests()
    taken = []
    attend = blocks.block_attention
    monkeypatch.setattr(blocks, "block_attention", lambda *given: taken.append(1) or attend(*given))
    mine = forest_hidden(wide, ids, depth, end)
    assert len(taken) == 2
    assert wide.config._attn_implementation == "sdpa"
    monkeypatch.setattr(blocks, "WIDE", 1024)
    torch.testing.assert_close(mine, forest_hidden(wide, ids, depth, end))
    assert len(taken) == 2


@pytest.mark.parametrize("why", ["eager", "checkpointing", "short"])
def test_where_it_is_not_asked_the_model_attends_as_it_did(wide, why, monkeypatch):
    monkeypatch.setattr(blocks, "block_attention", None)  # a call would raise
    model = copy.deepcopy(wide)
    ids, depth, end = forests()
    if why == "eager":
        model.set_attn_implementation("eager")
    if why == "checkpointing":
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    if why == "short":
        ids, depth, end = (t[:, : blocks.BLOCK] for t in (ids, depth, end.clamp(max=blocks.BLOCK)))
    forest_hidden(model, ids, depth, end).sum().backward()


def test_dropout_and_bias_are_left_to_transformers(wide):
    q, k, v = parts(9, dtype=torch.float32)
    mask = tree_mask(9, 2, 1).unsqueeze(1)
    layer = wide.model.layers[0].self_attn
    layer_like = copy.copy(layer)
    layer_like.num_key_value_groups = 3
    torch.manual_seed(0)
    dropped, _ = blocks._forward(layer_like, q, k, v, mask, dropout=0.5)
    torch.manual_seed(0)
    k6, v6 = (t.repeat_interleave(3, 1) for t in (k, v))
    expected = scaled_dot_product_attention(q, k6, v6, attn_mask=mask, dropout_p=0.5).transpose(1, 2)
    torch.testing.assert_close(dropped, expected)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_scores_of_every_architecture_do_not_depend_on_blocks(name, monkeypatch):
    ids, mask = prompts((13, 5, 8))
    items = torch.arange(len(ITEMS)).repeat(3, 1)
    monkeypatch.setattr(blocks, "BLOCK", 4)
    results = []
    for least in (10**9, 0):
        monkeypatch.setattr(blocks, "WIDE", least)
        model = tiny_model(name, attention="sdpa")
        scores = score_items(model, ids, mask, items, index_of(), path="packed").item_log_prob_BG
        (scores * torch.arange(scores.numel()).view(scores.shape)).sum().backward()
        results.append((scores.detach(), {n: p.grad for n, p in model.named_parameters()}))
    torch.testing.assert_close(results[1], results[0])
