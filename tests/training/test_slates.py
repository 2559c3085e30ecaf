"""Slots of slates: their log-probabilities and gradients against enumeration, and the weights of a single draw."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmrec.policy.without_replacement import plackett_luce
from llmrec.training.critic import SlateCritic
from llmrec.training.slates import TurnSlates, normalised, slots_of, together, whole


def slot_by_hand(probability, slate):
    """log of p_k over what is left, with plain floats."""
    found, left = [], 1.0
    for item in slate:
        found.append(math.log(probability[item] / left))
        left -= probability[item]
    return found


def test_slots_are_those_computed_by_hand():
    probability = [0.5, 0.3, 0.15, 0.05]
    log_prob = torch.tensor(probability, dtype=torch.float64).log()
    for slate in itertools.permutations(range(4), 3):
        found = slots_of(log_prob[list(slate)].unsqueeze(0), torch.zeros(1, dtype=torch.bool))[0]
        assert found.tolist() == pytest.approx(slot_by_hand(probability, slate), abs=1e-12)
        torch.testing.assert_close(found.sum(), plackett_luce(log_prob[list(slate)].unsqueeze(0))[0])


def test_the_last_of_all_items_is_certain():
    log_prob = torch.tensor([[0.5, 0.3, 0.2]]).log().requires_grad_()
    slots = slots_of(log_prob, torch.ones(1, dtype=torch.bool))
    assert slots[0, 2].item() == 0.0
    (gradient,) = torch.autograd.grad(slots[0, 2], log_prob)
    assert not gradient.any()


@pytest.mark.parametrize("lead", [8.0, 30.0, 90.0])
def test_one_item_that_has_nearly_all_mass_leaves_finite_slots_and_gradients(lead):
    logits = torch.tensor([[lead, 0.0, -1.0, -2.0]], requires_grad=True)
    slots = slots_of(logits.log_softmax(-1)[:, :3], torch.zeros(1, dtype=torch.bool))
    slots.sum().backward()
    assert bool(torch.isfinite(slots).all())
    assert bool(torch.isfinite(logits.grad).all())
    assert bool((slots <= 0).all())
    if lead == 8.0:  # beyond that float32 no longer tells 1 - p; here the rest is shared by 1, e^-1 and e^-2
        expected = -math.log(1 + math.exp(-1) + math.exp(-2))
        assert slots[0, 1].item() == pytest.approx(expected, abs=2e-3)


def test_slot_gradients_with_the_rest_of_the_slate_s_reward_are_unbiased():
    """sum over slates of P sum_k grad log slot_k * (rewards from k on) = grad of the expected reward, exactly."""
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    worth = torch.tensor([1.0, -0.5, 2.0, 0.3, 0.9], dtype=torch.float64)
    expected, surrogate = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    log_prob = logits.log_softmax(0)
    for slate in itertools.permutations(range(5), 3):
        slots = slots_of(log_prob[list(slate)].unsqueeze(0), torch.zeros(1, dtype=torch.bool))[0]
        pay = worth[list(slate)] * torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)  # places count differently
        rest = pay.flip(0).cumsum(0).flip(0)
        probability = slots.sum().exp()
        expected = expected + probability * pay.sum()
        surrogate = surrogate + probability.detach() * (slots * rest).sum()
    (exact,) = torch.autograd.grad(expected, logits, retain_graph=True)
    (made,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(made, exact)


def test_weights_of_one_item_are_one():
    assert normalised(torch.tensor([[0.2], [3.0]])).tolist() == [[1.0], [1.0]]
    assert normalised(torch.tensor([[1.0, 3.0]])).tolist() == [[0.25, 0.75]]


def test_slates_that_leave_nothing_out_are_found():
    exclude = torch.tensor([[0, 1, -1], [2, -1, -1]])
    assert whole(5, 3, exclude, 2, exclude.device).tolist() == [True, False]
    assert whole(5, 3, None, 2, exclude.device).tolist() == [False, False]
    assert whole(3, 3, None, 2, exclude.device).tolist() == [True, True]


def turn(width, excluded, rows, number):
    ids = torch.arange(rows * width).view(rows, width)
    table = torch.zeros((rows, 2))
    return TurnSlates(
        torch.arange(rows),
        torch.full((rows,), number),
        ids,
        torch.ones_like(ids),
        torch.zeros((rows, excluded), dtype=torch.long),
        torch.zeros((rows, 2), dtype=torch.long),
        table,
        table,
        table,
    )


def test_turns_of_unequal_prompts_are_padded_on_the_left():
    found = together([turn(3, 1, 2, 0), turn(5, 2, 1, 1)])
    assert found.prompt_ids_RP.tolist() == [[0, 0, 0, 1, 2], [0, 0, 3, 4, 5], [0, 1, 2, 3, 4]]
    assert found.prompt_mask_RP.tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert found.exclude_RE.tolist() == [[0, -1], [0, -1], [0, 0]]
    assert found.turn_R.tolist() == [0, 0, 1]
    assert found.rows(found.session_R == 1).turn_R.tolist() == [0]


def test_the_critic_takes_its_units_once_and_starts_at_the_mean():
    critic = SlateCritic(4, 1)  # one slot and the end of the slate
    hidden = torch.randn(3, 4)
    assert critic(hidden).tolist() == [[0.0, 0.0]] * 3
    assert not bool(critic.ready)
    returns = torch.tensor([[1.0, 10.0], [3.0, 14.0]], dtype=torch.float64)
    critic.set_units(torch.stack([torch.full((2,), 2.0), returns.sum(0), returns.square().sum(0)]))
    assert critic(hidden).tolist() == [[2.0, 12.0]] * 3
    assert bool(critic.ready)
    assert float(critic.scale) == pytest.approx(math.sqrt((1 + 1 + 4 + 4) / 4))
