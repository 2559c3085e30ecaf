"""The reward model: TRL's loss and gradient, shared prompts against plain rows, transformers' own reading; and RLHF."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl.trainer.reward_trainer import DataCollatorForPreference

from llmrec.config import LoraSettings, RewardModelSettings, RLHFSettings
from llmrec.dataset.preferences import Preferences
from llmrec.errors import ConfigError, DataError, RequestError, RunError
from llmrec.policy.forward import ScoringRequest
from llmrec.training.item_values import value_items, valuing_model
from llmrec.training.on_policy import train_on_policy
from llmrec.training.reward_model import (
    LearnedReward,
    agreement,
    check_reward_model,
    make_reward_trainer,
    train_reward_model,
)
from llmrec.training.state_source import PairSource, StateSource
from tests.training.clicks import USERS, begin, keep, pairs_of, share_of_optimum
from tests.training.test_group import gradient

TINY = RewardModelSettings(batch_size=4, save_every=2, epochs=0.1, lora=LoraSettings(rank=4, alpha=8))
SOLVE = RewardModelSettings(
    epochs=6.0, batch_size=32, learning_rate=7e-3, save_every=1000, lora=LoraSettings(rank=8, alpha=16)
)


def source_of(shop, pairs):
    return PairSource(pairs, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)


def asked(shop, states, items_BG, path="auto"):
    source = StateSource(states, None, shop.renderer, shop.catalogue, shop.tokenizer, 0)
    rows = [{"state": n} for n in range(len(states))]
    ids, mask = source.prompts(rows, torch.device("cpu"))
    return ScoringRequest(ids, mask, torch.tensor(items_BG), shop.catalogue.index, path=path)


ITEMS = [[0, 11, 0], [3, 4, 5], [7, 1, 9]]


def test_shared_prompts_give_the_numbers_and_gradients_of_one_row_an_item(shop):
    found = []
    for path in ("packed", "plain"):
        model = valuing_model(shop.model().double(), seed=1)
        values = value_items(model, asked(shop, shop.states(3), ITEMS, path))
        values.sin().sum().backward()
        found.append((values.detach(), gradient(model)))
    (packed, left), (plain, right) = found
    assert packed.dtype == torch.float64
    assert packed[0, 0] == packed[0, 2]  # one item twice
    torch.testing.assert_close(packed, plain, atol=1e-9, rtol=1e-7)
    assert (left - right).norm() < 1e-7 * right.norm()


def test_a_saved_model_is_read_by_transformers_alone(shop, tmp_path):
    model = valuing_model(shop.model(), seed=1)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    loaded.config.pad_token_id = None  # rows of their own hold no padding
    states = shop.states(3)
    values = value_items(loaded, asked(shop, states, ITEMS))
    for state, items, row in zip(states, ITEMS, values, strict=True):
        for item, value in zip(items, row, strict=True):
            ids = [*shop.renderer.token_ids(state), *shop.catalogue.token_ids(item)]
            torch.testing.assert_close(
                loaded(input_ids=torch.tensor([ids])).logits[0, 0], value, atol=1e-5, rtol=1e-5
            )


def test_the_backbone_is_the_policy_s_and_the_head_is_decided_by_the_seed(shop):
    policy = shop.model(hidden=64)
    one, again, other = (valuing_model(policy, seed) for seed in (1, 1, 2))
    weights = policy.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in one.model.state_dict().items())
    assert one.model.embed_tokens.weight is not policy.model.embed_tokens.weight
    assert torch.equal(one.score.weight, again.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    assert 0.7 < float(one.score.weight.detach().square().sum()) < 1.3  # 64 of variance 1/65


class Stock(trl.RewardTrainer):
    """TRL's own on rows of tokens."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_loss_gradient_and_figures_are_those_of_stock_trl(shop, tmp_path, centre):
    states = shop.states(4)
    pairs = Preferences(states, np.array([0, 1, 2, 3]), np.array([0, 7, 9, 2]), np.array([[4], [2], [3], [11]]))
    model = valuing_model(shop.model().double(), seed=1)
    twin = copy.deepcopy(model)
    settings = dataclasses.replace(TINY, weights="full", centre=centre, epochs=1.0)
    source = source_of(shop, pairs)
    ours = make_reward_trainer(model, source, settings, keep(tmp_path))
    rows = []
    for place in ours.train_dataset["pair"]:
        prompt = list(shop.renderer.token_ids(states[pairs.state_row_R[place]]))
        both = int(pairs.chosen_R[place]), int(pairs.rejected_RN[place, 0])
        chosen, rejected = (prompt + list(shop.catalogue.token_ids(item)) for item in both)
        rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    arguments = copy.deepcopy(ours.args)
    arguments.output_dir = str(tmp_path / "stock")
    stock = Stock(twin, arguments, train_dataset=Dataset.from_list(rows), processing_class=shop.tokenizer)
    assert shop.tokenizer.pad_token_id not in {token for row in rows for ids in row.values() for token in ids}
    batches = (
        ours._prepare_inputs(list(ours.train_dataset)),
        DataCollatorForPreference(shop.tokenizer.pad_token_id)(rows),
    )
    losses = []
    for trainer, batch in zip((ours, stock), batches, strict=True):
        trainer.model.train()
        losses.append(trainer.compute_loss(trainer.model, batch))
        losses[-1].backward()
    torch.testing.assert_close(*losses, atol=1e-9, rtol=1e-8, check_dtype=False)
    made, expected = gradient(model), gradient(twin)
    assert expected.norm() > 1e-3
    assert (made - expected).norm() < 1e-6 * expected.norm()
    figures, theirs = ours._metrics["train"], stock._metrics["train"]
    differing = {name for name in theirs if not np.allclose(figures[name], theirs[name], atol=1e-6)}
    assert differing == {"num_tokens"}  # a prompt counts once


