"""The gradient of the first pass against REINFORCE and against the exact gradient, by forwards of the plain model.

The oracle runs the unpatched model on prompt + title and takes the softmax over the legal next tokens, found by
comparing title prefixes in Python: no packing, no index, no critic.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from llmrec.policy.forward import answer_through_forward
from llmrec.rewards.trl import GroupedReward
from llmrec.training.lora import make_lora
from llmrec.training.on_policy import make_trainer
from llmrec.training.state_source import StateSource
from tests.training.worlds import SMALL, lamps

PLAIN = dataclasses.replace(
    SMALL, whiten=False, kl_coefficient=0.0, value_coefficient=0.0, minibatches=1, iterations=1
)


def oracle_log_probs(model, shop, state, allowed):
    """log pi_F(item | state) of every item, differentiable."""
    prompt = shop.renderer.token_ids(state)
    titles = {item: shop.catalogue.token_ids(item) for item in allowed}
    out = {}
    for item, title in titles.items():
        logits = model(input_ids=torch.tensor([prompt + title])).logits[0, len(prompt) - 1 :]
        total = torch.zeros(())
        for place, token in enumerate(title):
            legal = sorted({t[place] for t in titles.values() if t[:place] == title[:place]})
            total = total + logits[place][legal].log_softmax(-1)[legal.index(token)]
        out[item] = total
    return out


def set_up(shop, tmp_path, settings, states, excluded=None):
    model = make_lora(shop.model(), settings.lora, seed=1)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():  # away from B = 0, where A has no gradient
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    source = StateSource(states, excluded, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    rewards = [GroupedReward(lamps, states, settings.draws)]
    trainer = make_trainer(model, source, rewards, settings, out=tmp_path)
    model.get_base_model().critic.ready.fill_(True)  # V = 0
    rows = [trainer.train_dataset[n // settings.draws] for n in range(settings.prompts * settings.draws)]
    return model, trainer, trainer._roll_out(rows)


def lora_gradient(model):
    names = [(n, p) for n, p in model.named_parameters() if "lora_" in n]
    return torch.cat([p.grad.flatten() for _, p in names])


@pytest.mark.parametrize("exclude", [False, True])
def test_first_pass_is_reinforce(shop, tmp_path, exclude):
    states = shop.states(4)
    excluded = [np.array([0, 4, 5, 6]) for _ in states] if exclude else None
    allowed = [i for i in range(12) if not (exclude and i in (0, 4, 5, 6))]
    model, trainer, (batch,) = set_up(shop, tmp_path, PLAIN, states, excluded)
    trainer._compute_loss(model, batch).backward()
    made = lora_gradient(model)
    model.zero_grad()
    loss = torch.zeros(())
    rows = trainer.train_dataset[: PLAIN.prompts]["state"]
    for state, items in zip([states[row] for row in rows], batch.request.items_BG.tolist(), strict=True):
        log_probs = oracle_log_probs(model, shop, state, allowed)
        assert set(items) <= set(allowed)
        rewards = lamps([state], np.array([items])).total_BK[0]
        loss = (
            loss - sum(r * log_probs[i] for r, i in zip(rewards, items, strict=True)) / batch.request.items_BG.numel()
        )
    loss.backward()
    expected = lora_gradient(model)
    assert expected.norm() > 1e-4
    torch.testing.assert_close(made, expected, atol=1e-6 * expected.norm().item() + 1e-7, rtol=1e-3)


def test_sampler_and_scorer_agree_on_the_old_log_probs(shop, tmp_path):
    model, _, (batch,) = set_up(shop, tmp_path, PLAIN, shop.states(4))
    scores, _ = answer_through_forward(model, batch.request)
    torch.testing.assert_close(scores.log_prob_BGL, batch.old_log_prob_BGL, atol=2e-5, rtol=0)


def test_many_draws_reach_the_exact_gradient(shop, tmp_path):
    """Equal prefixes are computed once, so 20,000 draws cost what 12 items do."""
    settings = dataclasses.replace(PLAIN, prompts=1, draws=20_000)
    states = shop.states(1)
    model, trainer, (batch,) = set_up(shop, tmp_path, settings, states)
    trainer._compute_loss(model, batch).backward()
    made = lora_gradient(model)
    model.zero_grad()
    log_probs = oracle_log_probs(model, shop, states[0], range(12))
    stacked = torch.stack([log_probs[i] for i in range(12)])
    assert stacked.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    values = torch.tensor(lamps(states, np.arange(12)[None]).total_BK[0], dtype=torch.float32)
    (-(stacked.exp() * values).sum()).backward()
    exact = lora_gradient(model)
    assert torch.nn.functional.cosine_similarity(made, exact, dim=0) > 0.99
    assert (made - exact).norm() < 0.15 * exact.norm()
    share = torch.bincount(batch.request.items_BG.flatten(), minlength=12) / 20_000
    assert (share - stacked.exp().detach()).abs().max() < 0.015


def test_the_kl_term_is_exact(shop, tmp_path):
    settings = dataclasses.replace(PLAIN, prompts=1, draws=20_000, kl_coefficient=1.0)
    states = shop.states(1)
    model, trainer, (batch,) = set_up(shop, tmp_path, settings, states)
    with torch.no_grad():
        trainer._compute_loss(model, batch)
        log_pi = torch.stack(list(oracle_log_probs(model, shop, states[0], range(12)).values()))
        with model.disable_adapter():
            log_ref = torch.stack(list(oracle_log_probs(model, shop, states[0], range(12)).values()))
    kl = (log_pi.exp() * (log_pi - log_ref)).sum().item()
    entropy = -(log_pi.exp() * log_pi).sum().item()
    assert kl > 0.01
    assert trainer._metrics["train"]["kl"][0] == pytest.approx(kl, rel=0.05)
    assert trainer._metrics["train"]["entropy"][0] == pytest.approx(entropy, rel=0.03)
