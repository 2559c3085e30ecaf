"""A weighted tree: against pi^p exp(a) by enumeration, and what it may not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.policy.decoding import beam_search, sample_items
from llmrec.policy.scoring import score_items
from tests.policy.tiny import ITEMS, brute_log_pi, index_of, prompts, tiny_model, unpadded

IDS, MASK = prompts()
APART = ((5, 1), (6, 7, 8, 1), (9, 10, 1), (20, 1), (30, 31, 1))
"""Items that part at their first token."""
RANDOM = np.random.default_rng(3)


def brute(model, prompt, items, power, worth_N):
    """log of pi^p exp(a), normalised over the catalogue."""
    pi = brute_log_pi(model, prompt, items)
    value_N = torch.stack([power * pi[i] + worth_N[i] for i in range(len(items))])
    return torch.log_softmax(value_N, 0)


def log_prob(model, index, n_items, users=slice(None)):
    ids, mask = IDS[users], MASK[users]
    every = torch.arange(n_items).expand(len(ids), -1)
    return score_items(model, ids, mask, every, index).item_log_prob_BG


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.5])
def test_where_items_part_at_once_it_is_exact_in_value_and_gradient(power):
    model, worth_N = tiny_model(), RANDOM.normal(size=len(APART))
    index = index_of(APART).tilted(power, worth_N, RANDOM.random(len(APART)))  # whatever the mean of pi is
    weight_BN = torch.from_numpy(RANDOM.normal(size=(3, len(APART))))
    found_BN = log_prob(model, index, len(APART))
    wanted_BN = torch.stack([brute(model, row, APART, power, worth_N) for row in unpadded(IDS, MASK)])
    assert torch.allclose(found_BN, wanted_BN, atol=1e-9)
    if power:
        ours, theirs = (
            torch.cat([g.flatten() for g in torch.autograd.grad((v * weight_BN).sum(), list(model.parameters()))])
            for v in (found_BN, wanted_BN)
        )
        assert float((ours - theirs).norm()) < 1e-5 * float(theirs.norm())


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.5])
def test_a_deep_tree_is_exact_where_the_mean_of_pi_is_pi(power):
    model, worth_N = tiny_model(), RANDOM.normal(size=len(ITEMS)) * 2
    for user, row in enumerate(unpadded(IDS, MASK)):
        pi = brute_log_pi(model, row)
        mean_N = np.exp([float(pi[i].detach()) for i in range(len(ITEMS))])
        index = index_of().tilted(power, worth_N, mean_N)
        with torch.no_grad():
            found_N = log_prob(model, index, len(ITEMS), slice(user, user + 1))[0]
            assert torch.allclose(found_N, brute(model, row, ITEMS, power, worth_N), atol=1e-9)


@torch.no_grad()
def test_with_other_states_it_is_a_distribution_near_it_and_leaves_of_one_prefix_are_exact():
    model, worth_N = tiny_model(), RANDOM.normal(size=len(ITEMS))
    plain_BN = log_prob(model, index_of(), len(ITEMS))
    index = index_of().tilted(1.3, worth_N, plain_BN.exp().mean(0).numpy())
    found_BN = log_prob(model, index, len(ITEMS))
    assert torch.allclose(found_BN.exp().sum(1), torch.ones(3, dtype=torch.float64))
    wanted_BN = torch.stack([brute(model, row, ITEMS, 1.3, worth_N) for row in unpadded(IDS, MASK)])
    # (20, 21, 22, 1) and (20, 21, 23, 1): nothing but the item lies below their last branch
    assert torch.allclose(found_BN[:, 6] - found_BN[:, 7], wanted_BN[:, 6] - wanted_BN[:, 7])

    def apart(log_BN):
        return float((wanted_BN.exp() * (wanted_BN - log_BN)).sum(1).mean())

    evenly_BN = log_prob(model, index_of().tilted(1.3, worth_N, np.ones(len(ITEMS))), len(ITEMS))
    assert apart(found_BN) < 0.02
    assert apart(found_BN) < apart(evenly_BN)
    assert apart(found_BN) < 0.1 * apart(plain_BN)


@torch.no_grad()
@pytest.mark.parametrize("worth", [0.0, 3.0])
def test_what_is_worth_the_same_changes_nothing(worth):
    model = tiny_model()
    index = index_of().tilted(1.0, np.full(len(ITEMS), worth), RANDOM.random(len(ITEMS)))
    plain_BN = log_prob(model, index_of(), len(ITEMS))
    assert torch.allclose(log_prob(model, index, len(ITEMS)), plain_BN, atol=1e-12)


@torch.no_grad()
def test_searches_and_draws_are_of_the_tilted_distribution():
    model, worth_N = tiny_model(), RANDOM.normal(size=len(ITEMS)) * 2
    index = index_of().tilted(0.7, worth_N, np.ones(len(ITEMS)))
    log_BN = log_prob(model, index, len(ITEMS))
    items_BK, value_BK = beam_search(model, IDS, MASK, len(ITEMS), index, beams=len(ITEMS))
    assert (items_BK == (-log_BN).argsort(1)).all()
    assert torch.allclose(value_BK.double(), log_BN.gather(1, items_BK), atol=1e-4)
    uniform_BGL = torch.rand((3, 9, index.max_length), generator=torch.Generator().manual_seed(0)).double()
    drawn = sample_items(model, IDS, MASK, 9, index, uniform_BGL=uniform_BGL)
    found_BG = drawn.token_log_prob_BGL.sum(-1)
    assert torch.allclose(found_BG.double(), log_BN.gather(1, drawn.items_BG), atol=1e-5)
    cooler_BN = score_items(model, IDS, MASK, torch.arange(len(ITEMS)).expand(3, -1), index, temperature=0.5)
    assert torch.allclose(cooler_BN.item_log_prob_BG.exp().sum(1), torch.ones(3, dtype=torch.float64))


@torch.no_grad()
def test_worths_that_are_far_apart_stay_numbers():
    model, worth_N = tiny_model(), np.linspace(-4000, 4000, len(ITEMS))
    found_BN = log_prob(model, index_of().tilted(1.0, worth_N, np.zeros(len(ITEMS)) + 1e-300), len(ITEMS))
    assert torch.isfinite(found_BN).all()
    assert (found_BN.argmax(1) == len(ITEMS) - 1).all()
