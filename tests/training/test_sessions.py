"""PPO in sessions: what is shown and stored, whose credit it is, and that it sees beyond the next click."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec.config import (
    ChoiceSettings,
    DynamicsSettings,
    LoraSettings,
    PatienceSettings,
    PPOSettings,
    ReinforceSettings,
    SessionSettings,
    StabilitySettings,
    TrustSettings,
)
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards import ClickReward, ConversionReward, NextItemRankReward
from llmrec.simulator.environments.play import PlayedTurn
from llmrec.training.improvement import Checkpointing, WarmStart
from llmrec.training.lora import adapter_of, make_lora
from llmrec.training.session_source import SessionReward, SessionSource
from llmrec.training.sessions import check_sessions, make_session_trainer, train_sessions
from llmrec.types import Example, Feedback, State
from tests.training import session_updates
from tests.training import shop_users as world
from tests.training.conftest import make_shop
from tests.training.test_distributed_training import BOUND
from tests.training.test_ppo_gradient import lora_gradient, oracle_log_probs

ROOT = Path(__file__).resolve().parents[2]
SMALL = PPOSettings(
    steps=4, prompts=4, draws=1, minibatches=2, iterations=2, save_every=2, lora=LoraSettings(rank=4, alpha=8)
)
PAIRS = SessionSettings(turns=3, slate=2, remembered_turns=2)


def run(shop, out, settings=SMALL, session=PAIRS, *, model=None, repeat="allow", seed=5, meeting=None, **more):
    start = WarmStart(
        shop.model() if model is None else model, shop.tokenizer, shop.catalogue, shop.renderer, repeat, seed
    )
    return train_sessions(start, meeting or world.meeting(), settings, session, Checkpointing(out, **more))


def trainer_of(shop, out, settings=SMALL, session=PAIRS, *, repeat="allow", meeting=None, seed=2):
    model = make_lora(shop.model(), settings.lora, seed=1)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():  # away from B = 0, where A has no gradient
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    met = meeting or world.meeting()
    source = SessionSource(met, session, repeat, shop.renderer, shop.catalogue, shop.tokenizer, seed)
    trainer = make_session_trainer(model, source, settings, out=out)
    return model, trainer, [trainer.train_dataset[n] for n in range(settings.prompts)]


# The world in which greed is worse: a theorem of its numbers.


def test_bait_is_clicked_most_at_any_trust_and_yet_costs_more_than_half():
    for trust in np.linspace(0, 1, 21):
        clicks = [world.click_at(kind, trust) for kind in (world.GOOD, world.BAIT, world.DULL)]
        assert max(clicks) == clicks[world.BAIT]
    greedy = world.session_value(lambda trust, left: world.BAIT, turns=4)
    good, best = world.session_value(lambda trust, left: world.GOOD, turns=4), world.best_value(4)
    assert greedy < 0.6 * best
    assert 0.97 * best < good <= best


def test_the_environment_is_the_one_that_was_enumerated(shop):
    """The mean of 24,000 sessions of bait, and of lamps, in the environment is the enumerated value."""
    users, turns = 6000, 4
    session = SessionSettings(turns=turns, slate=1)
    met = world.meeting(users)
    source = SessionSource(met, session, "allow", shop.renderer, shop.catalogue, shop.tokenizer, 0)
    rows = [{"state": user, "rollout": 0, "place": user} for user in range(users)]
    for kind in (world.BAIT, world.GOOD):
        play, total = source.begin(rows), 0.0
        for turn in range(turns):
            played = play.turn((3 * (np.arange(users) % 4) + kind)[:, None])
            total += world.GAMMA**turn * played.expected.click_BK.mean()
            assert played.drawn.click_BK.mean() == pytest.approx(played.expected.click_BK.mean(), abs=0.02)
        assert total == pytest.approx(world.session_value(lambda trust, left, k=kind: k, turns), abs=0.02)
        assert played.cut_A.all()
        assert not play.goes_on


# Learning.

LEARNS = PPOSettings(
    steps=16,
    prompts=16,
    draws=1,
    minibatches=2,
    iterations=2,
    learning_rate=3e-3,
    kl_coefficient=0.0,
    save_every=16,
    lora=LoraSettings(rank=8, alpha=16),
)


@pytest.mark.slow
def test_a_ranked_hit_brings_the_next_item_up(shop, tmp_path):
    """The log says that everybody takes the lamp of his colour: its gain in a deployed slate of four nears 1."""
    met = world.meeting()
    states = [met.population.state(user) for user in range(24)]
    examples = [Example(state, 3 * (user % 4)) for user, state in enumerate(states)]
    reward = SessionReward((NextItemRankReward.of(examples, slate=True),))
    session = SessionSettings(turns=1, slate=4, gamma=0.0)
    result = run(
        shop,
        tmp_path,
        LEARNS,
        session,
        model=shop.model(64, 2, 0),
        meeting=dataclasses.replace(met, reward=reward, dynamics=DynamicsSettings()),
    )
    policy = LanguagePolicy(result.model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    slates = np.array([slate.items_K for slate in policy.recommend(states, 4)])
    gain = (slates == np.array([[e.target] for e in examples])) / np.log2(2 + np.arange(4))
    assert result.curve[0]["reward"] < 0.45
    assert gain.sum(1).mean() > 0.9


def served(shop, out, gamma, seed, settings=LEARNS, slate=1):
    """Kinds of what the trained policy shows to each user, (users, K)."""
    session = SessionSettings(turns=4, slate=slate, gamma=gamma, remembered_turns=2)
    result = run(shop, out, settings, session, model=shop.model(64, 2, seed), seed=seed)
    policy = LanguagePolicy(result.model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    slates = policy.recommend([world.ShopUsers().state(user) for user in range(24)], slate)
    return np.array([slate.items_K for slate in slates]) % 3


SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seed", SEEDS)
def test_far_sighted_ppo_finds_what_is_better_in_the_long_run(shop, tmp_path, seed):
    """16 rollouts of 16 sessions of 4 turns; the optimum's share of what is deployed is at least 95%."""
    kinds = served(shop, tmp_path, 0.95, seed)[:, 0]
    good = world.session_value(lambda trust, left: world.GOOD, turns=4)
    assert np.mean(kinds == world.GOOD) * good >= 0.95 * world.best_value(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_ppo_takes_the_bait(shop, tmp_path, seed):
    assert np.mean(served(shop, tmp_path, 0.0, seed)[:, 0] == world.BAIT) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.0, 0.95])
