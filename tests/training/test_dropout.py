"""What is scored in an update is the policy that drew: dropout of any kind is off, and only the warm start may ask."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

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
    SessionSettings,
    SFTSettings,
)
from llmrec.policy.loading import CHECKPOINTING
from llmrec.policy.modes import evaluating, still
from llmrec.rewards.trl import GroupedReward
from llmrec.training.best_of_n import make_trainer as make_best_of_n
from llmrec.training.improvement import Checkpointing
from llmrec.training.item_values import valuing_model
from llmrec.training.lora import make_lora
from llmrec.training.off_policy import make_trainer as make_off_policy
from llmrec.training.on_policy import make_trainer
from llmrec.training.preferences import make_preference_trainer
from llmrec.training.reward_model import make_reward_trainer
from llmrec.training.session_source import SessionSource
from llmrec.training.sessions import make_session_trainer
from llmrec.training.sft import train_sft
from llmrec.training.state_source import PairSource, StateSource
from tests.training import shop_users as world
from tests.training.clicks import pairs_of
from tests.training.logged_world import shown
from tests.training.worlds import lamps, run

LORA = LoraSettings(rank=4, alpha=8)
COMMON = {"steps": 1, "prompts": 4, "draws": 4, "minibatches": 1, "save_every": 1, "lora": LORA}


def llama(words):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=words, **sizes, attention_dropout=0.3))


def opt(words):
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    rates = {"dropout": 0.3, "attention_dropout": 0.3, "layerdrop": 0.3}
    return OPTForCausalLM(OPTConfig(vocab_size=words, word_embed_proj_dim=32, **sizes, **rates))


def gpt2(words):
    rates = {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=words, n_embd=32, n_layer=2, n_head=2, n_positions=512, **rates))


MODELS = {"llama": llama, "opt": opt, "gpt2": gpt2}


def made(shop, kind):
    torch.manual_seed(0)
    model = MODELS[kind](len(shop.tokenizer)).eval()
    model.config.pad_token_id = shop.tokenizer.pad_token_id
    return model


def trained(shop, kind):
    """An adapter that is not the identity, in training mode."""
    policy = make_lora(made(shop, kind), LORA, seed=1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


def random_without(policy, request) -> bool:
    """Whether the model in training mode, left alone, scores as it draws."""
    policy.train()
    with torch.no_grad(), evaluating(policy):
        drawn = request.score(policy.get_base_model()).item_log_prob_BG
    with torch.no_grad():
        scored = request.score(policy.get_base_model()).item_log_prob_BG
    return float((scored - drawn).abs().max()) > 1e-2


def ratio(policy, trainer, request) -> torch.Tensor:
    """pi in an update over pi that draws, of each item."""
    with torch.no_grad(), evaluating(policy):
        drawn = request.score(policy.get_base_model()).item_log_prob_BG
    policy.train()
    scored = trainer._answer(policy, request)[0].item_log_prob_BG
    assert scored.requires_grad
    assert policy.training
    return (scored - drawn).exp().detach()


ON_POLICY = {
    "ppo": PPOSettings(**COMMON),
    "reinforce": ReinforceSettings(**COMMON),
    "grpo": GRPOSettings(**COMMON),
    "rloo": RLOOSettings(**COMMON),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ON_POLICY)
def test_the_first_pass_scores_what_was_drawn(shop, tmp_path, name, kind):
    policy, states, settings = trained(shop, kind), shop.states(4), ON_POLICY[name]
    source = StateSource(states, None, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    trainer = make_trainer(policy, source, [GroupedReward(lamps, states, 4)], settings, out=tmp_path)
    policy.train()
    (part,) = trainer._roll_out([trainer.train_dataset[n // 4] for n in range(16)])
    request = part["request"] if isinstance(part, dict) else part.request
    assert (ratio(policy, trainer, request) - 1).abs().max() < 1e-5
    if name == "ppo":
        trainer._compute_loss(policy, part).backward()
        assert trainer._metrics["train"]["moved_kl"][0] < 1e-8


@pytest.mark.parametrize("kind", MODELS)
def test_these_models_would_score_at_random(shop, kind):
    """What is guarded against."""
    policy = trained(shop, kind)
    source = StateSource(shop.states(4), None, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    request = source.request([{"state": n} for n in range(4)], shop.catalogue.index, torch.device("cpu"))
    request = dataclasses.replace(request, items_BG=torch.arange(12).expand(4, 12))
    assert random_without(policy, request)


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_slots_of_slates_have_ratio_one(shop, tmp_path, kind):
    policy, settings = trained(shop, kind), PPOSettings(**{**COMMON, "draws": 1})
    session = SessionSettings(turns=2, slate=2)
    given = (world.meeting(), session, "allow", shop.renderer, shop.catalogue, shop.tokenizer, 2)
    trainer = make_session_trainer(policy, SessionSource(*given), settings, out=tmp_path)
    policy.train()
    (batch,) = trainer._roll_out([trainer.train_dataset[n] for n in range(4)])
    policy.train()
    trainer._compute_loss(policy, batch)
    assert trainer._metrics["train"]["moved_kl"][0] < 1e-8


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["off_policy", "best_of_n"])
def test_what_learns_from_logs_or_winners_scores_without_dropout(shop, tmp_path, name, kind):
    policy, checkpointing = trained(shop, kind), Checkpointing(tmp_path)
    if name == "off_policy":
        slates = shown(0, slates=8, places=3)
        source = StateSource(slates.states, None, shop.renderer, shop.catalogue, shop.tokenizer, seed=5)
        settings = OffPolicySettings(batch_size=4, draws=2, lora=LORA)
        trainer = make_off_policy(policy, source, slates, settings, checkpointing)
    else:
        source = StateSource(shop.states(4), None, shop.renderer, shop.catalogue, shop.tokenizer, seed=5)
        settings = BestOfNSettings(prompts=4, rounds=1, draws=4, batch_size=4, lora=LORA)
        trainer = make_best_of_n(policy, source, lamps, settings, checkpointing)
    policy.train()
    prepared = trainer._prepared([{"state": n, "rollout": 0, "place": n} for n in range(4)])
    request = getattr(prepared, "request", prepared)
    assert (ratio(policy, trainer, request) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_a_fresh_adapter_is_its_reference_in_dpo(shop, tmp_path, loss, kind):
    policy = make_lora(made(shop, kind), LORA, seed=1)
    settings = PreferenceSettings(loss=loss, batch_size=4, lora=LORA)
    source = PairSource(pairs_of(0), shop.renderer, shop.catalogue, shop.tokenizer, 0)
    trainer = make_preference_trainer(policy, source, settings, Checkpointing(tmp_path))
    policy.train()
    inputs = trainer._prepare_inputs([trainer.train_dataset[n] for n in range(4)])
    found = float(trainer._compute_loss(policy, inputs).detach())
    assert found == pytest.approx(np.log(2), abs=1e-5)  # all log-ratios are 0


def test_a_reward_model_values_without_dropout(shop, tmp_path):
    model = valuing_model(made(shop, "llama"), 0)
    source = PairSource(pairs_of(0), shop.renderer, shop.catalogue, shop.tokenizer, 0)
    settings = RewardModelSettings(batch_size=4, weights="full")
    trainer = make_reward_trainer(model, source, settings, Checkpointing(tmp_path))
    inputs = trainer._prepare_inputs([trainer.train_dataset[n] for n in range(4)])
    values = []
    for _ in range(2):
        model.train()
        values.append(trainer._answer(model, request=inputs["request"]).logits.detach())
    assert torch.equal(*values)


@pytest.mark.parametrize("kind", [pytest.param("llama", marks=pytest.mark.slow), "opt"])
def test_activations_computed_anew_are_the_same_ones(shop, tmp_path, kind):
    """Layers stay in training mode to be computed anew, and their rates are 0: the same update with and without."""
    found = []
    for again in (False, True):
        model = made(shop, kind)
        setattr(model, CHECKPOINTING, again)
        result = run(shop, tmp_path / str(again), PPOSettings(**COMMON), model=model)
        assert result.curve[0]["moved_kl"] < 1e-8
        found.append({n: p for n, p in result.model.named_parameters() if "lora_" in n})
    assert all(torch.allclose(found[0][n], found[1][n], rtol=1e-4, atol=1e-7) for n in found[0])


# The warm start.


def losses(shop, out, kind, **settings) -> list[float]:
    """Of two steps, logged together."""
    plan = SFTSettings(weights="lora", batch_size=8, epochs=1.0, save_every=8, mixture={"next_item": 1.0}, **settings)
    given = (shop.tokenizer, shop.catalogue, shop.renderer, shop.examples(16), shop.items)
    result = train_sft(made(shop, kind), *given, plan, seed=5, out=out)
    return [row["loss"] for row in result.curve]


@pytest.mark.parametrize("kind", [pytest.param("llama", marks=pytest.mark.slow), "opt"])
def test_the_warm_start_has_the_model_s_own_dropout_where_it_is_asked_for(shop, tmp_path, kind):
    base = losses(shop, tmp_path / "a", kind, lora=LORA)
    with_own = losses(shop, tmp_path / "b", kind, lora=LORA, dropout=True)
    with_lora = losses(shop, tmp_path / "c", kind, lora=LoraSettings(rank=4, alpha=8, dropout=0.5))
    assert abs(with_own[0] - base[0]) > 1e-4
    assert abs(with_lora[0] - base[0]) > 1e-5  # not at the first step, where a fresh adapter is the identity


def test_dropout_of_an_adapter_stays_on_in_the_warm_start_alone(shop):
    policy = make_lora(made(shop, "gpt2"), LoraSettings(rank=4, alpha=8, dropout=0.5), seed=1)
    policy.train()
    still(policy, "adapters")
    on = {name for name, module in policy.named_modules() if isinstance(module, torch.nn.Dropout) and module.training}
    assert on
    assert all(".lora_dropout." in name for name in on)
    still(policy)
    assert not [m for m in policy.modules() if isinstance(m, torch.nn.Dropout) and m.training]
