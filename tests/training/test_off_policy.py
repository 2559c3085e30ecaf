"""Off-policy learning end to end on a tiny model: its loss, what a kill costs, and that the correction matters."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from transformers import Trainer

from llmrec.config import OffPolicySettings
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.policy.scoring import exact_kl_BGL, score_items
from llmrec.training.improvement import Checkpointing
from llmrec.training.lora import adapter_of, make_lora
from llmrec.training.losses import Fitted, SlateBatch, off_policy_loss
from llmrec.training.off_policy import check_off_policy, make_trainer, train_off_policy
from llmrec.training.state_source import StateSource
from llmrec.training.trl_seam.off_policy import OffPolicyTrainer
from llmrec.types import Reward
from tests.training.logged_world import SMALL, WORLD, deployed, halved, learn, shown, start
from tests.training.worlds import lamps

ROBUST = dataclasses.replace(SMALL, estimator="doubly-robust")


def few(slates=16, places=3):
    return shown(0, slates, places)


def uneven():
    """Four slates of one to three rows; one row is left out."""
    slates = few(4)
    share = np.array([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 1 / 3, 1 / 3]])
    items, below = np.where(share > 0, slates.items_BK, -1), np.where(share > 0, [2.0, 1.0, 0.0], 0.0)
    return dataclasses.replace(slates, items_BK=items, below_BK=below, share_BK=share)


def test_the_curve_and_the_checkpoints(shop, tmp_path):
    called = []
    result = learn(shop, tmp_path, few(), on_checkpoint=lambda step, model: called.append((step, model.training)))
    assert called == [(2, False), (4, False)]
    assert [row["step"] for row in result.curve] == [2, 4]
    names = {"value", "weight", "capped", "effective", "kl", "entropy", "loss", "grad_norm", "skipped"}
    assert all(names <= row.keys() for row in result.curve)
    assert all(row["kl"] >= 0 and 0 < row["effective"] <= 1 for row in result.curve)
    assert result.stopped_reason is None
    assert not result.model.training
    assert "forward" not in result.model.get_base_model().__dict__


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_what_is_trained_moves_and_the_rest_does_not(shop, tmp_path, weights):
    result = learn(shop, tmp_path, few(), dataclasses.replace(SMALL, weights=weights))
    before = shop.model().state_dict()
    if weights == "full":
        assert [n for n, t in result.model.state_dict().items() if torch.equal(t, before[n])] == []
        return
    after = result.model.get_base_model().state_dict()
    plain = {name.replace(".base_layer", ""): tensor for name, tensor in after.items() if "lora_" not in name}
    assert all(torch.equal(plain[name], before[name]) for name in before)
    fresh = adapter_of(make_lora(shop.model(), SMALL.lora, seed=5)).tensors
    assert [n for n, t in adapter_of(result.model).tensors.items() if torch.equal(t, fresh[n])] == []


def gradient_of(loss, model):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("robust", [False, True])
def test_the_trainer_s_loss_is_the_plain_one(shop, tmp_path, robust):
    """Slates of different lengths through packed rows and the wrapped forward, against one plain row an item."""
    settings = dataclasses.replace(SMALL, kl_coefficient=0.3, entropy_coefficient=0.1, weight_cap=2.0)
    slates, model = uneven(), shop.model()
    source = StateSource(slates.states, None, shop.renderer, shop.catalogue, shop.tokenizer, seed=5)
    trained = make_lora(model, settings.lora, seed=5)
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)  # so that the policy is not its reference
    trainer = make_trainer(trained, source, slates, settings, Checkpointing(tmp_path), halved if robust else None)
    rows = [{"state": n, "rollout": 0, "place": n} for n in range(4)]
    batch = trainer._prepare_inputs(rows)
    found = trainer.compute_loss(trained, batch)
    fast = gradient_of(found, trained)

    ids, mask = batch.request.prompt_ids_BP, batch.request.prompt_mask_BP
    scores = score_items(trained, ids, mask, batch.request.items_BG, shop.catalogue.index, path="plain")
    with trained.disable_adapter(), torch.no_grad():
        reference = score_items(trained, ids, mask, batch.request.items_BG, shop.catalogue.index, path="plain")
    log_pi, drawn = scores.item_log_prob_BG, batch.request.items_BG[:, 3:]
    tables = (slates.reward_BK, slates.propensity_BK, slates.below_BK, slates.share_BK)
    logged = SlateBatch(*(torch.from_numpy(t).float() for t in tables))
    fitted = None
    if robust:
        q = [torch.from_numpy(halved(slates.states, np.array(x)).total_BK).float() for x in (slates.items_BK, drawn)]
        fitted = Fitted(q[0], q[1], log_pi[:, 3:])
    wanted = off_policy_loss(log_pi[:, :3], logged, k=2, cap=2.0, fitted=fitted)
    penalty_BGL = (0.3 * exact_kl_BGL(scores, reference) - 0.1 * scores.entropy_BGL)[:, 3:]
    wanted = wanted + penalty_BGL.sum() / 8
    token_BGL = scores.log_prob_BGL[:, 3:] - scores.log_prob_BGL[:, 3:].detach()
    for place in range(
        token_BGL.shape[2]
    ):  # what comes after a token was reached by it; of two draws less the other's
        after_BG = penalty_BGL[:, :, place + 1 :].detach().sum(-1)
        wanted = wanted + ((after_BG - after_BG.flip(1)) * token_BGL[:, :, place]).sum() / 8
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    torch.testing.assert_close(fast, gradient_of(wanted, trained), rtol=1e-3, atol=1e-5)
    kept = trainer._metrics["train"]
    assert kept["kl"][0] > 0
    pi, share = log_pi[:, :3].exp().detach().numpy(), slates.share_BK
    weight = np.minimum(pi / slates.propensity_BK, 2.0) + slates.below_BK * pi
    total = (share * weight).sum()
    assert kept["value"][0] == pytest.approx((share * weight * slates.reward_BK).sum() / total, rel=1e-4)
    assert kept["weight"][0] == pytest.approx(total / share.sum(), rel=1e-4)
    assert kept["effective"][0] == pytest.approx(total**2 / (share * weight**2).sum() / share.sum(), rel=1e-4)
    assert kept["capped"][0] == pytest.approx((share * (pi / slates.propensity_BK > 2.0)).sum() / share.sum())


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill; tests of PPO end whole processes."""


