"""DPO with TRL's gradient where the distributions agree and the oracle's where they do not; S-DPO by hand.

Agreement: a catalogue of all pairs of tokens of the whole vocabulary, so that every token is legal at every step.
The oracle takes softmaxes over legal tokens by plain forwards of the model (`test_ppo_gradient.oracle_log_probs`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from trl.trainer.dpo_trainer import DataCollatorForPreference

from llmrec.config import LoraSettings, PreferenceSettings
from llmrec.dataset.preferences import Preferences
from llmrec.errors import ConfigError
from llmrec.training.lora import adapter_of, make_lora
from llmrec.training.losses import in_order, softmax_preference_loss
from llmrec.training.preferences import LOSSES, check_preferences, make_preference_trainer, train_preferences
from llmrec.training.state_source import PairSource
from llmrec.types import State
from tests import forked
from tests.training.clicks import begin, keep, pairs_of, share_of_optimum
from tests.training.test_group import Letters, gradient, whole_vocabulary
from tests.training.test_ppo_gradient import oracle_log_probs

ROOT = Path(__file__).resolve().parents[2]
LORA = LoraSettings(rank=4, alpha=8)
TINY = PreferenceSettings(batch_size=8, beta=0.3, save_every=2, lora=LORA)
SOLVE = PreferenceSettings(
    epochs=6.0, batch_size=32, beta=0.2, learning_rate=5e-3, save_every=100, lora=LoraSettings(rank=8, alpha=16)
)


# S-DPO's loss.


def test_s_dpo_by_hand():
    """-log sigma(-log sum_d exp beta (Delta_d - Delta_p)): two negatives at beta 1/2, then one, then none at work."""
    delta = torch.tensor([[math.log(4), 0.0, math.log(16)], [1.0, 3.0, 9.0], [0.0, 0.0, -1e9]], dtype=torch.float64)
    there = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    made = softmax_preference_loss(delta, there, 0.5)
    first = math.log(1 + (1 + 4) / 2)  # exp(beta Delta) is 2, 1 and 4
    second = math.log1p(math.exp(0.5 * 2))
    torch.testing.assert_close(made, torch.tensor([first, second, math.log(2)], dtype=torch.float64))


def test_s_dpo_is_the_formula_of_the_paper_and_dpo_with_one_negative():
    delta = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    everywhere = torch.ones(20, 4, dtype=torch.bool)
    inner = (0.7 * (delta[:, 1:] - delta[:, :1])).exp().sum(1).log()
    torch.testing.assert_close(softmax_preference_loss(delta, everywhere, 0.7), -torch.sigmoid(-inner).log())
    pair = softmax_preference_loss(delta[:, :2], everywhere[:, :2], 0.7)
    torch.testing.assert_close(pair, -torch.nn.functional.logsigmoid(0.7 * (delta[:, 0] - delta[:, 1])))


def test_the_gradient_of_s_dpo_is_that_of_finite_differences():
    delta = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    there = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    assert torch.autograd.gradcheck(lambda value: softmax_preference_loss(value, there, 0.4), delta)


def test_preferences_are_in_order_where_the_preferred_item_gained_most_and_ties_count_half():
    before = torch.tensor([[-2.0, -3.0, -1.0]]).expand(6, 3)
    gained = torch.tensor(
        [
            [0.3, 0.1, 0.2],  # above both
            [0.3, 0.1, 0.4],  # above one
            [0.3, 0.3, 0.1],  # as much as the best
            [0.0, 0.0, 0.0],  # the policy is its reference
            [2e-6, -1e-6, 0.0],  # but for rounding
            [0.3, 0.1, 9.0],  # nothing is in the last place
        ]
    )
    there = torch.ones(6, 3, dtype=torch.bool)
    there[5, 2] = False
    assert in_order(before + gained, before, there).tolist() == [1.0, 0.0, 0.5, 0.5, 0.5, 1.0]


# DPO against TRL's own.


def shaken(model):
    """Away from B = 0, where A has no gradient and the policy is its reference."""
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_B.default" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "lora_" not in name and parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)


def random_pairs(states, items, seed=0):
    random = np.random.default_rng(seed)
    both = np.stack([random.choice(items, 2, replace=False) for _ in range(len(states))])
    return Preferences(states, np.arange(len(states)), both[:, 0], both[:, 1:])


def both_trainers(out, adapter, options=()):
    """Ours and TRL's on one model and the same pairs, each with its batch; the end token, none of the model's, is cut."""
    model, tokenizer, catalogue = whole_vocabulary()
    states = [State(str(n)) for n in range(8)]
    pairs = random_pairs(states, 49)
    settings = dataclasses.replace(TINY, options=dict(options))
    policy = make_lora(model, LORA, seed=1) if adapter else model
    twin = copy.deepcopy(policy)
    source = PairSource(pairs, Letters(), catalogue, tokenizer, seed=3)
    ours = make_preference_trainer(policy, source, settings, keep(out))
    prompts = Letters().token_ids_many(states)
    rows = [
        {"prompt_ids": prompts[n], "chosen_ids": list(catalogue.token_ids(int(pairs.chosen_R[n]))[:2])}
        | {"rejected_ids": list(catalogue.token_ids(int(pairs.rejected_RN[n, 0]))[:2])}
        for n in [row["pair"] for row in ours.train_dataset]
    ]
    arguments = copy.deepcopy(ours.args)
    arguments.output_dir = str(out / "stock")
    stock = Stock(
        twin,
        None if adapter else copy.deepcopy(twin),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for trainer in (ours, stock):
        shaken(trainer.model)
        trainer.model.train()
    return (ours, ours._prepare_inputs(list(ours.train_dataset))), (stock, DataCollatorForPreference(0)(rows))


class Stock(trl.DPOTrainer):
    """TRL's own on rows of tokens."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def gradients(pair, loss, smoothing=0.0):
    found = []
    for trainer, inputs in pair:
        trainer.loss_types, trainer.label_smoothing = loss, smoothing
        trainer.loss_weights = [1.0] * len(loss)
        trainer.model.zero_grad()
        trainer._compute_loss(trainer.model, inputs, False).backward()
        found.append(gradient(trainer.model))
    return found


