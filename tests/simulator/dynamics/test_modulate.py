"""State shifts attraction on the scale of log-odds, and only there."""

import math

import numpy as np
import pytest

from llmrec.config import (
    BudgetSettings,
    DriftSettings,
    DynamicsSettings,
    NoveltySettings,
    SatiationSettings,
    TrustSettings,
)
from llmrec.simulator.dynamics import Dynamics
from tests.simulator.dynamics.worlds import ALL_ON, feedback, only, world


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def logit(p):
    return math.log(p / (1 - p))


def test_all_off_is_the_base_and_empty_places_are_nothing():
    dynamics, users = world(DynamicsSettings(), 20)
    item, *_ = feedback(20, np.random.default_rng(0), empty=0.3)
    base = np.random.default_rng(1).random((2, *item.shape)).astype(np.float32)
    click, conversion = dynamics.modulate(users, item, base[0], base[1])
    np.testing.assert_array_equal(click, base[0] * (item >= 0))
    np.testing.assert_array_equal(conversion, base[1] * (item >= 0))
    users.active_B[3] = False
    assert not dynamics.modulate(users, item, base[0], base[1])[0][3].any()


def test_fresh_users_are_at_home():
    settings = only(drift=DriftSettings(), satiation=SatiationSettings(), trust=TrustSettings())
    dynamics, users = world(settings, 20)
    item, *_ = feedback(20, np.random.default_rng(0))
    base = np.random.default_rng(1).random((2, *item.shape)).astype(np.float32)
    click, conversion = dynamics.modulate(users, item, base[0], base[1])
    np.testing.assert_allclose(click, base[0], rtol=1e-5)
    np.testing.assert_allclose(conversion, base[1], rtol=1e-5)


def test_everything_together_equals_one_place_at_a_time():
    dynamics, users = world(ALL_ON, 1500)  # more than one block
    random = np.random.default_rng(2)
    for _ in range(5):
        dynamics.step(users, *feedback(1500, random))
    item, *_ = feedback(1500, random)
    base = random.random((2, *item.shape))
    click, conversion = dynamics.modulate(users, item, base[0], base[1])
    s, items = ALL_ON, dynamics.items
    for b in [*range(0, 1500, 97), 1023, 1024]:
        for k in range(item.shape[1]):
            i = item[b, k]
            c = items.category_N[i]
            moved = float((users.interest_BD[b] - users.home_BD[b]) @ items.vector_ND[i])
            appetite, familiar = float(users.appetite_B[b]), float(users.familiarity_BC[b, c])
            trust, price, budget = float(users.trust_B[b]), float(items.price_N[i]), float(users.budget_B[b])
            shift = s.drift.weight * moved - s.satiation.weight * float(users.satiation_BC[b, c])
            shift += s.novelty.weight * appetite * (1 - 2 * familiar) + s.trust.weight * (trust - s.trust.initial)
            alive = bool(users.active_B[b])
            assert click[b, k] == pytest.approx(alive * sigmoid(logit(base[0, b, k]) + shift), abs=2e-5)
            wish = s.trust.conversion_weight * (trust - s.trust.initial)
            wish -= s.budget.pressure * min(price / budget, 1) if budget else 1
            can = alive and price <= budget
            assert conversion[b, k] == pytest.approx(can * sigmoid(logit(base[1, b, k]) + wish), abs=2e-5)


def test_certainty_stays_certain():
    dynamics, users = world(ALL_ON, 10)
    random = np.random.default_rng(2)
    dynamics.step(users, *feedback(10, random))
    item, *_ = feedback(10, random)
    zero, one = np.zeros(item.shape), np.ones(item.shape)
    assert not dynamics.modulate(users, item, zero, zero)[0].any()
    np.testing.assert_allclose(dynamics.modulate(users, item, one, one)[0], users.active_B[:, None] * one)


def test_each_state_moves_attraction_the_right_way():
    item = np.arange(6)[None]
    half = np.full((1, 6), 0.5)
    clicked = np.array([[True, False, False, False, False, False]])
    calm = np.full((1, 2), 0.5)

    def after(settings, quality=1.0, wished=False):
        dynamics, users = world(settings, 1)
        table = dynamics.items
        table.quality_N[0] = quality
        dynamics = Dynamics(settings, table)
        dynamics.step(users, item, clicked, clicked & wished, calm)
        same = table.category_N[:6] == table.category_N[0]
        return *dynamics.modulate(users, item, half, half), same

    click, _, same = after(only(satiation=SatiationSettings()))
    assert (click[0][same] < 0.5).all()
    np.testing.assert_allclose(click[0][~same], 0.5)
    click, _, same = after(only(novelty=NoveltySettings(learning=0.9)))
    assert click[0][same].max() < 0.5 < click[0][~same].min()
    click, conversion, _ = after(only(trust=TrustSettings()), quality=0.0)
    assert click.max() < 0.5
    assert conversion.max() < 0.5
    click, _, _ = after(only(trust=TrustSettings()), quality=1.0)
    assert click.min() > 0.5
    click, _, _ = after(only(drift=DriftSettings(decay=0.0)))
    dynamics, users = world(only(drift=DriftSettings(decay=0.0)), 1)
    pull = dynamics.items.vector_ND[:6] @ (dynamics.items.vector_ND[0] - users.home_BD[0])
    np.testing.assert_array_equal(click[0] > 0.5, pull > 0)
    click, conversion, _ = after(only(budget=BudgetSettings(initial=1e-3)))
    np.testing.assert_allclose(click, 0.5)
    assert not conversion.any()
