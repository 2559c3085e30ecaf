"""What must hold for any catalogue, filter and model: legality, probabilities, reported log-probabilities, rankings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrec.policy.decoding import beam_search, sample_items
from llmrec.policy.scoring import score_items
from tests.policy.tiny import VOCABULARY, index_of, prompts, tiny_model

MODELS = ("qwen3", "gemma3-window", "gpt2", "mamba")
FEW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@st.composite
def catalogues(draw):
    """2 to 14 ragged items that share prefixes: few tokens, and an end token that is used nowhere else."""
    alphabet = draw(st.lists(st.integers(2, VOCABULARY - 1), min_size=2, max_size=4, unique=True))
    words = st.lists(st.sampled_from(alphabet), min_size=1, max_size=4).map(tuple)
    return [(*word, 1) for word in draw(st.lists(words, min_size=2, max_size=14, unique=True))]


@st.composite
def worlds(draw):
    """Items, exclusions that leave every user something, prompts and a model."""
    items = draw(catalogues())
    users = draw(st.integers(1, 3))
    left_out = st.sets(st.integers(0, len(items) - 1), max_size=len(items) - 1)
    excluded = [draw(left_out) for _ in range(users)]
    ids, mask = prompts(tuple(draw(st.integers(1, 9)) for _ in range(users)), seed=draw(st.integers(0, 9)))
    return items, excluded, ids, mask, tiny_model(draw(st.sampled_from(MODELS)), seed=draw(st.integers(0, 3)))


def padded(excluded):
    width = max(1, *map(len, excluded))
    return torch.tensor([[*sorted(row), *[-1] * (width - len(row))] for row in excluded])


def everything(items, users):
    return torch.arange(len(items)).expand(users, -1)


@FEW
@given(worlds())
def test_probabilities_sum_to_one_over_the_catalogue_and_over_what_is_allowed(world):
    items, excluded, ids, mask, model = world
    index, every = index_of(items), everything(items, len(ids))
    with torch.no_grad():
        whole = score_items(model, ids, mask, every, index).item_log_prob_BG.exp()
        filtered = score_items(model, ids, mask, every, index, exclude=padded(excluded)).item_log_prob_BG.exp()
    assert torch.allclose(whole.sum(-1), torch.ones(len(ids), dtype=whole.dtype), atol=1e-9)
    assert torch.allclose(filtered.sum(-1), torch.ones(len(ids), dtype=whole.dtype), atol=1e-9)
    for row, out in zip(filtered, excluded, strict=True):
        assert all(float(row[item]) == 0.0 for item in out)
        assert all(float(row[item]) > 0.0 for item in set(range(len(items))) - out)


@FEW
@given(worlds(), st.integers(1, 6), st.sampled_from((1.0, 0.6)))
def test_samples_are_allowed_and_score_what_was_reported(world, draws, temperature):
    items, excluded, ids, mask, model = world
    index, exclude = index_of(items), padded(excluded)
    uniform = torch.rand((len(ids), draws, index.max_length), generator=torch.Generator().manual_seed(draws))
    how = {"exclude": exclude, "temperature": temperature}
    samples = sample_items(model, ids, mask, draws, index, uniform_BGL=uniform, **how)
    assert ((samples.items_BG >= 0) & (samples.items_BG < len(items))).all()
    for row, out in zip(samples.items_BG.tolist(), excluded, strict=True):
        assert not set(row) & out
    with torch.no_grad():
        scores = score_items(model, ids, mask, samples.items_BG, index, **how)
    # rollouts report float32
    assert torch.allclose(scores.item_log_prob_BG.float(), samples.log_prob_BG, atol=2e-6, rtol=1e-5)
    level = scores.log_prob_BGL.shape[-1]
    assert torch.allclose(scores.log_prob_BGL.float(), samples.token_log_prob_BGL[..., :level], atol=2e-6, rtol=1e-5)


@FEW
@given(worlds())
def test_a_beam_as_wide_as_the_catalogue_ranks_exactly(world):
    """By pi, which the filter prunes and never changes."""
    items, excluded, ids, mask, model = world
    index = index_of(items)
    with torch.no_grad():
        log_pi = score_items(model, ids, mask, everything(items, len(ids)), index).item_log_prob_BG
    found, scores = beam_search(model, ids, mask, len(items), index, beams=len(items), exclude=padded(excluded))
    for user, out in enumerate(excluded):
        want = sorted(set(range(len(items))) - out, key=lambda item: -float(log_pi[user, item]))
        got = [item for item in found[user].tolist() if item >= 0]
        assert sorted(got) == sorted(want)
        assert scores[user, : len(got)].tolist() == pytest.approx([float(log_pi[user, i]) for i in want], abs=2e-5)
        assert torch.isneginf(scores[user, len(got) :]).all()
        assert float(scores[user, 0]) == pytest.approx(float(log_pi[user, got[0]]), abs=2e-5)


@FEW
@given(worlds())
def test_left_and_right_padding_and_both_paths_agree(world):
    items, excluded, ids, mask, model = world
    index, every, exclude = index_of(items), everything(items, len(ids)), padded(excluded)
    right = torch.argsort(1 - mask, dim=1, stable=True)
    with torch.no_grad():
        left = score_items(model, ids, mask, every, index, exclude=exclude)
        moved = score_items(model, ids.gather(1, right), mask.gather(1, right), every, index, exclude=exclude)
        plain = score_items(model, ids, mask, every, index, exclude=exclude, path="plain")
    for other in (moved, plain):
        assert torch.allclose(left.log_prob_BGL, other.log_prob_BGL, atol=1e-6)
        assert torch.allclose(left.entropy_BGL, other.entropy_BGL, atol=1e-6)
