"""PPO end to end on a tiny model: what moves, what is logged, what a kill costs, and that it learns."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec.config import LoraSettings, PPOSettings, SFTSettings
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.critic import Critic, load_critic, save_critic
from llmrec.training.improvement import usable_states
from llmrec.training.lora import adapter_of, make_lora
from llmrec.training.on_policy import check_settings
from llmrec.training.sft import train_sft
from llmrec.training.state_source import StateSource
from llmrec.types import Example, Reward, State
from tests import forked
from tests.training.conftest import COLOURS
from tests.training.worlds import SMALL, best, lamps, run

ROOT = Path(__file__).resolve().parents[2]


def test_trainable_parameters_move_and_frozen_ones_do_not(shop, tmp_path):
    result = run(shop, tmp_path)
    before, after = shop.model().state_dict(), result.model.get_base_model().state_dict()
    plain = {name.replace(".base_layer", ""): tensor for name, tensor in after.items() if "lora_" not in name}
    assert plain.keys() == before.keys()  # the critic is gone from the model
    assert all(torch.equal(plain[name], before[name]) for name in before)
    fresh = adapter_of(make_lora(shop.model(), SMALL.lora, seed=5)).tensors
    assert [n for n, t in adapter_of(result.model).tensors.items() if torch.equal(t, fresh[n])] == []
    untouched = Critic(32, seed=5).state_dict()
    assert [n for n, t in result.more["critic"].state_dict().items() if torch.equal(t, untouched[n])] == []
    assert not result.model.training
    assert "forward" not in result.model.get_base_model().__dict__


def test_all_weights_may_be_trained_too(shop, tmp_path):
    result = run(shop, tmp_path, dataclasses.replace(SMALL, weights="full"))
    before = shop.model().state_dict()
    assert [n for n, t in result.model.state_dict().items() if torch.equal(t, before[n])] == []
    assert result.curve[-1]["kl"] > 0
    again = run(shop, tmp_path, dataclasses.replace(SMALL, weights="full"))
    assert all(torch.equal(t, result.model.state_dict()[n]) for n, t in again.model.state_dict().items())


def test_the_curve_keeps_terms_apart(shop, tmp_path):
    called = []
    result = run(shop, tmp_path, on_checkpoint=lambda step, model: called.append((step, model.training)))
    assert called == [(2, False), (4, False)]
    assert [row["step"] for row in result.curve] == [1, 2, 3, 4]
    for row in result.curve:
        assert row["reward"] == pytest.approx(0.5 * row["reward/click"] + row["reward/conversion"], abs=1e-6)
    names = {"kl", "entropy", "clip_fraction", "value_loss", "policy_loss", "explained_variance", "grad_norm"}
    assert names <= result.curve[0].keys()
    assert result.curve[0]["entropy"] > 2.0  # nearly log 12
    assert all(row["kl"] >= 0 for row in result.curve)
    assert result.stopped_reason is None


@pytest.mark.parametrize("critic_input", ["policy", "shared"])
def test_the_critic_may_read_the_policy(shop, tmp_path, critic_input):
    settings = dataclasses.replace(SMALL, steps=2)
    other = run(shop, tmp_path / "a", settings, critic_input=critic_input)
    assert all(np.isfinite(row["value_loss"]) for row in other.curve)


def test_one_draw_a_prompt_works(shop, tmp_path):
    assert len(run(shop, tmp_path, dataclasses.replace(SMALL, draws=1, steps=2)).curve) == 2


def test_a_kl_bound_ends_rollouts_and_says_so(shop, tmp_path):
    settings = dataclasses.replace(SMALL, steps=2, learning_rate=3e-2, target_kl=1e-6, warmup=0.0)
    bound = run(shop, tmp_path, settings)
    assert bound.stopped_reason == "target_kl ended 2 of 2 rollouts before all of their steps."
    assert all(row["kl_stop"] > 0 for row in bound.curve)


def test_a_bound_of_zero_leaves_the_policy_after_one_step_a_rollout(shop, tmp_path):
    """A stopped step moves nothing: with the bound broken at once after step 1, three passes equal one."""
    settings = dataclasses.replace(SMALL, steps=1, minibatches=1, learning_rate=1e-2, warmup=0.0, target_kl=1e-9)
    three = run(shop, tmp_path / "a", dataclasses.replace(settings, iterations=3))
    one = run(shop, tmp_path / "b", dataclasses.replace(settings, iterations=1, target_kl=None))
    left, right = adapter_of(three.model).tensors, adapter_of(one.model).tensors
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_excluded_items_are_never_drawn(shop, tmp_path):
    drawn = []

    def reward(states, items_BK):
        drawn.extend((s.seen(), set(row)) for s, row in zip(states, items_BK.tolist(), strict=True))
        return lamps(states, items_BK)

    run(shop, tmp_path, repeat="exclude", reward=reward)
    assert len(drawn) == 16
    assert all(not set(seen) & items for seen, items in drawn)


def test_rewards_in_trl_s_signature_are_added(shop, tmp_path):
    def red(prompts, completions, completion_ids, item, **_):
        assert [shop.catalogue.token_ids(i) for i in item] == list(completion_ids)
        assert all("Profile: likes" in text for text in prompts)
        return [1.0 if text.strip().startswith("red") else 0.0 for text in completions]

    result = run(shop, tmp_path, reward_funcs=[red])
    for row in result.curve:
        assert row["reward"] == pytest.approx(row["rewards/model/mean"] + row["rewards/red/mean"], abs=1e-6)


def test_a_reward_that_is_not_finite_is_an_error(shop, tmp_path):
    def broken(states, items_BK):
        return Reward(np.full(items_BK.shape, np.nan), {})

    with pytest.raises(RunError, match="finite reward"):
        run(shop, tmp_path, reward=broken)


KILLED = """
import os, sys
from pathlib import Path
from llmrec.training.callbacks import CheckpointCallback
from tests.training.conftest import make_shop
from tests.training.worlds import SMALL, run
import dataclasses
steps = []
def reward(states, items):
    from tests.training.worlds import lamps
    steps.append(1)
    if len(steps) == 4:
        os._exit(9)  # in the fourth rollout, after the checkpoint of the second
    return lamps(states, items)
