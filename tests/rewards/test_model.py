from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from llmrec.config import RewardSettings
from llmrec.errors import ConfigError, DataError
from llmrec.rewards import ClickReward, ConversionReward, CustomReward, RewardFunction, TRLReward, combine
from llmrec.types import Feedback, Prediction, State

STATES = [State(user_id="a"), State(user_id="b")]
ITEMS = np.array([[0, 1], [2, -1]])


class Fixed:
    """P(click) = 0.1 (item + 1), P(conversion | click) = 0.5; two members whose deviations are 0.05 and 0.04."""

    def predict(self, states, items_BK):
        return Prediction((items_BK + 1) / 10, np.full(items_BK.shape, 0.5))

    def by_member(self, states, items_BK):
        found, there = self.predict(states, items_BK), items_BK >= 0
        sides = np.array([-1, 1])[:, None, None] / np.sqrt(2)  # deviation 1 of two as a sample
        joint = found.click_BK * found.conversion_BK
        return found.click_BK + 0.05 * sides * there, joint + 0.04 * sides * there


class NoEnsemble:
    def predict(self, states, items_BK):
        return Fixed().predict(states, items_BK)


def test_total_is_the_weighted_sum_of_named_terms() -> None:
    reward = RewardFunction(Fixed(), RewardSettings(click=1.0, conversion=3.0))(STATES, ITEMS)
    np.testing.assert_allclose(reward.terms["click"], [[0.1, 0.2], [0.3, 0.0]])
    np.testing.assert_allclose(reward.terms["conversion"], [[0.05, 0.1], [0.15, 0.0]])
    np.testing.assert_allclose(reward.total_BK, [[0.25, 0.5], [0.75, 0.0]])


def test_weights_can_switch_a_term_off() -> None:
    reward = RewardFunction(Fixed(), RewardSettings(click=0.0, conversion=1.0))(STATES, ITEMS)
    np.testing.assert_allclose(reward.total_BK, reward.terms["conversion"])


def test_pessimism_takes_the_members_deviation_off_each_draw() -> None:
    reward = RewardFunction(Fixed(), RewardSettings(pessimism=2.0))(STATES, ITEMS)
    np.testing.assert_allclose(reward.terms["click"], [[0.0, 0.1], [0.2, 0.0]], atol=1e-12)
    np.testing.assert_allclose(reward.terms["conversion"], [[-0.03, 0.02], [0.07, 0.0]], atol=1e-12)


def test_pessimism_about_a_slate_is_a_lower_bound_on_its_value() -> None:
    """Members agree on the slate's worth and not on which of its items has it: nothing is to be taken off."""

    class Divided:
        def predict(self, states, items_BK):
            return Prediction(np.array([[0.3, 0.3]]), np.array([[0.0, 0.0]]))

        def by_member(self, states, items_BK):
            return np.array([[[0.1, 0.5]], [[0.5, 0.1]]]), np.zeros((2, 1, 2))

    settings = RewardSettings(click=1.0, conversion=3.0, pessimism=1.0)
    whole = RewardFunction(Divided(), settings, slate=True)(STATES[:1], np.array([[0, 1]]))
    np.testing.assert_allclose(whole.total_BK, [[0.3, 0.3]])
    alone = RewardFunction(Divided(), settings)(STATES[:1], np.array([[0, 1]]))
    np.testing.assert_allclose(alone.total_BK, [[0.3 - 0.4 / np.sqrt(2)] * 2])


def test_drawn_rewards_are_common_to_equal_users_and_steps() -> None:
    model = RewardFunction(NoEnsemble(), RewardSettings(sampled=True), seed=4)
    users = [State(user_id=f"u{k}") for k in range(4000)]
    items = np.full((4000, 1), 3)
    first = model(users, items, step=0)
    assert set(np.unique(first.terms["click"])) == {0.0, 1.0}
    assert first.terms["click"].mean() == pytest.approx(0.4, abs=0.03)
    assert first.terms["conversion"].mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(model(users[5:9], items[5:9], step=0).total_BK, first.total_BK[5:9])
    assert (model(users, items, step=1).total_BK != first.total_BK).any()


