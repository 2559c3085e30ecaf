"""What keeps a training stable, by numbers worked out by hand, and what it does to a training that needs it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from llmrec.config import (
    BestOfNSettings,
    GRPOSettings,
    LoraSettings,
    OffPolicySettings,
    PPOSettings,
    PreferenceSettings,
    ReinforceSettings,
    RewardModelSettings,
    RLOOSettings,
    StabilitySettings,
)
from llmrec.errors import ConfigError, RunError
from llmrec.training.best_of_n import check_best_of_n
from llmrec.training.controls import Controls, RunningMoments, check_stability
from llmrec.training.lora import adapter_of, make_lora
from llmrec.training.off_policy import check_off_policy
from llmrec.training.on_policy import check_settings
from llmrec.training.preferences import check_preferences
from llmrec.training.reward_model import check_reward_model
from llmrec.types import Reward, State
from tests.training.worlds import SMALL, lamps, run


def controls(kl=0.1, entropy=0.0, **settings):
    return Controls(StabilitySettings(**settings), kl, entropy)


@pytest.mark.parametrize(
    ("kl", "after"),
    [
        (0.55, 0.101),  # 10% above the target: beta (1 + 0.1 * 0.1)
        (0.45, 0.099),
        (0.5, 0.1),
        (50.0, 0.102),  # the error is cut at 0.2
        (-1.0, 0.098),
        (float("nan"), 0.1),
    ],
)
def test_the_adaptive_kl_coefficient_by_hand(kl, after):
    moved = controls(kl_target=0.5)
    moved.after_rollout(kl, 1.0)
    assert moved.kl_coefficient == pytest.approx(after)


def test_without_a_target_the_coefficients_stay():
    moved = controls(0.1, 0.01)
    moved.after_rollout(7.0, 0.0)
    assert (moved.kl_coefficient, moved.entropy_coefficient) == (0.1, 0.01)


def test_the_entropy_bonus_by_hand():
    moved = controls(entropy=0.01, entropy_floor=1.0, entropy_rate=0.02, entropy_most=0.05)
    seen = []
    for entropy in (1.5, 0.5, 0.5, -1.0, -1.0, 2.0, 9.0):
        moved.after_rollout(0.0, entropy)
        seen.append(moved.entropy_coefficient)
    # never below its start; + 0.01, + 0.01, + 0.04 and cut at 0.05, cut; - 0.02; down to its start
    assert seen == pytest.approx([0.01, 0.02, 0.03, 0.05, 0.05, 0.03, 0.01])


def test_reward_moments_are_those_of_all_rewards_together():
    random, moments, parts = np.random.default_rng(0), RunningMoments(), []
    for size in (3, 1, 40, 7):
        part = random.normal(1e3, 2.0, size)
        parts.append(part)
        moments.add(size, part.sum(), np.square(part).sum())
    whole = np.concatenate(parts)
    assert (moments.count, moments.mean) == (len(whole), pytest.approx(whole.mean(), rel=1e-12))
    assert moments.deviation == pytest.approx(whole.std(), rel=1e-6)


def test_rewards_are_normalised_by_all_so_far_or_by_the_present_ones():
    rollouts = [np.array([0.0, 2.0]), np.array([4.0, 6.0])]
    found = {}
    for how in ("none", "batch", "running"):
        one = controls(reward_normalisation=how)
        for rewards in rollouts:
            shift, scale = one.normalised(len(rewards), rewards.sum(), np.square(rewards).sum())
        found[how] = ((rollouts[-1] - shift) / scale).tolist()
    assert found["none"] == [4.0, 6.0]
    assert found["batch"] == pytest.approx([-1.0, 1.0])
    assert found["running"] == pytest.approx([1 / 5**0.5, 3 / 5**0.5])  # 0, 2, 4, 6: mean 3, variance 5


def test_equal_rewards_are_not_divided_by_nothing():
    one = controls(reward_normalisation="running")
    assert one.normalised(4, 8.0, 16.0) == (2.0, 1.0)


def test_flat_rollouts_are_counted_and_end_with_the_reason():
    one = controls(max_flat=3)
    for flat in (4, 4, 3, 4, 4):
        one.after_groups(flat, 4)
    assert one.flat_rollouts == 2
    with pytest.raises(RunError, match="In 3 rollouts in succession every group"):
        one.after_groups(4, 4)


def test_controls_are_read_back_as_they_were(tmp_path):
    one = controls(0.1, 0.02, kl_target=1.0, entropy_floor=3.0, reward_normalisation="running")
    one.after_rollout(5.0, 1.0)
    one.normalised(2, 3.0, 5.0)
    one.after_groups(2, 2)
    one.save(tmp_path)
    other = controls(0.1, 0.02, kl_target=1.0, entropy_floor=3.0, reward_normalisation="running")
    other.load(tmp_path)
    assert other == one
    (tmp_path / "controls.json").write_text('{"reward": {}}')
    with pytest.raises(RunError, match=r"controls\.json cannot be read; start the training anew"):
        other.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("kl_target", 0.0, "above 0"),
        ("entropy_floor", -1.0, "above 0"),
        ("skip_grad_norm", 0.0, "above 0"),
        ("max_skipped", 0, "1 or more"),
        ("max_flat", 0, "1 or more"),
        ("resample", -1, "0 or more"),
        ("kl_rate", 5.0, "below 5"),
        ("entropy_most", -0.1, "0 or more"),
    ],
)
def test_settings_that_cannot_be_used_are_named(key, value, said):
    with pytest.raises(ConfigError, match=rf"'ppo\.stability\.{key}'.*{said}"):
        check_stability(StabilitySettings(**{key: value}), "ppo.stability")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (PPOSettings(draws=1, stability=StabilitySettings(resample=2)), r"stability\.resample' is 2.*no groups"),
        (
            ReinforceSettings(draws=1, minibatches=1, stability=StabilitySettings(resample=1)),
            r"stability\.resample' is 1",
        ),
        (
            PPOSettings(kl_coefficient=0.0, stability=StabilitySettings(kl_target=0.5)),
            r"kl_target' moves .* which is 0",
        ),
        (RLOOSettings(kl_coefficient=-0.1), r"'rloo\.kl_coefficient' is -0\.1; it must be 0 or more"),
        (GRPOSettings(entropy_coefficient=-1.0), r"'grpo\.entropy_coefficient' is -1\.0; it must be 0 or more"),
        (PPOSettings(value_coefficient=-0.5), r"'ppo\.value_coefficient' is -0\.5; it must be 0 or more"),
        (ReinforceSettings(max_grad_norm=-1.0), r"'reinforce\.max_grad_norm' is -1\.0; it must be 0 or more"),
        (PPOSettings(value_clip=0.0), r"'ppo\.value_clip' is 0\.0; it must be above 0"),
        (
            PPOSettings(entropy_coefficient=2.0, stability=StabilitySettings(entropy_floor=1.0, entropy_most=1.0)),
            r"entropy_most' is 1\.0, below",
        ),
        (PPOSettings(lora=LoraSettings(dropout=0.1)), r"'ppo\.lora\.dropout' is 0\.1, but an update must score"),
        (GRPOSettings(lora=LoraSettings(dropout=0.05)), r"'grpo\.lora\.dropout'"),
    ],
)
def test_keys_that_would_be_without_effect_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        check_settings(settings)


def test_dropout_of_an_adapter_is_refused_by_every_improvement():
    lora = LoraSettings(dropout=0.1)
    for check, given, name in (
        (check_off_policy, OffPolicySettings(lora=lora), "off_policy"),
        (check_best_of_n, BestOfNSettings(lora=lora), "best_of_n"),
        (check_preferences, PreferenceSettings(lora=lora), "dpo"),
        (check_reward_model, RewardModelSettings(lora=lora), r"rlhf\.reward_model"),
    ):
        with pytest.raises(ConfigError, match=rf"'{name}\.lora\.dropout' is 0\.1"):
            check(given)


def times(factor, shift=0.0):
    """The lamps' reward in another unit."""

    def reward(states, items_BK):
        return Reward(factor * lamps(states, items_BK).total_BK + shift, {})

    return reward


