"""REINFORCE: PPO's first pass without a critic is the same gradient, and a baseline changes the noise alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import LoraSettings, PPOSettings, ReinforceSettings, StabilitySettings
from llmrec.errors import ConfigError
from llmrec.rewards.trl import GroupedReward
from llmrec.training.lora import make_lora
from llmrec.training.on_policy import check_settings, make_trainer
from llmrec.training.state_source import StateSource
from llmrec.types import Reward, State
from tests.training.test_group import Letters, whole_vocabulary
from tests.training.test_ppo_gradient import lora_gradient, oracle_log_probs
from tests.training.worlds import lamps, run

COMMON = {"steps": 3, "prompts": 4, "draws": 3, "minibatches": 1, "save_every": 1, "kl_coefficient": 0.0}
LORA = LoraSettings(rank=4, alpha=8)
PPO = PPOSettings(**COMMON, whiten=False, gamma=1.0, gae_lambda=1.0, lora=LORA)
REINFORCE = ReinforceSettings(**COMMON, baseline="none", lora=LORA)


def rolled_out(shop, out, settings, states, *, bias=0.0):
    model = make_lora(shop.model(), settings.lora, seed=1)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    source = StateSource(states, None, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    trainer = make_trainer(model, source, [GroupedReward(lamps, states, settings.draws)], settings, out=out)
    torch.nn.init.constant_(model.get_base_model().critic.outer.bias, bias)
    model.get_base_model().critic.ready.fill_(True)  # in units of 1: V = bias
    rows = [trainer.train_dataset[n // settings.draws] for n in range(settings.prompts * settings.draws)]
    (batch,) = trainer._roll_out(rows)
    trainer._compute_loss(model, batch).backward()
    return model, trainer, batch


def test_ppo_s_first_pass_without_a_critic_is_reinforce_exactly(shop, tmp_path):
    """lambda = gamma = 1, V = 0, no whitening: the ratio is 1 and its gradient that of log pi."""
    states = shop.states(4)
    ppo, _, _ = rolled_out(shop, tmp_path / "a", PPO, states)
    plain, _, _ = rolled_out(shop, tmp_path / "b", REINFORCE, states)
    assert lora_gradient(plain).norm() > 1e-3
    torch.testing.assert_close(lora_gradient(ppo), lora_gradient(plain), atol=1e-7, rtol=1e-5)


def test_the_gradient_is_the_oracle_s(shop, tmp_path):
    """-(R - V(s)) grad log pi, a mean over items; the critic says 0.25 everywhere."""
    states = shop.states(4)
    settings = dataclasses.replace(REINFORCE, baseline="critic", value_coefficient=0.0)
    model, trainer, batch = rolled_out(shop, tmp_path, settings, states, bias=0.25)
    made = lora_gradient(model)
    model.zero_grad()
    loss = torch.zeros(())
    rows = trainer.train_dataset[: settings.prompts]["state"]
    for state, items in zip([states[row] for row in rows], batch.request.items_BG.tolist(), strict=True):
        log_probs = oracle_log_probs(model, shop, state, range(12))
        rewards = lamps([state], np.array([items])).total_BK[0] - 0.25
        loss = loss - sum(r * log_probs[i] for r, i in zip(rewards, items, strict=True)) / 12
    loss.backward()
    expected = lora_gradient(model)
    assert (made - expected).norm() < 2e-3 * expected.norm()


def test_the_critic_begins_in_the_units_of_the_first_rollout(shop, tmp_path):
    """Rewards around 500: V is their mean at once, and the loss of values counts in their deviations."""

    def large(states, items_BK):
        return Reward(500.0 + 100.0 * lamps(states, items_BK).total_BK, {})

    settings = dataclasses.replace(REINFORCE, baseline="critic", steps=2)
    result = run(shop, tmp_path, settings, reward=large)
    assert result.curve[0]["value_loss"] == pytest.approx(0.5 * 2, rel=1e-3)  # two choices an item, variance 1
    critic = result.more["critic"]
    assert float(critic.mean_S) == pytest.approx(result.curve[0]["reward"], rel=1e-6)
    assert float(critic.scale) > 10


@pytest.mark.parametrize("prefix", [1, 2])
def test_the_baseline_is_read_where_the_first_choice_is_made(shop, tmp_path, prefix):
    """Behind forced tokens, at which V is fitted to nothing, and alike for all items of a state."""
    model, tokenizer, _ = whole_vocabulary()
    tokens = [[3] * prefix + [second] for second in range(2, 7)]
    ids = [str(n) for n in range(len(tokens))]
    catalogue = Catalogue.from_sequences(ids, ids, tokens, tokenizer, scheme="semantic")
    states = [State(str(n)) for n in range(4)]
    source = StateSource(states, None, Letters(), catalogue, tokenizer, seed=2)
    settings = dataclasses.replace(REINFORCE, baseline="critic", weights="full")

    def worth(states_, items_BK):
        return Reward(items_BK / 4.0, {})

    trainer = make_trainer(model, source, [GroupedReward(worth, states, settings.draws)], settings, out=tmp_path)
    torch.nn.init.normal_(model.critic.outer.weight)
    (batch,) = trainer._roll_out([trainer.train_dataset[n // 3] for n in range(12)])
    assert not batch.choice_BGL[..., :prefix].any()
    assert batch.choice_BGL[..., prefix].all()
    value_BG = batch.value_BGL[..., prefix]
    assert (value_BG - batch.value_BGL[..., 0]).abs().min() > 1e-4
    assert (value_BG - value_BG[:, :1]).abs().max() < 1e-5
    earned_BG = batch.request.items_BG / 4.0
    torch.testing.assert_close(batch.advantage_BGL[..., prefix], earned_BG - value_BG, check_dtype=False)


def test_the_running_baseline_is_the_mean_of_earlier_rollouts(shop, tmp_path):
    states = shop.states(4)
    settings = dataclasses.replace(REINFORCE, baseline="running")
    _, trainer, first = rolled_out(shop, tmp_path, settings, states)
    reward = lambda batch: batch.return_BGL.amax(-1)  # noqa: E731  # the reward stands at every choice point
    torch.testing.assert_close(first.advantage_BGL, first.return_BGL)
    rows = [trainer.train_dataset[4 + n // 3] for n in range(12)]
    (second,) = trainer._roll_out(rows)
    expected = torch.where(second.choice_BGL, second.return_BGL - reward(first).mean(), 0.0)
    torch.testing.assert_close(second.advantage_BGL, expected)
    assert trainer.controls.reward.count == 24
    assert trainer.controls.reward.mean == pytest.approx(
        float(torch.cat([reward(first), reward(second)]).mean()), rel=1e-6
    )


def test_a_second_step_on_the_same_draws_is_refused():
    for change in ({"iterations": 2}, {"minibatches": 2}):
        with pytest.raises(ConfigError, match="REINFORCE has no ratio"):
            check_settings(dataclasses.replace(REINFORCE, **change))


def test_rewards_may_be_normalised_over_all_rollouts(shop, tmp_path):
    settings = dataclasses.replace(REINFORCE, stability=StabilitySettings(reward_normalisation="running"))
    _, trainer, batch = rolled_out(shop, tmp_path, settings, shop.states(4))
    reward = batch.return_BGL.amax(-1) + batch.return_BGL.amin(-1)  # one sign stands at the choices, 0 elsewhere
    assert float(reward.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(reward.square().mean()) == pytest.approx(1.0, abs=1e-5)
    assert trainer._metrics["train"]["reward"][0] > 0  # logged as it was earned