def test_reinforce_does_the_same(shop, tmp_path, gamma):
    settings = ReinforceSettings(
        steps=60,
        prompts=24,
        draws=1,
        learning_rate=3e-3,
        kl_coefficient=0.0,
        whiten=True,
        save_every=60,
        lora=LoraSettings(rank=8, alpha=16),
    )
    kinds = served(shop, tmp_path, gamma, 0, settings)[:, 0]
    assert np.mean(kinds == (world.BAIT if gamma == 0.0 else world.GOOD)) >= 0.95


# What a rollout is.


def test_the_curve_keeps_terms_apart(shop, tmp_path):
    called = []
    result = run(shop, tmp_path, on_checkpoint=lambda step, model: called.append((step, model.training)))
    assert called == [(2, False), (4, False)]
    assert [row["step"] for row in result.curve] == [1, 2, 3, 4]
    for row in result.curve:
        assert row["reward"] == pytest.approx(row["reward/click"] + 3 * row["reward/conversion"], rel=1e-5)
        assert row["turns"] == 3
        assert row["left"] == 0
        assert row["kl"] >= 0
    names = {"entropy", "clip_fraction", "value_loss", "policy_loss", "explained_variance", "grad_norm", "rollout_kl"}
    assert names <= result.curve[0].keys()
    assert result.curve[0]["rollout_entropy"] == pytest.approx(np.log(12), abs=0.2)  # of a single draw
    assert result.curve[0]["entropy"] == pytest.approx(np.log(12), abs=0.2)
    assert bool(result.more["critic"].ready)
    assert not hasattr(result.model.get_base_model(), "critic")


