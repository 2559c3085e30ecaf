"""Distillation of the tilted warm start: targets and loss by enumeration, what it converges to, what a kill costs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from llmrec.config import LoraSettings, TiltedSettings
from llmrec.errors import ConfigError, RunError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.scoring import score_items
from llmrec.training.improvement import Checkpointing
from llmrec.training.lora import adapter_of
from llmrec.training.tilted import check_tilted, train_tilted
from llmrec.training.trl_seam.tilted import partition_kl, tilted
from tests.training.logged_world import SEEN, STATES, start
from tests.training.worlds import lamps

ALL = torch.arange(12)[None]
SMALL = TiltedSettings(
    depth=12, kl_coefficient=0.5, batch_size=6, epochs=1.0, save_every=1, lora=LoraSettings(rank=4, alpha=8)
)
FITTED = TiltedSettings(
    depth=12,
    kl_coefficient=0.5,
    batch_size=24,
    epochs=80.0,
    weights="full",
    save_every=99,
    learning_rate=3e-3,
)


def worth(states, items_BK):
    return lamps(states, items_BK).total_BK


def learn(shop, out, settings, *, seed=5, model=None, worth=worth, on_checkpoint=None, repeat="allow", states=STATES):
    begun = start(shop, seed, repeat=repeat, model=shop.model() if model is None else model)
    seen = [SEEN[0]] * len(states)
    return train_tilted(begun, states, seen, worth, settings, Checkpointing(out, on_checkpoint))


def distribution(shop, model, states=STATES):
    """pi over the twelve items: (B, N)."""
    policy = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    ids, mask = policy.encode(states)
    with torch.no_grad():
        scores = score_items(model, ids, mask, ALL.expand(len(states), -1), shop.catalogue.index)
    return scores.item_log_prob_BG.double().exp().numpy()


def optimum(pi_BN, reward_BN, beta):
    found = pi_BN * np.exp(reward_BN / beta)
    return found / found.sum(axis=1, keepdims=True)


def test_a_whole_catalogue_is_tilted_to_the_optimum():
    pi, reward = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 0.5])
    expected = optimum(pi[None], reward[None], 0.7)[0]
    assert tilted(np.log(pi), reward, 0.7) == pytest.approx(expected)
    # a list keeps what it has together, however its rewards are
    part = tilted(np.log(pi[:2]), reward[:2] + 100.0, 0.7)
    assert part.sum() == pytest.approx(0.8)
    assert part[1] / part[0] == pytest.approx(0.6 * math.exp(1 / 0.7))


def test_a_bonus_for_entropy_flattens():
    """Against the maximum of E[r] - beta KL + c H over a fine grid of distributions of three items."""
    pi, reward, beta, bonus = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 0.5]), 0.4, 0.3
    grid = np.array([(a, b, 1 - a - b) for a in np.arange(0.002, 1, 0.002) for b in np.arange(0.002, 1 - a, 0.002)])
    grid = grid[grid[:, 2] > 1e-9]
    objective = grid @ reward - beta * (grid * np.log(grid / pi)).sum(1) - bonus * (grid * np.log(grid)).sum(1)
    assert tilted(np.log(pi), reward, beta, bonus) == pytest.approx(grid[objective.argmax()], abs=3e-3)


def test_below_zero_the_bonus_sharpens():
    """Against the maximum of the same J, which is concave while beta + c is above 0."""
    pi, reward, beta, bonus = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.3, 0.5]), 0.6, -0.3
    grid = np.array([(a, b, 1 - a - b) for a in np.arange(0.002, 1, 0.002) for b in np.arange(0.002, 1 - a, 0.002)])
    grid = grid[grid[:, 2] > 1e-9]
    objective = grid @ reward - beta * (grid * np.log(grid / pi)).sum(1) - bonus * (grid * np.log(grid)).sum(1)
    assert tilted(np.log(pi), reward, beta, bonus) == pytest.approx(grid[objective.argmax()], abs=3e-3)
    check_tilted(TiltedSettings(kl_coefficient=0.6, entropy_coefficient=-0.3))


def test_no_reward_and_a_huge_coefficient_leave_pi():
    pi = np.array([0.4, 0.1, 0.2])
    assert tilted(np.log(pi), np.full(3, 5.0), 0.1) == pytest.approx(pi)
    assert tilted(np.log(pi), np.array([1.0, 2.0, 3.0]), 1e9) == pytest.approx(pi)


@hypothesis_given(st.integers(0, 10**6))
def test_the_loss_is_the_kl_of_the_partition(seed):
    """By the definition over the list's items and all the others as one, in value and gradient."""
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(size=(2, 5)) * 3).requires_grad_()
    target = random.dirichlet(np.ones(4), size=2)
    log_BN = logits.log_softmax(1)
    kept = torch.tensor([[True, True, True], [True, True, False]])
    target_BK = torch.from_numpy(target[:, :3]).where(kept, 0.0)
    found = partition_kl(log_BN[:, :3], target_BK)
    expected = 0.0
    for b, many in enumerate((3, 2)):
        p = torch.cat([target_BK[b, :many], 1 - target_BK[b, :many].sum()[None]])
        q = torch.cat([log_BN[b, :many].exp(), 1 - log_BN[b, :many].exp().sum()[None]])
        own = (p * (p.log() - q.log())).sum()
        assert float(found[b].detach()) == pytest.approx(float(own.detach()), rel=1e-5, abs=1e-7)
        expected = expected + own
    (mine,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, logits)
    assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_list_that_is_the_whole_catalogue_has_nothing_beside_it():
    log_BK = torch.tensor([[0.2, 0.3, 0.5]]).log().requires_grad_()
    found = partition_kl(log_BK, torch.tensor([[0.5, 0.3, 0.2]]))
    assert float(found.detach()) == pytest.approx(0.5 * math.log(2.5) + 0.2 * math.log(0.4), rel=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), log_BK)
    assert gradient.tolist()[0] == pytest.approx([-0.5, -0.3, -0.2])


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_the_first_loss_is_that_of_the_enumerated_optimum(shop, tmp_path, weights):
    model = shop.model()
    pi_BN = distribution(shop, model)
    reward_BN = worth(STATES, np.tile(np.arange(12), (24, 1)))
    target_BN = optimum(pi_BN, reward_BN, 0.5)
    settings = dataclasses.replace(SMALL, batch_size=24, weights=weights)
    result = learn(shop, tmp_path, settings, model=model)
    (row,) = result.curve
    kl = (target_BN * np.log(target_BN / pi_BN)).sum(1).mean()
    assert row["loss"] == pytest.approx(kl, abs=1e-4)
    assert row["target_kl"] == pytest.approx(kl, abs=1e-4)
    assert row["reward"] == pytest.approx((pi_BN * reward_BN).sum(1).mean(), abs=1e-4)
    assert row["best"] == pytest.approx((target_BN * reward_BN).sum(1).mean(), abs=1e-4)


