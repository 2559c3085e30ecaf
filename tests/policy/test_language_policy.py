from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.catalogue import Catalogue
from llmrec.errors import RequestError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.scoring import score_items
from llmrec.types import Interaction, State
from tests.policy.tiny import byte_tokenizer, tiny_model

TITLES = ["Alien", "Aliens", "The Thing", "The Fly", "Solaris", "Stalker", "三体", "三国", "Her"]
N = len(TITLES)


class Words:
    """Renders a state as its context and the titles of its history."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def token_ids(self, state):
        text = state.context + "".join(f"{TITLES[i.item]};" for i in (*state.history, *state.session))
        return self.tokenizer(f"User: {text}\nNext:", add_special_tokens=False)["input_ids"]


def state(*items, context=""):
    return State(history=tuple(Interaction(i, "click", t) for t, i in enumerate(items)), context=context)


STATES = [state(0, 1), state(), state(2, 3, 4, 5, context="something old"), state(6), state(0, 1, 2)]


@pytest.fixture(scope="module")
def policy():
    tokenizer = byte_tokenizer()
    model = tiny_model("qwen3", torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(1))
        model.get_output_embeddings().weight.normal_(generator=torch.Generator().manual_seed(2))
    catalogue = Catalogue.from_titles([str(i) for i in range(N)], TITLES, tokenizer)
    return LanguagePolicy(model, tokenizer, catalogue, Words(tokenizer), "exclude")


def exact(policy):
    with torch.no_grad():
        return policy.log_prob(STATES, torch.arange(N).expand(len(STATES), -1))


def test_log_prob_is_a_distribution_and_differentiable(policy):
    items = torch.arange(N).expand(len(STATES), -1)
    log_prob = policy.log_prob(STATES, items)
    assert torch.allclose(log_prob.exp().sum(-1), torch.ones(len(STATES)), atol=1e-5)
    assert log_prob.requires_grad
    filtered = policy.log_prob(STATES, items, exclude_seen=True)
    assert torch.allclose(filtered.exp().sum(-1), torch.ones(len(STATES)), atol=1e-5)
    assert torch.isneginf(filtered[0, :2]).all()


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_recommend_is_the_exact_ranking_without_seen_items(policy, batch_size):
    slates = policy.recommend(STATES, N, beams=N, batch_size=batch_size)
    for one, slate, log_pi in zip(STATES, slates, exact(policy), strict=True):
        best = [i for i in log_pi.argsort(descending=True).tolist() if i not in one.seen()]
        assert list(slate.items_K) == best
        assert slate.log_probs_K == pytest.approx(log_pi[best].tolist(), abs=1e-4)


def test_repeats_by_manifest_by_request_and_seen_items_given(policy):
    assert len(policy.recommend([STATES[0]], N, exclude_seen=False)[0].items_K) == N
    allowing = LanguagePolicy(policy.model, policy.tokenizer, policy.catalogue, policy.renderer, "allow")
    assert len(allowing.recommend([STATES[0]], N)[0].items_K) == N
    assert set(allowing.recommend([STATES[0]], N, exclude_seen=True)[0].items_K) == set(range(2, N))
    seen = [np.array([1, 8]), np.array([], dtype=np.int64)]
    first, second = policy.recommend([STATES[0], STATES[1]], N, seen=seen)
    assert set(first.items_K) == set(range(2, 8))
    assert set(second.items_K) == set(range(N))
    everything = policy.recommend([STATES[1]], 3, seen=[np.arange(N)])
    assert everything[0].items_K == ()


def test_recommend_of_nothing_and_bad_k(policy):
    assert policy.recommend([], 3) == []
    with pytest.raises(RequestError, match="-k 5000 is more than the 9 items of the catalogue"):
        policy.recommend(STATES, 5000)
    with pytest.raises(RequestError, match="-k 0"):
        policy.recommend(STATES, 0)


def test_samples_are_reproducible_unseen_and_scored(policy):
    one = policy.sample(STATES, 50, seed=3, name=("a",))
    again = policy.sample(STATES, 50, seed=3, name=("a",), batch_size=2)
    other = policy.sample(STATES, 50, seed=3, name=("b",))
    assert torch.equal(one.items_BG, again.items_BG)
    assert not torch.equal(one.items_BG, other.items_BG)
    for state_, items in zip(STATES, one.items_BG.tolist(), strict=True):
        assert not set(items) & set(state_.seen())
    with torch.no_grad():
        log_prob = policy.log_prob(STATES, one.items_BG, exclude_seen=True)
    assert torch.allclose(one.log_prob_BG, log_prob, atol=1e-5)
    (one.log_prob_BG.clone().requires_grad_() * one.log_prob_BG).sum().backward()  # fit for a loss


def test_encode_pads_on_the_left(policy):
    ids, mask = policy.encode(STATES)
    assert ids.shape == mask.shape
    assert (mask[:, -1] == 1).all()
    assert (mask.diff(dim=1) >= 0).all()
    assert ids[1][mask[1].bool()].tolist() == policy.renderer.token_ids(STATES[1])
    direct = score_items(policy.model, ids, mask, torch.arange(N).expand(len(STATES), -1), policy.index)
    assert torch.allclose(direct.item_log_prob_BG, exact(policy), atol=1e-5)


def test_training_mode_survives(policy):
    policy.model.train()
    policy.recommend(STATES[:1], 2)
    policy.sample(STATES[:1], 2, seed=0)
    assert policy.model.training
    policy.model.eval()
