"""GAE over steps with their own discounts: by hand, by a double sum, and by enumeration of a small process."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from llmrec.training.advantages import gae, gae_steps


def straightforward(reward, value, discount, trace, last):
    """A_s = sum over n >= s of (product over s <= j < n of d_j lambda_j) delta_n, for one episode of plain floats."""
    steps = len(reward)
    follows = [*value[1:], last]
    delta = [reward[s] + discount[s] * follows[s] - value[s] for s in range(steps)]
    advantage = []
    for s in range(steps):
        total = 0.0
        for n in range(s, steps):
            weight = 1.0
            for j in range(s, n):
                weight *= discount[j] * trace[j]
            total += weight * delta[n]
        advantage.append(total)
    return advantage


def test_by_hand():
    """Two turns of two slots, gamma 0.5 and lambda 0.5 between turns, cut off with V = 8 after it.

    deltas: 1 + 2 - 1 = 2;  0 + 0.5 * 4 - 2 = 0;  1 + 0 - 4 = -3;  2 + 0.5 * 8 - 0 = 6
    A_3 = 6; A_2 = -3 + 6 = 3; A_1 = 0 + 0.25 * 3 = 0.75; A_0 = 2 + 0.75 = 2.75
    """
    advantage, returns = gae_steps(
        torch.tensor([[1.0, 0.0, 1.0, 2.0]]),
        torch.tensor([[1.0, 2.0, 4.0, 0.0]]),
        torch.ones((1, 4), dtype=torch.bool),
        discount_BS=torch.tensor([[1.0, 0.5, 1.0, 0.5]]),
        trace_BS=torch.tensor([[1.0, 0.5, 1.0, 0.5]]),
        last_value_B=torch.tensor([8.0]),
    )
    assert advantage.tolist() == [[2.75, 0.75, 3.0, 6.0]]
    assert returns.tolist() == [[3.75, 2.75, 7.0, 6.0]]


def test_a_user_who_left_is_worth_nothing_afterwards():
    """The same with no value after it: delta_3 = 2, A = 2, -1, -0.25, 1.75."""
    advantage, _ = gae_steps(
        torch.tensor([[1.0, 0.0, 1.0, 2.0]]),
        torch.tensor([[1.0, 2.0, 4.0, 0.0]]),
        torch.ones((1, 4), dtype=torch.bool),
        discount_BS=torch.tensor([[1.0, 0.5, 1.0, 0.5]]),
        trace_BS=torch.tensor([[1.0, 0.5, 1.0, 0.5]]),
    )
    assert advantage.tolist() == [[1.75, -0.25, -1.0, 2.0]]


def test_it_is_the_double_sum_on_episodes_of_unequal_length():
    rng = np.random.default_rng(0)
    episodes, width = 7, 9
    length = rng.integers(1, width + 1, episodes)
    reward, value, discount, trace = (rng.random((episodes, width)) for _ in range(4))
    last = rng.random(episodes)
    step = np.arange(width) < length[:, None]
    junk = {name: np.where(step, table, 99.0) for name, table in (("reward", reward), ("value", value))}
    advantage, returns = gae_steps(
        torch.from_numpy(junk["reward"]),
        torch.from_numpy(junk["value"]),
        torch.from_numpy(step),
        discount_BS=torch.from_numpy(discount),
        trace_BS=torch.from_numpy(trace),
        last_value_B=torch.from_numpy(last),
    )
    for b, n in enumerate(length):
        expected = straightforward(reward[b, :n], value[b, :n], discount[b, :n], trace[b, :n], last[b])
        np.testing.assert_allclose(advantage[b, :n], expected, rtol=1e-12)
        np.testing.assert_allclose(returns[b, :n], np.add(expected, value[b, :n]), rtol=1e-12)
        assert not advantage[b, n:].any()
        assert not returns[b, n:].any()


def test_items_are_the_special_case_of_one_reward_at_the_last_choice():
    rng = torch.Generator().manual_seed(1)
    value = torch.rand((5, 3, 6), generator=rng, dtype=torch.float64)
    choice = torch.rand((5, 3, 6), generator=rng) < 0.6
    reward = torch.rand((5, 3), generator=rng, dtype=torch.float64)
    last = choice & (choice.flip(-1).cumsum(-1).flip(-1) == 1)
    flat = torch.where(last, reward.unsqueeze(-1), 0.0).view(15, 6)
    found = gae_steps(
        flat,
        value.view(15, 6),
        choice.view(15, 6),
        discount_BS=torch.full((15, 6), 0.9, dtype=torch.float64),
        trace_BS=torch.full((15, 6), 0.7, dtype=torch.float64),
    )
    expected = gae(reward, value, choice, gamma=0.9, lam=0.7)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.view(5, 3, 6), theirs)


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_with_the_true_value_its_mean_is_the_true_advantage(lam):
    """A process of 2 states, 2 actions, 3 turns, enumerated: E[A_0 | first action] is Q - V, whatever lambda."""
    gamma, pay = 0.8, {(0, 0): 1.0, (0, 1): 0.0, (1, 0): 0.5, (1, 1): 2.0}
    move = {(0, 0): 0.3, (0, 1): 0.9, (1, 0): 0.5, (1, 1): 0.2}  # P(next state is 1)
    policy = {0: 0.6, 1: 0.25}  # P(action 1)

    def chance(table, key, outcome):
        return table[key] if outcome else 1 - table[key]

    def value(state, left):
        return sum(chance(policy, state, a) * action_value(state, a, left) for a in (0, 1)) if left else 0.0

    def action_value(state, action, left):
        after = sum(chance(move, (state, action), s) * value(s, left - 1) for s in (0, 1))
        return pay[state, action] + gamma * after

    mean = {0: 0.0, 1: 0.0}
    for actions in itertools.product((0, 1), repeat=3):
        for moves in itertools.product((0, 1), repeat=2):
            states = (0, *moves)
            weight = 1.0
            for turn in range(1, 3):
                weight *= chance(move, (states[turn - 1], actions[turn - 1]), states[turn])
                weight *= chance(policy, states[turn], actions[turn])
            advantage, _ = gae_steps(
                torch.tensor([[pay[s, a] for s, a in zip(states, actions, strict=True)]]),
                torch.tensor([[value(s, 3 - turn) for turn, s in enumerate(states)]]),
                torch.ones((1, 3), dtype=torch.bool),
                discount_BS=torch.full((1, 3), gamma),
                trace_BS=torch.full((1, 3), lam),
            )
            mean[actions[0]] += weight * float(advantage[0, 0])
    for action in (0, 1):
        assert mean[action] == pytest.approx(action_value(0, action, 3) - value(0, 3), abs=1e-5)
