"""Estimators against enumeration of every possible log, against each other, and as properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from llmrec.errors import RequestError
from llmrec.evaluation.off_policy import (
    BanditLog,
    CrossFitted,
    LogisticOutcome,
    RidgeOutcome,
    TableOutcome,
    effective_samples,
    evaluate_slates,
    mse_clip,
    slope_clip,
)
from llmrec.evaluation.off_policy.estimators import ModelTerms, direct, doubly_robust, ips, model_terms, snips

STATE_P = np.array([0.3, 0.7])
MU = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
PI = np.array([[0.2, 0.2, 0.6], [0.7, 0.3, 0.0]])
CLICK = np.array([[0.9, 0.2, 0.4], [0.3, 0.6, 0.1]])
VALUE = float(STATE_P @ (PI * CLICK).sum(axis=1))


def every_log(rows: int):
    """(probability, states, items, rewards) of every log of this many rows in the tiny world."""
    ways = [
        (STATE_P[s] * MU[s, a] * (CLICK[s, a] if r else 1 - CLICK[s, a]), s, a, r)
        for s, a, r in itertools.product((0, 1), (0, 1, 2), (0, 1))
    ]
    for drawn in itertools.product(ways, repeat=rows):
        chance, state, item, reward = (np.array(part) for part in zip(*drawn, strict=True))
        yield chance.prod(), state, item, reward.astype(float)


def log_of(state, item, reward) -> BanditLog:
    return BanditLog(item, MU[state, item], reward, 3, states_MF=np.eye(2)[state], items_ND=np.eye(3))


def test_ips_and_cross_fitted_dr_are_exactly_unbiased_whatever_the_model():
    found = dict.fromkeys(("IPS", "ridge", "wrong", "switch", "total"), 0.0)
    for chance, state, item, reward in every_log(2):
        log, weight = log_of(state, item, reward), PI[state, item] / MU[state, item]
        found["total"] += chance
        found["IPS"] += chance * ips(weight, reward).value
        wrong = TableOutcome(np.array([[5.0, -1.0, 2.0], [0.0, 3.0, -4.0]])[state])
        for name, model in (("ridge", RidgeOutcome(alpha=0.5)), ("wrong", wrong)):
            terms = model_terms(log, PI[state], CrossFitted.of(model, log, folds=2))
            found[name] += chance * doubly_robust(weight, reward, terms).value
            if name == "wrong":
                found["switch"] += chance * doubly_robust(weight, reward, terms, switch=2.0).value
    assert found.pop("total") == pytest.approx(1.0)
    switched = found.pop("switch")
    assert found == pytest.approx(dict.fromkeys(found, VALUE), abs=1e-12)
    # switch-DR trusts the model where w > 2: items 2 of state 0 (w 3), and 0 and 1 of state 1 (w 7 and 3)
    wrong_by = 0.3 * 0.6 * (2.0 - 0.4) + 0.7 * (0.7 * (0.0 - 0.3) + 0.3 * (3.0 - 0.6))
    assert switched == pytest.approx(VALUE + wrong_by, abs=1e-12)


def test_clipping_loses_exactly_what_is_above_the_clip():
    found = sum(p * ips(PI[s, a] / MU[s, a], r, clip=2.0).value for p, s, a, r in every_log(1))
    kept = np.minimum(PI / MU, 2.0) * MU
    assert found == pytest.approx(float(STATE_P @ (kept * CLICK).sum(axis=1)))


@given(st.floats(-1e6, 1e6), st.floats(0.01, 100))
def test_snips_moves_with_a_constant_and_not_with_the_scale_of_the_weights(shift, scale):
    rng = np.random.default_rng(0)
    weight, reward = rng.exponential(1.0, 30), rng.random(30)
    base = snips(weight, reward).value
    assert snips(weight, reward + shift).value == pytest.approx(base + shift, rel=1e-9, abs=1e-9)
    assert snips(scale * weight, reward).value == pytest.approx(base)
    assert reward.min() <= base <= reward.max()


def test_dr_is_dm_without_weights_and_ips_without_a_model():
    rng = np.random.default_rng(1)
    reward, weight = rng.random(20), rng.exponential(1.0, 20)
    terms = ModelTerms(rng.random(20), rng.random(20))
    assert doubly_robust(np.zeros(20), reward, terms).value == pytest.approx(direct(terms).value)
    assert doubly_robust(weight, reward, terms, switch=0.0).value == pytest.approx(direct(terms).value)
    nothing = ModelTerms(np.zeros(20), np.zeros(20))
    assert doubly_robust(weight, reward, nothing).value == pytest.approx(ips(weight, reward).value)


def test_dr_with_the_true_model_has_no_noise_of_the_items():
    rng = np.random.default_rng(2)
    state = rng.integers(2, size=50)
    item = np.array([rng.choice(3, p=MU[s]) for s in state])
    log = log_of(state, item, CLICK[state, item])  # rewards without noise
    terms = model_terms(log, PI[state], CrossFitted.of(TableOutcome(CLICK[state]), log))
    found = doubly_robust(PI[state, item] / MU[state, item], log.reward_M, terms)
    assert found.value == pytest.approx((PI * CLICK).sum(axis=1)[state].mean())


# Weights that a scale takes below the smallest number are another list of weights, so they are left out.
@given(st.lists(st.just(0.0) | st.floats(1e-200, 1e9), min_size=1, max_size=40), st.floats(1e-3, 1e3))
def test_effective_samples_lie_between_one_and_the_rows(weights, scale):
    found = effective_samples(np.array(weights))
    if not any(weights):
        assert found == 0.0
        return
    assert 1 - 1e-9 <= found <= len(weights) + 1e-9
    assert effective_samples(scale * np.array(weights)) == pytest.approx(found, rel=1e-6)
    assert effective_samples(np.ones(len(weights))) == pytest.approx(len(weights))


def planted(rows: int, seed: int):
    """A log of the tiny world with states seen as two numbers."""
    rng = np.random.default_rng(seed)
    state = (rng.random(rows) < STATE_P[1]).astype(int)
    item = (rng.random(rows)[:, None] > MU[state].cumsum(axis=1)).sum(axis=1)
    return state, item, (rng.random(rows) < CLICK[state, item]).astype(float)


def test_the_ridge_is_the_reference_librarys():
    rng = np.random.default_rng(3)
    state, item, reward = planted(60, 3)
    x_RF = rng.normal(size=(60, 3))
    log = BanditLog(item, MU[state, item], reward, 3, states_MF=x_RF)
    found = RidgeOutcome(alpha=2.5).fit(log, np.arange(40)).predict(log, np.arange(40, 60))
    scaled = (x_RF - x_RF[:40].mean(axis=0)) / x_RF[:40].std(axis=0)
    reference = Ridge(alpha=2.5).fit(np.column_stack([scaled, np.eye(3)[item]])[:40], reward[:40])
    for n in range(3):
        wanted = reference.predict(np.column_stack([scaled[40:], np.tile(np.eye(3)[n], (20, 1))]))
        assert found[:, n] == pytest.approx(wanted)


def test_the_penalty_is_the_one_of_generalised_cross_validation():
    """GCV by its definition: n |(I - H) y|^2 / trace(I - H)^2 with the hat matrix H."""
    state, item, reward = planted(80, 4)
    log = log_of(state, item, reward)
    rows, scores = np.arange(80), {}
    for alpha in 10.0 ** np.arange(-2.0, 5.5, 0.5):
        fits = []
        for unit in np.eye(80):
            model = RidgeOutcome(alpha=alpha).fit(
                BanditLog(item, log.propensity_M, unit, 3, log.states_MF, np.eye(3)), rows
            )
            fits.append(model.predict(log, rows)[rows, item])
        hat = np.array(fits).T
        scores[alpha] = ((reward - hat @ reward) ** 2).sum() / np.trace(np.eye(80) - hat) ** 2
    best = min(scores, key=scores.__getitem__)
    chosen = RidgeOutcome().fit(log, rows).predict(log, rows)
    assert chosen == pytest.approx(RidgeOutcome(alpha=best).fit(log, rows).predict(log, rows))


def test_the_logistic_model_is_the_reference_librarys_and_takes_rewards_of_0_and_1_only():
    state, item, reward = planted(200, 5)
    log = BanditLog(item, MU[state, item], reward, 3)
    found = LogisticOutcome(penalty=2.0).fit(log, np.arange(200)).predict(log, np.arange(2))
    reference = LogisticRegression(C=0.5, tol=1e-10).fit(np.eye(3)[item], reward)
    assert found[0] == pytest.approx(reference.predict_proba(np.eye(3))[:, 1], abs=1e-4)
    with pytest.raises(RequestError, match="rewards of 0 and 1"):
        LogisticOutcome().fit(BanditLog(item, MU[state, item], reward + 0.5, 3), np.arange(200))
    quiet = BanditLog(item, MU[state, item], np.zeros(200), 3)
    assert LogisticOutcome().fit(quiet, np.arange(200)).predict(quiet, np.arange(2)).tolist() == [[0.0] * 3] * 2


def test_no_user_is_predicted_by_a_model_that_saw_them():
    state, item, reward = planted(60, 6)
    users = [f"u{m // 4}" for m in range(60)]
    log = BanditLog(item, MU[state, item], reward, 3, states_MF=np.eye(2)[state], users=users)

    class Spy(RidgeOutcome):
        def fit(self, log, rows):
            seen.append({users[m] for m in rows})
            return super().fit(log, rows)

    seen: list[set[str]] = []
    fitted = CrossFitted.of(Spy(), log, folds=5, seed=1)
    for fold, known in enumerate(seen):
        assert known.isdisjoint({users[m] for m in np.flatnonzero(fitted.fold_M == fold)})
    assert sorted(np.bincount(fitted.fold_M)) == [12] * 5
    with pytest.raises(RequestError, match="not 16 of 15"):
        CrossFitted.of(Spy(), log, folds=16)


def test_a_design_that_is_too_wide_is_refused():
    log = BanditLog(np.zeros(4, dtype=np.int64), np.ones(4), np.ones(4), 5000)
    with pytest.raises(RequestError, match="5000 columns"):
        RidgeOutcome().fit(log, np.arange(4))


def test_clips_are_chosen_where_they_help_and_left_out_where_they_do_not():
    rng = np.random.default_rng(7)
    even, reward = rng.uniform(0.9, 1.1, 500), rng.random(500) + 1
    assert mse_clip(even, reward) >= np.quantile(even, 0.9)
    heavy = rng.pareto(1.2, 500) + 0.01
    for choose in (mse_clip, slope_clip):
        clip = choose(heavy, reward)
        assert np.median(heavy) <= clip <= heavy.max()
    light = np.where(np.arange(500) == 0, 1000.0, 0.5)
    assert mse_clip(light, np.where(np.arange(500) == 0, 0.0, 1.0)) > 0


def plackett_luce(scores: np.ndarray, places: int):
    """(probability, slate) of every slate drawn place by place without replacement."""
    chance = scores / scores.sum()
    for slate in itertools.permutations(range(len(scores)), places):
        left, p = 1.0, 1.0
        for a in slate:
            p *= chance[a] / left
            left -= chance[a]
        yield p, slate


def at_places(scores: np.ndarray, places: int) -> np.ndarray:
    """Probability of each item at each place, (places, N)."""
    found = np.zeros((places, len(scores)))
    for p, slate in plackett_luce(scores, places):
        found[np.arange(places), slate] += p
    return found


def slate_expectations(reward_of):
    """E[item-position IPS], E[slate IPS] over every logged slate, and the target's true value."""
    logged, target = np.array([1.0, 2.0, 3.0, 1.5]), np.array([4.0, 1.0, 0.5, 2.0])
    mu_KN, pi_KN = at_places(logged, 2), at_places(target, 2)
    pi_slate = {slate: p for p, slate in plackett_luce(target, 2)}
    truth = sum(p * reward_of(slate).sum() for p, slate in plackett_luce(target, 2))
    by_place = by_slate = 0.0
    for p, slate in plackett_luce(logged, 2):
        weight = pi_KN[[0, 1], slate] / mu_KN[[0, 1], slate]
        earned = reward_of(slate)
        twice = evaluate_slates(
            np.tile(weight, (2, 1)), np.tile(earned, (2, 1)), slate_weight_S=np.full(2, pi_slate[slate] / p)
        )
        by_place += p * twice.item_position_ips.mean
        by_slate += p * twice.slate_ips.mean
    return by_place, by_slate, truth


