"""Best-first search against enumeration, and against beam search that is as wide as the catalogue."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.errors import RequestError, RunError
from llmrec.policy import best_first, decoding
from llmrec.policy.best_first import BestFirst, best_first_search
from llmrec.policy.decoding import beam_search
from tests.policy.tiny import ITEMS, brute_log_pi, index_of, prompts, tiny_model, unpadded

IDS, MASK = prompts()
INDEX = index_of()
N = len(ITEMS)
EXCLUDE = torch.tensor([[0, 4, 5, -1], [-1, -1, -1, -1], [8, 9, 10, 11]])


def brute(model, exclude=None, items=ITEMS):
    """For each user the allowed items and their log pi, best first."""
    out = []
    for user, prompt in enumerate(unpadded(IDS, MASK)):
        left_out = [] if exclude is None else exclude[user].tolist()
        with torch.no_grad():
            pi = {i: float(p) for i, p in brute_log_pi(model, prompt, items).items()}
        out.append(sorted(((i, p) for i, p in pi.items() if i not in left_out), key=lambda pair: -pair[1]))
    return out


def random_items(count, seed=0, levels=4, branch=8):
    """Distinct items of `levels` tokens and the end token 1, none of which begins another."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(2, 2 + branch, (4 * count, levels), generator=draw).tolist()
    return [(*row, 1) for row in list(dict.fromkeys(map(tuple, rows)))[:count]]


@pytest.mark.parametrize(("name", "batch"), [("qwen3", 1), ("gemma3-window", 3), ("gpt2", 8), ("mamba", 3)])
@pytest.mark.parametrize("exclude", [None, EXCLUDE])
def test_the_list_is_the_exact_ranking_by_unfiltered_pi(name, batch, exclude):
    model = tiny_model(name)
    truth = brute(model, exclude)
    for k in (1, 4, N):
        found = best_first_search(model, IDS, MASK, k, INDEX, exclude=exclude, batch=batch)
        assert found.proven_B.all()
        for user, best in enumerate(truth):
            items, log_prob = zip(*best[:k], strict=True)
            assert found.items_BK[user].tolist() == [*items, *[-1] * (k - len(items))]
            assert found.log_prob_BK[user, : len(items)].tolist() == pytest.approx(log_prob, abs=1e-6)
            assert torch.isneginf(found.log_prob_BK[user, len(items) :]).all()
            outside = max((p for _, p in best[k:]), default=-torch.inf)
            assert outside - 1e-6 <= found.bound_B[user] <= found.log_prob_BK[user, len(items) - 1] + 1e-9


@pytest.mark.parametrize("exclude", [None, EXCLUDE])
def test_a_spent_budget_certifies_the_places_above_its_bound(exclude):
    model = tiny_model("qwen3")
    truth, ended_early = brute(model, exclude), 0
    for budget, batch in itertools.product(range(1, 9), (1, 3)):
        found = best_first_search(model, IDS, MASK, 5, INDEX, exclude=exclude, batch=batch, max_expansions=budget)
        assert (found.expansions_B <= budget).all()
        for user, best in enumerate(truth):
            items, bound = found.items_BK[user].tolist(), float(found.bound_B[user])
            certain = int((found.log_prob_BK[user] >= bound).sum())
            assert items[:certain] == [i for i, _ in best[:5]][:certain]
            assert all(p <= bound + 1e-9 for i, p in best if i not in items)
            whole = items == [i for i, _ in best[:5]]
            assert whole or not found.proven_B[user]
            ended_early += not bool(found.proven_B[user])
    assert ended_early > 10


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 9), st.sampled_from(["llama", "gpt2"]))
def test_random_catalogues_and_filters(seed, count, batch, name):
    draw = torch.Generator().manual_seed(seed)
    index, model = index_of(random_items(count, seed, levels=3, branch=5)), MODELS[name]
    exclude = torch.randint(-1, index.n_items, (3, 6), generator=draw)
    k = int(torch.randint(1, index.n_items + 1, (), generator=draw))
    found = best_first_search(model, IDS, MASK, k, index, exclude=exclude, batch=batch)
    items, log_prob = beam_search(model, IDS, MASK, k, index, beams=index.n_items, exclude=exclude)
    assert (found.items_BK == items).all()
    assert torch.allclose(found.log_prob_BK, log_prob.double(), atol=1e-4)
    assert found.proven_B.all()


MODELS = {name: tiny_model(name) for name in ("llama", "gpt2")}


class Counted:
    """A walker that counts the prefixes it is asked for."""

    def __init__(self, walker, asked):
        self.walker, self.asked = walker, asked

    def hidden(self, user_U, node_U):
        self.asked.append(len(node_U))
        return self.walker.hidden(user_U, node_U)


@pytest.mark.parametrize(("count", "sharpness", "ratio"), [(300, 1, 1.0), (2000, 2, 0.75), (2000, 1, 2.0)])
def test_what_a_proof_costs_against_a_beam_search_of_twice_the_width(count, sharpness, ratio, monkeypatch):
    """Prefixes expanded: fewer than by 2k beams, which prove nothing, unless the top k hold little of the mass."""
    model, index, k, asked = tiny_model("qwen3"), index_of(random_items(count)), 10, []
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharpness)
    make = decoding.walker_of
    for module in (decoding, best_first):
        monkeypatch.setattr(module, "walker_of", lambda *a: Counted(make(*a), asked))
    beam_search(model, IDS, MASK, k, index, beams=2 * k)
    by_beams = sum(asked)
    asked.clear()
    found = best_first_search(model, IDS, MASK, k, index, batch=4)
    assert sum(asked) == int(found.expansions_B.sum())
    assert sum(asked) < ratio * by_beams
    exact = beam_search(model, IDS, MASK, k, index, beams=index.n_items)
    assert found.proven_B.all()
    assert (found.items_BK == exact[0]).all()
    one_by_one = best_first_search(model, IDS, MASK, k, index, batch=1)
    assert (one_by_one.expansions_B <= found.expansions_B).all()
    assert torch.equal(one_by_one.items_BK, found.items_BK)


