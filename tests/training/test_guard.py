"""A step whose gradient is not finite or too large is as if it had not been: it is counted, and too many are the end."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import TrainerCallback

from llmrec.config import GRPOSettings, LoraSettings, StabilitySettings
from llmrec.errors import RunError
from llmrec.rewards.trl import GroupedReward
from llmrec.training.controls import Guard
from llmrec.training.lora import make_lora
from llmrec.training.on_policy import make_trainer
from llmrec.training.state_source import StateSource
from tests.training.worlds import SMALL, lamps

LORA = LoraSettings(rank=4, alpha=8)
KINDS = {
    "ppo": dataclasses.replace(SMALL, steps=2, save_every=2, lora=LORA),
    "grpo": GRPOSettings(steps=4, prompts=4, draws=3, minibatches=2, save_every=4, lora=LORA),
}


def test_norms_are_judged():
    guard = Guard(limit=10.0, most=3)
    assert guard.judge(10.0) is None
    assert guard.judge(10.5) == "The norm of the gradient is 10.5, above 10."
    assert guard.judge(float("nan")) == "The norm of the gradient is not finite."
    assert (guard.skipped, guard.in_row) == (2, 2)
    assert guard.judge(1.0) is None
    assert (guard.skipped, guard.in_row) == (2, 0)
    for _ in range(2):
        guard.judge(float("inf"))
    with pytest.raises(RunError, match=r"not finite\. 3 steps in succession were left out for that \(5 in all\)"):
        guard.judge(float("nan"))


def test_without_a_limit_any_finite_norm_may_step():
    assert Guard().judge(1e30) is None


class Snapshots:
    """Breaks the gradients of chosen steps just before their norm is taken, and keeps the state after every step."""

    def __init__(self, trainer, broken, value=float("nan")):
        self.trainer, self.broken, self.value, self.states = trainer, broken, value, []
        self.step, trainer.training_step = trainer.training_step, self.spoilt
        trainer.add_callback(After(self))

    def spoilt(self, model, inputs, num_items_in_batch=None):
        loss = self.step(model, inputs, num_items_in_batch)
        if len(self.states) in self.broken:
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = self.value
        return loss

    def keep(self):
        optimizer = self.trainer.optimizer
        weights = {n: p.detach().clone() for n, p in self.trainer.model.named_parameters() if p.requires_grad}
        adam = [
            {k: v.clone() for k, v in optimizer.state[p].items()}
            for group in optimizer.param_groups
            for p in group["params"]
            if p in optimizer.state
        ]
        self.states.append((weights, adam))


class After(TrainerCallback):
    def __init__(self, snapshots):
        self.snapshots = snapshots

    def on_step_end(self, *_, **__):
        self.snapshots.keep()


def trained(shop, out, settings, broken, value=float("nan")):
    states = shop.states(8)
    source = StateSource(states, None, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    model = make_lora(shop.model(), settings.lora, seed=1)
    trainer = make_trainer(model, source, [GroupedReward(lamps, states, settings.draws)], settings, out=out)
    snapshots = Snapshots(trainer, broken, value)
    return trainer, snapshots


@pytest.mark.parametrize("name", KINDS)
def test_a_step_with_a_gradient_that_is_no_number_changes_nothing(shop, tmp_path, name):
    trainer, snapshots = trained(shop, tmp_path, KINDS[name], {3, 4})
    trainer.train()
    before, after, later = (snapshots.states[n] for n in (2, 4, 5))
    assert all(torch.equal(before[0][n], after[0][n]) for n in before[0])
    assert len(before[1]) == len(after[1]) > 0
    for one, two in zip(before[1], after[1], strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(after[0][n], later[0][n]) for n in after[0])
    rows = [row for row in trainer.state.log_history if "skipped" in row]
    left_out = sum(row["skipped"] for row in rows) * len(snapshots.states) / len(rows)
    assert left_out == pytest.approx(2)
    assert trainer.guard.skipped == 2


def test_a_gradient_above_the_limit_is_left_out_too(shop, tmp_path):
    settings = dataclasses.replace(KINDS["grpo"], stability=StabilitySettings(skip_grad_norm=100.0))
    trainer, snapshots = trained(shop, tmp_path, settings, {1}, 1e6)
    trainer.train()
    assert all(torch.equal(snapshots.states[0][0][n], snapshots.states[1][0][n]) for n in snapshots.states[0][0])
    assert trainer.guard.skipped == 1


def test_too_many_in_succession_end_the_training_with_the_reason(shop, tmp_path):
    settings = dataclasses.replace(KINDS["grpo"], stability=StabilitySettings(max_skipped=3))
    trainer, snapshots = trained(shop, tmp_path, settings, {2, 3, 4, 5})
    with pytest.raises(RunError, match="3 steps in succession were left out"):
        trainer.train()
    assert len(snapshots.states) == 4  # two good steps, two skipped ones, and the third is the end


def test_a_gradient_is_cut_to_the_norm_that_is_set(shop, tmp_path):
    """Plain SGD at rate 1 moves the weights by the gradient: no further than `max_grad_norm`, and by no less."""
    settings = dataclasses.replace(KINDS["ppo"], max_grad_norm=0.01, learning_rate=1.0, warmup=0.0, steps=1)
    trainer, snapshots = trained(shop, tmp_path, settings, ())
    weights = [p for p in trainer.model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in weights]
    trainer.optimizer = torch.optim.SGD(weights, lr=1.0)
    trainer.train()
    first = [p for n, p in snapshots.states[0][0].items()]
    moved = torch.stack([(a - b).norm() for a, b in zip(first, start, strict=True)]).norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)
