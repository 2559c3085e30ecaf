from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.simulator.behaviour import fit_behaviour, load_behaviour
from llmrec.simulator.ensemble import Ensemble, fit_ensemble, fit_reward_and_judge, load_ensemble
from llmrec.simulator.log import latest, of_users, read_log
from llmrec.simulator.objectives import Labels, Objective
from llmrec.types import Interaction, Item, State
from tests.simulator.conftest import Fitted
from tests.simulator.planted import Impressions

SHORT = SimulatorSettings(epochs=1, batch_size=512, members=2)


def _small(fitted: Fitted) -> Impressions:
    return fitted.world.log(np.arange(80), 10, 7)


def test_loss_is_the_likelihood_of_the_three_outcomes() -> None:
    # one impression each of: nothing, a click, a click that converts; pCTR = 1/2, pCVR = 1/4
    logits = torch.tensor([[0.0, -np.log(3.0)]] * 3, dtype=torch.float64)
    click, conversion = torch.tensor([0.0, 1.0, 1.0]).double(), torch.tensor([0.0, 0.0, 1.0]).double()
    by_hand = -(np.log(1 / 2) + np.log(1 / 2 * 3 / 4) + np.log(1 / 2 * 1 / 4)) / 3
    assert float(Objective()(logits, Labels(click, conversion))) == pytest.approx(by_hand, rel=1e-9)


def test_outcomes_of_an_impression_sum_to_1() -> None:
    logits = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    for row in logits[:, None]:
        outcomes = [torch.exp(-Objective()(row, Labels(c, v))) for c, v in ((zero, zero), (one, zero), (one, one))]
        assert float(sum(outcomes)) == pytest.approx(1.0)
        assert float(outcomes[2]) == pytest.approx(float(torch.sigmoid(row).prod()))


@pytest.mark.parametrize("name", ["factorised", "crossed"])
def test_predict_is_predict_all_at_the_items_asked_for(fitted: Fitted, name: str) -> None:
    model, states = fitted.models[name], fitted.held_out.states[:9]
    everything = model.predict_all(states)
    items = np.random.default_rng(0).integers(0, 24, (9, 5))
    items[3, 2] = -1
    some = model.predict(states, items)
    real = items >= 0
    at = np.take_along_axis(everything.click_BK, items.clip(min=0), axis=1)
    np.testing.assert_allclose(some.click_BK[real], at[real], atol=1e-5)
    at = np.take_along_axis(everything.conversion_BK, items.clip(min=0), axis=1)
    np.testing.assert_allclose(some.conversion_BK[real], at[real], atol=1e-5)
    assert some.click_BK[3, 2] == some.conversion_BK[3, 2] == 0


