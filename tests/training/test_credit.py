"""Potentials of prefixes against enumeration: what they are, what is credited, and what they leave as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from llmrec.catalogue.index import PrefixIndex
from llmrec.config import CreditSettings, PPOSettings, RunConfig, SessionSettings, StabilitySettings
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import check_algorithm
from llmrec.rewards.trl import GroupedReward
from llmrec.training.advantages import gae
from llmrec.training.credit import Candidates, prefix_values
from llmrec.training.improvement import as_json
from llmrec.training.on_policy import make_trainer
from tests.overrides import given
from tests.training.test_reward_units import (
    COMMON,
    DRAWS,
    PAIRS,
    REWARD,
    USER,
    coefficients,
    made,
    optimum,
    reward,
    small,
)

__all__ = ["small"]  # a fixture

CODES = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))
"""A catalogue of items of two codes."""
ALL = torch.arange(len(CODES))[None]


def index_of(codes=CODES) -> PrefixIndex:
    longest = max(map(len, codes))
    table = np.array([[*row, *[-1] * (longest - len(row))] for row in codes])
    return PrefixIndex.from_tokens(table, np.array([len(row) for row in codes]))


def plainly(codes, chance, value, item):
    """Phi of the prefix before each token of an item, from the formula, by loops over the items that are known."""
    found = []
    for place in range(len(codes[item])):
        below = [k for k in chance if codes[k][:place] == codes[item][:place]]
        mass = sum(chance[k] for k in below)
        found.append(sum(chance[k] * value[k] for k in below) / mass if mass else found[-1])
    return found


@pytest.mark.parametrize("known", [8, 3, 1])
def test_prefixes_are_worth_what_is_expected_of_the_items_below(known):
    random = np.random.default_rng(known)
    index, rows = index_of(), 5
    items = np.stack([random.permutation(8)[:known] for _ in range(rows)])
    log_prob = np.log(random.dirichlet(np.ones(8), rows))[:, :known]
    log_prob[0, -1] = -np.inf if known > 1 else log_prob[0, -1]  # one that does not count
    value = random.normal(size=(rows, known))
    found = prefix_values(
        index,
        Candidates(torch.from_numpy(items), torch.from_numpy(log_prob)),
        torch.from_numpy(value),
        ALL.expand(rows, -1),
    )
    for b in range(rows):
        chance = {k: float(np.exp(p)) for k, p in zip(items[b].tolist(), log_prob[b], strict=True) if np.isfinite(p)}
        worth = dict(zip(items[b].tolist(), value[b], strict=True))
        for item in range(8):
            np.testing.assert_allclose(found[b, item], plainly(CODES, chance, worth, item), atol=1e-12)


def test_items_of_other_lengths_and_tiny_chances():
    codes = ((0,), (1, 0, 0), (1, 0, 1), (1, 1, 0))
    log_prob = torch.tensor([[0.0, -900.0, -901.0, -2000.0]], dtype=torch.float64)
    value = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    items = torch.arange(4)[None]
    found = prefix_values(index_of(codes), Candidates(items, log_prob), value, items)
    # below (1): the chances are too small to be told from 0 beside the first item's, so that nothing is known there
    np.testing.assert_allclose(found[0].numpy(), [[1, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
    near = torch.tensor([[-1e9, -900.0, -901.0, -902.0]], dtype=torch.float64)
    found = prefix_values(index_of(codes), Candidates(items, near), value, items)
    share = np.exp([0.0, -1.0, -2.0])
    np.testing.assert_allclose(found[0, 1, 2], (share[0] * 2 + share[1] * 4) / (share[0] + share[1]))
    np.testing.assert_allclose(found[0, 1, 1], (share * [2, 4, 8]).sum() / share.sum())


class Codes:
    """A softmax policy over the two codes, and the credit of every item by enumeration."""

    def __init__(self, value) -> None:
        self.index, self.value = index_of(), torch.as_tensor(value, dtype=torch.float64)
        random = torch.Generator().manual_seed(4)
        self.logits = [torch.randn(n, dtype=torch.float64, generator=random).requires_grad_() for n in (3, 3, 2, 3)]

    def token_log_probs(self) -> torch.Tensor:
        """log pi of both tokens of each item, (8, 2), differentiable."""
        first, *second = (part.log_softmax(0) for part in self.logits)
        return torch.stack([torch.stack([first[a], second[a][b]]) for a, b in CODES])

    def advantages(self, lam: float, potential: bool, *, known: int = 8) -> torch.Tensor:
        """A of both tokens of each item (8, 2), with a critic that knows the value of the state alone."""
        log_prob = self.token_log_probs().detach().sum(1)
        candidates = Candidates(ALL[:, :known], log_prob[None, :known])
        shaped = prefix_values(self.index, candidates, self.value[None, :known], ALL)
        root = (log_prob.exp() * self.value).sum()
        value = shaped if potential else torch.full_like(shaped, float(root))
        every = torch.ones_like(shaped, dtype=torch.bool)
        return gae(self.value[None], value, every, gamma=1.0, lam=lam)[0][0]

    def gradients(self, advantage: torch.Tensor) -> torch.Tensor:
        """sum over tokens of A grad log pi of each item, (8, P)."""
        tokens = self.token_log_probs()
        rows = []
        for item in range(8):
            parts = torch.autograd.grad((advantage[item] * tokens[item]).sum(), self.logits, retain_graph=True)
            rows.append(torch.cat([p.flatten() for p in parts]))
        return torch.stack(rows)

    def moments(self, advantage: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Expectation and variance (summed over weights) of the gradient of a draw."""
        chance = self.token_log_probs().detach().sum(1).exp()
        rows = self.gradients(advantage)
        mean = (chance[:, None] * rows).sum(0)
        return mean, float((chance[:, None] * (rows - mean).square()).sum())

    def exact(self) -> torch.Tensor:
        worth = (self.token_log_probs().sum(1).exp() * self.value).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(worth, self.logits)])


