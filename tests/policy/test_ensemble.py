"""The mean of several policies, against enumeration of the whole catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.catalogue import Catalogue
from llmrec.errors import RequestError
from llmrec.policy.ensemble import EnsemblePolicy
from llmrec.policy.fusion import FusedPolicy, find_candidates, fit_weight
from llmrec.policy.language_policy import LanguagePolicy
from tests.policy.test_language_policy import STATES, TITLES, N, Words
from tests.policy.tiny import byte_tokenizer, tiny_model

B = len(STATES)
SEEN = [sorted(state.seen()) for state in STATES]
ALL = torch.arange(N).expand(B, -1)


def make(seed, *, titles=TITLES, codes=False, repeat="exclude", ids=None):
    tokenizer = byte_tokenizer()
    model = tiny_model("qwen3", torch.float32, seed=seed)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for weight, part in ((model.get_input_embeddings().weight, 1), (model.get_output_embeddings().weight, 2)):
            weight.normal_(generator=torch.Generator().manual_seed(10 * seed + part))
    ids = [str(i) for i in range(N)] if ids is None else ids
    if codes:
        catalogue = Catalogue.from_sequences(
            ids, titles, [[40 + i // 3, 60 + i % 3] for i in range(N)], tokenizer, scheme="codes"
        )
    else:
        catalogue = Catalogue.from_titles(ids, titles, tokenizer)
    return LanguagePolicy(model, tokenizer, catalogue, Words(tokenizer), repeat)


@pytest.fixture(scope="module")
def members():
    """Three models; the third writes items by codes, not by titles."""
    return make(1), make(2), make(3, codes=True)


@pytest.fixture(scope="module")
def pi_MBN(members):
    with torch.no_grad():
        return np.stack([m.log_prob(STATES, ALL).double().exp().numpy() for m in members])


def second(states):
    return np.stack([np.random.default_rng(5 + sum(s.seen())).gamma(0.5, size=N) for s in states])


def test_the_members_disagree_enough_for_the_tests_to_tell(pi_MBN):
    best_MB = pi_MBN.argmax(2)
    assert (best_MB[0] != best_MB[1]).any()
    assert pi_MBN.sum(2) == pytest.approx(np.ones((3, B)), abs=1e-4)


@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_with_all_items_as_candidates_the_list_is_that_of_the_full_mean(members, pi_MBN, hide, batch_size):
    mean_BN = pi_MBN.mean(0)
    ensemble = EnsemblePolicy(members, depth=N)
    slates = ensemble.recommend(STATES, N, exclude_seen=hide, batch_size=batch_size)
    for b, slate in enumerate(slates):
        allowed = [i for i in range(N) if not (hide and i in SEEN[b])]
        assert list(slate.items_K) == sorted(allowed, key=lambda i, b=b: -mean_BN[b, i])
        assert np.exp(slate.log_probs_K) == pytest.approx(mean_BN[b, list(slate.items_K)], rel=1e-4)


def test_candidates_are_the_union_of_top_lists_with_every_members_probability(members, pi_MBN):
    found = EnsemblePolicy(members).candidates(STATES, 2, beams=N, batch_size=3)
    hidden_MBN = pi_MBN.copy()
    for b, seen in enumerate(SEEN):
        hidden_MBN[:, b, seen] = -1.0
    for b in range(B):
        items = [i for i in found.items_BC[b].tolist() if i >= 0]
        union = {int(i) for m in range(3) for i in np.argsort(-hidden_MBN[m, b])[:2]}
        assert items == sorted(union)
        assert found.members_MBC[:, b, : len(items)] == pytest.approx(pi_MBN[:, b, items], rel=1e-4)
        assert (found.members_MBC[:, b, len(items) :] == 0).all()
        assert (found.items_BC[b, len(items) :] == -1).all()
    assert found.mean_BC == pytest.approx(found.members_MBC.mean(0))


def test_a_list_from_few_candidates_has_exact_probabilities_and_is_the_best_of_them(members, pi_MBN):
    mean_BN = pi_MBN.mean(0)
    for b, slate in enumerate(EnsemblePolicy(members, depth=3).recommend(STATES, 3, beams=N)):
        assert np.exp(slate.log_probs_K) == pytest.approx(mean_BN[b, list(slate.items_K)], rel=1e-4)
        assert list(slate.log_probs_K) == sorted(slate.log_probs_K, reverse=True)
        assert not set(slate.items_K) & set(SEEN[b])


def test_one_member_or_the_same_member_twice_is_that_policy(members):
    own = members[0].recommend(STATES, 4, beams=N)
    for copies in (1, 2):
        ensemble = EnsemblePolicy([members[0]] * copies, depth=N)
        for slate, plain in zip(ensemble.recommend(STATES, 4), own, strict=True):
            assert slate.items_K == plain.items_K
            assert slate.log_probs_K == pytest.approx(plain.log_probs_K, abs=1e-5)


def test_log_prob_is_the_log_of_the_mean_and_carries_gradients(members, pi_MBN):
    log_prob = EnsemblePolicy(members).log_prob(STATES, ALL)
    assert log_prob.exp().detach().numpy() == pytest.approx(pi_MBN.mean(0), rel=1e-4)
    assert log_prob.exp().sum(1).detach().numpy() == pytest.approx(np.ones(B), abs=1e-4)
    assert log_prob.requires_grad


def test_the_mixture_with_a_second_score_is_exact(members, pi_MBN):
    pi_BN, s_BN = pi_MBN.mean(0), second(STATES)
    for b, seen in enumerate(SEEN):
        pi_BN[b, seen], s_BN[b, seen] = 0.0, 0.0
    exact_BN = 0.4 * pi_BN / pi_BN.sum(1, keepdims=True) + 0.6 * s_BN / s_BN.sum(1, keepdims=True)
    fused = FusedPolicy(EnsemblePolicy(members), second, 0.4, depth=N)
    for b, slate in enumerate(fused.recommend(STATES, 4, batch_size=2)):
        best = sorted((i for i in range(N) if i not in SEEN[b]), key=lambda i, b=b: -exact_BN[b, i])[:4]
        assert list(slate.items_K) == best
        assert np.exp(slate.log_probs_K) == pytest.approx(exact_BN[b, best], rel=1e-4)


def test_a_weight_can_be_fitted_from_candidates_of_both(members, pi_MBN):
    ensemble = EnsemblePolicy(members)
    found = find_candidates(ensemble, second, STATES, 3, beams=N)
    pi_BN = pi_MBN.mean(0)
    for b, seen in enumerate(SEEN):
        pi_BN[b, seen] = 0.0
    pi_BN /= pi_BN.sum(1, keepdims=True)
    for b in range(B):
        there = found.items_BC[b] >= 0
        assert found.policy_BC[b, there] == pytest.approx(pi_BN[b, found.items_BC[b, there]], rel=1e-4)
    favourites = pi_BN.argmax(1).tolist()
    assert fit_weight(ensemble, second, STATES, favourites, k=1, depth=N).curve[1.0] == 1.0


def test_short_lists_and_no_states(members):
    ensemble = EnsemblePolicy(members)
    seen = [np.arange(N - 2) for _ in STATES]
    for slate, state in zip(ensemble.recommend(STATES, 5, seen=seen), STATES, strict=True):
        assert set(slate.items_K) == {N - 2, N - 1} - set(state.seen())
    everything = [np.arange(N) for _ in STATES]
    assert {slate.items_K for slate in ensemble.recommend(STATES, 5, seen=everything)} == {()}
    assert ensemble.recommend([], 5) == []


def test_dropout_is_off_and_training_mode_survives(members):
    ensemble = EnsemblePolicy(members)
    before = ensemble.recommend(STATES, 3)
    for member in members:
        member.model.train()
    try:
        assert ensemble.recommend(STATES, 3) == before
        assert all(member.model.training for member in members)
    finally:
        for member in members:
            member.model.eval()


def test_ensembles_that_cannot_be(members):
    with pytest.raises(RequestError, match="at least one policy"):
        EnsemblePolicy([])
    with pytest.raises(RequestError, match="Member 1 of the ensemble has other items"):
        EnsemblePolicy([members[0], make(4, ids=[str(i) for i in reversed(range(N))])])
    with pytest.raises(RequestError, match="Member 2 of the ensemble says 'allow'"):
        EnsemblePolicy([*members[:2], make(4, repeat="allow")])
    for k in (0, N + 1):
        with pytest.raises(RequestError, match=f"-k {k}"):
            EnsemblePolicy(members).recommend(STATES, k)
    with pytest.raises(RequestError, match="depth of 2"):
        EnsemblePolicy(members, depth=2).recommend(STATES, 3)