def test_an_adapter_and_its_head_learn_and_are_merged(shop, tmp_path):
    start = begin(shop, 0)
    before = copy.deepcopy(start.model.state_dict())
    result = train_reward_model(start, pairs_of(0), dataclasses.replace(TINY, learning_rate=1e-2), keep(tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in start.model.state_dict().items())
    fresh = valuing_model(start.model, 0).state_dict()
    after = result.model.state_dict()
    assert after.keys() == fresh.keys()
    assert not torch.equal(after["score.weight"], fresh["score.weight"])
    assert not torch.equal(
        after["model.layers.0.self_attn.q_proj.weight"], fresh["model.layers.0.self_attn.q_proj.weight"]
    )
    assert torch.equal(after["model.embed_tokens.weight"], fresh["model.embed_tokens.weight"])
    assert {"loss", "accuracy", "margin", "mean_reward", "skipped", "grad_norm"} <= result.curve[0].keys()
    again = train_reward_model(start, pairs_of(0), dataclasses.replace(TINY, learning_rate=1e-2), keep(tmp_path))
    assert all(torch.equal(value, after[name]) for name, value in again.model.state_dict().items())


def test_it_is_asked_as_any_reward_in_batches(shop):
    states, items = shop.states(5), np.arange(10).reshape(5, 2)
    model = valuing_model(shop.model(), seed=1)
    reward = LearnedReward(model, shop.renderer, shop.catalogue, shop.tokenizer, batch=2)(states, items)
    assert reward.total_BK.shape == (5, 2)
    assert reward.total_BK is reward.terms["preference"]
    with torch.no_grad():
        expected = value_items(model, asked(shop, states, items.tolist())).numpy()
    np.testing.assert_allclose(reward.total_BK, expected, atol=1e-5)


def test_agreement_counts_ties_by_half(shop):
    def reward(states, items):
        from llmrec.types import Reward

        return Reward(np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]))

    pairs = Preferences(shop.states(3), np.arange(3), np.array([1, 2, 3]), np.array([[2], [3], [4]]))
    assert agreement(reward, pairs).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_rlhf_finds_the_best_item_of_each_kind_of_user(shop, tmp_path, seed):
    """Clicks to reward model (96 steps), reward model to policy (60 rollouts); neither has seen what an item is worth."""
    start = begin(shop, seed, hidden=64)
    learned = train_reward_model(start, pairs_of(seed, slates=800), SOLVE, keep(tmp_path / "reward"))
    reward = LearnedReward(learned.model, shop.renderer, shop.catalogue, shop.tokenizer)
    settings = RLHFSettings(
        steps=60,
        prompts=24,
        draws=8,
        minibatches=1,
        kl_coefficient=0.0,
        learning_rate=3e-3,
        save_every=60,
        lora=LoraSettings(rank=8, alpha=16),
    )
    seen = [np.array([], dtype=np.int64)] * len(USERS)
    result = train_on_policy(start, USERS, seen, reward, settings, keep(tmp_path / "ppo"))
    assert "reward/preference" in result.curve[0]
    assert share_of_optimum(shop, result.model) >= 0.95


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": 0}, r"'rlhf\.reward_model\.pairs' is 0"),
        ({"centre": -1.0}, r"'rlhf\.reward_model\.centre' is -1\.0; it must be 0 or more"),
        ({"held_out": -1}, r"'rlhf\.reward_model\.held_out' is -1"),
        ({"batch_size": 5}, r"'rlhf\.reward_model\.batch_size' is 5; it must be a positive multiple of 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        check_reward_model(dataclasses.replace(TINY, **change), 2)


def test_what_cannot_be_valued_is_refused(shop, tmp_path):
    with pytest.raises(DataError, match="compares two items, not 4; make preferences with one negative"):
        train_reward_model(begin(shop, 0), pairs_of(0, 3), TINY, keep(tmp_path))
    model = valuing_model(shop.model(), seed=1)
    model.config.max_position_embeddings = 8
    with pytest.raises(RequestError, match=r"lower text\.max_tokens"):
        value_items(model, asked(shop, shop.states(3), ITEMS))
    with pytest.raises(RunError, match="No reward model can be built on Linear"):
        odd = torch.nn.Linear(2, 2)
        odd.config = copy.deepcopy(model.config)
        odd.config.model_type = "none"
        odd.get_input_embeddings = lambda: model.get_input_embeddings()
        valuing_model(odd, 0)