def test_slates_hold_no_item_twice_and_sessions_none_where_repeats_are_excluded(shop, tmp_path):
    seen = [np.array([0, 4]) for _ in range(24)]
    met = world.meeting(seen=seen)
    _, trainer, rows = trainer_of(shop, tmp_path, repeat="exclude", meeting=met)
    turns = trainer._play(rows).turns
    assert [turn.exclude_RE.shape[1] for turn in turns] == [2, 4, 6]
    for session in range(4):
        shown = torch.cat([turn.items_RK[session] for turn in turns]).tolist()
        assert len(set(shown)) == 6
        assert not {0, 4} & set(shown)


def test_the_policy_reads_what_the_session_has_shown(shop, tmp_path):
    _, trainer, rows = trainer_of(shop, tmp_path)
    turns = trainer._play(rows).turns
    for before, after in itertools.pairwise(turns):
        text = shop.tokenizer.decode(after.prompt_ids_RP[0][after.prompt_mask_RP[0].bool()])
        for item in before.items_RK[0].tolist():
            assert shop.items[item].title in text


def test_how_sessions_are_split_over_processes_changes_nothing(shop, tmp_path):
    _, trainer, rows = trainer_of(shop, tmp_path)
    whole = trainer._play(rows).turns
    halves = [trainer._play(rows[:2]).turns, trainer._play(rows[2:]).turns]
    for together, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(together.items_RK, torch.cat([first.items_RK, second.items_RK]))
        torch.testing.assert_close(together.reward_RK, torch.cat([first.reward_RK, second.reward_RK]))


# Credit and gradient.

PLAIN = dataclasses.replace(
    SMALL, whiten=False, kl_coefficient=0.0, value_coefficient=0.0, minibatches=1, iterations=1, prompts=3
)


@pytest.mark.parametrize("credit", ["slate", "item"])
def test_credit_of_users_who_leave_and_of_sessions_that_are_cut_off(shop, tmp_path, credit):
    """By a plain loop over each session, with the values that the rollout stored."""
    patience = PatienceSettings(enabled=True, initial=0.3, leave_full=0.3, leave_empty=0.6)
    met = world.meeting(patience=patience)
    session = SessionSettings(turns=4, slate=2, gamma=0.9, gae_lambda=0.7, credit=credit)
    settings = dataclasses.replace(PLAIN, prompts=12)
    _, trainer, rows = trainer_of(shop, tmp_path, settings, session, meeting=met)
    torch.nn.init.normal_(trainer.base.critic.outer.weight)  # values that differ
    trainer.base.critic.ready.fill_(True)
    kept = {}
    credited = trainer._credit
    trainer._credit = lambda steps: kept.setdefault("found", (steps, credited(steps)))[1]
    played = {}
    play = trainer._play
    trainer._play = lambda inputs: played.setdefault("played", play(inputs))
    (batch,) = trainer._roll_out(rows)
    steps, (advantage, returns) = kept["found"]
    left = played["played"].left_N
    assert 0 < int(left.sum()) < 12
    for n in range(12):
        turns = int(steps.step[n, :, 0].sum())
        assert turns == 4 or bool(left[n])
        after = 0.0 if left[n] else float(steps.last_N[n])
        assert (after == 0.0) == bool(left[n])
        carried = own = 0.0
        for t, k in reversed([(t, k) for t in range(turns) for k in range(3)]):  # two slots and the end of the slate
            gamma, lam = (0.9, 0.7) if k == 2 else (1.0, 1.0)
            delta = float(steps.reward[n, t, k]) + gamma * after - float(steps.value[n, t, k])
            carried = delta + gamma * lam * carried
            own = carried if k == 2 else own
            after = float(steps.value[n, t, k])
            assert float(returns[n, t, k]) == pytest.approx(carried + after, abs=1e-4)
            if k < 2:
                expected = carried if credit == "slate" else delta + own
                assert float(advantage[n, t, k]) == pytest.approx(expected, abs=1e-4)
        assert not advantage[n, turns:].any()
    assert batch.slots == 12 * 4 * 2  # of sessions that nobody leaves


