"""Fits find planted parameters, raise their objective at every step, and agree with plain counts and enumeration."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import check_grad

from llmrec.config import ChoiceSettings
from llmrec.simulator.choice import (
    DynamicBayesianChoice,
    KeyedParameters,
    LogitChoice,
    PositionChoice,
    SlateLog,
    fit_choice,
    fit_settings,
    make_choice,
)
from llmrec.simulator.choice.bayesian_fit import posterior
from llmrec.simulator.choice.logit_fit import LogitObjective
from llmrec.simulator.choice.tally import Keyed, Prior

ITEMS, PLACES = 30, 6
OFFSET = -0.25 * np.arange(PLACES)


def planted(model, slates, seed=0):
    random = np.random.default_rng(seed)
    attraction, satisfaction = random.beta(2, 4, ITEMS), random.beta(3, 3, ITEMS)
    item_SK = random.random((slates, ITEMS)).argsort(axis=1)[:, :PLACES]
    item_SK[: slates // 10, PLACES - 2 :] = -1  # some slates are short
    a_SK, s_SK = (np.where(item_SK >= 0, v[item_SK], 0.0) for v in (attraction, satisfaction))
    click_SK = model.sample(a_SK, s_SK, random.random((slates, PLACES, 2)))
    return SlateLog(item_SK, click_SK), attraction, satisfaction


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (PositionChoice.power(0.8, PLACES), 0.05),
        (DynamicBayesianChoice(0.8), 0.04),
        (LogitChoice(OFFSET), 0.04),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_planted_attractions_are_recovered(model, error):
    log, attraction, satisfaction = planted(model, 20_000)
    fitted = fit_choice(model.name, log, seed=1)
    assert np.abs(fitted.attraction.of(np.arange(ITEMS)) - attraction).max() < error
    if isinstance(model, DynamicBayesianChoice):
        found = fitted.satisfaction.of(np.arange(ITEMS))
        assert abs(fitted.perseverance - 0.8) < 0.02
        assert np.abs(found - satisfaction).mean() < 0.04
    if isinstance(model, LogitChoice):
        np.testing.assert_allclose(fitted.offset_K, OFFSET, atol=0.12)
    truth = type(fitted)(**_own(model), attraction=_table(attraction), **_more(model, satisfaction))
    assert fitted.log_likelihood(log) > truth.log_likelihood(log)  # the optimum beats the truth on its own sample


def _own(model):
    if isinstance(model, PositionChoice):
        return {"examination_K": model.examination_K}
    if isinstance(model, DynamicBayesianChoice):
        return {"perseverance": model.perseverance}
    return {"offset_K": model.offset_K} if isinstance(model, LogitChoice) else {}


def _more(model, satisfaction):
    return {"satisfaction": _table(satisfaction)} if isinstance(model, DynamicBayesianChoice) else {}


def _table(values):

    return KeyedParameters(np.arange(len(values)), values, 0.5)


def test_a_planted_position_bias_is_recovered_within_a_tenth():
    truth = PositionChoice.power(1.0, PLACES)
    log, _, _ = planted(truth, 30_000, seed=2)
    fitted = fit_choice("position", log, seed=0)
    np.testing.assert_allclose(fitted.examination_K, truth.examination_K, rtol=0.1)


def test_a_position_bias_is_told_apart_from_a_good_ranking():
    """Good items stand on top in 80% of the slates: the click rate by rank is far from the examination."""
    random = np.random.default_rng(4)
    attraction = random.beta(2, 4, ITEMS)
    item_SK = random.random((40_000, ITEMS)).argsort(axis=1)[:, :PLACES]
    order = np.argsort(-attraction[item_SK], axis=1)
    item_SK = np.where(random.random((40_000, 1)) < 0.8, np.take_along_axis(item_SK, order, axis=1), item_SK)
    truth = PositionChoice.power(0.5, PLACES)
    click_SK = truth.sample(attraction[item_SK], np.zeros(item_SK.shape), random.random((40_000, PLACES, 1)))
    naive = click_SK.mean(axis=0) / click_SK[:, 0].mean()
    fitted = fit_choice("position", SlateLog(item_SK, click_SK), seed=0, max_steps=3000)
    np.testing.assert_allclose(fitted.examination_K, truth.examination_K, rtol=0.1)
    assert (np.abs(naive / truth.examination_K - 1)[1:] > 0.1).all()


@pytest.mark.parametrize("strength", [0.0, 5.0])
@pytest.mark.parametrize(
    "model", [PositionChoice.power(1.0, PLACES), DynamicBayesianChoice(0.6)], ids=lambda m: m.name
)
def test_em_never_falls_and_without_a_prior_climbs_the_log_likelihood(model, strength):
    log, _, _ = planted(model, 2000, seed=3)
    fitted = fit_choice(model.name, log, seed=0, prior_strength=strength, tolerance=1e-9, max_steps=200)
    assert len(fitted.curve) > 5
    assert np.diff(fitted.curve).min() > -1e-6
    if strength == 0:
        assert fitted.curve[-1] == pytest.approx(fitted.log_likelihood(log), rel=1e-9)


def test_two_seeds_end_at_one_optimum():
    log, _, _ = planted(DynamicBayesianChoice(0.8), 4000)
    one, two = (fit_choice("dynamic-bayesian", log, seed=s, tolerance=1e-10, max_steps=1000) for s in (0, 1))
    assert one.curve[-1] == pytest.approx(two.curve[-1], abs=0.1)
    np.testing.assert_allclose(one.attraction.value_P, two.attraction.value_P, atol=2e-3)


def test_given_attractions_are_kept_and_the_rest_is_fitted():
    truth = PositionChoice([0.7, 0.5, 0.4, 0.3, 0.2, 0.1])  # rank 0 is fitted too
    log, attraction, satisfaction = planted(truth, 20_000)
    given = SlateLog(log.item_SK, log.click_SK, attraction_SK=np.where(log.shown_SK, attraction[log.item_SK], 0))
    fitted = fit_choice("position", given, seed=0)
    assert fitted.attraction is None
    np.testing.assert_allclose(fitted.examination_K, truth.examination_K, atol=0.02)
    truth = DynamicBayesianChoice(0.7)
    log, attraction, satisfaction = planted(truth, 20_000)
    given = SlateLog(log.item_SK, log.click_SK, attraction_SK=np.where(log.shown_SK, attraction[log.item_SK], 0))
    fitted = fit_choice("dynamic-bayesian", given, seed=0)
    assert fitted.perseverance == pytest.approx(0.7, abs=0.02)
    assert np.abs(fitted.satisfaction.of(np.arange(ITEMS)) - satisfaction).mean() < 0.04
    log, attraction, _ = planted(LogitChoice(OFFSET), 20_000)
    given = SlateLog(log.item_SK, log.click_SK, attraction_SK=np.where(log.shown_SK, attraction[log.item_SK], 0))
    np.testing.assert_allclose(fit_choice("logit", given, seed=0).offset_K, OFFSET, atol=0.12)


def test_settings_take_what_the_log_tells_of_places():
    for truth, asked in (
        (PositionChoice.power(1.0, PLACES), ChoiceSettings(model="position", position_bias=0.0)),
        (LogitChoice(OFFSET), ChoiceSettings(model="logit")),
        (DynamicBayesianChoice(0.7), ChoiceSettings(model="dynamic-bayesian", perseverance=0.1)),
    ):
        log, _, _ = planted(truth, 20_000)
        found = fit_settings(asked, log, PLACES, seed=0)
        made = make_choice(found, PLACES)
        assert (made.attraction, made.satisfaction) == (None, None)
        if isinstance(truth, DynamicBayesianChoice):
            assert found.perseverance == made.perseverance == pytest.approx(0.7, abs=0.02)
        else:
            by_rank = truth.examination_K if isinstance(truth, PositionChoice) else truth.offset_K
            np.testing.assert_allclose(found.by_rank, by_rank, atol=0.12)
        # fewer steps and a looser end stop earlier; a heavy prior on items moves the places
        curve = fit_choice(asked.model, log, seed=0, max_steps=2).curve
        assert len(curve) <= 3
        heavy = fit_settings(replace(asked, prior_strength=1e4), log, PLACES, seed=0)
        assert heavy != replace(found, prior_strength=1e4)


@pytest.mark.parametrize("keep_on", [0.0, 0.6, 1.0])
def test_posteriors_equal_enumeration_of_all_that_is_hidden(keep_on):
    """Each place has three coins (attracted, satisfied, goes on); the reader of the coins is the model's text."""
    places = 3
    random = np.random.default_rng(1)
    a, s = random.random(places), random.random(places)
    sums: dict[tuple[bool, ...], np.ndarray] = {}
    for coins in itertools.product([False, True], repeat=3 * places):
        attracted, satisfied, goes_on = np.array(coins).reshape(3, places)
        chance = float(
            np.prod(np.where(attracted, a, 1 - a))
            * np.prod(np.where(satisfied, s, 1 - s))
            * np.prod(np.where(goes_on, keep_on, 1 - keep_on))
        )
        seen, clicked, content, went, could, here = [0.0] * 3, [False] * 3, [0.0] * 3, 0, 0, True
        for k in range(places):
            seen[k] = float(here)
            clicked[k] = bool(here and attracted[k])
            content[k] = float(clicked[k] and satisfied[k])
            if here and not content[k] and k < places - 1:
                could, went = could + 1, went + int(goes_on[k])
            here = bool(here and not content[k] and goes_on[k])
        row = np.array([1.0, *seen, *content, went, could])
        sums[tuple(clicked)] = sums.get(tuple(clicked), 0.0) + chance * row
    for clicked, row in sums.items():
        if row[0] < 1e-12:
            continue
        shape = (1, places)
        found = posterior(np.array([clicked]), np.ones(shape, bool), a[None], s[None], keep_on)
        assert found.log_likelihood_S[0] == pytest.approx(np.log(row[0]))
        mean = row[1:] / row[0]
        np.testing.assert_allclose(found.examined_SK[0], mean[:3], atol=1e-9)
        np.testing.assert_allclose(found.satisfied_SK[0], mean[3:6], atol=1e-9)
        assert (found.went_on, found.could_go_on) == pytest.approx((mean[6], mean[7]), abs=1e-9)


def test_the_logit_gradient_is_that_of_its_value():
    log, _, _ = planted(LogitChoice(OFFSET), 60)
    objective = LogitObjective(log, Keyed.of(log), Prior.at(0.2, 3.0))
    start = np.random.default_rng(0).standard_normal(objective.items + objective.offsets)
    assert check_grad(lambda x: objective(x)[0], lambda x: objective(x)[1], start) < 1e-4


def test_impressions_become_slates():
    log = SlateLog.of_impressions(
        ["b", "a", "b", "a"], [5, 6, 7, 8], [1, 0, 0, 1], [1, 0, 0, 2], user_M=["v", "u", "v", "u"]
    )
    np.testing.assert_array_equal(log.item_SK, [[6, -1, 8], [7, 5, -1]])
    np.testing.assert_array_equal(log.click_SK, [[False, False, True], [False, True, False]])
    assert list(log.user_S) == ["u", "v"]
    assert log.ranked
    unranked = SlateLog.of_impressions([3, 3, 1], [5, 6, 7], [0, 1, 0])
    np.testing.assert_array_equal(unranked.item_SK, [[7, -1], [5, 6]])
    assert not unranked.ranked