@pytest.mark.parametrize("adapter", [True, False])
def test_all_losses_have_the_gradient_of_stock_trl(tmp_path, adapter):
    pair = both_trainers(tmp_path, adapter)
    for loss in (*([name] for name in LOSSES), ["sigmoid", "sft"]):
        made, expected = gradients(pair, loss, 0.1 if loss[0] in ("exo_pair", "robust") else 0.0)
        assert expected.norm() > 1e-5, loss
        assert (made - expected).norm() < 1e-5 * expected.norm(), loss
    (ours, _), (stock, _) = pair
    figures, theirs = ours._metrics["train"], stock._metrics["train"]
    differing = {name for name in theirs if not np.allclose(figures[name], theirs[name], atol=1e-5)}
    assert differing == {"logits/chosen", "logits/rejected", "num_tokens"}  # ours are normalised; prompts count once
    assert list(getattr(ours.model, "peft_config", {"default": 0})) == ["default"]


@pytest.mark.parametrize(
    "options",
    [{"use_weighting": True}, {"ld_alpha": 0.4}, {"f_divergence_type": "js_divergence"}, {"label_smoothing": 0.2}],
    ids=lambda options: next(iter(options)),
)
def test_further_options_reach_the_loss_of_trl(tmp_path, options):
    pair = both_trainers(tmp_path, True, options.items())
    loss = ["robust"] if "label_smoothing" in options else ["sigmoid"]
    made, expected = gradients(pair, loss, options.get("label_smoothing", 0.0))
    assert (made - expected).norm() < 1e-5 * expected.norm()
    plain = gradients(both_trainers(tmp_path / "plain", True), ["sigmoid"])[0]
    same_length = "ld_alpha" in options  # all items have two tokens, so that it changes nothing
    assert ((made - plain).norm() < 1e-3 * plain.norm()) == same_length