def test_it_ends_at_the_optimum(shop, tmp_path):
    model = shop.model(hidden=64)
    pi_BN = distribution(shop, model)
    reward_BN = worth(STATES, np.tile(np.arange(12), (24, 1)))
    target_BN = optimum(pi_BN, reward_BN, 0.5)
    result = learn(shop, tmp_path, FITTED, model=model)
    found_BN = distribution(shop, result.model)
    before = (target_BN * np.log(target_BN / pi_BN)).sum(1).mean()
    after = (target_BN * np.log(target_BN / found_BN)).sum(1).mean()
    assert before > 0.2
    assert after < 0.02 * before
    assert (found_BN * reward_BN).sum() == pytest.approx((target_BN * reward_BN).sum(), rel=0.02)


def test_what_is_beside_the_list_keeps_its_share(shop, tmp_path):
    model = shop.model(hidden=64)
    pi_BN = distribution(shop, model)
    result = learn(shop, tmp_path, dataclasses.replace(FITTED, depth=4), model=model)
    found_BN = distribution(shop, result.model)
    best_BK = np.argsort(-pi_BN, axis=1)[:, :4]
    share_B, kept_B = (np.take_along_axis(p_BN, best_BK, axis=1).sum(1) for p_BN in (pi_BN, found_BN))
    assert kept_B == pytest.approx(share_B, abs=0.03)


def test_items_that_were_seen_are_not_listed(shop, tmp_path):
    listed = []

    def asked(states, items_BK):
        listed.extend(
            (set(s.seen()), {i for i in row if i >= 0}) for s, row in zip(states, items_BK.tolist(), strict=True)
        )
        return worth(states, np.maximum(items_BK, 0))

    states = shop.states(24)
    learn(shop, tmp_path, SMALL, worth=asked, repeat="exclude", states=states)
    assert [seen | items for seen, items in listed] == [set(range(12))] * len(listed)
    assert all(not seen & items for seen, items in listed)


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_a_killed_training_resumes_to_the_same_result(shop, tmp_path, weights):
    settings = dataclasses.replace(SMALL, weights=weights)

    def killed(step, model):
        if step == 2:
            raise Killed

    whole = learn(shop, tmp_path / "whole", settings)
    with pytest.raises(Killed):
        learn(shop, tmp_path / "cut", settings, on_checkpoint=killed)
    called = []
    again = learn(shop, tmp_path / "cut", settings, on_checkpoint=lambda step, model: called.append(step))
    assert called == [2, 3, 4]
    assert again.curve == whole.curve
    if weights == "lora":
        left, right = adapter_of(again.model).tensors, adapter_of(whole.model).tensors
    else:
        left, right = again.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_reward_that_is_not_finite_is_an_error(shop, tmp_path):
    with pytest.raises(RunError, match="not finite"):
        learn(shop, tmp_path, SMALL, worth=lambda states, items_BK: np.full(items_BK.shape, np.nan))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("depth", 1),
        ("states", 0),
        ("kl_coefficient", 0.0),
        ("entropy_coefficient", -0.1),
        ("batch_size", 0),
        ("epochs", 0.0),
        ("warmup", -1),
    ],
)
def test_settings_that_cannot_work_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"tilted.{key}"):
        check_tilted(dataclasses.replace(TiltedSettings(), **{key: value}))
