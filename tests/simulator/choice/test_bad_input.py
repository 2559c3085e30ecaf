"""Input that cannot be used is refused in one sentence that names it and the mend."""

import numpy as np
import pytest

from llmrec.config import ChoiceSettings
from llmrec.errors import ConfigError, DataError
from llmrec.simulator.choice import (
    FITTED,
    DynamicBayesianChoice,
    IndependentChoice,
    LogitChoice,
    PositionChoice,
    SlateLog,
    fit_choice,
    fit_settings,
    make_choice,
)

ITEM = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]])
CLICK = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=bool)


def refused(error, words, call):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["position", "dynamic-bayesian"])
def test_a_log_without_positions_is_refused_by_models_of_ranks(name):
    log = SlateLog.of_impressions([0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1])
    refused(DataError, ["positions", "independent"], lambda: fit_choice(name, log, seed=0))


def test_a_log_without_positions_has_no_places_to_fit():
    log = SlateLog.of_impressions([0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1])
    model = fit_choice("logit", log, seed=0)
    assert model.attraction is not None
    assert model.offset_K is None
    settings = ChoiceSettings(model="logit")
    refused(DataError, ["0 places", "choice.fitted"], lambda: fit_settings(settings, log, 2, seed=0))
    for name in ("independent", "cascade"):
        refused(ConfigError, [name, "position"], lambda name=name: fit_choice(name, log, seed=0))


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize(
    ("log", "words"),
    [
        (SlateLog(ITEM[:, :1], np.ones((3, 1), bool)), ["Every impression", "clicked"]),
        (SlateLog(ITEM, np.zeros((3, 3), bool)), ["No impression", "clicked"]),
        (SlateLog(np.zeros((2, 1), int), np.array([[True], [False]])), ["one item"]),
        (SlateLog(ITEM, CLICK, user_S=np.array(["u", "u", "u"])), ["one user"]),
        (SlateLog(np.full((2, 2), -1), np.zeros((2, 2), bool)), ["no impression"]),
    ],
    ids=["all positive", "all negative", "one item", "one user", "empty"],
)
def test_logs_that_teach_nothing(name, log, words):
    refused(DataError, words, lambda: fit_choice(name, log, seed=0))


def test_models_of_one_click_refuse_two():
    log = SlateLog(ITEM, np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=bool))
    refused(DataError, ["Slate 1", "2 clicks", "dynamic-bayesian"], lambda: fit_choice("logit", log, seed=0))


def test_readers_from_the_top_refuse_gaps():
    log = SlateLog(np.array([[0, 1, 2], [0, -1, 2]]), np.array([[1, 0, 0], [0, 0, 0]], dtype=bool))
    refused(DataError, ["Slate 1", "empty place"], lambda: fit_choice("dynamic-bayesian", log, seed=0))
    assert fit_choice("position", log, seed=0).attraction is not None


def test_logs_that_do_not_fit():
    refused(DataError, ["shape"], lambda: SlateLog(ITEM, CLICK[:2]))
    refused(DataError, ["3 slates", "1 users"], lambda: SlateLog(ITEM, CLICK, user_S=np.array(["u"])))
    refused(DataError, ["Slate 0", "empty place"], lambda: SlateLog(np.full((3, 3), -1), CLICK))
    refused(DataError, ["-5", "empty place"], lambda: SlateLog(ITEM - 5, CLICK & False))
    refused(DataError, ["true or false", "int64"], lambda: SlateLog(ITEM, CLICK.astype(np.int64)))
    refused(DataError, ["no slates"], lambda: SlateLog(ITEM[0], CLICK[0]))
    bad = np.full((3, 3), 0.5)
    bad[1, 2] = 1.5
    refused(DataError, ["attraction", "[1, 2]", "1.5"], lambda: SlateLog(ITEM, CLICK, attraction_SK=bad))
    refused(DataError, ["Impression 1", "0.5"], lambda: SlateLog.of_impressions([0, 0], [1, 2], [0, 0.5], [0, 1]))
    refused(DataError, ["Impression 1", "-1"], lambda: SlateLog.of_impressions([0, 0], [1, 2], [0, 1], [0, -1]))
    refused(DataError, ["Impression 1", "nan"], lambda: SlateLog.of_impressions([0, 0], [1, 2], [0, 1], [0, np.nan]))
    refused(
        DataError,
        ["Impression 2", "rank 0"],
        lambda: SlateLog.of_impressions([0, 1, 0], [1, 2, 3], [0, 1, 0], [0, 0, 0]),
    )


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan, np.inf])
def test_probabilities_outside_0_to_1(bad):
    good = np.full((2, 3), 0.5)
    wrong = good.copy()
    wrong[1, 2] = bad
    model = DynamicBayesianChoice(0.9)
    uniforms = np.zeros((2, 3, 2))
    refused(DataError, ["attraction", "[1, 2]"], lambda: model.expected(wrong, good))
    refused(DataError, ["attraction", "[1, 2]"], lambda: IndependentChoice().sample(wrong, good, uniforms))
    refused(DataError, ["satisfaction", "[1, 2]"], lambda: model.sample(good, wrong, uniforms))
    refused(DataError, ["perseverance"], lambda: DynamicBayesianChoice(bad))
    refused(DataError, ["examination", "[1]"], lambda: PositionChoice([1.0, bad]))


def test_models_that_do_not_fit_the_slate():
    good = np.full((2, 3), 0.5)
    refused(DataError, ["3 places", "2 ranks"], lambda: PositionChoice([1.0, 0.5]).expected(good, good))
    refused(DataError, ["3 places", "2 ranks"], lambda: LogitChoice([0.0, 0.5]).expected(good, good))
    refused(DataError, ["rank offsets"], lambda: LogitChoice([0.0, np.nan]))
    refused(DataError, ["Uniforms", "2 a place"], lambda: DynamicBayesianChoice(0.5).sample(good, good, good))
    refused(DataError, ["no attractions", "fit"], lambda: IndependentChoice().log_likelihood(SlateLog(ITEM, CLICK)))
    refused(ConfigError, ["'cascading'", "position"], lambda: fit_choice("cascading", SlateLog(ITEM, CLICK), seed=0))
    settings = ChoiceSettings(model="position", position_bias=-1.0)
    refused(DataError, ["position bias", "-1"], lambda: make_choice(settings, 3))
    short = fit_settings(ChoiceSettings(model="position"), SlateLog(ITEM, CLICK), 3, seed=0)
    assert len(short.by_rank) == 3
    refused(DataError, ["3 places", "not of 4"], lambda: fit_settings(short, SlateLog(ITEM, CLICK), 4, seed=0))
