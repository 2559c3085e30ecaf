"""GRPO and RLOO: the gradient of TRL's own trainers where the distributions agree, and the oracle's where they do not.

Agreement: a catalogue of all sequences of two tokens over the whole vocabulary, so that every token is legal at every
step and the softmax over legal tokens is the model's own. An all-zero loss says nothing (a GRPO loss is 0 for any
log-probabilities on its first pass), so gradients are compared.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import GRPOSettings, LoraSettings, RLOOSettings, StabilitySettings
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.rewards.trl import GroupedReward
from llmrec.training.lora import make_lora
from llmrec.training.on_policy import GRPO_OPTIONS, check_settings, make_trainer
from llmrec.training.state_source import StateSource
from llmrec.types import Reward, State
from tests.training.test_ppo_gradient import oracle_log_probs
from tests.training.worlds import lamps, run

WORDS = ("<pad>", "x", "a", "b", "c", "d", "e")
TINY = GRPOSettings(
    scale_rewards="group",
    steps=2,
    prompts=4,
    draws=4,
    minibatches=2,
    save_every=1,
    kl_coefficient=0.1,
    lora=LoraSettings(rank=4, alpha=8),
)
SMALL_RLOO = RLOOSettings(
    steps=2, prompts=4, draws=4, minibatches=2, save_every=1, kl_coefficient=0.1, lora=LoraSettings(rank=4, alpha=8)
)


class Letters:
    """A prompt of two letters for each user."""

    def token_ids_many(self, states):
        return [[2 + int(s.user_id) % 5, 2 + int(s.user_id) // 5 % 5] for s in states]


def whole_vocabulary():
    """A model that never writes its end token, its tokenizer, and the catalogue of every pair of tokens."""
    table = Tokenizer(models.WordLevel({w: n for n, w in enumerate((*WORDS, "<eos>"))}, unk_token="a"))
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    config = Qwen3Config(
        vocab_size=len(WORDS) + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=0,
        eos_token_id=None,
        tie_word_embeddings=False,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)  # away from a uniform distribution
        head = torch.nn.Linear(32, len(WORDS) + 1).double()
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()[-1] = -1e4  # the end token is no choice: every item has two tokens before it
        model.lm_head = head
    pairs = [list(pair) for pair in itertools.product(range(len(WORDS)), repeat=2)]
    ids = [str(n) for n in range(len(pairs))]
    return model, tokenizer, Catalogue.from_sequences(ids, ids, pairs, tokenizer, scheme="semantic")


def reward(states, items_BK):
    value = np.cos(items_BK * 1.7 + np.array([[int(s.user_id)] for s in states]))
    return Reward(value, {"cosine": value})


def trained_on(settings, out, *, adapter=True):
    model, tokenizer, catalogue = whole_vocabulary()
    states = [State(str(n)) for n in range(12)]
    source = StateSource(states, None, Letters(), catalogue, tokenizer, seed=3)
    policy = make_lora(model, settings.lora, seed=1) if adapter else model
    if adapter:
        torch.manual_seed(4)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    trainer = make_trainer(policy, source, [GroupedReward(reward, states, settings.draws)], settings, out=out)
    count = settings.prompts * settings.draws
    rows = [trainer.train_dataset[n // settings.draws] for n in range(count)]
    return policy, trainer, trainer._roll_out(rows)


def gradient(model):
    parts = [p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return torch.cat(parts)


def stock_trainer(kind, policy, trainer, out):
    arguments = copy.deepcopy(trainer.args)
    arguments.output_dir = str(out / "stock")
    dataset, tokenizer = trainer.train_dataset, trainer.processing_class
    stock = kind(
        copy.deepcopy(policy), lambda **_: [], args=arguments, train_dataset=dataset, processing_class=tokenizer
    )
    stock.beta = trainer.beta
    stock.model.train()
    stock.current_gradient_accumulation_steps = trainer.current_gradient_accumulation_steps = 1
    return stock


LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")


@pytest.mark.parametrize("loss", LOSSES)
def test_grpo_has_the_gradient_of_stock_trl(tmp_path, loss):
    settings = dataclasses.replace(TINY, loss=loss)
    policy, trainer, parts = trained_on(settings, tmp_path)
    stock = stock_trainer(trl.GRPOTrainer, policy, trainer, tmp_path)
    policy.train()
    for part in parts:
        policy.zero_grad(), stock.model.zero_grad()
        trainer._compute_loss(policy, part).backward()
        stock._compute_loss(stock.model, {k: v for k, v in part.items() if k != "request"}).backward()
        made, expected = gradient(policy), gradient(stock.model)
        assert expected.norm() > 1e-4
        assert (made - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("options", [{"off_policy_mask_threshold": 0.1}, {"delta": 1.5}])
def test_further_options_of_trl_reach_its_loss(tmp_path, options):
    settings = dataclasses.replace(TINY, options=options)
    policy, trainer, parts = trained_on(settings, tmp_path)
    stock = stock_trainer(trl.GRPOTrainer, policy, trainer, tmp_path)
    policy.train()
    trainer._compute_loss(policy, parts[0]).backward()
    stock._compute_loss(stock.model, {k: v for k, v in parts[0].items() if k != "request"}).backward()
    assert (gradient(policy) - gradient(stock.model)).norm() < 1e-5 * gradient(stock.model).norm()
    assert all(getattr(trainer.args, key) == value for key, value in options.items())


OPTIONS = {
    "delta": (1.0001, "dr_grpo"),
    "multi_objective_aggregation": ("normalize_then_sum", "dr_grpo"),
    "off_policy_mask_threshold": (-1.0, "dr_grpo"),
    "reward_weights": ([2.0], "dr_grpo"),
    "sapo_temperature_neg": (0.3, "sapo"),
    "sapo_temperature_pos": (0.3, "sapo"),
    "top_entropy_quantile": (0.5, "dr_grpo"),
    "vespo_k_neg": (0.3, "vespo"),
    "vespo_k_pos": (0.3, "vespo"),
    "vespo_lambda_neg": (0.3, "vespo"),
    "vespo_lambda_pos": (0.3, "vespo"),
}
"""A value of each option, and a loss that reads it."""


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_that_is_taken_has_an_effect(tmp_path, key):
    """On a policy that has moved since its rollout: the gradient is another one than without the option."""
    assert set(OPTIONS) == set(GRPO_OPTIONS)
    value, loss = OPTIONS[key]
    found = []
    for options in ({}, {key: value}):
        settings = dataclasses.replace(TINY, loss=loss, scale_rewards="none", options=options)
        policy, trainer, parts = trained_on(settings, tmp_path)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(1.5)
        policy.train()
        trainer.current_gradient_accumulation_steps = 1
        trainer._compute_loss(policy, parts[0]).backward()
        found.append(gradient(policy))
    assert (found[0] - found[1]).norm() > 1e-3 * found[0].norm()


@pytest.mark.parametrize("adapter", [True, False])
def test_rloo_has_the_gradient_of_stock_trl(tmp_path, adapter):
    policy, trainer, parts = trained_on(SMALL_RLOO, tmp_path, adapter=adapter)
    stock = stock_trainer(trl.RLOOTrainer, policy, trainer, tmp_path)
    policy.train()
    trainer._compute_loss(policy, parts[0]).backward()
    stock._compute_loss(stock.model, {k: v for k, v in parts[0].items() if k != "request"}).backward()
    assert gradient(stock.model).norm() > 1e-4
    assert (gradient(policy) - gradient(stock.model)).norm() < 1e-5 * gradient(stock.model).norm()


def test_no_copy_of_the_adapter_stays_on_the_model(tmp_path):
    for settings in (TINY, SMALL_RLOO):
        policy, _, _ = trained_on(settings, tmp_path)
        assert list(policy.peft_config) == ["default"]
        assert not [name for name, _ in policy.named_parameters() if ".ref." in name]


def test_rloo_takes_the_kl_off_the_reward_and_the_mean_of_siblings_off_both(tmp_path):
    """By hand: A_i = R_i - mean of the others' R, R = r - beta (log pi - log pi_ref)."""
    policy, _, parts = trained_on(SMALL_RLOO, tmp_path)
    for part in parts:
        request = part["request"]
        with torch.no_grad():
            scores = request.score(policy)
            with policy.disable_adapter():
                reference = request.score(policy)
        kl = scores.item_log_prob_BG - reference.item_log_prob_BG
        states = [State(str(int(ids[0]) - 2 + 5 * (int(ids[1]) - 2))) for ids in request.prompt_ids_BP]
        value = torch.from_numpy(reward(states, request.items_BG.numpy()).total_BK) - 0.1 * kl
        others = (value.sum(1, keepdim=True) - value) / 3
        torch.testing.assert_close(
            part["advantages"].view(2, 4).double(), value - others, atol=1e-5, rtol=1e-5, check_dtype=False
        )


