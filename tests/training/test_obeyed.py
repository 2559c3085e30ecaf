"""Rollouts under rules: pi_F by enumeration, the first update against a plain twin, and what no draw may hold."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from llmrec.config import (
    BestOfNSettings,
    DynamicsSettings,
    GRPOSettings,
    LoraSettings,
    PPOSettings,
    ReinforceSettings,
    RLOOSettings,
    SessionSettings,
    TiltedSettings,
)
from llmrec.errors import ConfigError, DataError
from llmrec.policy.forward import answer_through_forward
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards.trl import GroupedReward
from llmrec.rules import Ruled, parse_rules
from llmrec.training.best_of_n import train_best_of_n
from llmrec.training.improvement import Checkpointing, WarmStart, usable_states
from llmrec.training.lora import make_lora
from llmrec.training.obeyed import Closed, Obeyed, about_items
from llmrec.training.off_policy import train_off_policy
from llmrec.training.on_policy import make_trainer, train_on_policy
from llmrec.training.session_source import SessionSource
from llmrec.training.sessions import make_session_trainer, train_sessions
from llmrec.training.state_source import StateSource
from llmrec.training.tilted import train_tilted
from llmrec.types import Reward, State
from tests.training import shop_users as world
from tests.training.logged_world import shown
from tests.training.test_ppo_gradient import lora_gradient
from tests.training.worlds import lamps

CHAIRS, GREEN_DESK = {1, 4, 7, 10}, 5
ABOUT_ITEMS = [
    {"minimum_age": 18, "items": {"categories": ["chair"]}},
    {"never": {"ids": ["i5"]}},
    {"forbidden_words": ["grey"]},
]
FORBIDDEN = {True: {5, 9, 10, 11}, False: {5, 9, 10, 11} | CHAIRS}
"""By hand, of adults and of others: the green desk and all that is grey; chairs besides."""
SMALL = {"steps": 2, "prompts": 4, "save_every": 2, "lora": LoraSettings(rank=4, alpha=8)}
ONE_PASS = PPOSettings(
    **{**SMALL, "steps": 1},
    draws=3,
    minibatches=1,
    iterations=1,
    whiten=False,
    kl_coefficient=0.0,
    value_coefficient=0.0,
)
NOTHING = np.array([], dtype=np.int64)


def people(number=4):
    """Adults and children in turns, each with a colour."""
    ages = ("A 40-year-old man", "A 9-year-old girl")
    return [State(f"u{n}", f"{ages[n % 2]}. likes {('red', 'green', 'blue')[n % 3]}", time=9) for n in range(number)]


def obeyed(shop, trees):
    return Obeyed.of(parse_rules(trees, "a test"), shop.items)


def start_of(shop, rules, *, model=None, repeat="allow", seed=5):
    model = shop.model() if model is None else model
    return WarmStart(model, shop.tokenizer, shop.catalogue, shop.renderer, repeat, seed, rules=rules)


def moved(shop):
    """A model whose adapter is away from B = 0, where A has no gradient and policy and reference are one."""
    model = make_lora(shop.model(), SMALL["lora"], seed=1)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def plain_policy(model, shop, state):
    """log pi_F of items, differentiable, from forwards of the plain model on prompt + title and nothing of ours.

    The answer takes an item and those that are allowed; the softmax is over the tokens that begin one of them. Its
    `tokens` are these softmaxes on the way.
    """
    prompt = shop.renderer.token_ids(state)
    titles = [shop.catalogue.token_ids(item) for item in range(12)]
    logits = [model(input_ids=torch.tensor([prompt + title])).logits[0, len(prompt) - 1 :] for title in titles]

    def legal(item, allowed, place):
        return sorted({titles[a][place] for a in allowed if titles[a][:place] == titles[item][:place]})

    def tokens(item, allowed):
        places = range(len(titles[item]))
        return [logits[item][place][legal(item, allowed, place)].log_softmax(-1) for place in places]

    def log_pi(item, allowed):
        found = enumerate(tokens(item, allowed))
        return sum(chance[legal(item, allowed, place).index(titles[item][place])] for place, chance in found)

    log_pi.tokens = tokens
    return log_pi


def trainer_of(shop, tmp_path, states, settings=ONE_PASS):
    rules = obeyed(shop, ABOUT_ITEMS)
    states, closed = usable_states(states, [NOTHING] * len(states), "allow", 12, rules)
    source = StateSource(states, closed, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    model = moved(shop)
    trainer = make_trainer(model, source, [GroupedReward(lamps, states, settings.draws)], settings, out=tmp_path)
    model.get_base_model().critic.ready.fill_(True)  # V = 0
    return model, trainer, [trainer.train_dataset[n] for n in range(settings.prompts)]


def test_a_single_draw_is_from_pi_f_and_the_first_update_is_its_reinforce(shop, tmp_path):
    states = people()
    model, trainer, rows = trainer_of(shop, tmp_path, states)
    (batch,) = trainer._roll_out([row for row in rows for _ in range(ONE_PASS.draws)])
    scores, _ = answer_through_forward(model, batch.request)
    torch.testing.assert_close(scores.log_prob_BGL, batch.old_log_prob_BGL, atol=2e-5, rtol=0)  # ratio 1
    trainer._compute_loss(model, batch).backward()
    made = lora_gradient(model)
    model.zero_grad()
    loss, kl, entropy = torch.zeros(()), [], []
    every = dataclasses.replace(batch.request, items_BG=torch.arange(12).expand(len(rows), -1))
    ours = every.score(model).exact_BG.exp().detach()
    with model.disable_adapter():
        before = every.score(model).exact_BG.exp().detach()
    for b, row in enumerate(rows):
        adult, state = row["state"] % 2 == 0, states[row["state"]]
        allowed = sorted(set(range(12)) - FORBIDDEN[adult])
        log_pi = plain_policy(model, shop, state)
        with torch.no_grad():
            theirs = torch.tensor([log_pi(i, allowed).exp() if i in allowed else 0.0 for i in range(12)])
            with model.disable_adapter():
                reference = plain_policy(model, shop, state)
                theirs_before = torch.tensor(
                    [reference(i, allowed).exp() if i in allowed else 0.0 for i in range(12)]
                )
        for mine, other in ((ours[b], theirs), (before[b], theirs_before)):
            assert float(mine.sum()) == pytest.approx(1.0, abs=1e-6)
            assert not mine[sorted(FORBIDDEN[adult])].any()
            torch.testing.assert_close(mine, other.double(), atol=1e-5, rtol=0)
        kl.append(float((theirs[allowed] * (theirs[allowed] / theirs_before[allowed]).log()).sum()))
        entropy.append(float(-(theirs[allowed] * theirs[allowed].log()).sum()))
        items = batch.request.items_BG[b].tolist()
        assert not set(items) & FORBIDDEN[adult]
        earned = lamps([state], np.array([items])).total_BK[0]
        loss = loss - sum(r * log_pi(i, allowed) for r, i in zip(earned, items, strict=True)) / 12
    loss.backward()
    expected = lora_gradient(model)
    assert expected.norm() > 1e-4
    torch.testing.assert_close(made, expected, atol=1e-6 * expected.norm().item() + 1e-7, rtol=1e-3)
    # many draws: shares, and the means that exact terms at drawn prefixes have
    request, drawn = trainer._sample(rows, 4000)
    share = torch.stack([torch.bincount(row, minlength=12) for row in drawn.items_BG]) / 4000
    assert (share - ours).abs().max() < 0.035  # four standard deviations at most
    assert not share[ours == 0].any()
    scored = dataclasses.replace(request, items_BG=drawn.items_BG).score(model)
    assert -float(scored.exact_BG.mean().detach()) == pytest.approx(np.mean(entropy), rel=0.03)
    assert min(kl) > 0.01


BLUE_DESK = 8


def wants(states, items_BK):
    """The green desk, which is forbidden, earns most by far; of what is allowed the blue desk."""
    earned = np.where(items_BK == GREEN_DESK, 5.0, np.where(items_BK == BLUE_DESK, 1.0, 0.0))
    return Reward(earned, {"wanted": earned})


LEARNS = PPOSettings(
    steps=7,
    prompts=8,
    draws=32,
    minibatches=2,
    iterations=2,
    learning_rate=5e-3,
    kl_coefficient=0.0,
    save_every=7,
    lora=LoraSettings(rank=8, alpha=16),
)


def test_the_best_that_is_allowed_is_learnt_where_the_forbidden_item_earns_most(shop, tmp_path):
    states, rules, met = people(8), obeyed(shop, ABOUT_ITEMS), []

    def reward(of, items_BK):
        met.extend(zip(of, items_BK.tolist(), strict=True))
        return wants(of, items_BK)

    result = train_on_policy(
        start_of(shop, rules, model=shop.model(64, 2)), states, [NOTHING] * 8, reward, LEARNS, Checkpointing(tmp_path)
    )
    assert len(met) == 7 * 8
    for state, items in met:
        assert not set(items) & FORBIDDEN["40-year" in state.profile]
    assert result.stopped_reason is None
    # a fresh adapter on an untrained model of this width gets no item above 0.6, with or without rules
    assert result.curve[0]["reward"] < 0.2
    assert result.curve[-1]["reward"] > 0.45
    policy = LanguagePolicy(result.model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    lists = Ruled(policy, rules.book, shop.items).recommend(states, 3)
    assert [slate.items_K[0] for slate in lists] == [BLUE_DESK] * 8


@pytest.mark.parametrize(
    "settings",
    [
        GRPOSettings(**SMALL, draws=3),
        pytest.param(RLOOSettings(**SMALL, draws=3), marks=pytest.mark.slow),
        pytest.param(ReinforceSettings(**SMALL, draws=1), marks=pytest.mark.slow),
        BestOfNSettings(rounds=1, prompts=8, draws=3, batch_size=4, save_every=9, lora=SMALL["lora"]),
        TiltedSettings(depth=6, batch_size=4, epochs=1, save_every=9, lora=SMALL["lora"]),
    ],
    ids=["grpo", "rloo", "reinforce", "best_of_n", "tilted"],
)
def test_no_algorithm_draws_what_is_forbidden_and_who_is_left_nothing_is_counted(shop, tmp_path, settings):
    """Of two rules of age only adults are left anything; and nobody is shown what he has seen."""
    trees = [*ABOUT_ITEMS, {"minimum_age": 18, "items": {"categories": ["lamp", "desk"]}}]
    states, seen, met = people(9), [np.array([0])] * 9, []

    def reward(of, items_BK):
        met.extend(zip(of, items_BK.tolist(), strict=True))
        return wants(of, items_BK)

    begun, keep = start_of(shop, obeyed(shop, trees), repeat="exclude"), Checkpointing(tmp_path)
    if isinstance(settings, TiltedSettings):
        worth = lambda of, items_BK: reward(of, items_BK).total_BK  # noqa: E731
        result = train_tilted(begun, states, seen, worth, settings, keep)
    else:
        train = train_best_of_n if isinstance(settings, BestOfNSettings) else train_on_policy
        result = train(begun, states, seen, reward, settings, keep)
    assert met
    for state, items in met:
        assert "40-year" in state.profile
        assert not set(items) & {0, *FORBIDDEN[True]}
    assert "4 of 9 states were left out of the training" in result.stopped_reason


def test_a_log_teaches_nothing_of_what_is_forbidden(shop, tmp_path):
    """Rows of forbidden items are left out, draws for the KL and the fitted reward are among the rest."""
    from tests.training.test_off_policy import ROBUST

    slates, met = shown(0, 16, 3), []
    slates = dataclasses.replace(slates, states=people(16))

    def value(states, items_BK):
        met.extend(zip(states, items_BK.tolist(), strict=True))
        return lamps(states, items_BK)

    train_off_policy(start_of(shop, obeyed(shop, ABOUT_ITEMS)), slates, ROBUST, Checkpointing(tmp_path), value=value)
    assert met
    assert all(not set(items) & FORBIDDEN["40-year" in state.profile] for state, items in met)


def test_what_cannot_be_had_is_refused_and_what_is_left_is_told_row_by_row(shop):
    states, seen = people(2), [NOTHING] * 2
    floor = [*ABOUT_ITEMS, {"at_least": 1, "items": {"categories": ["lamp"]}, "name": "some light"}]
    with pytest.raises(
        ConfigError, match=r"'some light' asks for a floor .* draws single items, .*rules_in_training"
    ):
        usable_states(states, seen, "allow", 12, obeyed(shop, floor))
    assert [rule.name for rule in about_items(obeyed(shop, floor).book.rules)] == ["rule 1", "rule 2", "rule 3"]
    nobody = obeyed(shop, [{"minimum_age": 50, "items": {"categories": ["lamp", "desk", "chair"]}}])
    with pytest.raises(DataError, match="seen or forbidden by rules"):
        usable_states(states, seen, "allow", 12, nobody)
    # a cap never takes a single item away, and is no reason to refuse
    capped = obeyed(shop, [*ABOUT_ITEMS, {"at_most": 1, "per": "category"}])
    kept, closed = usable_states(states, [np.array([0, 5])] * 2, "exclude", 12, capped)
    assert len(kept) == 2
    assert isinstance(closed, Closed)
    assert np.flatnonzero(~closed.passes_N).tolist() == [5, 9, 10, 11]  # closed to all: in nobody's row
    assert [row.tolist() for row in closed] == [[0], [0, 1, 4, 7]]
    source = StateSource(kept, closed, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    assert source.dense(source.index).items == 8
    plain = StateSource(kept, [np.array([5])] * 2, shop.renderer, shop.catalogue, shop.tokenizer, seed=2)
    assert plain.dense(plain.index) is None  # nothing more to do where there are no rules


# Slates in sessions.

BOUNDS = [
    {"at_most": 1, "per": "category"},
    {"at_least": 1, "items": {"ids": ["i0", "i3"]}},
    {"never": {"ids": ["i5"]}},
]
ONE_TURN = SessionSettings(turns=1, slate=3, gamma=0.0, gae_lambda=1.0, bootstrap=False)


def good_slates():
    """By hand: a red or a green lamp, a chair and a desk that is not green, in any order."""
    kinds = [(lamp, chair, desk) for lamp in (0, 3) for chair in (1, 4, 7, 10) for desk in (2, 8, 11)]
    return {slate for some in kinds for slate in itertools.permutations(some)}


def open_below(above, slates):
    """What may stand below some items, so that a good slate can still come of it."""
    return sorted({slate[len(above)] for slate in slates if slate[: len(above)] == tuple(above)})


def session_trainer(shop, out, trees, prompts, session=ONE_TURN, repeat="allow"):
    settings = dataclasses.replace(ONE_PASS, draws=1, prompts=prompts)
    met = dataclasses.replace(world.meeting(), dynamics=DynamicsSettings())
    model = moved(shop)
    given = (met, session, repeat, shop.renderer, shop.catalogue, shop.tokenizer, 2, obeyed(shop, trees))
    trainer = make_session_trainer(model, SessionSource(*given), settings, out=out)
    trainer.base.critic.ready.fill_(True)  # V = 0
    return model, trainer, [trainer.train_dataset[n] for n in range(prompts)]


def test_slates_are_drawn_place_by_place_under_caps_and_floors_and_learnt_so(shop, tmp_path):
    slates = good_slates()
    assert len(slates) == 144
    model, trainer, rows = session_trainer(shop, tmp_path, BOUNDS, 4)
    played, play = {}, trainer._play
    trainer._play = lambda inputs: played.setdefault("turns", play(inputs)) or played["turns"]
    (batch,) = trainer._roll_out(rows)
    trainer._compute_loss(model, batch).backward()
    made = lora_gradient(model)
    model.zero_grad()
    metrics = trainer._metrics["train"]
    assert metrics["moved_kl"][0] == pytest.approx(0.0, abs=1e-8)  # ratio 1
    (turn,) = played["turns"].turns
    loss, kl, entropy = torch.zeros(()), 0.0, 0.0
    assert trainer._metrics["train"]["rollout_entropy"][0] == pytest.approx(-float(turn.log_prob_RK.mean()), abs=1e-5)
    for n, row in enumerate(rows):
        state, items = trainer.source.states[row["state"]], turn.items_RK[n].tolist()
        assert tuple(items) in slates
        log_pi = plain_policy(model, shop, state)
        with torch.no_grad(), model.disable_adapter():
            reference = plain_policy(model, shop, state)
        for place, item in enumerate(items):
            left = open_below(items[:place], slates)
            chance = log_pi(item, left)
            assert float(turn.log_prob_RK[n, place]) == pytest.approx(float(chance.detach()), abs=2e-5)
            loss = loss - turn.reward_RK[n, place:].sum() * chance / 12
            assert sum(float(log_pi(i, left).detach().exp()) for i in left) == pytest.approx(1.0, abs=1e-5)
            for now, then in zip(log_pi.tokens(item, left), reference.tokens(item, left), strict=True):
                kl += float((now.exp() * (now - then)).sum().detach())
                entropy -= float((now.exp() * now).sum().detach())
    assert metrics["kl"][0] == pytest.approx(kl / 12, rel=1e-4)
    assert metrics["entropy"][0] == pytest.approx(entropy / 12, rel=1e-4)
    loss.backward()
    expected = lora_gradient(model)
    assert expected.norm() > 1e-4
    torch.testing.assert_close(made, expected, atol=1e-6 * expected.norm().item() + 1e-7, rtol=1e-3)
    # the first place of many sessions of the same user, against enumeration
    many = [{**rows[0], "place": place} for place in range(1500)]
    (turn,) = play(many).turns
    assert {tuple(row) for row in turn.items_RK.tolist()} <= slates
    log_pi, left = plain_policy(model, shop, trainer.source.states[rows[0]["state"]]), open_below((), slates)
    assert len(left) == 9
    share = torch.bincount(turn.items_RK[:, 0], minlength=12) / 1500
    with torch.no_grad():
        chance = torch.tensor([float(log_pi(i, left).exp()) if i in left else 0.0 for i in range(12)])
    assert (share - chance).abs().max() < 0.05


def test_places_that_caps_leave_empty_earn_nothing_and_are_nobody_s_choice(shop, tmp_path):
    """One lamp and one chair are all that may be shown, so the third place stays empty; sessions repeat nothing."""
    trees = [{"at_most": 1, "per": "category"}, {"never": {"categories": ["desk"]}}]
    session = SessionSettings(turns=2, slate=3)
    model, trainer, rows = session_trainer(shop, tmp_path, trees, 4, session, repeat="exclude")
    played, play = {}, trainer._play
    trainer._play = lambda inputs: played.setdefault("turns", play(inputs)) or played["turns"]
    (batch,) = trainer._roll_out(rows)
    loss = trainer._compute_loss(model, batch)
    loss.backward()
    assert bool(torch.isfinite(lora_gradient(model)).all())
    first, second = played["turns"].turns
    for n in range(4):
        shown = [*first.items_RK[n].tolist(), *second.items_RK[n].tolist()]
        assert shown[2] == shown[5] == -1
        there = [item for item in shown if item >= 0]
        assert len(set(there)) == 4
        assert [item % 3 < 2 for item in there] == [True] * 4
        assert {shown[0] % 3, shown[1] % 3} == {shown[3] % 3, shown[4] % 3} == {0, 1}
    assert not first.reward_RK[:, 2].any()
    assert first.reward_RK[:, :2].all()
    assert not batch.there_RK[:, 2].any()


def test_sessions_under_rules_of_age_meet_whom_something_is_left_and_say_so(shop, tmp_path):
    """Users of the shop state no age: a rule that forbids them everything but lamps leaves too little for two turns."""
    settings = PPOSettings(**SMALL, draws=1)
    keep, met = Checkpointing(tmp_path), world.meeting()
    session = SessionSettings(turns=1, slate=2)
    lamps_only = obeyed(shop, [{"minimum_age": 18, "items": {"categories": ["chair", "desk"]}}])
    seen = [np.array([0, 3, 6]) if user % 2 else NOTHING for user in range(24)]
    result = train_sessions(
        start_of(shop, lamps_only, repeat="exclude"), dataclasses.replace(met, seen=seen), settings, session, keep
    )
    assert "12 of 24 states were left out" in result.stopped_reason
    assert len(result.curve) == 2
    wide = SessionSettings(turns=3, slate=2)
    with pytest.raises(DataError, match="whom rules leave 6 unseen items of the 12"):
        train_sessions(start_of(shop, lamps_only, repeat="exclude"), met, settings, wide, keep)
