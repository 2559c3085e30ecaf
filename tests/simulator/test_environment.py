from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llmrec.errors import DataError
from llmrec.simulator.feedback import common_uniforms, expected_feedback, lucks, simulate_feedback
from llmrec.types import Interaction, Prediction, State

USERS = [f"u{k}" for k in range(2000)]


def test_uniforms_depend_on_seed_user_turn_and_place_alone() -> None:
    whole = common_uniforms(1, USERS, 0, 5)
    assert whole.shape == (2000, 5, 2)
    np.testing.assert_array_equal(common_uniforms(1, USERS[7:9], 0, 3), whole[7:9, :3])
    turns = common_uniforms(1, ["u7", "u7"], [3, 0], 5)
    np.testing.assert_array_equal(turns[1], whole[7])
    for other in (common_uniforms(2, USERS, 0, 5), common_uniforms(1, USERS, 1, 5)):
        assert (other != whole).all()


def test_uniforms_are_uniform_and_independent() -> None:
    draws = common_uniforms(3, USERS, 0, 6).reshape(len(USERS), -1)
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 0.001
    correlation = np.corrcoef(np.concatenate([draws, common_uniforms(3, USERS, 1, 6).reshape(len(USERS), -1)], 1).T)
    assert np.abs(correlation - np.eye(24)).max() < 5 / np.sqrt(len(USERS))


def test_drawn_feedback_has_the_expected_mean() -> None:
    prediction = Prediction(np.full((2000, 10), 0.3), np.full((2000, 10), 0.4))
    drawn = simulate_feedback(prediction, common_uniforms(0, USERS, 0, 10))
    expected = expected_feedback(prediction)
    assert drawn.click_BK.mean() == pytest.approx(expected.click_BK.mean(), abs=0.012)
    assert drawn.conversion_BK.mean() == pytest.approx(0.12, abs=0.01)
    assert (drawn.conversion_BK <= drawn.click_BK).all()
    assert set(np.unique(drawn.click_BK)) == {0.0, 1.0}


def test_certain_and_impossible_events() -> None:
    uniforms = common_uniforms(0, USERS, 0, 1)
    sure = simulate_feedback(Prediction(np.ones((2000, 1)), np.zeros((2000, 1))), uniforms)
    assert sure.click_BK.all()
    assert not sure.conversion_BK.any()


def test_more_probable_never_clicks_less() -> None:
    uniforms = common_uniforms(0, USERS, 0, 4)
    less, more = (
        simulate_feedback(Prediction(np.full((2000, 4), p), np.full((2000, 4), 0.5)), uniforms) for p in (0.2, 0.3)
    )
    assert (less.click_BK <= more.click_BK).all()


def test_bad_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match=r"click = 1\.2 at \[0, 1\]"):
        expected_feedback(Prediction(np.array([[0.1, 1.2]]), np.zeros((1, 2))))
    with pytest.raises(DataError, match="conversion = nan"):
        simulate_feedback(Prediction(np.zeros((1, 1)), np.full((1, 1), np.nan)), np.zeros((1, 1, 2)))
    with pytest.raises(DataError, match="must be equal"):
        expected_feedback(Prediction(np.zeros((1, 2)), np.zeros((1, 1))))


def test_people_without_an_id_have_luck_of_their_own() -> None:
    drawn = common_uniforms(1, [None, "u7", None, None], 0, 3)
    assert len(np.unique(drawn)) == drawn.size
    np.testing.assert_array_equal(drawn, common_uniforms(1, [None, "u7", None, None], 0, 3))
    np.testing.assert_array_equal(drawn[1], common_uniforms(1, ["u7"], 0, 3)[0])


def test_luck_without_an_id_belongs_to_what_is_known_of_somebody() -> None:
    new, other = State(), State(context="tea", history=(Interaction(3, "click", 5),))
    found = common_uniforms(1, lucks([new, other, State("u7"), new]), 0, 2)
    assert len(np.unique(found)) == found.size  # two newcomers of whom the same is known differ, too
    alone = common_uniforms(1, lucks([State(context="tea", history=(Interaction(3, "click", 5),))]), 0, 2)
    np.testing.assert_array_equal(alone[0], found[1])  # the same in any batch
    np.testing.assert_array_equal(common_uniforms(1, lucks([new, new]), 0, 2), found[[0, 3]])
    assert lucks([State("u7")]) == ["u7"]


def test_anonymous_clicks_are_as_many_as_expected() -> None:
    prediction = Prediction(np.full((4000, 2), 0.3), np.full((4000, 2), 0.4))
    drawn = simulate_feedback(prediction, common_uniforms(0, lucks([State()] * 4000), 0, 2))
    assert drawn.click_BK.mean() == pytest.approx(0.3, abs=0.021)  # four standard deviations; one stream gives 0 or 1