@pytest.mark.parametrize("adapter", [True, False])
def test_grpo_s_gradient_on_titles_is_the_oracle_s(shop, tmp_path, adapter):
    """By hand: A = (r - mean) / (std + 1e-4), the loss is -A pi/pi_old, a mean over items; k3 of every choice."""
    settings = dataclasses.replace(TINY, minibatches=1, weights="lora" if adapter else "full", kl_coefficient=0.0)
    model = make_lora(shop.model(), settings.lora, seed=1) if adapter else shop.model()
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    states = shop.states(4)
    source = StateSource(states, None, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    trainer = make_trainer(model, source, [GroupedReward(lamps, states, 4)], settings, out=tmp_path)
    rows = [trainer.train_dataset[n // 4] for n in range(16)]
    (part,) = trainer._roll_out(rows)
    trainer.current_gradient_accumulation_steps = 1
    model.train()
    trainer._compute_loss(model, part).backward()
    made = gradient(model)
    model.zero_grad()
    loss = torch.zeros(())
    for state, items in zip(
        [states[row["state"]] for row in rows[::4]], part["request"].items_BG.tolist(), strict=True
    ):
        log_probs = oracle_log_probs(model, shop, state, range(12))
        earned = lamps([state], np.array([items])).total_BK[0]
        advantage = (earned - earned.mean()) / (earned.std(ddof=1) + 1e-4)
        loss = loss - sum(a * log_probs[i] for a, i in zip(advantage, items, strict=True)) / 16
    loss.backward()
    expected = gradient(model)
    assert expected.norm() > 1e-3
    assert (made - expected).norm() < 2e-3 * expected.norm()


def test_groups_without_spread_are_drawn_anew_for_other_states(shop, tmp_path):
    """Half of the users like everything alike: their groups teach nothing and are replaced."""
    asked = []

    def half(states, items_BK):
        asked.append(len(states))
        known = lamps(states, items_BK).total_BK
        flat = np.array([[int(s.user_id[1:]) % 2] for s in states])
        return Reward(np.where(flat, 0.7, known), {})

    with_, without = (
        dataclasses.replace(TINY, steps=3, stability=StabilitySettings(resample=n, max_flat=99)) for n in (8, 0)
    )
    replaced = run(shop, tmp_path / "a", with_, reward=half)
    drawn_anew = len(asked) - 3
    plain = run(shop, tmp_path / "b", without, reward=half)
    assert drawn_anew > 0
    assert np.mean([row["flat_groups"] for row in replaced.curve]) < np.mean([r["flat_groups"] for r in plain.curve])
    assert plain.curve[0]["flat_groups"] >= 0.25


def test_a_reward_without_any_spread_ends_the_training_with_the_reason(shop, tmp_path):
    """The all-zero loss: nothing is learned, silently, by those who do not look."""
    settings = dataclasses.replace(TINY, steps=9, stability=StabilitySettings(resample=1, max_flat=2))
    with pytest.raises(RunError, match="2 rollouts in succession every group of draws earned one and the same"):
        run(shop, tmp_path, settings, reward=lambda states, items_BK: Reward(np.ones(items_BK.shape), {}))


def first_word(prompts, completions, completion_ids, **_):
    """A reward of one's own in TRL's signature."""
    return [1.0 if text.strip().startswith("red") else 0.0 for text in completions]


@pytest.mark.parametrize("settings", [TINY, SMALL_RLOO], ids=["grpo", "rloo"])
def test_a_reward_of_one_s_own_is_added(shop, tmp_path, settings):
    result = run(shop, tmp_path, settings, reward_funcs=[first_word])
    for row in result.curve:
        assert row["reward"] == pytest.approx(row["rewards/model/mean"] + row["rewards/first_word/mean"], abs=1e-5)
        assert row["reward/click"] >= 0


def test_a_whole_reward_is_said_in_parts_whatever_the_functions_weigh(shop, tmp_path):
    """Also under weights that add up to 0, where equal parts would be infinite."""
    settings = GRPOSettings(steps=1, prompts=2, draws=2, stability=StabilitySettings(reward_normalisation="batch"))
    result = run(
        shop,
        tmp_path,
        dataclasses.replace(settings, minibatches=1, options={"reward_weights": [1.0, -1.0]}),
        reward_funcs=[lambda prompts, completions, **_: [float(len(text)) for text in completions]],
    )
    assert np.isfinite(result.curve[0]["grad_norm"])
    assert result.curve[0]["grad_norm"] > 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda n: [1.0] * (n - 1), r"returned 15 values for 16 items; return one an item"),
        (lambda n: [float("nan")] * n, r"returned nan; every value must be a finite number"),
        (lambda n: ["good"] * n, r"returned 'good'; every value"),
        (lambda n: "good", r"returned str; return a list"),
    ],
)
def test_answers_that_are_no_rewards_are_named(shop, tmp_path, answer, said):
    def mine(prompts, completions, completion_ids, **_):
        return answer(len(completions))

    with pytest.raises(DataError, match=r"Reward 'mine' " + said):
        run(shop, tmp_path, TINY, reward_funcs=[mine])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dataclasses.replace(TINY, draws=1), r"'grpo\.draws' is 1; grpo compares the draws of a state"),
        (dataclasses.replace(SMALL_RLOO, draws=1), r"'rloo\.draws' is 1"),
        (dataclasses.replace(TINY, options={"learnt": 1}), r"'grpo\.options\.learnt' is none of trl\.GRPOConfig"),
        (dataclasses.replace(TINY, options={"beta": 1}), r"'grpo\.options\.beta' is none"),
        (dataclasses.replace(TINY, options={"use_bias_correction_kl": True}), r"use_bias_correction_kl' is none of"),
        (dataclasses.replace(TINY, options={"entropy_coef": 0.1}), r"'grpo\.options\.entropy_coef' is none of"),
        (dataclasses.replace(TINY, options={"temperature": 0.5}), r"'grpo\.options\.temperature' is none of"),
        (dataclasses.replace(TINY, prompts=5), r"'grpo\.prompts' is 5; it must be a multiple of 2"),
        (dataclasses.replace(TINY, stability=StabilitySettings(kl_target=0)), r"'grpo\.stability\.kl_target' is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        check_settings(settings)
