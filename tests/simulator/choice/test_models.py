"""Every model is a distribution over patterns of clicks; what it expects and draws are that distribution's."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.config import ChoiceSettings
from llmrec.simulator.choice import (
    CascadeChoice,
    DynamicBayesianChoice,
    IndependentChoice,
    LogitChoice,
    PositionChoice,
    make_choice,
)

MODELS = [
    IndependentChoice(),
    PositionChoice([0.9, 0.6, 0.3, 0.05]),
    CascadeChoice(),
    DynamicBayesianChoice(0.7),
    DynamicBayesianChoice(1.0),
    DynamicBayesianChoice(0.0),
    LogitChoice(),
    LogitChoice([0.0, -0.4, -0.8, -1.5]),
]
IDS = [f"{m.name}-{k}" for k, m in enumerate(MODELS)]
probability = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.5])


def all_patterns(places):
    return np.array(list(itertools.product([False, True], repeat=places)))


@pytest.mark.parametrize("model", MODELS, ids=IDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_expected_is_the_sum_over_all_patterns_of_clicks(model, data):
    places = data.draw(st.integers(1, 4))
    row = st.lists(probability, min_size=places, max_size=places)
    attraction, satisfaction = np.array(data.draw(row)), np.array(data.draw(row))
    click_SK = all_patterns(places)
    grid = (len(click_SK), places)
    chance_S = np.exp(
        model.log_prob(np.broadcast_to(attraction, grid), np.broadcast_to(satisfaction, grid), click_SK)
    )
    assert chance_S.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(
        model.expected(attraction[None], satisfaction[None])[0], chance_S @ click_SK, atol=3e-6
    )  # 3e-6: the logit model holds attractions 1e-6 below 1


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_draws_have_the_frequencies_of_the_patterns(model):
    attraction, satisfaction = np.array([0.5, 0.3, 0.8, 0.6]), np.array([0.4, 0.9, 0.2, 0.5])
    draws = 60_000
    grid = (draws, 4)
    uniforms = np.random.default_rng(3).random((*grid, 2))
    click_BK = model.sample(np.broadcast_to(attraction, grid), np.broadcast_to(satisfaction, grid), uniforms)
    expected = model.expected(attraction[None], satisfaction[None])[0]
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(click_BK.mean(axis=0) - expected) < 4 * error + 1e-12).all()
    patterns = all_patterns(4)
    chance = np.exp(model.log_prob(*(np.broadcast_to(v, (16, 4)) for v in (attraction, satisfaction)), patterns))
    found = np.bincount(click_BK @ [8, 4, 2, 1], minlength=16) / draws
    assert (np.abs(found - chance) < 4.5 * np.sqrt(chance * (1 - chance) / draws) + 1e-12).all()


def test_values_by_hand():
    a, s = np.array([[0.5, 0.4, 0.2]]), np.array([[0.6, 0.5, 0.1]])
    np.testing.assert_allclose(PositionChoice.power(1.0, 3).expected(a, s), [[0.5, 0.2, 0.2 / 3]])
    np.testing.assert_allclose(CascadeChoice().expected(a, s), [[0.5, 0.5 * 0.4, 0.5 * 0.6 * 0.2]])
    # rank 1 is read with .8 (1 - .5 * .6) = .56, rank 2 then with .56 * .8 (1 - .4 * .5) = .3584
    np.testing.assert_allclose(DynamicBayesianChoice(0.8).expected(a, s), [[0.5, 0.224, 0.07168]])
    # odds 1, 2/3, 1/4 beside 1 for no click: 35/12 in all
    np.testing.assert_allclose(LogitChoice().expected(a, s), [[12 / 35, 8 / 35, 3 / 35]])


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_an_empty_place_is_never_clicked_and_changes_nothing(model):
    a, s = np.array([[0.5, 0.4, 0.3]]), np.array([[0.5, 0.4, 0.3]])
    padded_a, padded_s = np.pad(a, ((0, 0), (0, 1))), np.pad(s, ((0, 0), (0, 1)))
    padded = model.expected(padded_a, padded_s)
    np.testing.assert_allclose(padded[:, :3], model.expected(a, s))
    assert padded[0, 3] == 0
    uniforms = np.zeros((1, 4, 2))
    assert not model.sample(padded_a, padded_s, uniforms)[0, 3]


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_a_draw_depends_on_its_own_user_only(model):
    random = np.random.default_rng(5)
    a, s, u = random.random((50, 4)), random.random((50, 4)), random.random((50, 4, 2))
    together = model.sample(a, s, u)
    alone = np.concatenate([model.sample(a[b : b + 1], s[b : b + 1], u[b : b + 1]) for b in range(50)])
    np.testing.assert_array_equal(together, alone)


def test_single_precision_stays_single_precision():
    a = np.full((3, 4), 0.3, dtype=np.float32)
    for model in MODELS:
        assert model.expected(a, a).dtype == np.float32


def test_the_configuration_names_the_model():
    assert isinstance(make_choice(ChoiceSettings(), 10), IndependentChoice)
    position = make_choice(ChoiceSettings(model="position", position_bias=0.5), 4)
    np.testing.assert_allclose(position.examination_K, [1, 2**-0.5, 3**-0.5, 0.5])
    assert make_choice(ChoiceSettings(model="dynamic-bayesian", perseverance=0.3), 4).perseverance == 0.3
    assert isinstance(make_choice(ChoiceSettings(model="cascade"), 4), CascadeChoice)
    assert isinstance(make_choice(ChoiceSettings(model="logit"), 4), LogitChoice)
