"""Rehearsal: its gradient is that of the rows' likelihood in units of the reward, and what was learnt is kept."""

from __future__ import annotations

import dataclasses
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from llmrec.config import LoraSettings, PPOSettings, RehearsalSettings
from llmrec.errors import ConfigError
from llmrec.policy.scoring import score_items
from llmrec.rewards.trl import GroupedReward
from llmrec.training.lora import adapter_of
from llmrec.training.on_policy import check_settings, make_trainer
from llmrec.training.rehearsal import MOST, Rehearsal, wanted_rows
from llmrec.training.sft_data import SFTRow
from tests import forked
from tests.training.conftest import make_shop
from tests.training.test_reward_units import ON_POLICY, PAIRS, SLOW, USER, World, exact, reward
from tests.training.worlds import answers, lamps, run

ROOT = Path(__file__).resolve().parents[2]
RHO = 0.07
SETTINGS = RehearsalSettings(coefficient=RHO, rows=2)
ITEM, TEXT = SFTRow((5, 6, *PAIRS[1]), 2, 1), SFTRow((4, 3, 6, 5), 2, None)
"""An item of two choices behind a prompt of two tokens, and two tokens of text."""


def nats(world, model):
    """-log p of both rows over two choices and two tokens: the item among legal tokens, the text among all."""
    ids, items = torch.tensor([ITEM.input_ids[:2]]), torch.tensor([[ITEM.item]])
    chosen = score_items(model, ids, torch.ones_like(ids), items, world.source.index).item_log_prob_BG.sum()
    text = torch.tensor([TEXT.input_ids])
    log_prob = model(text).logits.log_softmax(-1)[0]
    return -(chosen + log_prob[1, TEXT.input_ids[2]] + log_prob[2, TEXT.input_ids[3]]) / 4


@pytest.fixture
def small():
    return World.make()


