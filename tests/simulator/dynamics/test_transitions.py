"""All transitions against a plain twin that takes one user and one click at a time, and against values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.config import (
    BudgetSettings,
    DriftSettings,
    DynamicsSettings,
    NoveltySettings,
    PatienceSettings,
    ReturnSettings,
    SatiationSettings,
    TrustSettings,
)
from llmrec.simulator.dynamics import Dynamics, ItemTable
from tests.simulator.dynamics.worlds import ALL_ON, CATEGORIES, PLACES, feedback, only, world


def plain_turn(user, s, items, item_K, click_K, conversion_K, luck):
    """One turn of one user, a dict of floats and lists; returns (left, gone, days)."""
    clicked = [int(i) for i, c in zip(item_K, click_K, strict=True) if c]
    bought = [bool(v) for v, c in zip(conversion_K, click_K, strict=True) if c]
    quality = [float(items.quality_N[i]) for i in clicked]
    mean_quality = sum(quality) / len(quality) if quality else 0.0
    # drift
    x = [v + s.drift.decay * (h - v) for v, h in zip(user["interest"], user["home"], strict=True)]
    if clicked:
        weights = [1 + s.drift.conversion * b for b in bought]
        for d in range(len(x)):
            m = sum(w * float(items.vector_ND[i, d]) for w, i in zip(weights, clicked, strict=True)) / sum(weights)
            x[d] += s.drift.rate * (m - x[d])
    user["interest"] = x
    # novelty reads familiarity before the turn
    if clicked:
        known = sum(user["familiarity"][items.category_N[i]] for i in clicked) / len(clicked)
        user["appetite"] += s.novelty.rate * (known - user["appetite"])
    user["familiarity"] = [(1 - s.novelty.forgetting) * f for f in user["familiarity"]]
    for i in clicked:
        c = items.category_N[i]
        user["familiarity"][c] += s.novelty.learning * (1 - user["familiarity"][c])
    # satiation
    for i in clicked:
        user["satiation"][items.category_N[i]] += s.satiation.clicked
    for i in item_K:
        if i >= 0:
            user["satiation"][items.category_N[i]] += s.satiation.shown
    user["satiation"] = [(1 - s.satiation.recovery) * v for v in user["satiation"]]
    # trust
    theta = s.trust.threshold
    if clicked:
        good = sum(max(q - theta, 0) for q in quality) / (1 - theta) / len(clicked)
        bad = sum(max(theta - q, 0) for q in quality) / theta / len(clicked)
        user["trust"] += s.trust.gain * good * (1 - user["trust"]) - s.trust.loss * bad * user["trust"]
    user["budget"] = max(
        0, user["budget"] - sum(float(items.price_N[i]) * b for i, b in zip(clicked, bought, strict=True))
    )
    if clicked:
        user["patience"] += s.patience.gain * mean_quality * (1 - user["patience"])
    else:
        user["patience"] *= 1 - s.patience.loss
    user["satisfaction"] += s.comeback.rate * (mean_quality - user["satisfaction"])
    return plain_leaving(user, s, luck)


def odds_between(low, high, share):
    mixed = (1 - share) * math.log(low / (1 - low)) + share * math.log(high / (1 - high))
    return 1 / (1 + math.exp(-mixed))


def plain_leaving(user, s, luck):
    if luck[0] >= odds_between(s.patience.leave_empty, s.patience.leave_full, user["patience"]):
        return False, False, 0
    hazard = odds_between(s.comeback.hazard_unsatisfied, s.comeback.hazard_satisfied, user["satisfaction"])
    days, still_away = 1, 1 - hazard
    while 1 - luck[1] <= still_away and days <= s.comeback.max_days:  # the geometric distribution, day by day
        days, still_away = days + 1, still_away * (1 - hazard)
    if days > s.comeback.max_days:
        return True, True, 0
    for _ in range(int(days * s.comeback.turns_per_day)):
        user["interest"] = [v + s.drift.decay * (h - v) for v, h in zip(user["interest"], user["home"], strict=True)]
        user["satiation"] = [(1 - s.satiation.recovery) * v for v in user["satiation"]]
        user["familiarity"] = [(1 - s.novelty.forgetting) * v for v in user["familiarity"]]
    user["budget"] = min(user["budget"] + s.budget.income * days, max(user["budget"], s.budget.initial))
    user["patience"] = s.patience.initial
    return True, False, days


def test_every_transition_equals_its_plain_twin_over_many_turns():
    users, random = 60, np.random.default_rng(8)
    dynamics, state = world(ALL_ON, users)
    plain = [
        {
            "interest": [float(v) for v in state.interest_BD[b]],
            "home": [float(v) for v in state.home_BD[b]],
            "satiation": [0.0] * CATEGORIES,
            "familiarity": [0.0] * CATEGORIES,
            "appetite": ALL_ON.novelty.initial,
            "trust": ALL_ON.trust.initial,
            "budget": ALL_ON.budget.initial,
            "patience": ALL_ON.patience.initial,
            "satisfaction": ALL_ON.comeback.initial,
        }
        for b in range(users)
    ]
    alive = [True] * users
    returns = 0
    for _ in range(25):
        item, click, conversion, luck = feedback(users, random, empty=0.2)
        outcome = dynamics.step(state, item, click, conversion, luck)
        for b in range(users):
            if not alive[b]:
                assert not outcome.left_B[b]
                continue
            left, gone, days = plain_turn(plain[b], ALL_ON, dynamics.items, item[b], click[b], conversion[b], luck[b])
            assert (outcome.left_B[b], outcome.gone_B[b], outcome.days_B[b]) == (left, gone, days)
            alive[b] = not gone
            returns += days > 0
    assert returns > 20
    assert 5 < sum(alive) < 55
    for name in ("interest", "satiation", "familiarity", "appetite", "trust", "budget", "patience", "satisfaction"):
        own = getattr(state, next(k for k in state.arrays() if k.startswith(name)))
        np.testing.assert_allclose(own, [p[name] for p in plain], rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(state.active_B, alive)


def two_items():
    return ItemTable.of([0, 1], quality_N=[0.9, 0.1], price_N=[30.0, 50.0], vector_ND=[[1, 0], [0, 1]])


def one_turn(settings_, clicked, bought=(False, False), **starts):
    dynamics = Dynamics(settings_, two_items())
    users = dynamics.fresh(1, **starts)
    outcome = dynamics.step(
        users, np.array([[0, 1]]), np.array([clicked]), np.array([bought]), np.array([[0.99, 0.5]])
    )
    return users, outcome


def test_drift_by_hand():
    settings_ = only(drift=DriftSettings(rate=0.5, decay=0.0, conversion=1.0))
    users, _ = one_turn(settings_, (True, False), interest_BD=[[0.0, 1.0]])
    np.testing.assert_allclose(users.interest_BD, [[0.5, 0.5]])
    users, _ = one_turn(settings_, (True, True), (True, False), interest_BD=[[0.0, 0.0]])
    np.testing.assert_allclose(
        users.interest_BD, [[1 / 3, 1 / 6]], rtol=1e-6
    )  # mean (2/3, 1/3): the purchase counts twice


def test_satiation_and_novelty_by_hand():
    users, _ = one_turn(only(satiation=SatiationSettings(recovery=0.25, clicked=2.0, shown=0.4)), (True, False))
    np.testing.assert_allclose(users.satiation_BC, [[1.8, 0.3]], rtol=1e-6)
    users, _ = one_turn(only(novelty=NoveltySettings(learning=0.2, rate=0.5, initial=0.6)), (True, False))
    np.testing.assert_allclose(users.familiarity_BC, [[0.2, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(users.appetite_B, [0.3])  # the new still the appetite for the new


def test_clickbait_loses_trust_and_quality_builds_it():
    trust = TrustSettings(initial=0.5, gain=0.1, loss=0.4, threshold=0.5)
    good, _ = one_turn(only(trust=trust), (True, False))
    bad, _ = one_turn(only(trust=trust), (False, True))
    none, _ = one_turn(only(trust=trust), (False, False))
    np.testing.assert_allclose(good.trust_B, [0.5 + 0.1 * 0.8 * 0.5])  # (.9 - .5) / .5 of the way at most
    np.testing.assert_allclose(bad.trust_B, [0.5 - 0.4 * 0.8 * 0.5], rtol=1e-6)
    np.testing.assert_allclose(none.trust_B, [0.5])


def test_purchases_take_from_the_budget_and_only_what_it_covers():
    settings_ = only(budget=BudgetSettings(initial=60.0))
    users, _ = one_turn(settings_, (True, True), (True, False))
    np.testing.assert_allclose(users.budget_B, [30.0])
    dynamics = Dynamics(settings_, two_items())
    rich_and_poor = dynamics.fresh(3, budget_B=[80.0, 60.0, 20.0])
    wished = np.ones((3, 2), dtype=bool)
    covered = dynamics.afford(rich_and_poor, np.array([[0, 1]] * 3), wished)
    np.testing.assert_array_equal(covered, [[True, True], [True, False], [False, False]])
    np.testing.assert_array_equal(rich_and_poor.budget_B, np.float32([80, 60, 20]))  # nothing is paid yet
    assert dynamics.afford(rich_and_poor, np.array([[-1, -1]] * 3), wished).sum() == 0


def test_patience_rules_who_leaves():
    patience = PatienceSettings(initial=0.5, gain=0.4, loss=0.2, leave_full=0.1, leave_empty=0.5)
    dynamics = Dynamics(only(patience=patience), two_items())
    users = dynamics.fresh(4)
    clicks = np.array([[True, False]] * 2 + [[False, False]] * 2)
    # after a click: .5 + .4 * .9 * .5 = .68; without: .4; odds of leaving 9^-p (1 at patience 0, 1/9 at 1)
    chances = [1 / (1 + 9**0.68), 1 / (1 + 9**0.4)]
    luck = np.array([[chances[0] - 1e-4, 0], [chances[0] + 1e-4, 0], [chances[1] - 1e-4, 0], [chances[1] + 1e-4, 0]])
    outcome = dynamics.step(users, np.array([[0, 1]] * 4), clicks, clicks & False, luck)
    np.testing.assert_allclose(users.patience_B, [0.68, 0.68, 0.4, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(outcome.left_B, [True, False, True, False])
    np.testing.assert_array_equal(outcome.gone_B, [True, False, True, False])  # nobody returns while that is off
    np.testing.assert_array_equal(users.active_B, ~outcome.gone_B)


def test_days_until_the_return_are_geometric():
    hazards = ReturnSettings(hazard_unsatisfied=0.2, hazard_satisfied=0.2, max_days=10)
    leave = PatienceSettings(leave_full=0.9999, leave_empty=0.9999)
    dynamics, users = world(only(patience=leave, comeback=hazards), 40_000)
    item, click, conversion, luck = feedback(40_000, np.random.default_rng(0))
    luck[:, 0] = 0.0
    outcome = dynamics.step(users, item, click, conversion, luck)
    assert outcome.left_B.all()
    share = [(outcome.days_B == d).mean() for d in range(1, 11)]
    np.testing.assert_allclose(share, 0.2 * 0.8 ** np.arange(10), atol=0.008)
    assert outcome.gone_B.mean() == pytest.approx(0.8**10, abs=0.006)
    back = ~outcome.gone_B
    np.testing.assert_array_equal(users.days_B[back], outcome.days_B[back])
    assert (users.visit_B == np.where(back, 2, 1)).all()


@pytest.mark.parametrize("days", [1, 4])
def test_rest_over_n_turns_equals_n_turns_without_a_click(days):
    import dataclasses

    quiet = dataclasses.replace(
        ALL_ON,
        satiation=dataclasses.replace(ALL_ON.satiation, shown=0.0),
        patience=PatienceSettings(),
        comeback=ReturnSettings(),
    )
    dynamics, users = world(quiet, 30)
    random = np.random.default_rng(0)
    for _ in range(3):
        dynamics.step(users, *feedback(30, random))
    rested, waited = users.take(np.arange(30)), users.take(np.arange(30))
    for transition in dynamics.transitions:
        if transition.name in ("drift", "satiation", "novelty"):
            transition.rest(rested, np.full(30, days * 3.0, dtype=np.float32))
    item = feedback(30, random)[0]
    for _ in range(days * 3):
        dynamics.step(waited, item, np.zeros((30, PLACES)), np.zeros((30, PLACES)), np.ones((30, 2)) * 0.5)
    for name in ("interest_BD", "satiation_BC", "familiarity_BC", "appetite_B"):
        np.testing.assert_allclose(getattr(rested, name), getattr(waited, name), rtol=1e-4, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.floats(0, 1), extreme=st.booleans())
def test_bounds_hold_and_the_inactive_stay_as_they_are(seed, rate, extreme):
    settings_ = ALL_ON
    if extreme:
        settings_ = DynamicsSettings(
            drift=DriftSettings(enabled=True, rate=1.0, decay=1.0),
            satiation=SatiationSettings(enabled=True, recovery=0.0),
            novelty=NoveltySettings(enabled=True, learning=1.0, forgetting=1.0, rate=1.0),
            trust=TrustSettings(enabled=True, gain=1.0, loss=1.0, threshold=0.0 if seed % 2 else 1.0),
            budget=BudgetSettings(enabled=True, initial=5.0),
            patience=PatienceSettings(enabled=True, gain=1.0, loss=1.0),
            comeback=ReturnSettings(enabled=True, rate=1.0, max_days=2),
        )
    random = np.random.default_rng(seed)
    dynamics, users = world(settings_, 40, seed % 7)
    users.active_B[:] = random.random(40) < 0.7
    for _ in range(6):
        before = users.take(np.arange(40))
        dynamics.step(users, *feedback(40, random, rate))
        idle = ~before.active_B
        for name, array in users.arrays().items():
            np.testing.assert_array_equal(array[idle], before.arrays()[name][idle], err_msg=name)
        for name in ("trust_B", "patience_B", "satisfaction_B", "appetite_B", "familiarity_BC"):
            values = getattr(users, name)
            assert values.min() >= -1e-6, name
            assert values.max() <= 1 + 1e-6, name
        assert users.trust_B.min() >= 0
        assert users.trust_B.max() <= 1
        assert users.budget_B.min() >= 0
        assert users.satiation_BC.min() >= 0
        assert all(np.isfinite(a).all() for a in users.arrays().values())


def test_a_user_does_not_feel_who_else_is_there():
    """Also across the border of blocks and whether all of a block are active."""
    users, random = 9000, np.random.default_rng(1)
    dynamics, together = world(ALL_ON, users)
    chosen = np.sort(random.choice(users, 50, replace=False))
    alone = together.take(chosen)
    for _ in range(4):
        turn = feedback(users, random)
        dynamics.step(together, *turn)
        dynamics.step(alone, *(a[chosen] for a in turn))
    for name, array in alone.arrays().items():
        np.testing.assert_array_equal(array, together.arrays()[name][chosen], err_msg=name)


def test_switches_allocate_only_what_they_need():
    dynamics, users = world(DynamicsSettings(), 10)
    assert dynamics.transitions == ()
    assert {k for k, a in users.arrays().items() if a is not None} == {
        "active_B",
        "turn_B",
        "visit_B",
        "days_B",
        "last_item_B",
    }
    item, click, conversion, luck = feedback(10, np.random.default_rng(0), empty=0.3)
    outcome = dynamics.step(users, item, click, conversion, luck)
    assert users.active_B.all()
    assert not outcome.left_B.any()
    assert (users.turn_B == 1).all()
    last = [
        next((int(i) for i, c in zip(r[::-1], q[::-1], strict=True) if c), -1)
        for r, q in zip(item, click, strict=True)
    ]
    np.testing.assert_array_equal(users.last_item_B, last)
