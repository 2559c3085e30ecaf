"""The line that asks for weights: written and read again, and what it refuses."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config.reward import REWARD_TERMS
from llmrec.errors import RequestError
from llmrec.text.objectives import (
    LEVELS,
    OBJECTIVES,
    drawn_levels,
    drawn_preferences,
    heard,
    preference,
    preferring,
)
from llmrec.types import State

NAMES = ("click", "conversion", *REWARD_TERMS, "my_own_reward")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_line_is_heard_as_it_was_written(language):
    lines = set()
    for levels in itertools.product(range(LEVELS), repeat=len(OBJECTIVES)):
        asked = dict(zip(OBJECTIVES, levels, strict=True))
        line = preference(asked, language)
        assert heard(State(context=line), OBJECTIVES) == (State(), asked)
        lines.add(line)
    assert len(lines) == LEVELS ** len(OBJECTIVES)


def test_what_is_not_asked_for_is_not_named():
    assert preference({"revenue": 2}) == "prefer revenue revenue"
    assert preference({"diversity": 1, "click": 3, "revenue": 0}) == "prefer clicks clicks clicks, variety"
    assert preference({}) == "prefer nothing"
    assert preference({}, "zh") == "偏好：无"
    for levels, said in (({"click": 4}, "0 to 3"), ({"click": 1.5}, "whole number"), ({"clicks": 1}, "no objective")):
        with pytest.raises(RequestError, match=said):
            preference(levels)
    with pytest.raises(RequestError, match="in 'fr'"):
        preference({}, "fr")


@given(data=st.data(), request=st.text(max_size=30), language=st.sampled_from(["en", "zh"]))
def test_a_state_is_heard_as_it_asked_and_keeps_its_request(data, request, language):
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    levels = {name: data.draw(st.integers(0, LEVELS - 1)) for name in names}
    state = State(user_id="u", profile="Likes tea.", context=request)
    asking = preferring(state, levels, language, names)
    assert heard(asking, names) == (state, levels)
    assert asking.profile == state.profile
    assert asking.context.endswith(request)


def test_only_a_line_at_the_beginning_and_of_these_names_is_heard():
    names = ("click", "revenue")
    four = "prefer clicks clicks clicks clicks"
    for said in (
        *("", "a gift", "a gift. prefer clicks", four, "prefer clicks 3", "prefer revenue, clicks"),
        *("prefer clicks, clicks", "prefer tea", "prefer ", "prefer clicks, tea. A gift", "偏好：clicks"),
    ):
        state = State(context=said)
        assert heard(state, names) == (state, None)


def test_half_of_what_is_drawn_asks_for_one_alone_and_the_other_half_for_anything():
    level_BO = drawn_levels(40_000, 3, np.random.default_rng(0))
    alone_B = (np.sort(level_BO, axis=1) == [0, 0, LEVELS - 1]).all(1)
    # of the drawn half 3 of 64 are so by chance
    assert alone_B.mean() == pytest.approx(0.5 + 0.5 * 3 / 64, abs=0.01)
    assert level_BO.mean(0) == pytest.approx([0.5 * 1 + 0.5 * 1.5] * 3, abs=0.03)
    states = [State(user_id=str(n)) for n in range(2000)]
    told = drawn_preferences(states, OBJECTIVES, "zh", np.random.default_rng(1))
    assert [state.user_id for state in told] == [state.user_id for state in states]
    lines = [state for state in told if state.context]
    assert len(lines) == pytest.approx(1000, abs=100)
    assert all(heard(state, OBJECTIVES)[1] is not None for state in lines)
    assert told == drawn_preferences(states, OBJECTIVES, "zh", np.random.default_rng(1))
