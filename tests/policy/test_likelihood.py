"""Likelihoods of items against the model's own full logits, the search against reading all, and ranking by them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.errors import RequestError, RunError
from llmrec.policy import likelihood as likelihood_module
from llmrec.policy.best_first import BestFirst, best_first_search
from llmrec.policy.heads import checked_head
from llmrec.policy.likelihood import among_legal, is_read, item_sums, nodes_to_read, read_tree
from llmrec.policy.likelihood_ranker import UNTIL_DECIDED, LikelihoodRanker, Shares
from llmrec.policy.mixture import Items, Mixture, Scores
from llmrec.policy.scoring import score_items
from llmrec.policy.walks import LikelihoodWalk, greatest_below
from llmrec.types import State
from tests.policy.test_best_first import random_items
from tests.policy.test_language_policy import STATES, N
from tests.policy.test_mixture import make
from tests.policy.tiny import ITEMS, index_of, legal_tokens, prompts, tiny_model, unpadded

IDS, MASK = prompts()
INDEX = index_of()
PLACES = (None, 1, 2, UNTIL_DECIDED)


def brute_tokens(model, prompt, row):
    """log P of each token of one item in the whole vocabulary, by the model's own logits, unpadded."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *row[:-1]]])).logits[0, len(prompt) - 1 :]
    return torch.log_softmax(logits.double(), -1)[torch.arange(len(row)), torch.tensor(row)]


def decided_at(row, items):
    """How many tokens tell an item from all others."""
    return next(n for n in range(len(row) + 1) if sum(other[:n] == row[:n] for other in items) == 1)


def brute(model, items=ITEMS, tokens=None):
    """Of each user and item the sum over the tokens that are read: (B, N)."""
    rows = []
    for prompt in unpadded(IDS, MASK):
        ends = [len(row) if tokens is None else min(tokens, decided_at(row, items)) for row in items]
        rows.append([float(brute_tokens(model, prompt, r)[:end].sum()) for r, end in zip(items, ends, strict=True)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("qwen3", 1),
        ("gemma3-window", UNTIL_DECIDED),
        ("gemma3-window", None),
        ("cohere", 2),
        ("gpt2", UNTIL_DECIDED),
        ("mamba", None),
    ],
)
def test_sums_are_those_of_the_models_own_logits(name, tokens, monkeypatch):
    model = tiny_model(name)
    for piece in (3, 100):
        monkeypatch.setattr(likelihood_module, "PIECE", piece)
        found = item_sums(INDEX, read_tree(model, IDS, MASK, INDEX, tokens=tokens))
        assert torch.allclose(found, brute(model, tokens=tokens), atol=1e-9)


def test_what_is_read_is_told_by_the_prefixes():
    for tokens in PLACES:
        prefixes = {row[:n] for row in ITEMS for n in range(len(row))}
        needed = {
            p
            for p in prefixes
            if tokens is None or (len(p) < tokens and sum(row[: len(p)] == p for row in ITEMS) > 1)
        }
        assert len(nodes_to_read(INDEX, tokens)) == len(needed)
        assert int(is_read(INDEX, tokens).sum()) == sum(len(legal_tokens(p, ITEMS)) for p in needed)
    with pytest.raises(RequestError, match="at least 1"):
        nodes_to_read(INDEX, 0)


def test_a_single_item_is_read_too():
    index, model = index_of([(5, 6, 1)]), tiny_model("qwen3")
    for tokens, end in ((None, 3), (UNTIL_DECIDED, 1)):
        found = item_sums(index, read_tree(model, IDS, MASK, index, tokens=tokens))
        own = [float(brute_tokens(model, prompt, (5, 6, 1))[:end].sum()) for prompt in unpadded(IDS, MASK)]
        assert found[:, 0].tolist() == pytest.approx(own)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.booleans(), st.sampled_from([None, 0.0, 1.0, 9.0]))
