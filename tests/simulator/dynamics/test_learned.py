"""The learned transition finds a planted Markov world, beats simpler beliefs there, and does not where they are true."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from llmrec.errors import DataError, RunError
from llmrec.simulator.dynamics.held_out import baseline_log_probabilities, compare_transition
from llmrec.simulator.dynamics.learned import (
    InterestStates,
    LearnedTransition,
    TransitionLog,
    cluster_states,
    fit_transition,
    load_transition,
    split_users,
)

STATES, ACTIONS = 3, 4


def planted_world(users=400, turns=30, seed=0, strength=2.0):
    """P(next | state, category) from random scores; categories are drawn evenly."""
    random = np.random.default_rng(seed)
    truth_SAS = softmax(strength * random.standard_normal((STATES, ACTIONS, STATES)), axis=2)
    state = random.integers(0, STATES, users)
    rows = []
    for _ in range(turns):
        action = random.integers(0, ACTIONS, users)
        reach = np.cumsum(truth_SAS[state, action], axis=1)
        following = (random.random((users, 1)) >= reach[:, :-1]).sum(axis=1)
        rows.append((state, action, following, np.arange(users)))
        state = following
    before, action, after, user = (np.concatenate(c) for c in zip(*rows, strict=True))
    return TransitionLog(before, np.eye(ACTIONS)[action], after, user), truth_SAS


def test_a_planted_markov_world_is_recovered_and_beats_every_baseline():
    log, truth_SAS = planted_world()
    train, held_out = split_users(log, 0.25, seed=0)
    model = fit_transition(train, count=STATES)
    state, action = (v.ravel() for v in np.meshgrid(np.arange(STATES), np.arange(ACTIONS), indexing="ij"))
    found = np.exp(model.log_probabilities(state, np.eye(ACTIONS)[action]))
    np.testing.assert_allclose(found, truth_SAS[state, action], atol=0.06)
    report = compare_transition(model, train, held_out, seed=0)
    for name in ("no_change", "marginal", "state_only"):
        assert report[f"gain_over_{name}"]["low"] > 0.05
    best = np.log(truth_SAS[held_out.state_M, held_out.action_MA.argmax(axis=1), held_out.next_M]).mean()
    assert report["log_likelihood"]["model"] == pytest.approx(best, abs=0.01)
    assert (report["steps"], report["users"]) == (3000, 100)


def test_where_nothing_depends_on_the_action_it_gains_nothing():
    random = np.random.default_rng(1)
    state = random.integers(0, STATES, 6000)
    following = np.where(random.random(6000) < 0.9, state, (state + random.integers(1, STATES, 6000)) % STATES)
    log = TransitionLog(state, np.eye(ACTIONS)[random.integers(0, ACTIONS, 6000)], following, np.arange(6000) % 300)
    train, held_out = split_users(log, 0.3, seed=0)
    gain = compare_transition(fit_transition(train, count=STATES), train, held_out, seed=0)["gain_over_no_change"]
    assert gain["low"] < 0
    assert abs(gain["mean"]) < 0.02


def test_each_state_is_the_softmax_regression_of_a_reference_library():
    log, _ = planted_world(users=60, turns=10)
    random = np.random.default_rng(0)
    log = TransitionLog(log.state_M, random.standard_normal((600, 2)), log.next_M, log.user_M)
    model = fit_transition(log, count=STATES, l2=2.0)
    for k in range(STATES):
        rows = log.state_M == k
        features = np.column_stack([np.ones(rows.sum()), log.action_MA[rows]])
        theirs = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-8, max_iter=1000).fit(
            features, log.next_M[rows]
        )
        np.testing.assert_allclose(
            np.exp(model.log_probabilities(log.state_M[rows], log.action_MA[rows])),
            theirs.predict_proba(features),
            atol=2e-3,
        )


def test_baselines_by_hand():
    train = TransitionLog(np.array([0, 0, 1, 1]), np.ones((4, 1)), np.array([0, 1, 1, 1]), np.array([1, 1, 2, 2]))
    log = TransitionLog(np.array([0, 1]), np.ones((2, 1)), np.array([0, 0]), np.array([3, 3]))

    def chance(name):
        return np.exp(baseline_log_probabilities(name, train, log, 2))

    np.testing.assert_allclose(chance("no_change"), [4 / 6, 2 / 6])
    np.testing.assert_allclose(chance("marginal"), [2 / 6, 2 / 6])
    np.testing.assert_allclose(chance("state_only"), [2 / 4, 1 / 4])


def test_draws_have_the_probabilities():
    log, _ = planted_world(users=100, turns=10)
    model = fit_transition(log, count=STATES)
    state, action = np.full(40_000, 1), np.repeat(np.eye(ACTIONS)[2:3], 40_000, axis=0)
    drawn = model.sample(state, action, np.random.default_rng(0).random(40_000))
    expected = np.exp(model.log_probabilities(state[:1], action[:1]))[0]
    np.testing.assert_allclose(np.bincount(drawn, minlength=STATES) / 40_000, expected, atol=0.01)


def test_clusters_of_histories_become_states():
    random = np.random.default_rng(0)
    centre = np.array([[0.0, 10], [10, 0], [-10, -10]])
    true = random.integers(0, 3, 600)
    vectors = centre[true] + random.standard_normal((600, 2))
    states = cluster_states(vectors, 3, seed=0)
    found = states.assign(vectors)
    assert len({(int(t), int(f)) for t, f in zip(true, found, strict=True)}) == 3
    np.testing.assert_array_equal(cluster_states(vectors, 3, seed=0).assign(vectors), found)


def test_a_model_survives_its_folder(tmp_path):
    log, _ = planted_world(users=30, turns=5)
    model = fit_transition(log, count=STATES)
    model.save(tmp_path / "transition")
    again = load_transition(tmp_path / "transition")
    np.testing.assert_array_equal(again.bias_KK, model.bias_KK)
    np.testing.assert_array_equal(again.weight_KAK, model.weight_KAK)
    assert again.curve == model.curve
    (tmp_path / "transition" / "transition.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="fit it anew"):
        load_transition(tmp_path / "transition")
    (tmp_path / "transition" / "transition.json").write_text("[]")
    with pytest.raises(RunError, match="does not describe"):
        load_transition(tmp_path / "transition")
    with pytest.raises(RunError, match="does not exist"):
        load_transition(tmp_path / "nowhere")


def step(state=(0, 1), action=((1.0,), (0.0,)), following=(1, 0), user=(1, 2)):
    return TransitionLog(np.array(state), np.array(action), np.array(following), np.array(user))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: step(action=((np.nan,), (0.0,))), ["action of row 0", "finite"]),
        (lambda: step(user=(1,)), ["2 actions", "user_M"]),
        (lambda: fit_transition(step(user=(1, 1)), count=2), ["one user"]),
        (lambda: fit_transition(step(state=(0, 5)), count=2), ["Row 1", "5", "0..1"]),
        (lambda: fit_transition(step(state=(0, 0), following=(0, 0)), count=2), ["one interest state"]),
        (lambda: fit_transition(step((), np.zeros((0, 1)), (), ()), count=2), ["no step"]),
        (lambda: split_users(step(user=(1, 1)), 0.5, seed=0), ["one user"]),
        (lambda: fit_transition(step(), count=2).log_probabilities([0], [[1.0, 2.0]]), ["1 states", "1 features"]),
        (lambda: compare_transition(fit_transition(step(), count=2), step(), step(), seed=0), ["User 1", "held-out"]),
        (lambda: cluster_states(np.zeros((5, 2)), 2, seed=0), ["2 interest states", "1 distinct"]),
        (lambda: cluster_states(np.full((5, 2), np.inf), 2, seed=0), ["history vector of row 0"]),
        (lambda: InterestStates(np.zeros((2, 3))).assign(np.zeros((1, 2))), ["2 dimensions", "states 3"]),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(DataError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_transition_of_zeros_is_even():
    model = LearnedTransition(np.zeros((4, 4)), np.zeros((4, 2, 4)))
    np.testing.assert_allclose(np.exp(model.log_probabilities([0, 3], np.ones((2, 2)))), 0.25)
