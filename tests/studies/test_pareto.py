"""The parts of the study of several objectives: diversity, the optimum of J, and what is not dominated."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.studies.pareto import BETA, diversity, list_diversity, nondominated, tilted


def test_diversity_is_the_chance_of_two_categories():
    p_BN, category_N = np.array([[0.5, 0.3, 0.2]]), np.array([0, 0, 1])
    want = sum(
        p_BN[0, a] * p_BN[0, b] for a, b in itertools.product(range(3), repeat=2) if category_N[a] != category_N[b]
    )
    assert diversity(p_BN, category_N)[0] == pytest.approx(want)
    assert list_diversity(np.array([[0, 1, 2]]), category_N)[0] == pytest.approx(2 / 3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), weight=st.sampled_from([0.0, 1.0, 4.0]))
def test_the_tilt_is_the_optimum(seed, weight):
    random = np.random.default_rng(seed)
    category_N = np.array([0, 0, 1, 2, 2, 2])
    start_BN = np.log(random.dirichlet(np.ones(6), 2))
    reward_BN = random.normal(size=(2, 6))
    found_BN = tilted(start_BN, reward_BN, np.full(2, weight), category_N)
    np.testing.assert_allclose(np.exp(found_BN).sum(1), 1.0)
    # the gradient of J is the same for all items, as it must be where p is free but for its sum
    p_BN = torch.tensor(np.exp(found_BN), requires_grad=True)
    share = torch.stack([p_BN[:, category_N == c].sum(1) for c in range(3)], 1)
    kl = (p_BN * (p_BN.log() - torch.tensor(start_BN))).sum()
    ((p_BN * torch.tensor(reward_BN)).sum() - weight * (share**2).sum() - BETA * kl).backward()
    assert p_BN.grad is not None
    np.testing.assert_allclose(p_BN.grad - p_BN.grad.mean(1, keepdim=True), 0.0, atol=1e-4)


def test_what_no_other_beats():
    assert nondominated(np.array([[1, 1], [2, 0], [0, 2], [1, 0], [1, 1]])) == [0, 1, 2, 4]
