"""Best-of-n distillation: whose draw wins, exactly; what a kill costs; that it learns."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from llmrec.config import BestOfNSettings, LoraSettings
from llmrec.errors import ConfigError, RunError
from llmrec.policy.decoding import sample_items
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.scoring import score_items
from llmrec.training.best_of_n import check_best_of_n, plan_rows, round_states
from llmrec.training.lora import adapter_of
from llmrec.training.state_source import StateSource
from llmrec.training.trl_seam.best_of_n import FILE, kl_bound, winners
from llmrec.types import Reward
from tests.training.logged_world import BEST, STATES, deployed, distil
from tests.training.worlds import lamps

SMALL = BestOfNSettings(
    draws=4, prompts=6, rounds=2, batch_size=3, save_every=1, lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-3
)


def best_of(pi_N, reward_N, n):
    """P(item wins) by enumeration of all n-tuples of draws; the first of equal ones wins."""
    won = np.zeros(len(pi_N))
    for draws in itertools.product(range(len(pi_N)), repeat=n):
        won[max(draws, key=lambda i: reward_N[i])] += np.prod([pi_N[i] for i in draws])
    return won


def test_the_first_of_the_best_wins():
    reward = torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0], [3.0, -1.0, 0.0], [-2.0, -3.0, -1.0]])
    assert winners(reward).tolist() == [1, 0, 0, 2]


def test_winners_are_distributed_as_the_best_of_n(shop):
    """8000 groups of three draws of one state, with rewards that tie, against the enumerated distribution."""
    n, groups = 3, 8000
    policy = LanguagePolicy(shop.model(), shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    ids, mask = policy.encode(STATES[:1])
    with torch.no_grad():
        scores = score_items(policy.model, ids, mask, torch.arange(12)[None], shop.catalogue.index)
    pi = scores.item_log_prob_BG[0].double().exp().numpy()
    reward = np.round(np.random.default_rng(0).random(12), 1)
    assert len(set(reward)) < 12
    uniform = torch.from_numpy(np.random.default_rng(1).random((1, n * groups, shop.catalogue.index.max_length)))
    drawn = sample_items(policy.model, ids, mask, n * groups, shop.catalogue.index, uniform_BGL=uniform).items_BG
    groups_BG = drawn.view(groups, n)
    won = groups_BG.gather(1, winners(torch.from_numpy(reward)[groups_BG]).unsqueeze(1)).numpy().ravel()
    expected = best_of(pi, reward, n)
    assert expected.sum() == pytest.approx(1.0)
    deviation = np.sqrt(expected * (1 - expected) / groups)
    assert (np.abs(np.bincount(won, minlength=12) / groups - expected) < 4 * deviation).all()
    assert np.abs(expected - pi).max() > 0.05  # it is another distribution than the policy's


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_bound_holds_and_is_nearly_met(n):
    pi = np.full(12, 1 / 12)
    won = best_of(pi, np.arange(12.0), n) if n < 4 else np.diff((np.arange(13) / 12) ** n)
    kl = float((won * np.log(won / pi)).sum())
    assert kl <= kl_bound(n) + 1e-12
    assert kl >= 0.9 * kl_bound(n)
    assert kl_bound(4) == pytest.approx(math.log(4) - 0.75)


def test_every_place_is_used_once_before_any_again():
    settings = dataclasses.replace(SMALL, prompts=5, rounds=3, batch_size=4, epochs=2.0)
    states = round_states(4, settings, seed=1)
    assert states.shape == (3, 5)
    assert sorted(states.ravel()[:4]) == sorted(states.ravel()[4:8]) == [0, 1, 2, 3]
    rows = plan_rows(states, settings, seed=1)
    assert len(rows) == 3 * 12  # three batches of four hold two passes over five places
    for number in range(3):
        part = rows.select(range(12 * number, 12 * number + 12))
        assert set(part["rollout"]) == {number}
        assert sorted(part["place"][:5]) == sorted(part["place"][5:10]) == list(range(5))
        assert [states[number, p] for p in part["place"]] == part["state"]


def test_targets_are_the_best_of_the_named_draws(shop, tmp_path):
    asked = []

    def reward(states, items_BK):
        asked.append((list(states), items_BK))
        return lamps(states, items_BK)

    result = distil(shop, tmp_path, SMALL, reward=reward)
    last = json.loads((tmp_path / "checkpoint-4" / FILE).read_text())
    assert len(asked) == 2
    states, items = asked[0]
    places = round_states(24, SMALL, seed=5)[0]
    assert states == [STATES[p] for p in places]
    source = StateSource(STATES, None, shop.renderer, shop.catalogue, shop.tokenizer, seed=5)
    rows = [{"state": int(p), "rollout": 0, "place": n} for n, p in enumerate(places)]
    ids, mask = source.prompts(rows, torch.device("cpu"))
    drawn = sample_items(
        shop.model(), ids, mask, 4, shop.catalogue.index, uniform_BGL=source.uniforms(rows, 4)
    ).items_BG.numpy()
    assert np.array_equal(drawn, items)
    value = lamps(*asked[1]).total_BK
    assert last["winners"] == [int(row[v.argmax()]) for row, v in zip(asked[1][1], value, strict=True)]
    assert last["figures"]["best"] == pytest.approx(value.max(axis=1).mean())
    assert last["figures"]["reward"] == pytest.approx(value.mean())
    assert result.curve[-1]["round"] == 1


def test_the_curve(shop, tmp_path):
    called = []
    settings = dataclasses.replace(SMALL, save_every=2)
    result = distil(shop, tmp_path, settings, on_checkpoint=lambda step, model: called.append(step))
    assert called == [2, 4]
    assert [row["round"] for row in result.curve] == [0, 1]
    for row in result.curve:
        assert row["reward"] == pytest.approx(0.5 * row["reward/click"] + row["reward/conversion"], abs=1e-6)
        assert row["best"] >= row["reward"]
        assert row["kl_bound"] == pytest.approx(math.log(4) - 0.75)
        assert 2.0 < row["rollout_entropy"] < math.log(12) + 0.5
    assert result.curve[0]["rollout_kl"] == pytest.approx(0.0, abs=1e-5)
    assert result.stopped_reason is None


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill; tests of PPO end whole processes."""