HIT = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
"""The log says that item 1, codes (0, 1), was chosen."""
ANY = [0.3, 0.9, -0.2, 0.4, 0.1, 0.6, 0.05, 0.2]


@pytest.mark.parametrize("value", [HIT, ANY], ids=["hit", "any"])
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_the_expected_gradient_is_that_of_the_unshaped_reward_with_less_variance(value, lam):
    world = Codes(value)
    exact = world.exact()
    plain, noise = world.moments(world.advantages(1.0, potential=False))
    shaped, less = world.moments(world.advantages(lam, potential=True))
    torch.testing.assert_close(plain, exact)
    torch.testing.assert_close(shaped, exact)
    if lam < 1:  # under 1 the potential is but a baseline of the prefix, which need not be the best one
        assert less < 0.9 * noise


@pytest.mark.parametrize("hits", [True, False])
def test_over_many_policies_a_quarter_of_the_variance_goes(hits):
    """Median of 30 policies with lambda 0; in one of eight or ten it rises, by a quarter at most here."""
    found = []
    for seed in range(30):
        torch.manual_seed(seed)
        world = Codes(torch.eye(8)[seed % 8] if hits else torch.rand(8))
        world.logits = [2 * torch.randn(n, dtype=torch.float64).requires_grad_() for n in (3, 3, 2, 3)]
        _, noise = world.moments(world.advantages(1.0, potential=False))
        found.append(world.moments(world.advantages(0.0, potential=True))[1] / noise)
    assert np.median(found) < 0.85
    assert np.mean(np.array(found) < 1) > 0.8
    assert max(found) < 1.3


def test_with_some_candidates_the_monte_carlo_return_is_exact_and_the_rest_nearly():
    """Phi of three of eight items is no value of any policy: lambda 1 does not mind, lambda 0 does."""
    world = Codes(ANY)
    exact = world.exact()
    mean, _ = world.moments(world.advantages(1.0, potential=True, known=3))
    torch.testing.assert_close(mean, exact)
    mean, _ = world.moments(world.advantages(0.0, potential=True, known=3))
    assert (mean - exact).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize("value", [HIT, ANY], ids=["hit", "any"])
def test_credits_of_tokens_add_up_to_the_reward_less_what_the_state_promised(value):
    world = Codes(value)
    chance = world.token_log_probs().detach().sum(1).exp()
    credit = world.advantages(0.0, potential=True)
    torch.testing.assert_close(credit.sum(1) + (chance * world.value).sum(), world.value)


def test_a_right_first_code_is_credited_and_the_wrong_second_is_blamed():
    world = Codes(HIT)
    chance = world.token_log_probs().detach().sum(1).exp()
    credit, plain = world.advantages(0.0, potential=True), world.advantages(1.0, potential=False)
    first = chance[:3].sum()  # of code 0
    given_first = float(chance[1] / first)
    for item, (a, b) in enumerate(CODES):
        if (a, b) == (0, 1):
            continue
        assert (credit[item, 0] > 0) == (a == 0)
        assert float(plain[item, 0]) < 0  # without a potential whatever misses is blamed as a whole
        wanted = (given_first, -given_first) if a == 0 else (0.0, 0.0)
        torch.testing.assert_close(
            credit[item], torch.tensor(wanted, dtype=torch.float64) - torch.tensor([float(chance[1]), 0.0])
        )


