"""An adapter that goes on: where it starts, what it is compared with, and the pull back to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llmrec.config import ContinuedSFTSettings, LoraSettings, SFTSettings
from llmrec.errors import ConfigError, RunError
from llmrec.policy.adapters import load_adapter_onto
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.anchor import Anchor, Pull, anchor_of
from llmrec.training.continued import continue_sft
from llmrec.training.improvement import Checkpointing, trainable
from llmrec.training.lora import adapter_of, make_lora
from llmrec.training.off_policy import train_off_policy
from llmrec.training.sft import Lessons
from tests.training import logged_world
from tests.training.logged_world import SMALL, STATES, shown

EVERY = torch.arange(12).expand(3, -1)


@pytest.fixture(scope="module")
def served(shop):
    """An adapter that is far from nothing."""
    model = make_lora(shop.model(seed=5), LoraSettings(rank=4, alpha=8), seed=9)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return adapter_of(model)


def start(shop, served, pull=0.0):
    return replace(logged_world.start(shop, 5, model=shop.model(seed=5)), anchor=Anchor(served, pull))


def scores(shop, model):
    policy = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    with torch.no_grad():
        return policy.log_prob(STATES[:3], EVERY)


def test_it_starts_as_it_was_served(shop, served, tmp_path):
    served.save(tmp_path)
    loaded = load_adapter_onto(shop.model(seed=5), tmp_path, shop.tokenizer)
    model = trainable(start(shop, served), SMALL)
    assert torch.allclose(scores(shop, model), scores(shop, loaded), atol=1e-6)
    assert not torch.allclose(scores(shop, model), scores(shop, shop.model(seed=5)), atol=1e-2)


def test_the_reference_is_where_it_started(shop, served, tmp_path):
    """KL is 0 at the first step, and later that to the served policy, recomputed by enumeration."""
    settings = replace(SMALL, learning_rate=0.02, draws=64, kl_coefficient=0.0)
    ran = train_off_policy(start(shop, served), shown(3, 16), settings, Checkpointing(tmp_path / "a"))
    held = anchor_of(ran.model)
    after = scores(shop, ran.model).double()
    with held.in_place(ran.model):
        before = scores(shop, ran.model).double()
    assert torch.equal(scores(shop, ran.model).double(), after)  # put back
    model = trainable(start(shop, served), SMALL)
    assert torch.allclose(before, scores(shop, model).double(), atol=1e-6)
    assert float((after.exp() * (after - before)).sum(1).mean()) > 1e-3
    one = replace(settings, examples=4, epochs=1.0)
    first = train_off_policy(start(shop, served), shown(3, 4), one, Checkpointing(tmp_path / "b"))
    assert first.curve[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_the_pull_is_the_gradient_of_the_proximal_term(shop, served):
    model = trainable(start(shop, served, 0.7), SMALL)
    held = anchor_of(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn_like(parameter))
    term = sum(0.5 * 0.7 * (p - held.start[name]).square().sum() for name, p in trained.items())
    names = list(trained)
    wanted = dict(zip(names, torch.autograd.grad(term, [trained[n] for n in names]), strict=True))
    for parameter in trained.values():
        parameter.grad = torch.ones_like(parameter)
    skipped = names[0]
    trained[skipped].grad = None  # a step that was left out
    Pull(held).on_pre_optimizer_step(None, None, None, model=model)
    assert trained[skipped].grad is None
    for name in names[1:]:
        assert torch.allclose(trained[name].grad, 1 + wanted[name], atol=1e-5)


@pytest.mark.slow
def test_a_strong_pull_keeps_it_near_in_both_ways_of_learning(shop, served, tmp_path):
    away = {}
    for pull in (0.0, 3.0):
        ran = train_off_policy(
            start(shop, served, pull), shown(3, 48), replace(SMALL, examples=48), Checkpointing(tmp_path / f"o{pull}")
        )
        lessons = Lessons(shop.examples(24), shop.items)
        plan = ContinuedSFTSettings(learning_rate=1e-3)
        settings = SFTSettings(epochs=2.0, batch_size=4, weights="lora")
        more = continue_sft(start(shop, served, pull), lessons, settings, plan, Checkpointing(tmp_path / f"s{pull}"))
        for kind, model in (("off", ran.model), ("sft", more.model)):
            first = anchor_of(model).start
            squares = [
                float((p.detach() - first[n]).square().sum()) for n, p in model.named_parameters() if n in first
            ]
            away[kind, pull] = np.sqrt(sum(squares))
    assert 0 < away["off", 3.0] < 0.8 * away["off", 0.0]
    assert 0 < away["sft", 3.0] < 0.8 * away["sft", 0.0]


def test_what_it_leaves_is_an_adapter_of_the_same_rank(shop, served, tmp_path):
    ran = train_off_policy(start(shop, served, 0.1), shown(3, 16), SMALL, Checkpointing(tmp_path / "t"))
    left = adapter_of(ran.model)
    assert {n: t.shape for n, t in left.tensors.items()} == {n: t.shape for n, t in served.tensors.items()}
    left.save(tmp_path / "adapter")
    loaded = load_adapter_onto(shop.model(seed=5), tmp_path / "adapter", shop.tokenizer)
    assert torch.allclose(scores(shop, loaded), scores(shop, ran.model), atol=1e-6)


def test_anchors_that_cannot_be(shop, served):
    other = replace(start(shop, served), model=shop.model(hidden=64))
    with pytest.raises(RunError, match="another model"):
        trainable(other, SMALL)
    with pytest.raises(ConfigError, match="0 or more"):
        trainable(start(shop, served, -1.0), SMALL)
