"""The mixture of the policy with a second score, against enumeration of the whole catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.errors import RequestError
from llmrec.policy import fusion
from llmrec.policy.fusion import FusedPolicy, find_candidates, fit_weight
from tests.policy import test_language_policy as shared

N, STATES = shared.N, shared.STATES
policy = shared.policy  # the fixture
B = len(STATES)
SEEN = [sorted(state.seen()) for state in STATES]


def second(states):
    """Scores of a like-minded neighbour: the same for equal histories, some items unknown to it."""
    scores = np.zeros((len(states), N))
    for row, state in zip(scores, states, strict=True):
        row[:] = np.random.default_rng(17 + sum(state.seen())).gamma(0.5, size=N)
        row[3] = 0.0
    return scores


def truth(policy, scorer, weight, hide=True):
    """p over all items by enumeration: both parts conditioned on the allowed items."""
    with torch.no_grad():
        pi = policy.log_prob(STATES, torch.arange(N).expand(B, -1)).double().exp().numpy()
    s = scorer(STATES).astype(float)
    if hide:
        for b, seen in enumerate(SEEN):
            pi[b, seen], s[b, seen] = 0.0, 0.0
    return weight * pi / pi.sum(1, keepdims=True) + (1 - weight) * s / s.sum(1, keepdims=True)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("hide", [True, False])
def test_with_all_items_as_candidates_the_list_is_the_exact_one(policy, weight, hide):
    exact = truth(policy, second, weight, hide)
    slates = FusedPolicy(policy, second, weight, depth=N).recommend(STATES, 4, exclude_seen=hide, batch_size=2)
    for b, slate in enumerate(slates):
        allowed = [i for i in range(N) if not (hide and i in SEEN[b])]
        best = sorted(allowed, key=lambda i, b=b: -exact[b, i])[:4]
        assert list(slate.items_K) == best
        assert np.exp(slate.log_probs_K) == pytest.approx(exact[b, best], rel=1e-4)


def test_candidates_are_both_top_lists_with_exact_probabilities(policy, monkeypatch):
    monkeypatch.setattr(fusion, "ROW_ITEMS", 2)
    pi, s = truth(policy, second, 1.0), truth(policy, second, 0.0)
    found = find_candidates(policy, second, STATES, 2, beams=N, batch_size=3)
    for b in range(B):
        items = [i for i in found.items_BC[b].tolist() if i >= 0]
        union = {*np.argsort(-pi[b])[:2].tolist(), *np.argsort(-s[b])[:2].tolist()}
        assert set(items) == union
        assert len(items) == len(union)
        there = found.items_BC[b] >= 0
        assert found.policy_BC[b][there] == pytest.approx(pi[b, items], rel=1e-4)
        assert found.second_BC[b][there] == pytest.approx(s[b, items])
        assert (found.policy_BC[b][~there] == 0).all()
        assert (found.second_BC[b][~there] == 0).all()


def test_weight_one_is_the_policy_and_a_silent_scorer_too(policy):
    own = policy.recommend(STATES, 4, beams=N)
    silent = FusedPolicy(policy, lambda states: np.zeros((len(states), N)), 0.1)
    for fused in (FusedPolicy(policy, second, 1.0), silent):
        for slate, plain in zip(fused.recommend(STATES, 4), own, strict=True):
            assert slate.items_K == plain.items_K
            assert all(p >= q - 1e-6 for p, q in zip(slate.log_probs_K, plain.log_probs_K, strict=True))


def test_seen_items_are_left_out_and_short_slates_say_so(policy):
    seen = [np.arange(N - 2) for _ in STATES]
    for slate, state in zip(FusedPolicy(policy, second, 0.5).recommend(STATES, 5, seen=seen), STATES, strict=True):
        assert set(slate.items_K) == {N - 2, N - 1} - set(state.seen())
    everything = [np.arange(N) for _ in STATES]
    assert {s.items_K for s in FusedPolicy(policy, second, 0.5).recommend(STATES, 5, seen=everything)} == {()}
    assert FusedPolicy(policy, second, 0.5).recommend([], 5) == []


def test_the_scale_of_a_score_does_not_matter_nor_does_the_batch(policy):
    plain = FusedPolicy(policy, second, 0.4).recommend(STATES, 4)
    huge = FusedPolicy(policy, lambda states: second(states) * 1e307, 0.4).recommend(STATES, 4, batch_size=2)
    assert [s.items_K for s in plain] == [s.items_K for s in huge]
    assert plain[0].log_probs_K == pytest.approx(huge[0].log_probs_K, abs=1e-5)


def test_the_fitted_weight_has_the_best_ndcg(policy):
    targets, grid = [5, 7, 8, 1, 6], (0.0, 0.25, 0.5, 0.75, 1.0)
    fitted = fit_weight(policy, second, STATES, targets, k=3, grid=grid, depth=N)
    for weight in grid:
        exact, gain = truth(policy, second, weight), 0.0
        for b, target in enumerate(targets):
            place = int((exact[b] > exact[b, target]).sum())
            gain += 1 / np.log2(place + 2) if place < 3 else 0.0
        assert fitted.curve[weight] == pytest.approx(gain / B)
    best = max(fitted.curve.values())
    assert fitted.weight == max(w for w, value in fitted.curve.items() if value == best)


def test_the_fit_finds_who_is_right_and_ties_go_to_the_policy(policy):
    with torch.no_grad():
        pi = truth(policy, second, 1.0)
    right = pi.argmax(1).tolist()
    known = np.random.default_rng(0).integers(0, N, B)
    known = np.array([next(i for i in range(N) if i not in SEEN[b] and i != right[b]) for b in range(B)])

    def oracle(states):
        return np.eye(N)[known[: len(states)]]

    assert fit_weight(policy, oracle, STATES, right, k=1).weight == 1.0
    fitted = fit_weight(policy, oracle, STATES, known.tolist(), k=1)
    assert fitted.weight < 1.0
    assert fitted.curve[fitted.weight] == 1.0
    assert fitted.curve[1.0] == 0.0
    same = fit_weight(policy, lambda states: np.ones((len(states), N)), STATES, right, k=1)
    assert same.weight == 1.0
    assert same.curve[0.5] == 1.0


def test_training_mode_survives_and_dropout_is_off(policy):
    policy.model.train()
    try:
        one = FusedPolicy(policy, second, 0.5).recommend(STATES, 3)
        assert one == FusedPolicy(policy, second, 0.5).recommend(STATES, 3)
        assert policy.model.training
    finally:
        policy.model.eval()


def test_requests_that_cannot_be_met(policy):
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(RequestError, match="between 0 and 1"):
            FusedPolicy(policy, second, weight)
    fused = FusedPolicy(policy, second, 0.5)
    for k in (0, N + 1):
        with pytest.raises(RequestError, match=f"-k {k}"):
            fused.recommend(STATES, k)
    with pytest.raises(RequestError, match="depth of 2"):
        FusedPolicy(policy, second, 0.5, depth=2).recommend(STATES, 3)
    for scores, words in (
        (np.zeros((B, N + 1)), "shape"),
        (np.full((B, N), -1.0), "negative"),
        (np.full((B, N), np.nan), "not finite"),
    ):
        with pytest.raises(RequestError, match=words):
            FusedPolicy(policy, lambda states, scores=scores: scores, 0.5).recommend(STATES, 2)
    for states, targets, grid in ((STATES, [1], (0.5,)), ([], [], (0.5,)), (STATES, [1] * B, ())):
        with pytest.raises(RequestError, match="Fitting a weight needs"):
            fit_weight(policy, second, states, targets, k=2, grid=grid)
