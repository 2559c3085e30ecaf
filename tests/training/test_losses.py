"""The clipped losses on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llmrec.training.losses import clipped_policy_loss, clipped_value_loss, moved_kl

YES = torch.tensor([True])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.2),  # inside: the plain ratio; d(-r A)/d log pi = -r A
        (1.5, 2.0, -2.4, 0.0),  # gain beyond 1.2 counts no more
        (0.5, 2.0, -1.0, -1.0),  # a loss is not clipped
        (0.5, -2.0, 1.6, 0.0),  # avoiding beyond 0.8 counts no more
        (1.5, -2.0, 3.0, 3.0),  # getting worse is not clipped
    ],
)
def test_policy_loss(ratio, advantage, loss, slope):
    log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
    made, outside = clipped_policy_loss(log_prob, torch.zeros(1), torch.tensor([advantage]), YES, 0.2)
    made.backward()
    assert made.item() == pytest.approx(loss, rel=1e-5)
    assert log_prob.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-7)
    assert outside.item() == (abs(ratio - 1) > 0.2)


def test_forced_tokens_add_nothing_even_where_they_are_not_numbers():
    log_prob = torch.tensor([0.0, -math.inf], requires_grad=True)
    choice = torch.tensor([True, False])
    made, outside = clipped_policy_loss(log_prob, torch.zeros(2), torch.tensor([1.0, 5.0]), choice, 0.2)
    made.backward()
    assert made.item() == -1.0
    assert outside.item() == 0
    assert log_prob.grad.tolist() == [-1.0, 0.0]


@pytest.mark.parametrize(
    ("value", "loss"),
    [
        (1.1, 0.5 * 0.9**2),  # near the old value: plain squared error to the return 2
        (1.9, 0.5 * 0.8**2),  # nearer to the return, but only 0.2 of the way counts: (2 - 1.2)^2
        (-1.0, 0.5 * 3.0**2),  # further off: the worse of both
    ],
)
def test_value_loss(value, loss):
    made = clipped_value_loss(torch.tensor([value]), torch.ones(1), torch.tensor([2.0]), YES, 0.2)
    assert made.item() == pytest.approx(loss, rel=1e-5)


def test_moved_kl_has_the_expectation_of_kl():
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.3, 0.4])
    kl = (old * (old / new).log()).sum().item()
    parts = [moved_kl(n.log()[None], o.log()[None], YES).item() for o, n in zip(old, new, strict=True)]
    assert min(parts) >= 0
    assert sum(o * p for o, p in zip(old.tolist(), parts, strict=True)) == pytest.approx(kl, rel=1e-5)