@pytest.mark.parametrize("kind", [PPOSettings, GRPOSettings])
def test_the_unit_of_the_reward_changes_nothing(shop, tmp_path, kind):
    """Cents for euros, with the coefficients in cents too: values, their clipping, KL and entropy all follow."""
    common = {"steps": 3, "prompts": 8, "draws": 4, "iterations": 2, "save_every": 3, "lora": SMALL.lora}
    found = []
    for factor in (1.0, 100.0):
        settings = kind(**common, kl_coefficient=0.1 * factor, entropy_coefficient=0.02 * factor)
        result = run(shop, tmp_path / str(factor), settings, reward=times(factor, 3.0 * factor))
        found.append(adapter_of(result.model).tensors)
        assert result.curve[0].get("value_loss", 1.0) < 3.0
    moved = torch.cat([found[0][n].flatten() for n in found[0]])
    other = torch.cat([found[1][n].flatten() for n in found[0]])
    start = adapter_of(make_lora(shop.model(), SMALL.lora, seed=5)).tensors
    before = torch.cat([start[n].flatten() for n in found[0]])
    assert (moved - before).norm() > 1e-2
    assert (moved - other).norm() < 0.02 * (moved - before).norm()


ALIKE = [State(f"u{n}", "likes red") for n in range(12)]
COLLAPSING = PPOSettings(
    steps=40, prompts=8, draws=8, minibatches=1, learning_rate=3e-3, kl_coefficient=0.0, save_every=40, weights="full"
)