def test_users_without_an_id_draw_apart_and_the_same_again() -> None:
    model = RewardFunction(NoEnsemble(), RewardSettings(click=1.0, conversion=0.0, sampled=True), seed=4)
    items = np.full((4000, 1), 3)
    found = model([State()] * 4000, items)
    assert found.total_BK.mean() == pytest.approx(0.4, abs=0.03)  # of one stream all would be 0, or all 1
    np.testing.assert_array_equal(model([State()] * 4000, items).total_BK, found.total_BK)


def test_own_terms_join_by_name() -> None:
    novelty = CustomReward("novelty", 0.5, lambda state, items: [float(i == 1) for i in items])
    reward = RewardFunction(Fixed(), RewardSettings(click=1.0, conversion=0.0), terms=[novelty])(STATES, ITEMS)
    np.testing.assert_array_equal(reward.terms["novelty"], [[0, 1], [0, 0]])
    np.testing.assert_allclose(reward.total_BK, [[0.1, 0.7], [0.3, 0.0]])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1.0], "returned 1 values for 2 items"),
        ([1.0, float("nan")], "returned nan"),
        (["1", "2"], "returned '1'"),
        ("12", "returned str"),
        (3.0, "returned float"),
        (None, "returned NoneType"),
        ([None, 1.0], "returned None"),
    ],
)
def test_own_terms_that_return_nonsense_are_named(given: object, words: str) -> None:
    model = RewardFunction(Fixed(), RewardSettings(), terms=[CustomReward("mine", 1.0, lambda state, items: given)])
    with pytest.raises(DataError, match=f"Reward 'mine' {words}"):
        model(STATES, ITEMS)


def test_numpy_values_are_welcome() -> None:
    mine = CustomReward("mine", 1.0, lambda state, items: np.array(items, dtype=np.float32))
    np.testing.assert_array_equal(
        RewardFunction(Fixed(), RewardSettings(), terms=[mine])(STATES, ITEMS).terms["mine"], [[0, 1], [2, 0]]
    )


def test_settings_that_cannot_be_met() -> None:
    with pytest.raises(ConfigError, match=r"simulator\.members"):
        RewardFunction(NoEnsemble(), RewardSettings(pessimism=1.0))
    with pytest.raises(ConfigError, match="0 or more"):
        RewardFunction(Fixed(), RewardSettings(pessimism=-1.0))
    with pytest.raises(ConfigError, match="exclude each other"):
        RewardFunction(Fixed(), RewardSettings(pessimism=1.0, sampled=True))
    with pytest.raises(ConfigError, match="share a name"):
        RewardFunction(Fixed(), RewardSettings(), terms=[ClickReward()])


def test_a_model_of_another_shape_is_refused() -> None:
    class Wrong:
        def predict(self, states, items_BK):
            return Prediction(np.zeros((1, 1)), np.zeros((1, 1)))

    with pytest.raises(DataError, match=r"shape \(1, 1\)"):
        RewardFunction(Wrong(), RewardSettings())(STATES, ITEMS)


def test_terms_are_small_and_picklable() -> None:
    for term in (ClickReward(2.0), ConversionReward()):
        assert pickle.loads(pickle.dumps(term)) == term
    feedback = Feedback(np.ones((2, 2)), np.zeros((2, 2)))
    assert combine([ClickReward(2.0)], STATES, ITEMS, feedback).total_BK.tolist() == [[2, 2], [2, 0]]


def test_trl_signature() -> None:
    reward = TRLReward(RewardFunction(Fixed(), RewardSettings()), STATES, lambda ids: ids[0], name="behaviour")
    assert reward.__name__ == "behaviour"
    found = reward(
        prompts=["p"] * 3,
        completions=["c"] * 3,
        completion_ids=[[0, 9], [1, 9], [-1]],
        state=[0, 0, 1],
        trainer_state=SimpleNamespace(global_step=3),
    )
    assert found == pytest.approx([0.25, 0.5, 0.0])
    assert all(type(value) is float for value in found)
    assert reward.last_terms["click"].tolist() == pytest.approx([0.1, 0.2, 0.0])
    with pytest.raises(DataError, match="needs the field 'state'"):
        reward(["p"], ["c"], [[0]])
    with pytest.raises(DataError, match="needs the field 'state'"):
        reward(["p"], ["c"], [[0]], state=[0, 1])