def test_item_position_ips_is_exactly_unbiased_under_the_item_position_click_model():
    click_NK = np.array([[0.9, 0.5], [0.2, 0.1], [0.6, 0.4], [0.3, 0.3]])
    by_place, by_slate, truth = slate_expectations(lambda slate: click_NK[slate, (0, 1)])
    assert by_place == pytest.approx(truth)
    assert by_slate == pytest.approx(truth)


def test_only_slate_ips_is_unbiased_where_places_matter_to_each_other():
    attract = np.array([0.9, 0.2, 0.6, 0.3])

    def cascade(slate):  # who clicks the first looks no further
        return np.array([attract[slate[0]], (1 - attract[slate[0]]) * attract[slate[1]]])

    by_place, by_slate, truth = slate_expectations(cascade)
    assert by_slate == pytest.approx(truth)
    assert abs(by_place - truth) > 0.01


def test_slates_by_hand():
    found = evaluate_slates(np.array([[2.0, 0.5], [1.0, 3.0]]), np.array([[1.0, 0.0], [0.0, 2.0]]))
    assert found.item_position_ips.mean == pytest.approx((2.0 + 6.0) / 2)
    assert found.slate_ips.mean == pytest.approx((1.0 * 1 + 3.0 * 2) / 2)
    assert found.slate_snips.mean == pytest.approx((1.0 * 1 + 3.0 * 2) / 4)
    assert found.slate_effective == pytest.approx(16 / 10)
    assert found.place_effective == pytest.approx(min(9 / 5, 3.5**2 / 9.25))
