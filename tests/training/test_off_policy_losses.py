"""Off-policy estimates against the exact gradient, by enumeration of everything that a log could have held.

Semantics: the gradient wanted is that of V_K = mean over states of sum_a r (1 - (1 - pi)^K). Two states, four items,
float64. Expectations are sums over all logs with their probabilities, never samples.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.scoring import score_items
from llmrec.training.losses import Fitted, SlateBatch, off_policy_loss, ratio, top_k_factor

NO_CAP = math.inf
THETA = torch.tensor([[0.3, -0.7, 1.1, 0.0], [-0.2, 0.9, 0.4, -1.3]], dtype=torch.float64)
MU = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
REWARD = torch.tensor([[1.0, 0.0, 2.0, 0.5], [0.2, 1.5, 0.0, 3.0]], dtype=torch.float64)
WRONG_Q = torch.tensor([[0.4, 1.0, -0.3, 2.0], [0.0, 0.7, 0.6, -1.0]], dtype=torch.float64)
WRONG_MU = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)


def exact(k):
    """The gradient of V_K in the logits, by automatic differentiation."""
    theta = THETA.clone().requires_grad_()
    pi = theta.softmax(1)
    return torch.autograd.grad((REWARD * (1 - (1 - pi) ** k)).sum(1).mean(), theta)[0]


def expected(k, *, mu=MU, cap=NO_CAP, q=None):
    """The expected gradient of one logged row a state and, with a fitted reward, two draws from pi."""
    total = torch.zeros_like(THETA)
    for state, item in itertools.product(range(2), range(4)):
        pi = THETA[state].softmax(0)
        for first, second in itertools.product(range(4), range(4)) if q is not None else [(0, 0)]:
            theta = THETA.clone().requires_grad_()
            log_pi = theta.log_softmax(1)[state]
            shown = SlateBatch(
                *(x.reshape(1, 1) for x in (REWARD[state, item], mu[state, item], torch.tensor(0.0))),
                torch.ones(1, 1),
            )
            fitted = None
            if q is not None:
                drawn = [first, second]
                fitted = Fitted(q[state, item].reshape(1, 1), q[state, drawn][None], log_pi[drawn][None])
            loss = off_policy_loss(log_pi[item].reshape(1, 1), shown, k=k, cap=cap, fitted=fitted)
            chance = MU[state, item] * (1.0 if q is None else pi[first] * pi[second])
            total -= 0.5 * chance * torch.autograd.grad(loss, theta)[0]
    return total


@pytest.mark.parametrize("k", [1, 2, 5])
def test_with_exact_propensities_the_expected_gradient_is_the_exact_one(k):
    torch.testing.assert_close(expected(k), exact(k), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("k", [1, 3])
def test_doubly_robust_is_exact_where_either_part_is_right(k):
    torch.testing.assert_close(expected(k, q=WRONG_Q), exact(k), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(expected(k, mu=WRONG_MU, q=REWARD), exact(k), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(expected(k, q=REWARD, cap=0.3), exact(k), rtol=1e-12, atol=1e-14)


def test_it_is_not_where_both_are_wrong_or_the_cap_bites():
    assert not torch.allclose(expected(1, mu=WRONG_MU, q=WRONG_Q), exact(1), atol=1e-2)
    assert not torch.allclose(expected(1, mu=WRONG_MU), exact(1), atol=1e-2)
    assert not torch.allclose(expected(1, cap=0.5), exact(1), atol=1e-2)


def slates_without_replacement(below, places=3):
    """The expected gradient over all ordered slates drawn place by place without replacement."""
    total = torch.zeros_like(THETA)
    for state in range(2):
        for items in itertools.permutations(range(4), places):
            theta = THETA.clone().requires_grad_()
            left, propensity = 1.0, []
            for item in items:
                propensity.append(MU[state, item] / left)
                left = left - MU[state, item]
            p = torch.stack(propensity)[None]
            under = torch.arange(places - 1, -1, -1, dtype=torch.float64)[None] * below
            shown = SlateBatch(REWARD[state, list(items)][None], p, under, torch.full_like(p, 1 / places))
            loss = off_policy_loss(theta.log_softmax(1)[state, list(items)][None], shown, k=2, cap=NO_CAP)
            total -= 0.5 * p.prod() * torch.autograd.grad(loss, theta)[0]
    return total


def test_slates_without_replacement_need_what_was_shown_above():
    torch.testing.assert_close(slates_without_replacement(1.0), exact(2), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(slates_without_replacement(0.0), exact(2), atol=1e-2)


def test_one_row_by_hand():
    """pi 0.2, mu 0.5, r 2, K 3: w 0.4, lambda 3 * 0.8^2 = 1.92, together 1.536; nothing but log pi has a gradient."""
    log_pi = torch.tensor([[math.log(0.2)]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    shown = SlateBatch(2 * one, 0.5 * one, 0 * one, one)
    loss = off_policy_loss(log_pi, shown, k=3, cap=10.0)
    assert loss.item() == pytest.approx(1.536 * math.log(5))
    assert torch.autograd.grad(loss, log_pi)[0].item() == pytest.approx(-1.536)
    capped = off_policy_loss(log_pi, shown, k=3, cap=0.1)
    assert torch.autograd.grad(capped, log_pi)[0].item() == pytest.approx(-0.1 * 1.92 * 2)
    # two places below: the weight is 0.4 + 2 * 0.2
    above = off_policy_loss(log_pi, SlateBatch(2 * one, 0.5 * one, 2 * one, one), k=3, cap=10.0)
    assert torch.autograd.grad(above, log_pi)[0].item() == pytest.approx(-0.8 * 1.92 * 2)


def test_the_factors():
    log_pi = torch.log(torch.tensor([0.25, 1.0], dtype=torch.float64)).requires_grad_()
    assert top_k_factor(log_pi, 1).tolist() == [1.0, 1.0]
    assert top_k_factor(log_pi, 4).tolist() == pytest.approx([4 * 0.75**3, 0.0])
    assert not top_k_factor(log_pi, 4).requires_grad
    shown = SlateBatch(*torch.tensor([[[1.0, 1.0]], [[0.1, 0.5]], [[0.0, 0.0]], [[0.5, 0.5]]], dtype=torch.float64))
    assert ratio(log_pi[None], shown, 2.2).tolist() == [pytest.approx([2.2, 2.0])]
    assert not ratio(log_pi[None], shown, 2.2).requires_grad


def test_places_without_a_row_count_for_nothing_and_slates_equally():
    log_pi = torch.log(torch.tensor([[0.2, 0.9], [0.4, 0.1]], dtype=torch.float64)).requires_grad_()
    share = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    reward = torch.tensor([[1.0, 7.0], [2.0, 0.0]], dtype=torch.float64)
    shown = SlateBatch(reward, torch.full((2, 2), 0.5, dtype=torch.float64), torch.zeros(2, 2), share)
    gradient = torch.autograd.grad(off_policy_loss(log_pi, shown, k=1, cap=9.0), log_pi)[0]
    # a mean over 2 slates: 0.4 * 1 / 2 and 0.5 * 0.8 * 2 / 2
    assert gradient.tolist() == [pytest.approx([-0.2, 0.0]), pytest.approx([-0.4, 0.0])]


def test_through_a_language_model_the_expected_gradient_is_the_exact_one(shop):
    """All items as the rows of one slate, with mu as their shares: the expectation over the log, in the weights."""
    model = shop.model().double()
    ids, mask = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer).encode(shop.states(3))
    random = torch.Generator().manual_seed(3)
    mu = torch.rand(3, 12, generator=random, dtype=torch.float64).softmax(1)
    reward = torch.rand(3, 12, generator=random, dtype=torch.float64)
    items = torch.arange(12).expand(3, 12)

    def gradient(loss_of):
        model.zero_grad()
        loss_of(score_items(model, ids, mask, items, shop.catalogue.index).item_log_prob_BG).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    for k in (1, 4):
        shown = SlateBatch(reward, mu, torch.zeros_like(mu), mu)
        estimate = gradient(lambda log_pi, k=k, shown=shown: off_policy_loss(log_pi, shown, k=k, cap=NO_CAP))
        truth = gradient(lambda log_pi, k=k: -(reward * (1 - (1 - log_pi.exp()) ** k)).sum(1).mean())
        torch.testing.assert_close(estimate, truth, rtol=1e-8, atol=1e-12)