@pytest.mark.parametrize("made", [1, 2])
def test_a_killed_training_resumes_to_the_same_result(shop, tmp_path, made):
    """Within a round (its targets are read back), and between two (they are drawn anew)."""

    def killed(step, model):
        if step == made + 1:
            raise Killed  # before this checkpoint counts as made

    whole = distil(shop, tmp_path / "whole", SMALL)
    with pytest.raises(Killed):
        distil(shop, tmp_path / "cut", SMALL, on_checkpoint=killed)
    called, asked = [], []

    def reward(states, items_BK):
        asked.append(len(states))
        return lamps(states, items_BK)

    again = distil(
        shop, tmp_path / "cut", SMALL, reward=reward, on_checkpoint=lambda step, model: called.append(step)
    )
    assert called == list(range(made + 1, 5))
    assert asked == [6]  # the second round alone is drawn
    left, right = adapter_of(again.model).tensors, adapter_of(whole.model).tensors
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert again.curve == whole.curve


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_the_best_item_of_each_user(shop, tmp_path, seed):
    """95% of the optimum in 24 steps: three rounds of 96 states with 8 draws each."""
    model = shop.model(hidden=64, seed=seed)
    result = distil(shop, tmp_path, BEST, seed=seed, model=model)
    assert result.curve[-1]["step"] == 24
    assert deployed(shop, result.model) >= 0.95


def test_excluded_items_are_never_drawn(shop, tmp_path):
    drawn = []

    def reward(states, items_BK):
        drawn.extend((set(s.seen()), set(row)) for s, row in zip(states, items_BK.tolist(), strict=True))
        return lamps(states, items_BK)

    distil(shop, tmp_path, SMALL, reward=reward, repeat="exclude", states=shop.states(24))
    assert len(drawn) == 12
    assert all(not seen & items for seen, items in drawn)


def test_a_reward_that_is_not_finite_is_an_error(shop, tmp_path):
    def broken(states, items_BK):
        return Reward(np.full(items_BK.shape, np.nan), {})

    with pytest.raises(RunError, match="not finite"):
        distil(shop, tmp_path, SMALL, reward=broken)


@pytest.mark.parametrize(
    ("key", "value"),
    [("draws", 1), ("prompts", 0), ("rounds", 0), ("batch_size", 0), ("epochs", 0.0), ("warmup", -1)],
)
def test_settings_that_cannot_work_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"best_of_n.{key}"):
        check_best_of_n(dataclasses.replace(BestOfNSettings(), **{key: value}))