def test_items_come_one_after_another_in_exact_order():
    model = tiny_model("qwen3")
    truth, search = brute(model, EXCLUDE), BestFirst(model, IDS, MASK, INDEX, exclude=EXCLUDE, batch=2)
    some = torch.tensor([True, False, True])
    parts = [search.next_items(2), search.next_items(3, some)]
    assert (parts[1][0][1] == -1).all()
    spent = search.expansions_B.clone()
    parts += [search.next_items(N, torch.zeros(3, dtype=torch.bool))]
    assert torch.equal(search.expansions_B, spent)
    parts += [search.next_items(N), search.next_items(1)]
    items, log_prob = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    for user, best in enumerate(truth):
        there = items[user] >= 0
        assert items[user][there].tolist() == [i for i, _ in best]
        assert log_prob[user][there].tolist() == pytest.approx([p for _, p in best], abs=1e-9)
        assert torch.isneginf(log_prob[user][~there]).all()


def test_a_maximum_per_category_is_met_by_the_best_slate_there_is():
    model, k, most = tiny_model("qwen3"), 4, 1
    category = [i % 5 for i in range(N)]
    category[8] = category[9] = category[6] = 0
    search, slates = BestFirst(model, IDS, MASK, INDEX, batch=1), [[], [], []]
    while bool((wanted := torch.tensor([len(slate) < k for slate in slates])).any()):
        items, _ = search.next_items(1, wanted)
        for slate, item in zip(slates, items[:, 0].tolist(), strict=True):
            if item >= 0 and sum(category[i] == category[item] for i in slate) < most:
                slate.append(item)
    for slate, best in zip(slates, brute(model), strict=True):
        pi = dict(best)
        legal = [s for s in itertools.combinations(range(N), k) if len({category[i] for i in s}) == k]
        assert set(slate) == set(max(legal, key=lambda s: sum(pi[i] for i in s)))


def test_a_state_does_not_depend_on_the_others():
    model = tiny_model("qwen3")
    together = best_first_search(model, IDS, MASK, 3, INDEX, exclude=EXCLUDE, batch=2)
    for user in range(3):
        rows = slice(user, user + 1)
        alone = best_first_search(model, IDS[rows], MASK[rows], 3, INDEX, exclude=EXCLUDE[rows], batch=2)
        assert torch.equal(alone.items_BK, together.items_BK[rows])
        assert torch.equal(alone.expansions_B, together.expansions_B[rows])


def test_filters_made_beforehand_prune_alike():
    """Seen items, a dense filter and a retriever's candidates, as item indices that are left out."""
    model, stock = tiny_model("qwen3"), torch.arange(N) % 3 != 0
    candidates = torch.tensor([[1, 2, 3, 7, -1], [0, 4, 5, 8, 11], [9, 10, 1, 2, 6]])
    for allowed, kept in (
        (INDEX.exclusion(EXCLUDE), [set(range(N))] * 3),
        (INDEX.allowed(EXCLUDE, dense=INDEX.item_filter(stock)), [set(torch.nonzero(stock).flatten().tolist())] * 3),
        (INDEX.allowed(EXCLUDE, candidates_BC=candidates), [set(row) for row in candidates.tolist()]),
    ):
        found = best_first_search(model, IDS, MASK, 6, INDEX, exclude=allowed, batch=2)
        for user, best in enumerate(brute(model, EXCLUDE)):
            left = [i for i, _ in best if i in kept[user]][:6]
            assert found.items_BK[user].tolist() == [*left, *[-1] * (6 - len(left))]


def test_the_mode_of_the_model_stays_and_dropout_is_off():
    model = tiny_model("gpt2")
    model.train()
    found = best_first_search(model, IDS, MASK, 4, INDEX)
    assert model.training
    assert torch.equal(found.log_prob_BK, best_first_search(model.eval(), IDS, MASK, 4, INDEX).log_prob_BK)


def test_requests_at_the_edge():
    model = tiny_model("qwen3")
    with pytest.raises(RequestError, match="-k 5000 is more than the 12 items"):
        best_first_search(model, IDS, MASK, 5000, INDEX)
    with pytest.raises(RequestError, match="-k 0"):
        best_first_search(model, IDS, MASK, 0, INDEX)
    with pytest.raises(RequestError, match="batch of 0"):
        best_first_search(model, IDS, MASK, 1, INDEX, batch=0)
    with pytest.raises(RequestError, match="budget of 0"):
        best_first_search(model, IDS, MASK, 1, INDEX, max_expansions=0)
    with pytest.raises(RequestError, match="0 items are none"):
        BestFirst(model, IDS, MASK, INDEX).next_items(0)
    nothing = best_first_search(model, IDS, MASK, 2, INDEX, exclude=torch.arange(N).expand(3, -1))
    assert (nothing.items_BK == -1).all()
    assert nothing.proven_B.all()
    assert torch.isneginf(nothing.bound_B).all()
    one = best_first_search(model, IDS, MASK, 1, index_of([(5, 1)]))
    assert one.items_BK.tolist() == [[0]] * 3
    assert one.log_prob_BK.tolist() == [[0.0]] * 3
    assert one.expansions_B.tolist() == [0] * 3
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(RunError, match="logits are not finite"):
        best_first_search(model, IDS, MASK, 2, INDEX)
