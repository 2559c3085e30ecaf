"""Credit of slots against the exact policy gradient of what a slate earns, by enumeration of all ordered slates."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from llmrec.config import ChoiceSettings, SessionSettings
from llmrec.errors import ConfigError
from llmrec.rewards import ClickReward, CustomReward, DiversityReward, VectorLikeness
from llmrec.simulator.choice import MODELS, make_choice
from llmrec.training.session_source import is_causal_in_place
from llmrec.training.sessions import check_credit
from llmrec.training.slates import Steps, TurnSlates, of_slots, slots_of
from llmrec.types import State
from tests.training import shop_users as world
from tests.training.test_sessions import PLAIN, trainer_of
from tests.training.test_sessions import run as run_sessions

ITEMS, PLACES = 5, 3
SLATES_RK = torch.tensor(list(itertools.permutations(range(ITEMS), PLACES)))
ATTRACTION = np.array([0.7, 0.55, 0.4, 0.25, 0.1])
SATISFACTION = np.array([0.1, 0.9, 0.3, 0.6, 0.8])
WORTH = np.array([0.2, 1.0, 0.7, 3.0, 2.0])
"""What a click on each item is worth: a click on a poor item costs where it keeps a good one from being clicked."""


def rewards(model: str) -> torch.Tensor:
    """Expected reward of each place of each ordered slate, (60, 3)."""
    items = SLATES_RK.numpy()
    choice = make_choice(ChoiceSettings(model=model, position_bias=0.7, perseverance=0.8), PLACES)
    click = choice.expected(ATTRACTION[items], SATISFACTION[items])
    return torch.from_numpy(click * WORTH[items])


def slots(logits: torch.Tensor) -> torch.Tensor:
    """log P(item k | items before it) of each ordered slate (Plackett-Luce), differentiable."""
    return slots_of(logits.log_softmax(0)[SLATES_RK], torch.zeros(len(SLATES_RK), dtype=torch.bool))


def credits(reward_RK: torch.Tensor, credit: str, causal: bool) -> torch.Tensor:
    """What the trainer credits each slot with (V = 0)."""
    rows, none = len(reward_RK), torch.zeros(0)
    turns = TurnSlates(torch.arange(rows), torch.zeros(rows, dtype=torch.long), *[none] * 6, reward_RK)
    steps = Steps.of([turns], rows, 1, 1.0, causal=causal)
    return of_slots(steps.gae(1.0)[0], credit)[:, 0]


def gradients(reward_RK: torch.Tensor, credit: str, causal: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact gradient of the expected reward of a slate, and the expectation of the credited one."""
    logits = torch.randn(ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    slot_RK = slots(logits)
    chance_R = slot_RK.sum(1).exp()
    assert chance_R.sum().item() == pytest.approx(1.0)
    (exact,) = torch.autograd.grad((chance_R * reward_RK.sum(1)).sum(), logits, retain_graph=True)
    loss = (chance_R.detach() * (credits(reward_RK, credit, causal) * slot_RK).sum(1)).sum()
    return exact, torch.autograd.grad(loss, logits)[0]


def error(model: str, credit: str, causal: bool | None = None) -> float:
    """The median over ten policies of |made - exact| / |exact|."""
    causal = MODELS[model].causal if causal is None else causal
    pairs = [gradients(rewards(model), credit, causal, seed) for seed in range(10)]
    return float(np.median([float((made - exact).norm() / exact.norm()) for exact, made in pairs]))


@pytest.mark.parametrize("model", sorted(MODELS))
def test_the_credit_of_a_slate_is_the_exact_gradient(model):
    """With every choice model, which says itself whether rewards are causal in place."""
    assert error(model, "slate") < 1e-12


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_choice_model_says_whether_later_items_change_what_earlier_ones_earn(model):
    """Its mark against its own expectations: slates that agree down to a place earn the same there, or not."""
    found, earned = {}, rewards(model)
    for slate, row in zip(SLATES_RK.tolist(), earned.tolist(), strict=True):
        for place in range(PLACES):
            found.setdefault(tuple(slate[: place + 1]), set()).add(round(row[place], 12))
    assert all(len(values) == 1 for values in found.values()) == MODELS[model].causal


def test_rewards_from_the_slot_on_are_no_credit_where_places_compete():
    """What is guarded against: the multinomial logit with the credit of causal places."""
    assert error("logit", "slate", causal=True) > 0.2


@pytest.mark.parametrize("model", ["cascade", "dynamic-bayesian", "independent", "position"])
def test_credit_by_item_is_biased_as_documented_and_still_points_uphill(model):
    """Even where places do not meet: an item that is shown above is gone for the places below."""
    exact, made = zip(*(gradients(rewards(model), "item", True, seed) for seed in range(10)), strict=True)
    assert error(model, "item") > 0.3
    assert all(float(torch.dot(e, m)) > 0 for e, m in zip(exact, made, strict=True))


@pytest.mark.parametrize("causal", [True, False])
def test_a_list_level_term_of_one_s_own_has_the_whole_slate_for_credit(causal):
    """A function that looks at all items: exact as it is marked by default, and refused with credit by item."""
    met = world.meeting()

    def ends(state, items):
        return [float(items[0] < items[-1]), 0.0, 0.0]

    terms = (ClickReward(1.0), CustomReward("ends", 1.0, ends, list_level=True, causal=causal or None))
    met = dataclasses.replace(met, reward=dataclasses.replace(met.reward, terms=terms))
    assert is_causal_in_place(met, PLACES) == causal
    reward_RK = torch.tensor([ends(State("u"), slate) for slate in SLATES_RK.tolist()], dtype=torch.float64)
    exact, made = gradients(reward_RK, "slate", is_causal_in_place(met, PLACES), 1)
    near = bool((made - exact).norm() < 1e-12)
    assert near != causal  # marked causal against the truth it is wrong
    session = SessionSettings(turns=2, slate=PLACES, credit="item")
    if causal:
        check_credit(session, ChoiceSettings(), terms)
    else:
        with pytest.raises(ConfigError, match=r"session\.credit' is item, but the reward 'ends'"):
            check_credit(session, ChoiceSettings(), terms)


def test_diversity_is_credited_in_order_and_stays_causal():
    term = DiversityReward(VectorLikeness(np.random.default_rng(0).normal(size=(ITEMS, 4))))
    met = world.meeting()
    met = dataclasses.replace(met, reward=dataclasses.replace(met.reward, terms=(ClickReward(1.0), term)))
    assert is_causal_in_place(met, PLACES)
    given = term([State("u")] * len(SLATES_RK), SLATES_RK.numpy(), None)
    exact, made = gradients(torch.from_numpy(given), "slate", True, 2)
    assert (made - exact).norm() < 1e-12


def test_credit_by_item_is_refused_where_all_places_compete(shop, tmp_path):
    logit = ChoiceSettings(model="logit")
    met = dataclasses.replace(world.meeting(), choice=logit)
    by_item = SessionSettings(turns=2, slate=2, credit="item")
    with pytest.raises(ConfigError, match=r"session\.credit' is item, but with choice\.model logit"):
        run_sessions(shop, tmp_path, session=by_item, meeting=met)
    check_credit(dataclasses.replace(by_item, credit="slate"), logit)
    check_credit(dataclasses.replace(by_item, slate=1), logit)


def test_a_training_with_competing_places_credits_each_slot_with_its_slate(shop, tmp_path):
    """Through the trainer: V = 0 and one turn, so every slot's advantage is the sum of its row."""
    met = dataclasses.replace(world.meeting(), choice=ChoiceSettings(model="logit"))
    session = SessionSettings(turns=1, slate=3)
    settings = dataclasses.replace(PLAIN, prompts=6)
    _, trainer, rows = trainer_of(shop, tmp_path, settings, session, meeting=met)
    trainer.base.critic.ready.fill_(True)
    played = {}
    play = trainer._play
    trainer._play = lambda inputs: played.setdefault("played", play(inputs))
    (batch,) = trainer._roll_out(rows)
    total = played["played"].turns[0].reward_RK.sum(1, keepdim=True)
    torch.testing.assert_close(batch.advantage_RK, total.expand(-1, 3))
    assert torch.isfinite(trainer._compute_loss(trainer.model, batch))
