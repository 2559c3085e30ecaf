"""Whether a policy follows what a state asks for: a ranker that does, one that does not, and the states of trainings."""

from types import SimpleNamespace

import numpy as np
import pytest

from llmrec.config import RunConfig
from llmrec.pipeline.stated import followed
from llmrec.pipeline.wording import told_preferences
from llmrec.rewards import RewardFunction
from llmrec.text.objectives import heard
from llmrec.types import Prediction, Slate, State

STATED = ("click", "conversion")
DATASET = SimpleNamespace(n_items=12, manifest=SimpleNamespace(language="en"), item_list=[])


class Apart:
    """Item n >= 1 is clicked with 0.1 n, and clicked and converted with (11 - n) / 100."""

    def predict(self, states, items_BK):
        assert not any(heard(state, STATED)[1] for state in states)
        return Prediction(items_BK / 10, (11 - items_BK) / (10 * items_BK))


class Ranker:
    """Shows high items where clicks are asked for, low ones where conversions are, or always the same."""

    def __init__(self, hears):
        self.hears = hears

    def recommend(self, states, k, *, seen=None):
        found = []
        for state in states:
            levels = heard(state, STATED)[1]
            first = 1 + levels["click"] + 3 - levels["conversion"] if self.hears else 4
            found.append(Slate(np.arange(first, first + k), np.zeros(k)))
        return found


def config(**more):
    own = {"reward.stated": list(STATED), "evaluation.k": [2], "text.language": "en"}
    return RunConfig.read(None, own | more)


def asked(ranker):
    reward = RewardFunction(Apart(), config().reward)
    states = [State(user_id=str(n)) for n in range(60)]
    return followed(config(), DATASET, lambda: reward, ranker, states, [np.array([], dtype=int)] * 60)


def test_one_that_follows_is_told_from_one_that_does_not():
    found = asked(Ranker(hears=True))
    assert found.rises == (True, True)
    assert all(gap.low > 0 for gap in found.whole)
    # three items further up are each clicked 0.3 oftener, whatever else is asked for
    assert found.whole[0].mean == pytest.approx(0.3)
    assert np.diff(found.mean_OL[0]) == pytest.approx([0.1] * 3)
    assert "2 of 2 are shown to follow" in found.sentence
    assert found.facts()["click"]["rises"] is True
    deaf = asked(Ranker(hears=False))
    assert deaf.rises == (False, False)
    assert [gap.mean for gap in deaf.whole] == [0.0, 0.0]
    assert "0 of 2 are shown to follow" in deaf.sentence


def test_nothing_is_asked_where_nothing_is_stated():
    plain = RunConfig.read(None, {})
    assert followed(plain, DATASET, lambda: None, Ranker(hears=True), [], []) is None
    states = [State(user_id="a")]
    assert told_preferences(plain, DATASET, states, "sft") is states


def test_stages_ask_for_weights_of_their_own_draws():
    states = [State(user_id=str(n)) for n in range(400)]
    told = {stage: told_preferences(config(**{"text.language": "zh"}), DATASET, states, stage) for stage in "ab"}
    assert told["a"] != told["b"]
    for found in told.values():
        asks = [state.context for state in found if state.context]
        assert len(asks) == pytest.approx(200, abs=50)
        assert all(line.startswith("偏好：") for line in asks)
