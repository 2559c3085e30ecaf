"""The judge's heads against complete refits, what they correct, and who is in which share of the users."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, RunError
from llmrec.simulator.behaviour import fit_behaviour
from llmrec.simulator.ensemble import check_simulator, shared_out
from llmrec.simulator.heads import FEATURE, ITEM, HeadRows, fit_head, resampled_heads, user_draws
from llmrec.simulator.judge import Judge, fit_judge, load_judge, with_heads
from llmrec.simulator.log import both_logs, of_users
from llmrec.types import Prediction
from tests.simulator.planted import planted

SETTINGS = SimulatorSettings(epochs=3, batch_size=256, learning_rate=2e-2, replicates=60)


def some_rows(users=40, each=25, items=6, seed=0):
    random = np.random.default_rng(seed)
    rows = users * each
    x_MP = np.concatenate([np.ones((rows, 1)), random.normal(size=(rows, 2))], axis=1)
    item_M, offset_M = random.integers(0, items, rows), random.normal(-1, 1, rows)
    truth_M = offset_M + 0.4 - 0.5 * x_MP[:, 1] + np.linspace(-1, 1, items)[item_M]
    return HeadRows(
        x_MP,
        offset_M,
        item_M,
        (random.random(rows) < expit(truth_M)).astype(float),
        random.uniform(0.5, 1.5, rows),
        np.repeat(np.arange(users), each),
        items,
        users,
    )


def brute(rows, times_U):
    """The maximum by a general optimiser, from the definition."""
    weight_M = rows.weight_M * times_U[rows.user_M]

    def loss(theta):
        g_P, d_N = theta[:3], theta[3:]
        z_M = rows.offset_M + rows.feature_MP @ g_P + d_N[rows.item_M]
        likelihood = (weight_M * (rows.outcome_M * z_M - np.log1p(np.exp(z_M)))).sum()
        return -likelihood + FEATURE * (g_P**2).sum() / 2 + ITEM * (d_N**2).sum() / 2

    return minimize(loss, np.zeros(3 + rows.items), method="BFGS", options={"gtol": 1e-6}).x


def test_a_head_is_the_maximum_of_its_likelihood_under_any_weights():
    rows = some_rows()
    for times_U in (np.ones(40), user_draws(40, 1, np.random.default_rng(3))[0]):
        found = fit_head(rows, times_U)
        theta = np.concatenate([found.feature_RP[0], found.item_RN[0]])
        np.testing.assert_allclose(theta, brute(rows, times_U), atol=2e-4)


def test_over_the_log_a_head_expects_what_was_seen_item_by_item():
    rows = some_rows()
    head = fit_head(rows)
    p_M = expit(rows.offset_M + rows.feature_MP @ head.feature_RP[0] + head.item_RN[0][rows.item_M])
    rest_M = rows.weight_M * (rows.outcome_M - p_M)
    np.testing.assert_allclose(rows.feature_MP.T @ rest_M, FEATURE * head.feature_RP[0], atol=1e-6)
    np.testing.assert_allclose(np.bincount(rows.item_M, rest_M), ITEM * head.item_RN[0], atol=1e-6)


def test_one_step_from_the_whole_stands_for_a_complete_refit_on_resampled_users():
    rows = some_rows(users=60)
    times_RU = user_draws(60, 80, np.random.default_rng(1))
    assert (times_RU.sum(axis=1) == 60).all()
    drawn = resampled_heads(rows, fit_head(rows), times_RU)
    exact = [fit_head(rows, times_U) for times_U in times_RU]
    for name in ("feature_RP", "item_RN"):
        refitted = np.concatenate([getattr(one, name) for one in exact])
        spread = refitted.std(axis=0)
        np.testing.assert_allclose(getattr(drawn, name).std(axis=0), spread, rtol=0.08)
        assert np.abs(getattr(drawn, name) - refitted).mean() < 0.12 * spread.mean()


def test_samples_are_taken_in_pieces_where_memory_is_short(monkeypatch):
    rows = some_rows()
    times_RU, head = user_draws(40, 7, np.random.default_rng(1)), fit_head(rows)
    whole = resampled_heads(rows, head, times_RU)
    monkeypatch.setattr("llmrec.simulator.heads.CELLS", 60)
    np.testing.assert_allclose(resampled_heads(rows, head, times_RU).item_RN, whole.item_RN, atol=1e-12)


@pytest.fixture(scope="module")
def judged():
    world = planted(users=120)
    log, slice_ = world.log(np.arange(60), 20, 1), world.log(np.arange(60, 120), 20, 2)
    model = fit_behaviour(world.items, log, architecture="logistic", seed=0, settings=SETTINGS)
    return world, model, with_heads(model, slice_, seed=0, settings=SETTINGS), slice_


def test_a_judge_answers_as_its_heads_say_and_is_the_same_when_loaded(judged, tmp_path):
    world, _, judge, _ = judged
    states, items = world.states[:7], np.tile(np.array([[3, 0, -1]]), (7, 1))
    found, drawn = judge.with_replicates(states, items)
    plain = judge.predict(states, items)
    for name in ("click_BK", "conversion_BK"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(found, name))
    assert drawn.click_RBK.shape == drawn.joint_RBK.shape == (60, 7, 3)
    assert not drawn.click_RBK[..., 2].any()
    assert not found.click_BK[:, 2].any()
    assert (drawn.joint_RBK <= drawn.click_RBK).all()
    whole = judge.predict_all(states)
    np.testing.assert_allclose(whole.click_BK[:, [3, 0]], found.click_BK[:, :2], rtol=1e-5)
    # replicates lie around the judge
    np.testing.assert_allclose(drawn.click_RBK.mean(axis=0), found.click_BK, atol=0.05)
    assert (drawn.click_RBK.std(axis=0)[:, :2] > 0.002).all()
    judge.save(tmp_path / "judge")
    again = load_judge(tmp_path / "judge", world.items)
    np.testing.assert_array_equal(again.predict(states, items).click_BK, found.click_BK)
    np.testing.assert_array_equal(again.with_replicates(states, items)[1].joint_RBK, drawn.joint_RBK)
    assert again.facts["calibration_users"] == 60


def test_a_model_without_heads_is_no_judge(judged, tmp_path):
    world, model, _, _ = judged
    model.save(tmp_path / "model")
    with pytest.raises(RunError, match="without a judge's heads"):
        load_judge(tmp_path / "model", world.items)


def test_what_the_network_believes_wrongly_of_items_is_corrected_on_the_slice(judged):
    """A network that expects far too few clicks: over the slice each item is expected to be clicked as it was."""
    _, model, _, slice_ = judged

    class Shifted(type(model)):
        pass

    wrong = Shifted(model.architecture, model.space, model.net, model.calibrators, dict(model.facts))
    wrong.calibrators = (lambda logit: expit(logit - 2.0), model.calibrators[1])
    judge = with_heads(wrong, slice_, seed=0, settings=SETTINGS)
    states = list(slice_.states)
    found = judge.predict_all(states).click_BK[slice_.state_row_M, slice_.item_M]
    plain = wrong.predict_all(states).click_BK[slice_.state_row_M, slice_.item_M]
    seen = np.bincount(slice_.item_M, slice_.click_M) / np.bincount(slice_.item_M)
    for p_M, bound in ((found, 0.03), (plain, None)):
        expected = np.bincount(slice_.item_M, p_M) / np.bincount(slice_.item_M)
        if bound is None:
            assert np.abs(expected - seen).max() > 0.1
        else:
            assert np.abs(expected - seen).max() < bound


def test_clicks_lost_to_places_are_not_taken_for_dislike():
    """Half the clicks of the second place are lost; the fit knows it, and the slice is read with it, too."""
    world = planted(users=160)
    random = np.random.default_rng(5)
    look_K = np.array([1.0, 0.5])

    def placed(users, seed):
        log = world.log(users, 20, seed)
        position_M = random.integers(0, 2, len(log.item_M)).astype(float)
        seen_M = random.random(len(position_M)) < look_K[position_M.astype(int)]
        return dataclasses.replace(
            both_logs(log, None),
            click_M=log.click_M * seen_M,
            conversion_M=log.conversion_M * seen_M,
            position_M=position_M,
        )

    settings = dataclasses.replace(SETTINGS, correction="position", epochs=6)
    one, two = placed(np.arange(80), 1), placed(np.arange(80, 160), 2)
    judge = fit_judge(world.items, one, two, architecture="logistic", seed=0, settings=settings)
    assert judge.examination_K is not None
    whole = world.log(np.arange(80, 160), 20, 2)  # the same slates with all clicks
    states = list(whole.states)
    found = judge.predict_all(states).click_BK[whole.state_row_M, whole.item_M]
    assert found.mean() == pytest.approx(whole.click_M.mean(), abs=0.04)
    assert two.click_M.mean() < whole.click_M.mean() - 0.05


def test_whom_the_judge_is_corrected_on_it_was_not_fitted_on_and_nobody_else_either():
    world = planted(users=60)
    log = world.log(np.arange(60), 5, 1)
    left_out = {str(state.user_id) for state in log.states[:12]}
    shares = shared_out(log, None, SETTINGS, 0, left_out)
    parts = [{s.user_id for s in part.states} for part in (shares.reward[0], shares.judge[0], shares.calibration)]
    assert not any(a & b for n, a in enumerate(parts) for b in parts[:n])
    assert not any(part & left_out for part in parts)
    assert len(set().union(*parts)) == 48
    assert len(parts[2]) == 12
    with pytest.raises(ConfigError, match="calibration_user_share"):
        check_simulator(dataclasses.replace(SETTINGS, calibration_user_share=1.0))


def test_two_logs_are_one_after_the_other():
    world = planted(users=20)
    one, two = (of_users(world.log(np.arange(20), 5, seed), {f"u{n}" for n in range(20)}) for seed in (1, 2))
    found = both_logs(one, two)
    assert len(found.states) == len(one.states) + len(two.states)
    np.testing.assert_array_equal(found.item_M, np.concatenate([one.item_M, two.item_M]))
    first = len(one.item_M)
    assert [found.states[r] for r in found.state_row_M[first:]] == [two.states[r] for r in two.state_row_M]
    assert found.value_M is None


@pytest.mark.slow
def test_the_spread_of_the_judge_is_that_of_complete_refits_on_other_samples():
    """A gain of one slate over another: network and heads fitted on users and feedback drawn anew, or heads alone."""
    world = planted(users=200)
    states = world.states[:40]
    random = np.random.default_rng(0)
    slates = [np.argsort(random.normal(size=(40, 24)) + np.linspace(0, k, 24), axis=1)[:, :5] for k in (3.0, -3.0)]

    def gain(found_of):
        values = [(f.click_BK * (1 + 3 * f.conversion_BK)).mean() for f in (found_of(items) for items in slates)]
        return values[0] - values[1]

    def fitted(draw):
        users = np.arange(200) if draw is None else draw
        fit, slice_ = world.log(users[users < 100], 20, 1), world.log(users[users >= 100], 20, 2)
        return fit_judge(world.items, fit, slice_, architecture="logistic", seed=0, settings=SETTINGS)

    judge = fitted(None)
    drawn = [judge.with_replicates(states, items)[1] for items in slates]
    by_heads = [(d.click_RBK + 3 * d.joint_RBK).mean(axis=(1, 2)) for d in drawn]
    spread = (by_heads[0] - by_heads[1]).std(ddof=1)
    refits = []
    for _ in range(30):
        draw = np.concatenate([random.integers(0, 100, 100), random.integers(100, 200, 100)])
        refits.append(gain(lambda items, found=fitted(draw): found.predict(states, items)))
    # both are standard deviations of samples (30 and 60): 13% and 9% of chance
    assert 0.65 < spread / np.std(refits, ddof=1) < 1.5
    assert isinstance(judge, Judge)
    assert isinstance(judge.predict(states, slates[0]), Prediction)