@pytest.mark.parametrize("repeat", ["allow", "exclude"])
def test_first_pass_is_reinforce_over_slots(shop, tmp_path, repeat):
    """Against forwards of the plain model on prompt + title, and the Plackett-Luce formula with plain division."""
    session = SessionSettings(turns=2, slate=3, gamma=0.5, gae_lambda=1.0, bootstrap=False)
    model, trainer, rows = trainer_of(shop, tmp_path, PLAIN, session, repeat=repeat)
    trainer.base.critic.ready.fill_(True)  # V = 0
    states = []
    begin = trainer.source.begin

    def spied(given):
        play = begin(given)
        inner = play.states
        play.states = lambda: states.append(inner()) or states[-1]
        return play

    trainer.source.begin = spied
    played = {}
    play = trainer._play
    trainer._play = lambda inputs: played.setdefault("played", play(inputs))
    (batch,) = trainer._roll_out(rows)
    trainer._compute_loss(model, batch).backward()
    made = lora_gradient(model)
    model.zero_grad()
    turns, loss = played["played"].turns, torch.zeros(())
    for n in range(3):
        shown = []
        for t in range(2):
            allowed = [i for i in range(12) if repeat == "allow" or i not in shown]
            log_probs = oracle_log_probs(model, shop, states[t][n], allowed)
            items, used = turns[t].items_RK[n].tolist(), torch.zeros(())
            for k, item in enumerate(items):
                rest = turns[t].reward_RK[n, k:].sum() + (0.5 * turns[1].reward_RK[n].sum() if t == 0 else 0.0)
                loss = loss - rest * (log_probs[item] - (1 - used).log()) / batch.slots
                used = used + log_probs[item].exp()
            shown += items
    loss.backward()
    expected = lora_gradient(model)
    assert expected.norm() > 1e-4
    torch.testing.assert_close(made, expected, atol=1e-6 * expected.norm().item() + 1e-7, rtol=1e-3)


def test_sampler_and_scorer_agree_on_the_old_slots(shop, tmp_path):
    model, trainer, rows = trainer_of(shop, tmp_path, PLAIN, repeat="exclude")
    (batch,) = trainer._roll_out(rows)
    before = batch.old_slot_RK.clone()
    trainer._compute_loss(model, batch)
    assert trainer._metrics["train"]["moved_kl"][0] == pytest.approx(0.0, abs=1e-8)
    assert trainer._metrics["train"]["clip_fraction"] == [0.0]
    assert torch.equal(before, batch.old_slot_RK)


def test_kl_and_entropy_are_those_of_a_single_draw(shop, tmp_path):
    """Weighted over the items of 3,000 slates of one state they reach the exact figures."""
    settings = dataclasses.replace(PLAIN, prompts=3000)
    session = SessionSettings(turns=1, slate=3)
    model, trainer, rows = trainer_of(shop, tmp_path, settings, session, meeting=world.meeting(1))
    (batch,) = trainer._roll_out(rows)
    with torch.no_grad():
        trainer._compute_loss(model, batch)
        state = world.ShopUsers().state(0)
        log_pi = torch.stack(list(oracle_log_probs(model, shop, state, range(12)).values()))
        with model.disable_adapter():
            log_ref = torch.stack(list(oracle_log_probs(model, shop, state, range(12)).values()))
    kl = (log_pi.exp() * (log_pi - log_ref)).sum().item()
    entropy = -(log_pi.exp() * log_pi).sum().item()
    assert kl > 0.01
    metrics = trainer._metrics["train"]
    for name, exact in (("kl", kl), ("rollout_kl", kl), ("entropy", entropy), ("rollout_entropy", entropy)):
        assert metrics[name][0] == pytest.approx(exact, rel=0.05), name


# The rest of what a training must do.


def test_a_kill_costs_nothing(shop, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, model):
        if step == 4:
            raise Killed

    settings = dataclasses.replace(SMALL, steps=6)
    whole = run(shop, tmp_path / "a", settings)
    with pytest.raises(Killed):
        run(shop, tmp_path / "b", settings, on_checkpoint=kill)
    resumed = run(shop, tmp_path / "b", settings)
    assert resumed.curve == whole.curve
    left, right = adapter_of(whole.model).tensors, adapter_of(resumed.model).tensors
    assert all(torch.equal(left[name], right[name]) for name in left)
    first, second = whole.more["critic"].state_dict(), resumed.more["critic"].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("baseline", ["critic", "running", "none"])