QUICK = ("ppo", "ppo-running", "grpo", "rloo-white")
WEIGHED = [name for name in ON_POLICY if name != "grpo-cispo"]
"""CISPO weighs all of its policy loss by the upper clip, KL and entropy with it."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else SLOW) for n in WEIGHED])
def test_the_coefficient_is_in_units_of_the_reward(small, tmp_path, name):
    """What rehearsal adds to a step's gradient is rho times that of the nats, where the reward's has the weight 1."""
    settings = dataclasses.replace(ON_POLICY[name], kl_coefficient=0.0, entropy_coefficient=0.0)
    rewards = [GroupedReward(reward, [USER], settings.draws)]
    rehearsal = Rehearsal.of([ITEM, TEXT], SETTINGS, small.source.index)
    trainer = make_trainer(small.model, small.source, rewards, settings, out=tmp_path, rehearsal=rehearsal)
    trainer._reference = small.reference
    small.model.train()
    gained = exact(small)["reward"]
    kept = torch.cat([g.flatten() for g in torch.autograd.grad(nats(small, small.model.eval()), small.weights())])
    small.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(small.model, [trainer.train_dataset[0]] * settings.draws, None)
    climbed = -torch.cat([p.grad.flatten() for p in small.weights()])
    found = torch.linalg.lstsq(torch.stack([gained, -kept], dim=1), climbed.unsqueeze(1)).solution[:, 0]
    assert float(found[1] / found[0]) == pytest.approx(RHO, rel=0.02)
    assert float((torch.stack([gained, -kept], dim=1) @ found - climbed).norm()) < 0.01 * float(climbed.norm())
    (logged,) = trainer._metrics["train"]["rehearsal_loss"]
    assert logged == pytest.approx(float(nats(small, small.model.eval()).detach()), rel=1e-6)


def test_each_step_has_its_rows_and_they_come_again(small):
    rows = [dataclasses.replace(ITEM, input_ids=(n % 2 + 5, 6, *PAIRS[1])) for n in range(5)]
    rehearsal = Rehearsal.of(rows, SETTINGS, small.source.index)
    assert rehearsal.packed.steps == 2, "the fifth row is no whole step"
    first, second, again = (rehearsal.batch(step, 0, 1) for step in (0, 1, 2))
    assert first["ids"].tolist() == [[5, 6, 2], [6, 6, 2]], "the last token of an item predicts nothing"
    assert second["ids"].tolist() == first["ids"].tolist()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_rows_are_as_many_as_steps_ask_for(small):
    assert wanted_rows(RehearsalSettings(coefficient=0.1, rows=3), 7) == 21
    assert wanted_rows(RehearsalSettings(coefficient=0.1, rows=3), 10**6) == MOST
    assert wanted_rows(RehearsalSettings(coefficient=0.0), 7) == 0


TRAINED = PPOSettings(
    steps=18, prompts=8, draws=4, minibatches=2, save_every=12, learning_rate=5e-3, lora=LoraSettings(rank=4)
)


def test_what_was_learnt_is_kept_while_the_reward_is_learnt(tmp_path):
    """A policy is taught answers at other prompts; PPO alone forgets them, PPO with rehearsal does not."""
    shop = make_shop()
    taught = dataclasses.replace(TRAINED, weights="full", rehearsal=RehearsalSettings(coefficient=3.0, rows=12))
    first = run(shop, tmp_path / "taught", taught, rehearsed=partial(answers, shop)).model
    chances, earned = {}, {}
    for name, coefficient in (("alone", 0.0), ("rehearsed", 0.3)):
        settings = dataclasses.replace(TRAINED, rehearsal=RehearsalSettings(coefficient=coefficient, rows=12))
        model = shop.model()
        model.load_state_dict(first.state_dict())
        ran = run(shop, tmp_path / name, settings, model=model, rehearsed=partial(answers, shop))
        chances[name], earned[name] = known(shop, ran.model), ran.curve[-1]["reward"]
    before = known(shop, first)
    assert before > 0.6
    assert chances["rehearsed"] > before - 0.1 > chances["alone"] + 0.1
    assert earned["rehearsed"] > 0.7 * earned["alone"]


def known(shop, model):
    """The mean chance of the right answers."""
    rows = answers(shop, 15)
    width = max(len(row.input_ids) - row.answer for row in rows)
    prompts = [row.input_ids[: len(row.input_ids) - row.answer] for row in rows]
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    items = torch.tensor([[row.item] for row in rows])
    with torch.no_grad():
        return float(score_items(model.eval(), ids, mask, items, shop.catalogue.index).item_log_prob_BG.exp().mean())


def train(out, last=None):
    """A training that dies in rollout `last`, counted from 0."""
    shop = make_shop()

    def dying(states, items_BG, step):
        if last is not None and step == last:
            os._exit(9)
        return lamps(states, items_BG)

    settings = dataclasses.replace(
        TRAINED, steps=4, prompts=4, save_every=2, rehearsal=RehearsalSettings(coefficient=0.1, rows=3)
    )
    return run(shop, out, settings, reward=dying, rehearsed=partial(answers, shop))


def test_a_killed_training_rehearses_on(tmp_path):
    whole, cut = train(tmp_path / "whole"), tmp_path / "cut"
    asked = [sys.executable, "-m", "tests.training.test_rehearsal", str(cut)]
    done = forked.run(asked, cwd=ROOT, env=forked.environment())
    assert done.returncode == 9, done.stderr[-2000:]
    again = train(cut)
    left, right = adapter_of(again.model).tensors, adapter_of(whole.model).tensors
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert [row["rehearsal_loss"] for row in again.curve] == [row["rehearsal_loss"] for row in whole.curve]


def test_what_cannot_be_rehearsed_is_said(tmp_path):
    for key, value in (("coefficient", -0.1), ("rows", 0)):
        settings = dataclasses.replace(TRAINED, rehearsal=dataclasses.replace(SETTINGS, **{key: value}))
        with pytest.raises(ConfigError, match=rf"'ppo\.rehearsal\.{key}' is {value}"):
            check_settings(settings)
    settings = dataclasses.replace(TRAINED, rehearsal=SETTINGS)
    for nothing in (None, lambda wanted: []):
        with pytest.raises(ConfigError, match=r"nothing beside next items; give 'sft\.mixture'"):
            run(make_shop(), tmp_path, settings, rehearsed=nothing)


if __name__ == "__main__":
    train(Path(sys.argv[1]), last=2)