run(make_shop(), Path(sys.argv[1]), reward=reward)
"""


def test_a_killed_training_resumes_to_the_same_result(shop, tmp_path):
    whole = run(shop, tmp_path / "whole")
    done = forked.run([sys.executable, "-c", KILLED, tmp_path / "cut"], cwd=ROOT, env=forked.environment())
    assert done.returncode == 9, done.stderr
    assert not (tmp_path / "cut" / "checkpoint-16").exists()
    called = []
    again = run(shop, tmp_path / "cut", on_checkpoint=lambda step, model: called.append(step))
    assert called == [4]
    left, right = adapter_of(again.model).tensors, adapter_of(whole.model).tensors
    assert all(torch.equal(left[name], right[name]) for name in left)
    left, right = again.more["critic"].state_dict(), whole.more["critic"].state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    times = ("learning_rate", "grad_norm", "reward", "kl", "value_loss", "explained_variance")
    assert [[row[k] for k in times] for row in again.curve] == [[row[k] for k in times] for row in whole.curve]


def test_it_finds_what_imitation_does_not_show(shop, tmp_path):
    """Users chose things of the colour they like, the lamp rarely; only the lamp is bought."""
    states = [State(f"u{n}", f"likes {COLOURS[n % 4]}") for n in range(24)]
    log = [Example(s, int(lamp) + n) for s, lamp in zip(states, best(states), strict=True) for n in (0, 1, 1, 2, 2)]
    imitate = SFTSettings(epochs=30.0, batch_size=30, learning_rate=5e-3, mixture={"next_item": 1.0}, save_every=999)
    data = (shop.catalogue, shop.renderer)
    warm = train_sft(
        shop.model(hidden=64), shop.tokenizer, *data, log, shop.items, imitate, seed=0, out=tmp_path / "a"
    )

    def top(model):
        policy = LanguagePolicy(model, shop.tokenizer, *data, "allow")
        return np.array([slate.items_K[0] for slate in policy.recommend(states, 1)])

    assert (top(warm.model) == best(states)).mean() < 0.5
    settings = PPOSettings(steps=40, prompts=24, learning_rate=3e-3, kl_coefficient=0.0, lora=LoraSettings(rank=8))
    result = run(shop, tmp_path / "b", settings, model=warm.model, states=states, seed=0)
    assert (top(result.model) == best(states)).mean() >= 0.95


def test_the_plan_is_the_same_for_any_number_of_processes(shop):
    states = shop.states(10)
    source = StateSource(states, None, shop.renderer, shop.catalogue, shop.tokenizer, seed=0)
    one, two = source.plan(3, 8, 2, 1), source.plan(3, 8, 2, 2)
    assert len(one) == 24
    for rollout in range(3):
        rows = [plan.select(range(8 * rollout, 8 * rollout + 8)) for plan in (one, two)]
        as_sets = [{(r["state"], r["place"]) for r in part} for part in rows]
        assert as_sets[0] == as_sets[1]
        shares = [rows[1].select(range(4)), rows[1].select(range(4, 8))]  # each process reads its contiguous share
        for minibatch in range(2):
            places = {r["place"] for share in shares for r in share.select(range(2 * minibatch, 2 * minibatch + 2))}
            assert places == set(range(4 * minibatch, 4 * minibatch + 4))
    assert sorted(one["state"][:10]) == list(range(10))  # each state once before any is used again
    first = [dict(row) for row in one.select(range(8))]
    table = dict(zip([r["place"] for r in first], source.uniforms(first, 3), strict=True))
    for row in two.select(range(8)):
        assert torch.equal(source.uniforms([row], 3)[0], table[row["place"]])


@pytest.mark.parametrize(
    ("change", "key"),
    [({"prompts": 5}, "prompts"), ({"draws": 0}, "draws"), ({"gamma": 1.5}, "gamma"), ({"clip": 0.0}, "clip")],
)
def test_bad_settings_are_named(change, key):
    with pytest.raises(ConfigError, match=rf"ppo\.{key}"):
        check_settings(dataclasses.replace(SMALL, **change))


def test_settings_must_fit_the_processes():
    check_settings(SMALL, 2)
    with pytest.raises(ConfigError, match=r"multiple of 6 \(ppo.minibatches 2 x 3 processes\)"):
        check_settings(SMALL, 3)


def test_users_who_have_seen_everything_are_left_out():
    states = [State("a"), State("b")]
    kept, excluded = usable_states(states, [np.arange(4), np.array([2])], "exclude", 4)
    assert [s.user_id for s in kept] == ["b"]
    assert excluded[0].tolist() == [2]
    assert usable_states(states, [np.arange(4), np.array([2])], "allow", 4) == (states, None)
    with pytest.raises(DataError, match="no state to start"):
        usable_states(states, [np.arange(4)] * 2, "exclude", 4)
    with pytest.raises(DataError, match="2 states but 1 lists"):
        usable_states(states, [np.arange(4)], "exclude", 4)


def test_a_critic_of_another_size_is_refused(tmp_path):
    save_critic(Critic(8), tmp_path)
    load_critic(Critic(8), tmp_path)
    with pytest.raises(RunError, match=r"critic\.safetensors"):
        load_critic(Critic(16), tmp_path)
