"""Sampling and beam search against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from llmrec.errors import RequestError
from llmrec.policy import decoding
from llmrec.policy.decoding import beam_search, certified_beams, sample_items
from llmrec.policy.prefill import PlainPrefill, SharedPrefill
from llmrec.policy.scoring import score_items
from tests.policy.tiny import ITEMS, SHARING, brute_log_pi, index_of, prompts, tiny_model, unpadded

IDS, MASK = prompts()
INDEX = index_of()
N = len(ITEMS)
EVERY = torch.arange(N).expand(3, -1)
EXCLUDE = torch.tensor([[0, 4, 5, -1], [-1, -1, -1, -1], [8, 9, 10, 11]])


def uniforms(draws, users=3, seed=0):
    return torch.rand((users, draws, INDEX.max_length), generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("name", ["qwen3", "gemma3-window", "mamba"])
@pytest.mark.parametrize("exclude", [None, EXCLUDE])
def test_a_wide_beam_is_the_exact_ranking_by_unfiltered_pi(name, exclude):
    model = tiny_model(name)
    items, log_prob = beam_search(model, IDS, MASK, N, INDEX, beams=N, exclude=exclude)
    for user, prompt in enumerate(unpadded(IDS, MASK)):
        with torch.no_grad():
            pi = brute_log_pi(model, prompt)
        left_out = [] if exclude is None else exclude[user].tolist()
        best = sorted((i for i in pi if i not in left_out), key=lambda i: -pi[i])
        assert items[user].tolist() == best + [-1] * (N - len(best))
        assert log_prob[user, : len(best)].tolist() == pytest.approx([float(pi[i]) for i in best], abs=1e-4)
        assert torch.isneginf(log_prob[user, len(best) :]).all()


@pytest.mark.parametrize(
    ("name", "attention"), [*((name, "sdpa") for name in SHARING), ("gemma3-window", "eager"), ("gpt2", "eager")]
)
def test_tree_decoding_equals_the_plain_way(name, attention, monkeypatch):
    model = tiny_model(name, torch.float32, attention)
    made = []
    for kind in (SharedPrefill, PlainPrefill):
        monkeypatch.setattr(kind, "__init__", count_calls(kind.__init__, made))
    arguments = (model, IDS, MASK)
    shared = beam_search(*arguments, 4, INDEX, beams=5), sample_items(*arguments, 6, INDEX, uniform_BGL=uniforms(6))
    assert {type(walker) for walker in made[-2:]} == {SharedPrefill}
    monkeypatch.setattr(decoding, "supports_sharing", lambda *_: False)
    plain = beam_search(*arguments, 4, INDEX, beams=5), sample_items(*arguments, 6, INDEX, uniform_BGL=uniforms(6))
    assert {type(walker) for walker in made[-2:]} == {PlainPrefill}
    assert (shared[0][0] == plain[0][0]).all()
    assert torch.allclose(shared[0][1], plain[0][1], atol=1e-4)
    assert (shared[1].items_BG == plain[1].items_BG).all()
    assert torch.allclose(shared[1].token_log_prob_BGL, plain[1].token_log_prob_BGL, atol=1e-4)


def count_calls(init, made):
    def wrapped(self, *arguments):
        made.append(self)
        init(self, *arguments)

    return wrapped


def test_excluding_an_item_does_not_move_its_mass_to_a_sibling():
    """pi(A, B, C) = .54, .06, .40, A and B siblings: without A the order is C, B, although pi_F(B) = .60."""
    model = tiny_model("qwen3")
    items = [(5, 6, 1), (5, 7, 1), (8, 1)]
    index = index_of(items)
    with torch.no_grad():  # logits from the bias alone
        head = torch.nn.Linear(16, 60, bias=True).double()
        head.weight.zero_()
        head.bias.zero_()
        for token, p in ((5, 0.6), (8, 0.4), (6, 0.9), (7, 0.1)):
            head.bias[token] = np.log(p)
        model.lm_head = head
    all_items, log_prob = beam_search(model, IDS, MASK, 3, index, beams=3)
    assert all_items.tolist() == [[0, 2, 1]] * 3
    assert log_prob[0].exp().tolist() == pytest.approx([0.54, 0.40, 0.06])
    exclude = torch.zeros((3, 1), dtype=torch.long)
    for beams in (2, 3):
        left, log_prob = beam_search(model, IDS, MASK, 2, index, beams=beams, exclude=exclude)
        assert left.tolist() == [[2, 1]] * 3
        assert log_prob[0].exp().tolist() == pytest.approx([0.40, 0.06])
    filtered = score_items(model, IDS, MASK, torch.tensor([[1, 2]] * 3), index, exclude=exclude)
    assert filtered.item_log_prob_BG[0].exp().tolist() == pytest.approx([0.60, 0.40])
    drawn = sample_items(
        model, IDS, MASK, 2, index, exclude=exclude, uniform_BGL=torch.tensor([[[0.59] * 3, [0.61] * 3]] * 3)
    )
    assert drawn.items_BG.tolist() == [[1, 2]] * 3


@pytest.mark.parametrize("exclude", [None, EXCLUDE])
def test_sampled_frequencies_match_pi(exclude):
    model, draws = tiny_model("qwen3"), 6000
    drawn = sample_items(
        model, IDS, MASK, draws, INDEX, uniform_BGL=uniforms(draws), exclude=exclude, temperature=1.5
    )
    with torch.no_grad():
        scores = score_items(model, IDS, MASK, EVERY, INDEX, exclude=exclude, temperature=1.5)
    pi = scores.item_log_prob_BG.exp().numpy()
    for user in range(3):
        count = np.bincount(drawn.items_BG[user], minlength=N)
        assert count[pi[user] == 0].sum() == 0
        often = pi[user] * draws >= 5
        observed = [*count[often], count[~often].sum()]
        expected = [*pi[user][often] * draws, max(pi[user][~often].sum() * draws, 1e-9)]
        if expected[-1] < 5:
            observed, expected = observed[:-1], expected[:-1]
            expected = np.array(expected) * sum(observed) / sum(expected)
        assert chisquare(observed, expected).pvalue > 1e-3


def test_log_probs_of_draws_are_those_of_scoring():
    model = tiny_model("qwen2", torch.float32)
    for exclude in (None, EXCLUDE):
        options = {"exclude": exclude, "temperature": 0.8}
        drawn = sample_items(model, IDS, MASK, 9, INDEX, uniform_BGL=uniforms(9), **options)
        with torch.no_grad():
            scores = score_items(model, IDS, MASK, drawn.items_BG, INDEX, **options)
        assert torch.allclose(drawn.token_log_prob_BGL, scores.log_prob_BGL, atol=1e-5)
        assert torch.allclose(drawn.log_prob_BG, scores.item_log_prob_BG, atol=1e-5)


def test_draws_do_not_depend_on_the_batch():
    model, uniform = tiny_model("qwen3"), uniforms(5)
    together = sample_items(model, IDS, MASK, 5, INDEX, uniform_BGL=uniform).items_BG
    for user in range(3):
        rows = slice(user, user + 1)
        alone = sample_items(model, IDS[rows], MASK[rows], 5, INDEX, uniform_BGL=uniform[rows]).items_BG
        assert (alone == together[rows]).all()


def test_uniforms_at_the_ends_of_the_interval():
    model = tiny_model("qwen3")
    for value in (0.0, 1.0 - 2**-53):
        uniform = torch.full((3, 2, INDEX.max_length), value, dtype=torch.float64)
        drawn = sample_items(model, IDS, MASK, 2, INDEX, uniform_BGL=uniform, exclude=EXCLUDE)
        assert not any(item in EXCLUDE[b].tolist() for b in range(3) for item in drawn.items_BG[b].tolist())


@pytest.mark.parametrize("sharing", [True, False])
def test_the_policy_gradient_estimate_has_the_exact_gradient_as_its_mean(sharing, monkeypatch):
    """E[R(i) grad log pi(i)] over draws against grad sum_i pi(i) R(i) by enumeration."""
    model, draws = tiny_model("qwen3"), 12_000
    reward = torch.linspace(-1, 2, N, dtype=torch.float64)[
        torch.randperm(N, generator=torch.Generator().manual_seed(3))
    ]
    path = "auto" if sharing else "plain"
    parameters = [p for name, p in model.named_parameters() if "layers.1" in name]
    pi = score_items(model, IDS, MASK, EVERY, INDEX, path=path).item_log_prob_BG.exp()
    exact = torch.autograd.grad((pi * reward).sum(), parameters)
    monkeypatch.setattr(decoding, "supports_sharing", lambda *_: sharing)
    drawn = sample_items(model, IDS, MASK, draws, INDEX, uniform_BGL=uniforms(draws, seed=7)).items_BG
    log_pi = score_items(model, IDS, MASK, drawn, INDEX, path=path).item_log_prob_BG
    advantage = reward[drawn] - (pi * reward).sum(-1, keepdim=True).detach()
    estimate = torch.autograd.grad((log_pi * advantage).mean(-1).sum(), parameters)
    one, two = (torch.cat([g.flatten() for g in gradient]) for gradient in (exact, estimate))
    assert torch.nn.functional.cosine_similarity(one, two, dim=0) > 0.995
    assert (one - two).norm() / one.norm() < 0.1


@pytest.mark.parametrize("k", [1, 3])
def test_pruning_below_finished_items_keeps_the_best(k):
    model = tiny_model("qwen3")
    few = beam_search(model, IDS, MASK, k, INDEX, beams=N)
    everything = beam_search(model, IDS, MASK, N, INDEX, beams=N)
    assert (few[0] == everything[0][:, :k]).all()
    assert torch.allclose(few[1], everything[1][:, :k])


def test_a_generation_configuration_changes_nothing():
    model = tiny_model("qwen3")
    before = beam_search(model, IDS, MASK, 5, INDEX)
    model.generation_config.update(temperature=0.1, top_k=1, do_sample=True, repetition_penalty=9.0, num_beams=3)
    after = beam_search(model, IDS, MASK, 5, INDEX)
    assert (before[0] == after[0]).all()
    assert torch.equal(before[1], after[1])


def test_modes_are_restored_and_dropout_is_off():
    model = tiny_model("gpt2")
    model.train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    first = beam_search(model, IDS, MASK, 5, INDEX)
    assert torch.equal(first[1], beam_search(model, IDS, MASK, 5, INDEX)[1])
    sample_items(model, IDS, MASK, 2, INDEX, uniform_BGL=uniforms(2))
    assert [module.training for module in model.modules()] == modes


def test_requests_that_cannot_be_met():
    model = tiny_model("qwen3")
    with pytest.raises(RequestError, match="-k 5000 is more than the 12 items of the catalogue"):
        beam_search(model, IDS, MASK, 5000, INDEX)
    with pytest.raises(RequestError, match="-k 0"):
        beam_search(model, IDS, MASK, 0, INDEX)
    with pytest.raises(RequestError, match="2 beams"):
        beam_search(model, IDS, MASK, 3, INDEX, beams=2)
    everything = torch.arange(N).expand(3, -1)
    with pytest.raises(RequestError, match="state number 0"):
        sample_items(model, IDS, MASK, 2, INDEX, uniform_BGL=uniforms(2), exclude=everything)
    items, log_prob = beam_search(model, IDS, MASK, 3, INDEX, exclude=everything)
    assert (items == -1).all()
    assert torch.isneginf(log_prob).all()
    with pytest.raises(ValueError, match="uniform_BGL"):
        sample_items(model, IDS, MASK, 2, INDEX, uniform_BGL=uniforms(3))
    with pytest.raises(RequestError, match=r"prompt of 90 tokens and an item of 8 .* text.max_tokens"):
        beam_search(model, torch.ones((1, 90), dtype=torch.long), torch.ones((1, 90)), 1, INDEX)
    one = beam_search(model, IDS, MASK, 1, index_of([(5, 1)]))
    assert one[0].tolist() == [[0]] * 3
    assert one[1].tolist() == [[0.0]] * 3


@pytest.mark.parametrize("beams", [1, 2, 3, 6, N])
@pytest.mark.parametrize("k", [1, 3])
def test_what_a_beam_search_certifies_is_true(beams, k):
    """The first places above its bound are those of the exact list, and nothing outside is above the bound."""
    if beams < k:
        return
    model = tiny_model()
    found = certified_beams(model, IDS, MASK, k, INDEX, beams=beams)
    plain = beam_search(model, IDS, MASK, k, INDEX, beams=beams)
    assert torch.equal(found.items_BK, plain[0])
    assert torch.equal(found.log_prob_BK, plain[1])
    items, log_prob = beam_search(model, IDS, MASK, N, INDEX, beams=N)
    for row in range(len(IDS)):
        own = found.items_BK[row]
        outside = log_prob[row][~torch.isin(items[row], own)]
        assert float(found.bound_B[row]) >= float(outside.max()) - 1e-6
        sure = int((found.log_prob_BK[row] >= found.bound_B[row]).sum())
        assert torch.equal(own[:sure], items[row][:sure])
        assert not bool(found.proven_B[row]) or sure == k
    if beams == N:
        assert bool(found.proven_B.all())
        assert torch.equal(certified_beams(model, IDS, MASK, N, INDEX, beams=N).bound_B, torch.full((3,), -torch.inf))