@pytest.mark.parametrize("name", ["factorised", "crossed"])
def test_saved_and_loaded_is_equal(fitted: Fitted, name: str, tmp_path) -> None:
    model, states = fitted.models[name], fitted.held_out.states
    model.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["behaviour.json", "behaviour.safetensors"]
    again = load_behaviour(tmp_path / "model", fitted.world.items)
    for one, other in zip(
        dataclasses.astuple(model.predict_all(states)), dataclasses.astuple(again.predict_all(states)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert again.facts == model.facts


@pytest.mark.parametrize("name", ["factorised", "crossed"])
def test_same_seed_same_model_other_seed_other_model(fitted: Fitted, name: str) -> None:
    states = fitted.held_out.states
    one, same, other = (
        fit_behaviour(fitted.world.items, _small(fitted), architecture=name, seed=seed, settings=SHORT).predict_all(
            states
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.click_BK, same.click_BK)
    np.testing.assert_array_equal(one.conversion_BK, same.conversion_BK)
    assert np.abs(one.click_BK - other.click_BK).max() > 1e-4


def test_global_random_state_is_left_alone(fitted: Fitted) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_behaviour(fitted.world.items, _small(fitted), seed=1, settings=SHORT)
    assert torch.equal(torch.rand(3), expected)


def test_cold_start_and_empty_batches_are_answered(fitted: Fitted) -> None:
    for model in fitted.models.values():
        found = model.predict_all([State()])
        assert found.click_BK.shape == (1, 24)
        assert ((found.click_BK > 0) & (found.click_BK < 1)).all()
        assert model.predict_all([]).click_BK.shape == (0, 24)
        assert model.predict([], np.zeros((0, 3), dtype=np.int64)).click_BK.shape == (0, 3)


def test_ensemble_is_the_mean_of_clicks_and_of_joint_events(fitted: Fitted, tmp_path) -> None:
    models = list(fitted.models.values())
    ensemble, states = Ensemble(models), fitted.held_out.states[:5]
    items = np.arange(10).reshape(5, 2)
    parts = [model.predict(states, items) for model in models]
    found = ensemble.predict(states, items)
    np.testing.assert_allclose(found.click_BK, (parts[0].click_BK + parts[1].click_BK) / 2)
    joint = [part.click_BK * part.conversion_BK for part in parts]
    np.testing.assert_allclose(found.click_BK * found.conversion_BK, (joint[0] + joint[1]) / 2)
    spread = ensemble.disagreement(states, items)
    np.testing.assert_allclose(spread.click_BK, np.abs(parts[0].click_BK - parts[1].click_BK) / 2**0.5)
    np.testing.assert_allclose(spread.joint_BK, np.abs(joint[0] - joint[1]) / 2**0.5)
    ensemble.save(tmp_path / "ensemble")
    again = load_ensemble(tmp_path / "ensemble", fitted.world.items)
    np.testing.assert_array_equal(again.predict_all(states).click_BK, ensemble.predict_all(states).click_BK)


def test_members_differ_and_their_number_is_set(fitted: Fitted) -> None:
    ensemble = fit_ensemble(fitted.world.items, _small(fitted), seed=1, settings=SHORT)
    assert len(ensemble.members) == 2
    spread = ensemble.disagreement(fitted.held_out.states, np.zeros((100, 1), dtype=np.int64))
    assert spread.click_BK.mean() > 0


def test_reward_and_judge_share_no_user(fitted: Fitted) -> None:
    log = _small(fitted)
    reward, judge = fit_reward_and_judge(fitted.world.items, log, seed=1, settings=SHORT)
    counts = [reward.members[0].facts["users"], judge.facts["users"], judge.facts["calibration_users"]]
    assert judge.architecture != reward.members[0].architecture
    assert sum(counts) <= 80
    assert min(counts) > 15


def test_parts_by_user_and_by_time(fitted: Fitted) -> None:
    log = _small(fitted)
    mine = of_users(log, {"u3", "u4"})
    assert [state.user_id for state in mine.states] == ["u3", "u4"]
    np.testing.assert_array_equal(mine.item_M, log.item_M[30:50])
    np.testing.assert_array_equal(mine.state_row_M, np.repeat([0, 1], 10))
    late = latest(read_log(log, 24), log.states, 0.1)
    assert log.states[log.state_row_M[late].min()].time > log.states[log.state_row_M[~late].max()].time
    assert 0.05 < late.mean() < 0.15
    same_time = [dataclasses.replace(state, time=5) for state in log.states]
    late = latest(read_log(log, 24), same_time, 0.1)
    assert 0 < late.mean() < 0.2


def _with(log: Impressions, **columns: object) -> Impressions:
    return dataclasses.replace(log, **columns)  # type: ignore[arg-type]


def test_bad_input_is_one_clear_sentence(fitted: Fitted) -> None:
    log, items = _small(fitted), fitted.world.items
    ones, nan = np.ones(len(log.item_M)), np.full(len(log.item_M), np.nan)
    cases = [
        (items, _with(log, click_M=ones), "Every impression is clicked"),
        (items, _with(log, click_M=0 * ones, conversion_M=0 * ones), "No impression is clicked"),
        (items, of_users(log, {"u1"}), "of one user only"),
        (items[:1], _with(log, item_M=0 * log.item_M), "one item"),
        (items, _with(log, click_M=nan), "Impression 0 has click_M = nan"),
        (items, _with(log, click_M=0.5 * ones), "Impression 0 has click_M = 0.5"),
        (items, _with(log, item_M=log.item_M + 24), "it must be one of 0..23"),
        (items, _with(log, conversion_M=ones), "converts without a click"),
        (items, _with(log, click_M=ones[:-1]), "align them"),
        ([*items[:-1], Item("x", "t", price=float("nan"))], log, "Item 'x' has the price nan"),
        (items, of_users(log, set()), "no impression"),
    ]
    for catalogue, impressions, words in cases:
        with pytest.raises(DataError) as caught:
            fit_behaviour(catalogue, impressions, seed=0, settings=SHORT)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="factorised, crossed"):
        fit_behaviour(items, log, architecture="forest", seed=0, settings=SHORT)


def test_bad_requests_are_one_clear_sentence(fitted: Fitted, tmp_path) -> None:
    model, state = fitted.models["factorised"], State(user_id="u")
    for items, words in (([[24]], "outside"), ([[0], [1]], "do not fit 1 states"), ([[0.5]], "whole numbers")):
        with pytest.raises(DataError, match=words):
            model.predict([state], np.array(items))
    strange = State(user_id="u", history=(Interaction(99, "click", 1),))
    with pytest.raises(DataError, match="user 'u' holds item index 99"):
        model.predict_all([strange])
    with pytest.raises(DataError, match="user 'u'"):
        model.predict_all([State(user_id="u", history=(Interaction(1, "rating", 1, float("nan")),))])
    with pytest.raises(RunError, match="does not exist"):
        load_behaviour(tmp_path, fitted.world.items)
    model.save(tmp_path / "model")
    (tmp_path / "model" / "behaviour.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="cannot be read"):
        load_behaviour(tmp_path / "model", fitted.world.items)
    with pytest.raises(RunError, match="ensemble"):
        load_ensemble(tmp_path / "model", fitted.world.items)