def test_a_killed_training_resumes_to_the_same_result(shop, tmp_path):
    steps = []

    def killed(states, items_BK):
        steps.append(1)
        if len(steps) == 4:
            raise Killed  # in the fourth step, after the checkpoint of the second
        return halved(states, items_BK)

    whole = learn(shop, tmp_path / "whole", few(), ROBUST, value=halved)
    with pytest.raises(Killed):
        learn(shop, tmp_path / "cut", few(), ROBUST, value=killed)
    called = []
    again = learn(
        shop,
        tmp_path / "cut",
        few(),
        ROBUST,
        value=halved,
        on_checkpoint=lambda step, model: called.append(step),
    )
    assert called == [4]
    left, right = adapter_of(again.model).tensors, adapter_of(whole.model).tensors
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert again.curve == whole.curve


def test_another_log_does_not_resume(shop, tmp_path):
    learn(shop, tmp_path, few())
    called = []
    other = dataclasses.replace(few(), reward_BK=few().reward_BK + 1)
    learn(shop, tmp_path, other, on_checkpoint=lambda step, model: called.append(step))
    assert called == [2, 4]


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("estimator", ["top-k", "doubly-robust"])
def test_it_finds_what_the_log_rarely_shows(shop, tmp_path, estimator, seed):
    """95% of the optimum in 60 steps of 16 slates with 8 rows each, 3% of which show any one lamp."""
    settings = dataclasses.replace(WORLD, estimator=estimator)
    model = shop.model(hidden=64, seed=seed)
    result = learn(shop, tmp_path, shown(seed), settings, seed=seed, model=model, value=halved)
    assert result.curve[-1]["step"] == 60
    assert deployed(shop, result.model) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_the_correction_it_learns_what_is_shown_most(shop, tmp_path, seed):
    """Desks earn a third of what lamps earn but are shown six times as often: mu r misleads."""
    log = shown(seed)
    blind = dataclasses.replace(log, propensity_BK=np.full(log.items_BK.shape, 1 / 12))
    model = shop.model(hidden=64, seed=seed)
    result = learn(shop, tmp_path, blind, WORLD, seed=seed, model=model)
    assert deployed(shop, result.model) <= 0.5


def test_items_that_were_seen_are_never_learned_or_drawn(shop, tmp_path):
    slates = dataclasses.replace(few(), states=shop.states(16))
    asked = []

    def value(states, items_BK):
        asked.extend((set(s.seen()), set(row)) for s, row in zip(states, items_BK.tolist(), strict=True))
        return lamps(states, items_BK)

    begun = start(shop, 5, repeat="exclude", model=shop.model())
    train_off_policy(begun, slates, ROBUST, Checkpointing(tmp_path), value=value)
    assert len(asked) == 16
    assert all(not seen & items for seen, items in asked)


def test_a_log_of_seen_items_alone_is_refused(shop, tmp_path):
    slates = few(4)
    every = [np.arange(12)] * 4
    begun = start(shop, 5, repeat="exclude", model=shop.model())
    with pytest.raises(DataError, match="had not seen"):
        train_off_policy(begun, dataclasses.replace(slates, seen=every), SMALL, Checkpointing(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight_cap", 0.0),
        ("weight_cap", -1.0),
        ("slate", 0),
        ("draws", 0),
        ("batch_size", 0),
        ("examples", 0),
        ("epochs", 0.0),
        ("kl_coefficient", -0.1),
        ("learning_rate", 0.0),
    ],
)
def test_settings_that_cannot_work_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"off_policy.{key}"):
        check_off_policy(dataclasses.replace(OffPolicySettings(), **{key: value}))


def test_a_batch_is_divided_among_processes():
    check_off_policy(OffPolicySettings(batch_size=32), 4)
    with pytest.raises(ConfigError, match=r"off_policy\.batch_size"):
        check_off_policy(OffPolicySettings(batch_size=30), 4)


def test_doubly_robust_needs_a_fitted_reward_and_numbers_from_it(shop, tmp_path):
    with pytest.raises(ConfigError, match="fitted reward"):
        learn(shop, tmp_path, few(), ROBUST)
    for broken in (
        lambda states, items: Reward(np.full(items.shape, np.nan), {}),
        lambda states, items: Reward(np.zeros((len(items), 1)), {}),
    ):
        with pytest.raises(RunError, match="fitted reward"):
            learn(shop, tmp_path, few(), ROBUST, value=broken)


def test_the_hooks_of_transformers_are_those_we_override():
    expected = {
        "_prepare_inputs": 2,
        "compute_loss": 5,
        "floating_point_ops": 2,
        "log": 3,
        "_get_grad_norm": 3,
    }
    for name, number in expected.items():
        theirs, ours = getattr(Trainer, name), getattr(OffPolicyTrainer, name)
        assert len(inspect.signature(theirs).parameters) == len(inspect.signature(ours).parameters) == number, name
    for name in ("compute_loss", "log", "floating_point_ops", "_get_grad_norm"):
        assert list(inspect.signature(getattr(Trainer, name)).parameters) == list(
            inspect.signature(getattr(OffPolicyTrainer, name)).parameters
        )
