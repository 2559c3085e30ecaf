"""GAE by hand and in closed form; whitening does not care how a rollout is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.training.advantages import gae, whiten


def test_by_hand_with_a_forced_token_between():
    value = torch.tensor([[[1.0, 9.0, 2.0, 4.0]]])
    choice = torch.tensor([[[True, False, True, True]]])
    advantage, returns = gae(torch.tensor([[2.0]]), value, choice, gamma=0.5, lam=0.5)
    # errors from the end: 2 - 4 = -2; 0.5 * 4 - 2 = 0; 0.5 * 2 - 1 = 0 (the forced token is no step)
    torch.testing.assert_close(advantage, torch.tensor([[[-0.125, 0.0, -0.5, -2.0]]]))
    torch.testing.assert_close(returns, torch.tensor([[[0.875, 0.0, 1.5, 2.0]]]))


def test_the_reward_falls_on_the_last_choice_and_forced_items_get_nothing():
    choice = torch.tensor([[[True, True, False, False], [False, False, False, False]]])
    advantage, returns = gae(torch.tensor([[3.0, 5.0]]), torch.zeros(1, 2, 4), choice, gamma=0.5, lam=0.0)
    assert advantage.tolist() == [[[0.0, 3.0, 0.0, 0.0], [0.0] * 4]]
    assert torch.equal(returns, advantage)


@given(st.integers(0, 10_000), st.floats(0.1, 1.0))
def test_lambda_one_is_the_discounted_return_less_the_value(seed, gamma):
    rng = np.random.default_rng(seed)
    choice, value, reward = rng.random((3, 2, 6)) < 0.6, rng.normal(size=(3, 2, 6)), rng.normal(size=(3, 2))
    steps_left = np.flip(np.cumsum(np.flip(choice, -1), -1), -1) - 1  # choice points after this one
    expected = np.where(choice, gamma**steps_left * reward[..., None] - value, 0.0)
    made, _ = gae(torch.tensor(reward), torch.tensor(value), torch.tensor(choice), gamma=gamma, lam=1.0)
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-12)


def test_another_lambda_is_another_advantage():
    value, choice = torch.tensor([[[1.0, 5.0]]]), torch.ones(1, 1, 2, dtype=torch.bool)
    one, _ = gae(torch.tensor([[2.0]]), value, choice, gamma=1.0, lam=1.0)
    zero, _ = gae(torch.tensor([[2.0]]), value, choice, gamma=1.0, lam=0.0)
    assert one[0, 0, 0] == 1.0
    assert zero[0, 0, 0] == 4.0


def test_whitening_is_over_all_choice_points_however_they_are_cut():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(6, 4, 3, generator=generator) * 3 + 2
    where = torch.rand(6, 4, 3, generator=generator) < 0.5
    (whole,), scale = whiten([value], [where])
    assert scale == pytest.approx(float(value[where].std(unbiased=False)))
    chosen = value[where].numpy()
    np.testing.assert_allclose(whole[where].numpy(), (chosen - chosen.mean()) / chosen.std(), rtol=1e-5, atol=1e-6)
    assert torch.equal(whole[~where], torch.zeros_like(whole[~where]))
    torch.testing.assert_close(torch.cat(whiten(list(value.split(2)), list(where.split(2)))[0]), whole)
    half, other = value[:3], value[3:]  # two processes that add up their moments
    seen = []
    whiten([other], [where[3:]], lambda m: seen.append(m) or m)
    torch.testing.assert_close(whiten([half], [where[:3]], lambda m: m + seen[0])[0][0], whole[:3])


def test_equal_rewards_give_no_advantage():
    value, where = torch.full((2, 3, 2), 0.7), torch.ones(2, 3, 2, dtype=torch.bool)
    (found,), scale = whiten([value], [where])
    assert found.abs().max() < 1e-3
    assert scale == 1.0  # what is weighed against it keeps its weight