def one_item(states, items_BK):
    """Only item 0 is worth anything: the policy goes there and nowhere else."""
    return Reward((items_BK == 0).astype(float), {})


def collapsed(shop, out, kl=0.0, **stability):
    """The last 8 of 40 rollouts."""
    settings = dataclasses.replace(COLLAPSING, kl_coefficient=kl, stability=StabilitySettings(**stability))
    return run(shop, out, settings, states=ALIKE, reward=one_item).curve[-8:]


def mean(curve, key):
    return float(np.mean([row[key] for row in curve]))


@pytest.fixture(scope="module")
def free(shop, tmp_path_factory):
    return collapsed(shop, tmp_path_factory.mktemp("free"))


def test_a_policy_that_would_collapse_comes_back_above_the_entropy_floor(shop, tmp_path, free):
    """ "Reward oscillates or collapses": of log 12 = 2.48 nats little is left where nothing holds the entropy."""
    held = collapsed(shop, tmp_path, entropy_floor=1.5, entropy_rate=0.12, entropy_most=0.8)
    assert mean(free, "rollout_entropy") < 0.75
    assert mean(held, "rollout_entropy") >= 1.5
    assert mean(held, "reward") > 3 / 12


@pytest.mark.parametrize("start", [1e-4, 1e4])
def test_the_adaptive_kl_finds_its_target_where_a_policy_answers_at_once(start):
    """A policy whose distance is 0.3 / beta: the coefficient ends at 0.6 for a target of 0.5, from either side."""
    moved = controls(start, kl_target=0.5, kl_rate=1.0)
    for _ in range(150):
        moved.after_rollout(0.3 / moved.kl_coefficient, 1.0)
    assert moved.kl_coefficient == pytest.approx(0.6, rel=1e-3)


def test_the_adaptive_kl_holds_a_policy_that_would_go_far(shop, tmp_path, free):
    held = collapsed(shop, tmp_path, kl=1.0, kl_target=0.4, kl_rate=1.0)
    assert mean(free, "rollout_kl") > 1.5
    assert mean(held, "rollout_kl") < 0.5


def half_flat(states, items_BG):
    """Users who like blue or grey get the same for everything: their groups never have any spread."""
    reward = lamps(states, items_BG)
    flat = np.array([state.profile.endswith(("blue", "grey")) for state in states])[:, None]
    return Reward(np.where(flat, 0.5, reward.total_BK), reward.terms)


def test_flat_groups_do_not_leave_a_zero_loss(shop, tmp_path):
    """ "All-zero loss": groups without spread are drawn anew for other states, so that more of a rollout teaches."""
    settings = GRPOSettings(steps=4, prompts=8, draws=6, save_every=4, kl_coefficient=0.0, lora=LoraSettings(rank=4))
    shares = {}
    for resample in (0, 4):
        chosen = dataclasses.replace(settings, stability=StabilitySettings(resample=resample))
        curve = run(shop, tmp_path / str(resample), chosen, reward=half_flat).curve
        shares[resample] = np.mean([row["flat_groups"] for row in curve])
        assert all(row["grad_norm"] > 0 for row in curve)
    assert shares[0] >= 0.5
    assert shares[4] < 0.25


def test_single_draws_without_any_spread_end_the_training_too(shop, tmp_path):
    settings = dataclasses.replace(SMALL, steps=4, draws=1, stability=StabilitySettings(max_flat=2))
    with pytest.raises(RunError, match="In 2 rollouts in succession"):
        run(shop, tmp_path, settings, reward=lambda states, items_BK: Reward(np.full(items_BK.shape, 0.3), {}))


def test_an_early_stop_on_kl_bounds_what_one_rollout_moves(shop, tmp_path):
    """Ten passes over one rollout at a high rate: with the bound the policy has moved less far."""
    wild = dataclasses.replace(SMALL, steps=2, iterations=10, minibatches=1, learning_rate=1e-2, kl_coefficient=0.0)
    free = run(shop, tmp_path / "free", wild)
    held = run(shop, tmp_path / "held", dataclasses.replace(wild, target_kl=0.02))
    assert "target_kl ended" in held.stopped_reason
    assert held.curve[-1]["rollout_kl"] < 0.5 * free.curve[-1]["rollout_kl"]
