"""`train/minimal_ppo.py` makes the updates of the package's PPO trainer, draw for draw and weight for weight."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.critic import Critic
from llmrec.training.state_source import StateSource
from tests.training.worlds import SMALL, lamps, run

SCRIPT = Path(__file__).resolve().parents[2] / "train" / "minimal_ppo.py"
ONCE = dataclasses.replace(
    SMALL,
    steps=1,
    minibatches=1,
    iterations=1,
    warmup=0.0,
    weights="full",
    entropy_coefficient=0.03,
    kl_coefficient=0.1,
    gamma=0.9,
    gae_lambda=0.8,
)


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal_ppo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["minimal_ppo"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["minimal_ppo"]


def updated(minimal, shop, settings, states, seed=5):
    """The weights after the first rollout of the loop, for the states and random numbers of the trainer."""
    source = StateSource(
        states, [np.array(s.seen()) for s in states], shop.renderer, shop.catalogue, shop.tokenizer, seed
    )
    rows = list(source.plan(1, settings.prompts, 1, 1))
    asked = [states[row["state"]] for row in rows]
    model, reference, critic = shop.model(), shop.model(), Critic(32, seed=seed)
    policy = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer)
    seen = [np.array(state.seen()) for state in asked]
    uniform = source.uniforms(rows, settings.draws)
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *critic.parameters()], settings.learning_rate, weight_decay=0.0
    )
    total = settings.iterations
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / total)  # as the trainer's does
    rollout = minimal.roll_out(policy, reference, critic, asked, seen, lamps, uniform, settings)
    for _ in range(total):
        minimal.update(model, critic, rollout, optimiser, settings)
        falling.step()
    return model, critic, rollout


@pytest.mark.parametrize("change", [{}, {"whiten": False, "iterations": 3, "clip": 0.01, "value_clip": 0.01}])
def test_the_first_updates_are_the_trainer_s(minimal, shop, tmp_path, change):
    settings, states = dataclasses.replace(ONCE, **change), shop.states(6)
    model, critic, rollout = updated(minimal, shop, settings, states)
    assert len(rollout.asked.items_BG.unique()) > 3
    theirs = run(shop, tmp_path, settings, states=states, repeat="exclude")
    before = shop.model().state_dict()
    for ours, other in ((model, theirs.model), (critic, theirs.more["critic"])):
        mine, trained = ours.state_dict(), other.state_dict()
        assert mine.keys() == trained.keys()
        for name in mine:
            torch.testing.assert_close(
                mine[name], trained[name], rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert all(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_credit_by_hand(minimal):
    """Two choices around a forced token, gamma 0.5, lambda 0.5: delta_2 = 4 - 2, A_1 = 0.5 * 2 - 1 + 0.25 * 2."""
    value = torch.tensor([[[1.0, 7.0, 2.0, 9.0]]])
    choice = torch.tensor([[[True, False, True, False]]])
    made = minimal.gae(torch.tensor([[4.0]]), value, choice, 0.5, 0.5)
    assert made.tolist() == [[[0.5, 0.0, 2.0, 0.0]]]