def test_the_search_finds_what_reading_all_finds(seed, count, whole, scale):
    items = random_items(count, seed)
    index, model = index_of(items), tiny_model("qwen3", seed=seed % 3)
    term_N = None
    if scale is not None:
        term_N = scale * torch.randn(len(items), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    walk = LikelihoodWalk(checked_head(model), index, whole=whole, term_N=term_N)
    own = item_sums(index, read_tree(model, IDS, MASK, index, tokens=None if whole else UNTIL_DECIDED))
    score = own + (0.0 if term_N is None else term_N)
    exclude = torch.randint(-1, len(items), (len(IDS), 2), generator=torch.Generator().manual_seed(seed))
    for user, row in enumerate(exclude.tolist()):
        score[user, [i for i in row if i >= 0]] = -torch.inf
    k = min(7, len(items))
    found = best_first_search(model, IDS, MASK, k, index, exclude=exclude, walk=walk, batch=3)
    best = score.sort(dim=1, descending=True, stable=True)
    assert torch.allclose(found.log_prob_BK, best.values[:, :k], atol=1e-9)
    assert found.proven_B.all()
    if k < len(items):
        assert (found.bound_B >= best.values[:, k] - 1e-9).all()


def test_a_search_that_is_ended_early_bounds_what_it_has_not_seen():
    model = tiny_model("llama")
    term_N = torch.linspace(3.0, -3.0, len(ITEMS), dtype=torch.float64)
    walk = LikelihoodWalk(checked_head(model), INDEX, whole=True, term_N=term_N)
    score = item_sums(INDEX, read_tree(model, IDS, MASK, INDEX)) + term_N
    for budget in range(1, 12):
        found = best_first_search(model, IDS, MASK, 4, INDEX, walk=walk, batch=2, max_expansions=budget)
        for user in range(len(IDS)):
            inside = found.items_BK[user][found.items_BK[user] >= 0].tolist()
            outside = [i for i in range(len(ITEMS)) if i not in inside]
            assert score[user, outside].max() <= found.bound_B[user] + 1e-9


def test_items_come_in_order_however_many_are_asked_for_at_a_time():
    model = tiny_model("gpt2")
    walk = LikelihoodWalk(checked_head(model), INDEX, whole=False)
    search = BestFirst(model, IDS, MASK, INDEX, walk=walk)
    parts = [search.next_items(count)[0] for count in (1, 4, 7)]
    score = item_sums(INDEX, read_tree(model, IDS, MASK, INDEX, tokens=UNTIL_DECIDED))
    assert torch.equal(torch.cat(parts, 1), score.argsort(dim=1, descending=True))


def test_the_greatest_value_below_each_prefix():
    value_N = torch.arange(float(len(ITEMS))) % 5
    found = greatest_below(INDEX, value_N)
    for item, row in enumerate(ITEMS):
        _, after = INDEX.prefixes(torch.tensor([item]))
        for depth, node in enumerate(after[0, : len(row)].tolist()):
            same = [value_N[i] for i, other in enumerate(ITEMS) if other[: depth + 1] == row[: depth + 1]]
            assert found[node] == max(same)
    assert found[0] == 4


def test_logits_that_are_not_finite_are_said():
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = torch.nan
    with pytest.raises(RunError, match="not finite"):
        read_tree(model, IDS, MASK, INDEX)


@pytest.fixture(scope="module")
def policy():
    return make(3)


def own_scores(policy, shares, tokens, count_N):
    """By the model's own logits, item by item: (B, N)."""
    rows = [tuple(policy.catalogue.token_ids(i)) for i in range(N)]
    empty = policy.renderer.token_ids(State())
    out = np.empty((len(STATES), N))
    for (b, state), (i, row) in itertools.product(enumerate(STATES), enumerate(rows)):
        prior = brute_tokens(policy.model, empty, row).numpy()
        read = len(row) if tokens is None else min(tokens, decided_at(row, rows))
        here = brute_tokens(policy.model, policy.renderer.token_ids(state), row).numpy()
        out[b, i] = here[:read].sum() + prior[read:].sum() - shares.prior * prior.sum()
        out[b, i] += shares.popularity * np.log(1 + count_N[i])
    return out


COUNT = np.array([5.0, 0.0, 1.0, 9.0, 2.0, 0.0, 7.0, 3.0, 1.0])


@pytest.mark.parametrize("tokens", PLACES)
@pytest.mark.parametrize("shares", [Shares(0.0), Shares(0.7, 0.5), Shares(1.0, 2.0)])
def test_scores_and_slates_by_hand(policy, tokens, shares):
    ranker = LikelihoodRanker(policy, shares, tokens=tokens, count_N=COUNT)
    expected = own_scores(policy, shares, tokens, COUNT)
    assert ranker.score(STATES) == pytest.approx(expected, abs=1e-4)
    assert ranker.distribution(STATES, 2.0).sum(1) == pytest.approx(1.0)
    slates = ranker.recommend(STATES, 4)
    for state, slate, score_N in zip(STATES, slates, expected, strict=True):
        best = [i for i in np.argsort(-score_N, kind="stable").tolist() if i not in state.seen()][:4]
        assert list(slate.items_K) == best
        assert slate.log_probs_K == pytest.approx(score_N[best].tolist(), abs=1e-4)
    if tokens in (None, UNTIL_DECIDED):
        searched = ranker.recommend(STATES, 4, search=True)
        assert [s.items_K for s in searched] == [s.items_K for s in slates]
        for one, other in zip(searched, slates, strict=True):
            assert one.log_probs_K == pytest.approx(other.log_probs_K, abs=1e-4)
    else:
        with pytest.raises(RequestError, match="cannot be searched"):
            ranker.recommend(STATES, 4, search=True)


@pytest.mark.parametrize("tokens", [2, None])
def test_what_is_remembered_is_not_read_again(policy, tokens, monkeypatch):
    start, plain = (LikelihoodRanker(policy, tokens=tokens, count_N=COUNT) for _ in range(2))
    shares = Shares(0.7, 0.5)
    expected, slates = plain.with_shares(shares).score(STATES), plain.with_shares(shares).recommend(STATES, 4)
    start.remember([*STATES, STATES[0]])
    assert start.prior_N == pytest.approx(plain.prior_N)
    monkeypatch.setattr("llmrec.policy.likelihood_ranker.read_tree", None)
    other = start.with_shares(shares)
    start.remember(STATES)
    assert other.score(STATES[::-1]) == pytest.approx(expected[::-1], abs=1e-5)
    assert [slate.items_K for slate in other.recommend(STATES, 4)] == [slate.items_K for slate in slates]
    with pytest.raises(TypeError):
        other.score([State(context="something else")])


def test_seen_items_and_repeats(policy):
    ranker = LikelihoodRanker(policy)
    seen = [np.array([8])] * len(STATES)
    for state, slate in zip(STATES, ranker.recommend(STATES, N, seen=seen), strict=True):
        assert set(slate.items_K) == set(range(N)) - set(state.seen()) - {8}
    assert len(ranker.recommend(STATES, N, exclude_seen=False)[0].items_K) == N
    with pytest.raises(RequestError):
        ranker.recommend(STATES, N + 1)


def test_shares_are_those_with_the_best_ndcg(policy):
    start = LikelihoodRanker(policy, count_N=COUNT)
    targets = [5, 8, 0, 3, 7]
    some = (Shares(0.0), Shares(0.5, 1.0), Shares(1.0), Shares(1.0, 4.0))
    found = start.calibrated(STATES, targets, k=3, grid=some)
    assert found.grid == some
    for shares, ndcg in zip(found.grid, found.ndcg, strict=True):
        slates = LikelihoodRanker(policy, shares, count_N=COUNT).recommend(STATES, 3)
        places = [s.items_K.index(t) if t in s.items_K else None for s, t in zip(slates, targets, strict=True)]
        assert ndcg == pytest.approx(np.mean([0.0 if p is None else 1 / np.log2(p + 2) for p in places]))
    assert found.ranker.shares == found.grid[int(np.argmax(found.ndcg))]
    assert found.ranker.score(STATES) == pytest.approx(own_scores(policy, found.ranker.shares, 99, COUNT), abs=1e-4)
    plain = LikelihoodRanker(policy).calibrated(STATES, targets)
    assert all(not shares.popularity for shares in plain.grid)


def test_it_is_a_part_of_a_mixture(policy):
    ranker = LikelihoodRanker(policy, Shares(0.5))
    one = Mixture([Scores((ranker,), 1.0)], items=Items(N, "exclude"))
    assert [s.items_K for s in one.recommend(STATES, 4)] == [s.items_K for s in ranker.recommend(STATES, 4)]
    both = Mixture([policy, Scores((ranker,), 1.0)], [0.5, 0.5]).recommend(STATES, 4, exact=True)
    pi = policy.log_prob(STATES, torch.arange(N).expand(len(STATES), -1)).detach().double().exp().numpy()
    p = ranker.distribution(STATES)
    for b, state in enumerate(STATES):
        left = [i for i in range(N) if i not in state.seen()]
        mixed = {i: pi[b, i] / pi[b, left].sum() + p[b, i] / p[b, left].sum() for i in left}
        assert list(both[b].items_K) == sorted(left, key=lambda i: -mixed[i])[:4]


def test_what_does_not_fit_is_refused(policy):
    with pytest.raises(RequestError, match="counts of the shape"):
        LikelihoodRanker(policy, count_N=np.ones(3))
    with pytest.raises(RequestError, match="give count_N"):
        LikelihoodRanker(policy, Shares(1.0, 1.0))
    with pytest.raises(RequestError, match="at least 1"):
        LikelihoodRanker(policy, tokens=0)
    with pytest.raises(RequestError, match="one target for each"):
        LikelihoodRanker(policy).calibrated(STATES, [1])


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_one_reading_tells_pi_as_well(name):
    model = tiny_model(name)
    for tokens in (None, UNTIL_DECIDED):
        found = item_sums(INDEX, among_legal(INDEX, read_tree(model, IDS, MASK, INDEX, tokens=tokens)))
        with torch.no_grad():
            own = score_items(model, IDS, MASK, torch.arange(len(ITEMS)).expand(len(IDS), -1), INDEX).exact_BG
        assert torch.allclose(found, own, atol=1e-9)
        assert found.exp().sum(1).tolist() == pytest.approx([1.0] * len(IDS))
    policy = make(3)
    ranker = LikelihoodRanker(policy)
    likelihood_BN, pi_BN = ranker.with_pi(STATES)
    assert np.array_equal(likelihood_BN, ranker.likelihood(STATES))
    with torch.no_grad():
        own = policy.log_prob(STATES, torch.arange(N).expand(len(STATES), -1))
    assert np.allclose(pi_BN, own.numpy(), atol=1e-5)
    with pytest.raises(RequestError, match="no known pi"):
        LikelihoodRanker(policy, tokens=1).with_pi(STATES)
