"""Experiments in worlds with known answers: A/A, a planted difference, pairing, regret by enumeration, sizes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from llmrec.config import DynamicsSettings, EnvironmentSettings, PatienceSettings, ReturnSettings
from llmrec.errors import RequestError
from llmrec.evaluation.effect import Effect
from llmrec.evaluation.experiment import Design, ab_test, compare_figures, measures
from llmrec.evaluation.sessions import SessionFigures, simulate_sessions
from llmrec.evaluation.significance import Interval, linearised, user_deviation
from llmrec.simulator.dynamics import ItemTable
from llmrec.types import Slate
from tests.evaluation.test_sessions import Always
from tests.training import shop_users as world

FOUR = EnvironmentSettings(slate_size=1, turns=4)
TRUST = DynamicsSettings(trust=world.TRUST)
LEAVING = DynamicsSettings(
    trust=world.TRUST,
    patience=PatienceSettings(enabled=True, leave_full=0.1, leave_empty=0.6),
    comeback=ReturnSettings(enabled=True, hazard_unsatisfied=0.01, hazard_satisfied=0.2, max_days=5),
)


class Priced(world.ShopUsers):
    """The shop with prices, where a third of the clicks buys."""

    def __init__(self, users=24):
        super().__init__(users)
        kinds = np.arange(12) % 3
        price = np.array([10.0, 1.0, 5.0])[kinds]
        quality = [world.QUALITY[int(k)] for k in kinds]
        self.items = ItemTable.of(kinds, quality_N=quality, price_N=price, categories=3)

    def respond(self, hidden, user_B, items_BK, time_B):
        click_BK, _ = super().respond(hidden, user_B, items_BK, time_B)
        return click_BK, np.full_like(click_BK, 1 / 3)


class Fixed:
    """Shows everybody the same items."""

    def __init__(self, *items):
        self.items = items

    def recommend(self, states, k, *, seen=None):
        return [Slate(self.items[:k], (0.0,) * len(self.items[:k])) for _ in states]


def tried(a, b, users=300, sizes=FOUR, dynamics=TRUST, population=world.ShopUsers, **design):
    return ab_test(a, b, population(users), np.arange(users), sizes, dynamics=dynamics, design=Design(**design))


def figures(value_B, users=None, **more):
    rows = len(value_B)
    value_B, ones = np.asarray(value_B, dtype=np.float64), np.ones(rows)
    names = tuple(f"u{n}" for n in range(rows)) if users is None else tuple(users)
    columns = {"click_B": value_B, "conversion_B": 0 * ones, "turns_B": ones, "left_B": 0 * ones, "first_B": value_B}
    columns |= {"shown_B": ones, "revenue_B": None, "visits_B": ones} | more
    return SessionFigures(value_B=value_B, users_B=names, **columns)


def test_a_against_itself_is_exactly_nothing():
    found = tried(Always(world.GOOD), Always(world.GOOD), 80, dynamics=LEAVING, sampled=True)
    assert found.outcome == "none"
    for effect in found.effects.values():
        assert effect.identical
        assert (effect.difference.mean, effect.difference.low, effect.difference.high) == (0, 0, 0)
        assert (effect.p_value, effect.adjusted, effect.variance_ratio, effect.detectable) == (1, 1, None, 0)
    assert found.verdict.startswith("No difference: B and A came to the same value with each of 80 users.")
    json.dumps(found.to_json(), allow_nan=False)


def test_a_against_itself_with_other_luck_is_called_different_in_five_of_a_hundred_experiments():
    groups, size = 200, 60
    users, two = groups * size, EnvironmentSettings(slate_size=1, turns=2)
    design = Design(metrics=("value",), sampled=True, samples=400)
    luck = [
        simulate_sessions(
            Fixed(world.GOOD), world.ShopUsers(users), np.arange(users), two, dynamics=TRUST, sampled=True, seed=seed
        )
        for seed in (0, 1)
    ]
    false = 0
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        false += compare_figures(*(_some(own, rows) for own in luck), design=design).outcome != "none"
    assert 2 <= false <= 19  # 10 expected, deviation 3.1


def _some(own, rows):
    cut = {f.name: getattr(own, f.name) for f in dataclasses.fields(own)}
    return SessionFigures(**{name: None if value is None else value[rows] for name, value in cut.items()})


def test_luck_of_its_own_differs_and_common_luck_does_not():
    apart = tried(Always(world.GOOD), Always(world.GOOD), 200, sampled=True, common=False)
    effect = apart.effects["value"]
    assert not effect.identical
    assert effect.variance_ratio == pytest.approx(1, abs=0.35)  # users alike: nothing that pairing could take out


def test_the_planted_difference_is_found_where_it_is():
    found = tried(Always(world.BAIT), Always(world.GOOD), 400)
    exact = [world.session_value(lambda trust, left, kind=kind: kind, 4, 1.0) for kind in (world.BAIT, world.GOOD)]
    effect = found.effects["value"]
    assert effect.corrected.low < exact[1] - exact[0] < effect.corrected.high
    assert found.outcome == "gain"
    assert found.verdict.startswith("B is significantly better than A in value (")
    assert tried(Always(world.GOOD), Always(world.BAIT), 400).outcome == "loss"


def test_pairing_takes_out_what_users_bring_to_both():
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(5, 2, 1500), rng.normal(0, 0.5, (2, 1500))
    effect = compare_figures(figures(shared + noise[0]), figures(shared + 0.02 + noise[1])).effects["value"]
    assert effect.variance_ratio == pytest.approx((2 * 4 + 0.5) / 0.5, rel=0.12)
    assert effect.users_unpaired / effect.users_needed == pytest.approx(effect.variance_ratio, rel=0.01)


def test_sizes_are_those_of_the_formula_at_holms_first_step():
    rng = np.random.default_rng(1)
    a, b = rng.normal(10, 1, 500), rng.normal(10, 1, 500)
    clicks = {"click_B": a / 100, "shown_B": np.ones(500)}
    effect = compare_figures(
        figures(a, **clicks), figures(b), design=Design(metrics=("value", "click_rate"), effect=0.05, power=0.9)
    ).effects["value"]
    z = 2.241403 + 1.281552  # of 1 - 0.05 / 2 / 2, and of 0.9
    deviation = np.std(b - a, ddof=1)
    assert effect.users_needed == int(np.ceil((z * deviation / (0.05 * a.mean())) ** 2))
    assert effect.detectable == pytest.approx(z * deviation / np.sqrt(500), rel=1e-5)


def test_rates_are_ratios_of_sums_with_the_variance_of_the_delta_method():
    clicks, shown = np.array([1.0, 0.0, 4.0, 3.0]), np.array([2.0, 4.0, 8.0, 6.0])
    linear = linearised(clicks, shown)
    assert linear.mean() == pytest.approx(8 / 20)
    # by hand: rest = clicks - 0.4 * shown = (0.2, -1.6, 0.8, 0.6), variance 3.6 / 3, over mean(shown)^2 = 25
    assert linear.var(ddof=1) == pytest.approx(3.6 / 3 / 25)
    assert linearised(np.zeros(3), np.zeros(3)).tolist() == [0, 0, 0]
    rng = np.random.default_rng(2)
    shown = rng.integers(1, 30, (3000, 200)).astype(float)
    clicks = rng.binomial(shown.astype(int), 0.3).astype(float)
    error = (clicks.sum(1) / shown.sum(1)).std()
    assert user_deviation(linearised(clicks[0], shown[0])) / np.sqrt(200) == pytest.approx(error, rel=0.2)


def test_the_deviation_by_user_counts_users_and_not_rows():
    values = np.array([1.0, 3.0, 2.0, 6.0])
    assert user_deviation(values) == pytest.approx(values.std(ddof=1))
    assert user_deviation(np.repeat(values, 3), np.repeat(["a", "b", "c", "d"], 3)) == pytest.approx(
        values.std(ddof=1)
    )
    # by hand: sums 4 and 8 of 2 rows each, mean 3, rest -2 and 2, sqrt(8 / 1) * 2 / 4
    assert user_deviation(values, ["a", "a", "b", "b"]) == pytest.approx(np.sqrt(8) * 2 / 4)
    with pytest.raises(RequestError, match="two users"):
        user_deviation(values, ["a"] * 4)


def test_revenue_is_price_times_purchase():
    sizes = EnvironmentSettings(slate_size=2, turns=1)
    own = simulate_sessions(Fixed(0, 1), Priced(5), np.arange(5), sizes)
    assert own.revenue_B == pytest.approx([0.6 / 3 * 10 + 0.75 / 3 * 1] * 5)
    assert own.conversion_B == pytest.approx([(0.6 + 0.75) / 3] * 5)
    assert own.shown_B.tolist() == [2] * 5
    assert simulate_sessions(Fixed(0), world.ShopUsers(5), np.arange(5), sizes).revenue_B is None
    repeated = simulate_sessions(Fixed(0, 0), Priced(5), np.arange(5), sizes)
    assert repeated.shown_B.tolist() == [1] * 5
    assert repeated.revenue_B == pytest.approx([0.6 / 3 * 10] * 5)
    assert tried(Fixed(1), Fixed(0), 50, population=Priced).effects["revenue"].outcome == "gain"


def test_who_stays_or_returns_is_retained():
    own = simulate_sessions(
        Always(world.BAIT), world.ShopUsers(400), np.arange(400), FOUR, dynamics=LEAVING, sampled=True
    )
    stayed, back = own.left_B == 0, own.visits_B > 1
    assert 0 < (back & ~stayed).sum() < (~stayed).sum()
    assert np.array_equal(own.retained_B == 1, stayed | back)
    never = dataclasses.replace(LEAVING, comeback=ReturnSettings())
    alone = simulate_sessions(Always(world.BAIT), world.ShopUsers(400), np.arange(400), FOUR, dynamics=never)
    assert np.array_equal(alone.retained_B, 1 - alone.left_B)
    assert (alone.visits_B == 1).all()
    assert measures(alone).keys() == {"value", "click_rate", "conversion_rate", "turns", "retained", "visits"}


def test_retention_after_one_turn_is_the_enumerated_one():
    hard = DynamicsSettings(
        patience=PatienceSettings(enabled=True, initial=1.0, gain=0.3, loss=1.0, leave_full=0.2, leave_empty=0.7),
    )
    one = EnvironmentSettings(slate_size=1, turns=1)
    own = simulate_sessions(Fixed(world.GOOD), world.ShopUsers(6000), np.arange(6000), one, dynamics=hard)
    # a click (0.6) leaves patience full: 0.2 leave; none empties it: 0.7 leave
    expected = 0.6 * 0.8 + 0.4 * 0.3
    assert own.retained_B.mean() == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / 6000))


def test_regret_by_enumeration_and_the_best_has_none():
    sizes = EnvironmentSettings(slate_size=2, turns=3)
    plain = simulate_sessions(
        Always(world.GOOD, world.DULL),
        world.ShopUsers(4),
        np.arange(4),
        sizes,
        regret=True,
        dynamics=DynamicsSettings(),
    )
    assert plain.regret_BT == pytest.approx(np.full((4, 3), 2 * 0.75 - 0.6 - 0.3), abs=1e-6)  # two pieces of bait
    best = simulate_sessions(Fixed(1, 4), world.ShopUsers(4), np.arange(4), sizes, regret=True)
    assert best.regret_BT == pytest.approx(np.zeros((4, 3)), abs=1e-6)
    found = tried(Fixed(1, 4), Always(world.GOOD, world.DULL), 40, sizes, DynamicsSettings(), regret=True)
    assert found.effects["regret"].outcome == "loss"
    assert found.effects["regret"].difference.mean == pytest.approx(3 * 0.6, abs=1e-5)
    assert [round(at.mean, 4) for at in found.lost["B"]] == [0.6, 1.2, 1.8]


def test_regret_is_that_of_the_present_state_and_ends_with_the_session():
    own = simulate_sessions(
        Always(world.DULL), world.ShopUsers(300), np.arange(300), FOUR, dynamics=LEAVING, regret=True
    )
    assert (own.regret_BT >= -1e-6).all()
    gone = np.arange(4) >= own.turns_B[:, None]
    assert gone.any()
    assert (own.regret_BT[gone] == 0).all()
    assert (own.regret_BT[~gone] > 0).all()


def test_a_small_experiment_says_what_it_could_have_seen():
    rng = np.random.default_rng(3)
    a = rng.normal(10, 2, 50)
    found = compare_figures(figures(a), figures(a + rng.normal(0, 1, 50)), design=Design(metrics=("value",)))
    effect = found.effects["value"]
    assert found.outcome == "none"
    assert f"With 50 users a difference of {effect.detectable:.4f}" in found.verdict
    assert "in 80 of 100 experiments" in found.verdict
    head, row = found.size_rows()
    assert len(head) == len(row)
    assert row[0] == "value"
    assert row[3] == f"{effect.users_needed:,}"
    head, row = found.effect_rows()
    assert len(head) == len(row)
    assert row[3] == f"{effect.difference.mean:+.4f}".replace("-", "−")
    assert found.table.metrics == ("value",)


def test_what_cannot_be_compared_is_refused():
    few, other = figures([1.0, 2.0]), figures([1.0, 2.0], users=("x", "y"))
    with pytest.raises(RequestError, match="same users"):
        compare_figures(few, other)
    with pytest.raises(RequestError, match="two users"):
        compare_figures(figures([1.0]), figures([2.0]))
    with pytest.raises(RequestError, match="'revenue' is not measured"):
        compare_figures(few, few, design=Design(primary="revenue"))
    with pytest.raises(RequestError, match="must be among"):
        compare_figures(few, few, design=Design(metrics=("turns",)))
    with pytest.raises(RequestError, match="two names"):
        compare_figures(few, few, names=("A", "A"))
    with pytest.raises(RequestError, match="effect above 0"):
        compare_figures(few, few, design=Design(effect=0.0))


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "outcome"),
    [
        (0.01, 0.02, False, "gain"),
        (0.01, 0.02, True, "loss"),
        (-0.02, -0.01, False, "loss"),
        (-0.02, -0.01, True, "gain"),
        (1e-9, 3e-9, False, "none"),
        (1e-9, 3e-9, True, "none"),
    ],
)
def test_an_effect_needs_more_than_rounding_and_knows_which_way_is_better(low, high, lower_is_better, outcome):
    interval = Interval((low + high) / 2, low, high)
    sizes = {"deviation_a": 1.0, "deviation_b": 1.0, "deviation": 1.0, "detectable": 0.1}
    tested = {"difference": interval, "corrected": interval, "p_value": 0.01, "adjusted": 0.01}
    needs = {"users_needed": None, "users_unpaired": None, "identical": False}
    found = Effect("value", 0.5, 0.5, **tested, **sizes, **needs, lower_is_better=lower_is_better)
    assert found.outcome == outcome