# On titles, where the legal softmax is another one than the full.


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("negatives", [1, 3])
def test_the_gradient_on_titles_is_the_oracle_s(shop, tmp_path, negatives, adapter):
    """By hand: the loss of log pi - log pi_ref, both from plain forwards; item 1 has fewer negatives."""
    states = shop.states(3)
    rejected = np.array([[4, 5, 1], [2, 11, -1], [3, 0, 8]])[:, :negatives]
    pairs = Preferences(states, np.arange(3), np.array([0, 7, 9]), rejected)
    loss = "sigmoid" if negatives == 1 else "softmax"
    settings = dataclasses.replace(TINY, batch_size=3, loss=loss, negatives=negatives)
    model = make_lora(shop.model(), LORA, seed=1) if adapter else shop.model()
    reference = shop.model()
    source = PairSource(pairs, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    trainer = make_preference_trainer(model, source, settings, keep(tmp_path))
    shaken(model)
    model.train()
    trainer._compute_loss(model, trainer._prepare_inputs([{"pair": n} for n in range(3)])).backward()
    made = gradient(model)
    model.zero_grad()
    total = torch.zeros(())
    for row, state in enumerate(states):
        items = [int(pairs.chosen_R[row]), *(int(item) for item in rejected[row] if item >= 0)]
        now = oracle_log_probs(model, shop, state, range(12))
        with torch.no_grad():
            before = oracle_log_probs(reference, shop, state, range(12))
        delta = [now[item] - before[item] for item in items]
        inner = torch.stack([0.3 * (other - delta[0]) for other in delta[1:]]).exp().sum().log()
        total = total - torch.sigmoid(-inner).log() / 3
    total.backward()
    expected = gradient(model)
    assert expected.norm() > 1e-3
    assert (made - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("negatives", [1, 3])
def test_a_policy_that_is_its_reference_puts_half_of_the_pairs_in_order(shop, tmp_path, negatives, adapter):
    """And all of them after a step along the gradient of the only one."""
    pairs = Preferences(shop.states(1), np.array([0]), np.array([1]), np.array([[4, 5, 2]])[:, :negatives])
    loss = "sigmoid" if negatives == 1 else "softmax"
    settings = dataclasses.replace(TINY, batch_size=1, loss=loss, negatives=negatives)
    model = make_lora(shop.model(), LORA, seed=1) if adapter else shop.model()
    source = PairSource(pairs, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    trainer = make_preference_trainer(model, source, settings, keep(tmp_path))
    for _ in range(2):
        model.train()
        trainer._compute_loss(model, trainer._prepare_inputs([{"pair": 0}])).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    assert trainer._metrics["train"]["rewards/accuracies"] == [0.5, 1.0]


# The whole training.


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_the_best_item_of_each_kind_of_user_is_found(shop, tmp_path, loss, seed):
    """From some 260 logged clicks, in 51 steps of 32 or fewer, from a model that knows nothing."""
    negatives = 1 if loss == "sigmoid" else 3
    settings = dataclasses.replace(SOLVE, loss=loss, negatives=negatives)
    result = train_preferences(begin(shop, seed, hidden=64), pairs_of(seed, negatives), settings, keep(tmp_path))
    assert result.curve[-1]["step"] <= 51
    assert share_of_optimum(shop, result.model) >= 0.95


def test_all_weights_may_be_trained_and_the_curve_tells(shop, tmp_path):
    start = begin(shop, 0)
    before = copy.deepcopy(start.model.state_dict())
    settings = dataclasses.replace(TINY, weights="full", learning_rate=1e-3, epochs=0.2)
    result = train_preferences(start, pairs_of(0), settings, keep(tmp_path))
    assert result.model is start.model
    assert "forward" not in vars(result.model)
    assert not result.model.training
    assert [name for name, value in result.model.state_dict().items() if torch.equal(value, before[name])] == []
    names = {"loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "skipped"}
    assert names | {"logps/chosen", "logps/rejected", "grad_norm", "learning_rate"} <= result.curve[0].keys()
    assert [row["step"] for row in result.curve] == [2, 4, 6, 7]


KILLED = """
import os, sys
from pathlib import Path
from tests.training.conftest import make_shop
from tests.training.test_preferences import short
short(make_shop(), Path(sys.argv[1]), lambda step, model: os._exit(9) if step == 4 else None)
"""


def short(shop, out, on_checkpoint=None):
    settings = dataclasses.replace(TINY, loss="softmax", negatives=3, epochs=0.2, learning_rate=3e-3)
    return train_preferences(begin(shop, 0), pairs_of(0, 3), settings, keep(out, on_checkpoint))


def test_a_killed_training_resumes_to_the_same_result(shop, tmp_path):
    whole = short(shop, tmp_path / "whole")
    run = [sys.executable, "-c", KILLED, str(tmp_path / "cut")]
    done = forked.run(run, cwd=ROOT, env=forked.environment())
    assert done.returncode == 9, done.stderr
    called = []
    again = short(shop, tmp_path / "cut", lambda step, model: called.append(step))
    assert called == [4, 6, 7]
    left, right = adapter_of(again.model).tensors, adapter_of(whole.model).tensors
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert [row["loss"] for row in again.curve] == [row["loss"] for row in whole.curve]


# Batches.


def test_each_pair_is_used_before_any_is_used_again(shop):
    source = PairSource(pairs_of(0, slates=20), shop.renderer, shop.catalogue, shop.tokenizer, seed=1)
    number = len(source.pairs)
    plan = source.plan(2.5, 4)["pair"]
    assert len(plan) == 4 * source.steps(2.5, 4) == 4 * math.ceil(round(2.5 * number) / 4)
    assert sorted(plan[:number]) == sorted(plan[number : 2 * number]) == list(range(number))
    assert plan[:number] != plan[number : 2 * number]


def test_a_state_with_fewer_negatives_leaves_places_out(shop):
    pairs = Preferences(shop.states(2), np.array([1, 0]), np.array([3, 4]), np.array([[5, -1], [6, 7]]))
    source = PairSource(pairs, shop.renderer, shop.catalogue, shop.tokenizer, seed=1)
    request, there = source.request([{"pair": 1}, {"pair": 0}])
    assert request.items_BG.tolist() == [[4, 6, 7], [3, 5, 3]]
    assert there.tolist() == [[True, True, True], [True, True, False]]
    prompt = shop.renderer.token_ids(pairs.states[0])
    assert request.prompt_ids_BP[0][request.prompt_mask_BP[0].bool()].tolist() == list(prompt)


# Bad input.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": "sigmod"}, r"'dpo\.loss' is 'sigmod'; it must be softmax, or one or several .* of sigmoid, hinge"),
        (
            {"negatives": 3},
            r"'dpo\.negatives' is 3, but sigmoid compares two items; set it to 1, or 'dpo\.loss' to s",
        ),
        ({"negatives": 0, "loss": "softmax"}, r"'dpo\.negatives' is 0; it must be above 0"),
        ({"beta": 0.0}, r"'dpo\.beta' is 0"),
        ({"pairs": 0}, r"'dpo\.pairs' is 0"),
        ({"warmup": 1.0}, r"'dpo\.warmup' is 1\.0"),
        ({"options": {"beta": 1}}, r"'dpo\.options\.beta' is none of label_smoothing"),
        ({"loss": "softmax", "options": {"label_smoothing": 0.1}}, r"'dpo\.options' is for losses of TRL"),
        ({"loss": "exo_pair"}, r"exo_pair needs 'dpo\.options\.label_smoothing' between 0 and 1"),
        ({"loss": "robust", "options": {"label_smoothing": 0.5}}, r"robust needs .* in \[0, 0\.5\)"),
        ({"loss": "sigmoid+sft", "options": {"loss_weights": [1.0]}}, r"has 1 weights for 2 losses"),
        ({"options": {"f_divergence_type": "kl"}}, r"is 'kl'; take one of reverse_kl"),
        ({"loss": "nca_pair", "options": {"f_divergence_type": "forward_kl"}}, r"for which only the losses"),
        ({"loss": "aot", "options": {"use_weighting": True}}, r"has no meaning for aot"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        check_preferences(dataclasses.replace(TINY, **change))


def test_a_batch_must_fit_the_processes():
    check_preferences(TINY, 4)
    with pytest.raises(ConfigError, match=r"'sdpo\.batch_size' is 8; it must be a positive multiple of 3"):
        check_preferences(TINY, 3, "sdpo")