def test_reinforce_takes_its_baselines(shop, tmp_path, baseline):
    settings = ReinforceSettings(steps=2, prompts=4, draws=1, baseline=baseline, lora=SMALL.lora, save_every=2)
    result = run(shop, tmp_path, settings)
    assert all(np.isfinite(row["policy_loss"]) for row in result.curve)


def test_all_weights_may_be_trained_and_rewards_sampled_and_scaled(shop, tmp_path):
    stability = dataclasses.replace(SMALL.stability, reward_normalisation="running")
    settings = dataclasses.replace(SMALL, weights="full", steps=2, stability=stability)
    result = run(shop, tmp_path, settings, meeting=world.meeting(sampled=True))
    before = shop.model().state_dict()
    assert [n for n, t in result.model.state_dict().items() if torch.equal(t, before[n])] == []
    assert all(row["reward"] == int(4 * row["reward"]) / 4 for row in result.curve)  # clicks of four sessions


@pytest.mark.parametrize(
    ("session", "settings", "words"),
    [
        (SessionSettings(turns=0), SMALL, "session.turns"),
        (SessionSettings(turns=2, slate=13), SMALL, "session.slate"),
        (SessionSettings(turns=2, gamma=1.5), SMALL, "session.gamma"),
        (PAIRS, dataclasses.replace(SMALL, draws=8), "ppo.draws' is 8.*set it to 1"),
        (PAIRS, dataclasses.replace(SMALL, prompts=5), "ppo.prompts"),
        (PAIRS, dataclasses.replace(SMALL, gamma=0.9), "ppo.gamma' is 0.9, which sessions do not read"),
        (PAIRS, dataclasses.replace(SMALL, starts="users"), "ppo.starts' is users"),
        (
            PAIRS,
            ReinforceSettings(
                draws=1, baseline="running", stability=StabilitySettings(reward_normalisation="running")
            ),
            "reinforce.baseline' running and",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(session, settings, words):
    with pytest.raises(ConfigError, match=words):
        check_sessions(session, settings, items=12)


def test_sessions_without_any_spread_end_the_training_with_the_reason(shop, tmp_path):
    """Nobody ever converts, and nothing else is rewarded."""
    met = dataclasses.replace(world.meeting(), reward=SessionReward((ConversionReward(3.0),)))
    settings = dataclasses.replace(SMALL, stability=StabilitySettings(max_flat=2))
    with pytest.raises(RunError, match="In 2 rollouts in succession"):
        run(shop, tmp_path, settings, meeting=met)


def test_users_without_room_for_a_session_are_not_met(shop, tmp_path):
    seen = [np.arange(8) for _ in range(24)]
    with pytest.raises(DataError, match="There is no user to meet"):
        run(shop, tmp_path, repeat="exclude", meeting=world.meeting(seen=seen))
    seen[3] = np.arange(5)
    result = run(shop, tmp_path, repeat="exclude", meeting=world.meeting(seen=seen))
    assert len(result.curve) == 4


def test_trust_that_is_off_makes_turns_alike(shop, tmp_path):
    met = world.meeting(trust=TrustSettings())
    _, trainer, rows = trainer_of(shop, tmp_path, session=SessionSettings(turns=5, slate=1), meeting=met)
    play = trainer.source.begin(rows)
    found = [play.turn(np.ones((4, 1), dtype=np.int64)).expected.click_BK for _ in range(5)]
    assert all(np.array_equal(found[0], other) for other in found)


def test_the_folder_of_a_checkpoint_holds_the_critic(shop, tmp_path):
    run(shop, tmp_path)
    assert (
        sorted(path.name for path in Path(tmp_path).glob("checkpoint-*/critic.safetensors"))
        == ["critic.safetensors"] * 2
    )


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(tmp_path):
    """The same global batch, users who leave early included: adapters after 8 AdamW steps are the same."""
    for number in ("1", "2"):
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number]
        line += ["-m", "tests.training.session_updates", str(tmp_path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"after-{n}.pt") for n in (1, 2))
    made, other = (torch.cat([t.flatten() for _, t in sorted(found.items())]) for found in (one, two))
    settings = session_updates.SETTINGS
    start = adapter_of(make_lora(make_shop().model(), settings.lora, seed=5)).tensors
    before = torch.cat([t.flatten() for _, t in sorted(start.items())])
    assert (made - before).norm() > 1e-3
    assert (made - other).norm() <= BOUND * (made - before).norm()
    curves = [np.load(tmp_path / f"curve-{n}.npy") for n in (1, 2)]
    np.testing.assert_allclose(*curves, atol=1e-5)
    assert curves[0][:, 1].max() > 0  # somebody left


def members(*deviation_BK):
    """Two members around 0.5 with the standard deviations that are given (as a sample)."""
    return tuple(0.5 + np.array([-1, 1])[:, None, None] / np.sqrt(2) * s_BK for s_BK in deviation_BK)


def test_pessimism_takes_the_members_disagreement_off():
    class Split:
        def by_member(self, states, items_BK):
            return members(np.full(items_BK.shape, 0.2), np.full(items_BK.shape, 0.1))

    expected = Feedback(np.array([[0.5, 0.1]]), np.array([[0.25, 0.05]]))
    played = PlayedTurn(np.array([0]), expected, expected, np.array([False]), np.array([True]), [])
    terms, states, items = (ClickReward(1.0), ConversionReward(3.0)), [State("u")], np.array([[1, 2]])
    plain = SessionReward(terms)(states, items, played)
    careful = SessionReward(terms, pessimism=2.0, ensemble=Split())(states, items, played)
    assert plain.total_BK.tolist() == [pytest.approx([1.25, 0.25])]
    # 0.5 - 0.4 and 0.25 - 0.2, 0.1 - 0.4 and 0.05 - 0.2: the slate's deviation is the sum where doubts are the same
    assert careful.total_BK.tolist() == [pytest.approx([0.1 + 3 * 0.05, -0.3 - 3 * 0.15])]


def test_pessimism_about_a_place_counts_as_far_as_it_is_looked_at():
    """With members a - s and a + s, look * (a - s) is what the doubter expects: doubt shrinks with the place."""
    look, a, s = np.array([[1.0, 0.5, 0.1]]), np.array([[0.6, 0.6, 0.6]]), 0.2

    class Split:
        def by_member(self, states, items_BK):
            return members(np.full(items_BK.shape, s), np.full(items_BK.shape, s / 2))

    expected = Feedback(look * a, look * a / 2)
    played = PlayedTurn(np.array([0]), expected, expected, np.array([False]), np.array([True]), [], look)
    careful = SessionReward((ClickReward(1.0),), pessimism=1.0, ensemble=Split())
    found = careful([State("u")], np.array([[1, 2, 3]]), played).total_BK
    np.testing.assert_allclose(found, look * (a - s))  # taken off whole, the third place would be worth 0


def test_a_meeting_with_positions_hands_its_looks_to_the_doubter(shop):
    import tests.training.shop_users as users

    class Split:
        def by_member(self, states, items_BK):
            return members(np.full(items_BK.shape, 0.05), np.full(items_BK.shape, 0.0))

    plain = dataclasses.replace(users.meeting(), choice=ChoiceSettings(model="position", position_bias=1.0))
    terms = (ClickReward(1.0),)
    totals = []
    for reward in (SessionReward(terms), SessionReward(terms, pessimism=1.0, ensemble=Split())):
        met = dataclasses.replace(plain, reward=reward)
        source = SessionSource(met, PAIRS, "allow", shop.renderer, shop.catalogue, shop.tokenizer, 0)
        play = source.begin([{"rollout": 0, "place": 0, "state": 0}])
        items = np.array([[users.GOOD, users.DULL]])
        totals.append(reward(play.states(), items, play.turn(items)).total_BK)
    np.testing.assert_allclose(totals[0] - totals[1], [[0.05, 0.025]])