# In the trainer.


def credited(candidates: int, lam: float, **more) -> PPOSettings:
    credit = CreditSettings(potential="expected", candidates=candidates)
    return PPOSettings(**{**COMMON, "gae_lambda": lam, "credit": credit, **more})


@pytest.mark.parametrize(
    "settings",
    [
        credited(64, 0.0),
        credited(64, 0.5, whiten=False, stability=StabilitySettings(reward_normalisation="batch")),
        credited(2, 1.0),
    ],
    ids=["all-0", "all-half-normalised", "two-1"],
)
def test_a_rollout_has_the_gradient_of_the_objective(small, tmp_path, settings):
    """Regressed on the enumerated gradients of E[r], KL and H, as without a potential (`test_reward_units`)."""
    beta, bonus, left = coefficients(small, made(small, settings, tmp_path))
    assert beta == pytest.approx(0.05, rel=0.02)
    assert bonus == pytest.approx(0.02, rel=0.05)
    assert left < 0.005


def test_the_potential_of_a_rollout_is_the_policy_s_own(small, tmp_path):
    settings = credited(64, 0.0, draws=64)
    trainer = make_trainer(small.model, small.source, [GroupedReward(reward, [USER], 64)], settings, out=tmp_path)
    trainer._reference = small.reference
    (part,) = trainer._roll_out([trainer.train_dataset[0]] * 64)
    chance = small.log_pi(small.model).exp().detach().numpy()
    below = [k for k, pair in enumerate(PAIRS) if pair[0] == 2]
    root, first = (chance * REWARD).sum(), (chance * REWARD)[below].sum() / chance[below].sum()
    for item, phi in zip(part.request.items_BG[0].tolist(), part.potential_BGL[0].tolist(), strict=True):
        assert phi[0] == pytest.approx(root, abs=1e-6)
        assert phi[1] == pytest.approx(first if item in below else REWARD[item], abs=1e-6)


def test_excluded_items_are_no_part_of_it(small, tmp_path):
    small.source.seen = [np.array([0, 2])]
    settings = credited(4, 0.0, draws=64)
    trainer = make_trainer(small.model, small.source, [GroupedReward(reward, [USER], 64)], settings, out=tmp_path)
    trainer._reference = small.reference
    (part,) = trainer._roll_out([trainer.train_dataset[0]] * 64)
    items, phi = part.request.items_BG[0], part.potential_BGL[0, :, 0].numpy()
    chance = small.log_pi(small.model).exp().detach().numpy()
    two = (chance * REWARD)[[1, 3]].sum() / chance[[1, 3]].sum()  # pi_F below code 2: what is left of four
    first = chance[:4].sum()
    assert not set(items.tolist()) & {0, 2}
    np.testing.assert_allclose(phi, first * two + (chance * REWARD)[4:].sum(), atol=1e-6)


@pytest.mark.slow
def test_a_training_with_credit_ends_at_the_optimum_in_closed_form(small, tmp_path):
    settings = credited(64, 0.0, steps=50, save_every=50, learning_rate=2e-2, warmup=0.1, draws=512)
    trainer = make_trainer(small.model, small.source, [GroupedReward(reward, [USER], 512)], settings, out=tmp_path)
    trainer._reference, trainer.args.save_strategy = small.reference, "no"
    trainer.train()
    left = 0.5 * float((small.log_pi(small.model.eval()).exp() - optimum(small)).detach().abs().sum())
    assert left < 0.03


def test_what_cannot_be_credited_is_refused_in_a_sentence(small, tmp_path):
    on = "ppo.credit.potential=expected"
    check_algorithm(RunConfig.read(None, given(on)))
    for texts, said in (
        ([on, "session.slate=3", "ppo.draws=1"], "in sessions and slates a whole item is one step"),
        ([on, "ppo.credit.candidates=0"], "'ppo.credit.candidates' is 0; give 1 item or more"),
        (["algorithm=grpo", "grpo.credit.potential=expected"], "grpo.credit"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_algorithm(RunConfig.read(None, given(*texts)))
    with pytest.raises(ConfigError, match="which no reward function here can tell"):
        make_trainer(small.model, small.source, [lambda **_: [0.0] * DRAWS], credited(4, 0.0), out=tmp_path)


def test_a_part_that_is_off_is_no_part_of_what_decides_a_training():
    assert "credit" not in as_json(PPOSettings())
    on = dataclasses.replace(PPOSettings(), credit=CreditSettings(potential="expected"))
    assert as_json(on)["credit"] == {"potential": "expected", "candidates": 64}
    assert as_json(SessionSettings())["credit"] == "slate"
