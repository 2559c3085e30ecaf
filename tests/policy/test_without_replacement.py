"""Sampling without replacement against enumeration of all ordered draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, gumbel_r, kstest

from llmrec.errors import RequestError, RunError
from llmrec.policy import gumbel
from llmrec.policy.gumbel import GOLDEN, gumbel_noise, log1mexp, split_mix
from llmrec.policy.scoring import score_items
from llmrec.policy.without_replacement import importance_weights, plackett_luce, sample_without_replacement
from llmrec.seeding import stream_seed
from tests.policy.test_best_first import random_items
from tests.policy.tiny import ITEMS, brute_log_pi, index_of, prompts, tiny_model, unpadded

IDS, MASK = prompts()
INDEX = index_of()
N = len(ITEMS)
EXCLUDE = torch.tensor([[0, 4, 5, -1], [-1, -1, -1, -1], [8, 9, 10, 11]])


def stream_keys(users, seed, *name):
    """Keys of the rows of a stream: (B,) int64."""
    return split_mix(torch.arange(1, users + 1) * GOLDEN + stream_seed(seed, *name))


KEYS = stream_keys(3, 0, "tests")


def drawn_often(model, k, users, exclude=None, temperature=1.0, name="often"):
    """`users` draws for the first prompt, each with its own key."""
    ids, mask = IDS[:1].expand(users, -1), MASK[:1].expand(users, -1)
    left_out = None if exclude is None else exclude[:1].expand(users, -1)
    keys = stream_keys(users, 5, name)
    options = {"keys_B": keys, "exclude": left_out, "temperature": temperature}
    return sample_without_replacement(model, ids, mask, k, INDEX, **options)


def exact(model, exclude=None, temperature=1.0):
    """pi_F of the first prompt over all items, by the model's full logits; 0 where excluded."""
    left_out = [] if exclude is None else exclude[0].tolist()
    allowed = [i for i in range(N) if i not in left_out]
    with torch.no_grad():
        log_pi = brute_log_pi(model, unpadded(IDS, MASK)[0], allowed=allowed, temperature=temperature)
    pi = np.zeros(N)
    for item, value in log_pi.items():
        pi[item] = float(value.exp())
    return pi


def in_order(pi, slate):
    """Probability of drawing these items one after the other, by the definition of the draw."""
    left, probability = 1.0, 1.0
    for item in slate:
        probability *= pi[item] / left
        left -= pi[item]
    return probability


def test_split_mix_is_the_published_generator():
    """First outputs of SplitMix64 for seed 0, as the generator's authors give them."""
    outputs = split_mix(torch.arange(1, 4) * GOLDEN)
    assert [value % 2**64 for value in outputs.tolist()] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_noise_is_gumbel_belongs_to_its_pair_and_is_finite(monkeypatch):
    keys = stream_keys(200, 3, "noise")
    noise = gumbel_noise(keys.unsqueeze(1), torch.arange(100).expand(200, -1))
    assert kstest(noise.flatten(), gumbel_r.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(noise.T)[np.triu_indices(100, 1)]).max() < 0.4
    assert torch.equal(noise[7, [3, 90]], gumbel_noise(keys[[7, 7]], torch.tensor([3, 90])))
    assert len(torch.unique(torch.cat([keys, stream_keys(200, 4, "noise"), stream_keys(200, 3, "other")]))) == 600
    for bits in (0, -1):
        monkeypatch.setattr(gumbel, "split_mix", lambda state, bits=bits: torch.full_like(state, bits))
        assert torch.isfinite(gumbel_noise(torch.tensor([1]), torch.tensor([1]))).all()


def test_log1mexp_at_both_ends():
    value = torch.tensor([-1e-12, -0.5, -0.7, -40.0], dtype=torch.float64, requires_grad=True)
    expected = [np.log(1e-12), np.log(1 - np.exp(-0.5)), np.log(1 - np.exp(-0.7)), -np.exp(-40.0)]
    assert log1mexp(value).tolist() == pytest.approx(expected, rel=1e-12)
    log1mexp(value).sum().backward()
    assert torch.isfinite(value.grad).all()


@pytest.mark.parametrize(("exclude", "temperature"), [(None, 1.0), (EXCLUDE, 1.7)])
def test_ordered_pairs_have_the_probabilities_of_plackett_luce(exclude, temperature):
    model, users = tiny_model("qwen3"), 6000
    pi = exact(model, exclude, temperature)
    drawn = drawn_often(model, 2, users, exclude, temperature)
    first, second = drawn.items_BK.T.numpy()
    count = np.bincount(first * N + second, minlength=N * N)
    expected = np.zeros(N * N)
    for a, b in itertools.permutations(np.flatnonzero(pi), 2):
        expected[a * N + b] = in_order(pi, (a, b)) * users
    assert expected.sum() == pytest.approx(users)
    assert count[expected == 0].sum() == 0
    often = expected >= 5
    observed, wanted = [*count[often], count[~often].sum()], [*expected[often], expected[~often].sum()]
    assert often.sum() > 20
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_weights_make_a_mean_unbiased_and_without_them_it_is_not():
    model, users = tiny_model("qwen3"), 4000
    pi = exact(model)
    figure = torch.linspace(-1, 2, N, dtype=torch.float64)[
        torch.randperm(N, generator=torch.Generator().manual_seed(3))
    ]
    truth = float((torch.from_numpy(pi) * figure).sum())
    for k in (1, 3, 8):
        drawn = drawn_often(model, k, users, name=f"weights{k}")
        weighted = (drawn.weight_BK * figure[drawn.items_BK]).sum(1)
        mean, error = float(weighted.mean()), float(weighted.std()) / users**0.5
        assert abs(mean - truth) < 4 * error
        assert float(drawn.weight_BK.sum(1).mean()) == pytest.approx(
            1.0, abs=4 * float(drawn.weight_BK.sum(1).std()) / users**0.5
        )
        plain = figure[drawn.items_BK].mean(1)
        bias = abs(float(plain.mean()) - truth) / (float(plain.std()) / users**0.5)
        assert bias < 4 if k == 1 else bias > 10


def test_each_item_is_weighed_without_bias():
    """With f = 1 at one item the estimate is pi of that item, for every item, filters included."""
    model, users = tiny_model("qwen3"), 4000
    pi, drawn = exact(model, EXCLUDE), drawn_often(model, 4, users, EXCLUDE, name="items")
    table = torch.zeros((users, N), dtype=torch.float64).scatter(1, drawn.items_BK, drawn.weight_BK)
    error = table.std(0) / users**0.5
    assert ((table.mean(0) - torch.from_numpy(pi)).abs() <= 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("name", ["qwen3", "gemma3-window", "mamba"])
def test_figures_of_a_draw(name):
    model, k = tiny_model(name), 5
    drawn = sample_without_replacement(model, IDS, MASK, k, INDEX, keys_B=KEYS, exclude=EXCLUDE, temperature=0.8)
    with torch.no_grad():
        scores = score_items(model, IDS, MASK, drawn.items_BK, INDEX, exclude=EXCLUDE, temperature=0.8)
    assert torch.allclose(drawn.log_prob_BK, scores.item_log_prob_BG.double(), atol=1e-6)
    assert (drawn.perturbed_BK.diff(dim=1) < 0).all()
    assert (drawn.perturbed_BK[:, -1] > drawn.threshold_B).all()
    for user in range(3):
        slate = drawn.items_BK[user].tolist()
        assert len(set(slate)) == k
        assert not set(slate) & set(EXCLUDE[user].tolist())
        p = dict(zip(slate, drawn.log_prob_BK[user].exp().tolist(), strict=True))
        assert float(drawn.slate_log_prob_B[user].exp()) == pytest.approx(in_order(p, slate))
        kappa = float(drawn.threshold_B[user])
        q = [1 - np.exp(-np.exp(np.log(p[item]) - kappa)) for item in slate]
        assert drawn.weight_BK[user].tolist() == pytest.approx([p[i] / w for i, w in zip(slate, q, strict=True)])


def test_draws_depend_on_prompt_and_key_alone_and_shorter_ones_begin_longer_ones():
    model = tiny_model("qwen3")
    together = sample_without_replacement(model, IDS, MASK, 6, INDEX, keys_B=KEYS, exclude=EXCLUDE)
    order = torch.tensor([2, 0])
    turned = sample_without_replacement(
        model, IDS[order], MASK[order], 6, INDEX, keys_B=KEYS[order], exclude=INDEX.exclusion(EXCLUDE[order])
    )
    assert torch.equal(turned.items_BK, together.items_BK[order])
    assert torch.allclose(turned.perturbed_BK, together.perturbed_BK[order], atol=1e-9)
    for k in (1, 4):
        short = sample_without_replacement(model, IDS, MASK, k, INDEX, keys_B=KEYS, exclude=EXCLUDE)
        assert torch.equal(short.items_BK, together.items_BK[:, :k])
        assert torch.allclose(short.threshold_B, together.perturbed_BK[:, k], atol=1e-9)


def test_filters_made_beforehand_are_those_of_the_items_they_leave_out():
    model, candidates = tiny_model("qwen3"), torch.tensor([[1, 2, 3, 7, 8]]).expand(3, -1)
    others = torch.tensor([[i for i in range(N) if i not in (1, 2, 3, 7, 8)]]).expand(3, -1)
    one, other = (
        sample_without_replacement(model, IDS, MASK, 3, INDEX, keys_B=KEYS, exclude=left)
        for left in (INDEX.allowed(candidates_BC=candidates), others)
    )
    assert torch.equal(one.items_BK, other.items_BK)
    assert torch.allclose(one.weight_BK, other.weight_BK)


def test_fewer_allowed_items_than_places_are_the_whole_distribution():
    model, left = tiny_model("qwen3"), torch.tensor([[3, 7, 9], [0, 1, 2], [4, 10, 11]])
    exclude = torch.stack([torch.tensor([i for i in range(N) if i not in row]) for row in left.tolist()])
    for k in (3, 5):
        drawn = sample_without_replacement(model, IDS, MASK, k, INDEX, keys_B=KEYS, exclude=exclude)
        assert torch.equal(drawn.items_BK[:, :3].sort(1).values, left)
        assert (drawn.items_BK[:, 3:] == -1).all()
        assert torch.isneginf(drawn.log_prob_BK[:, 3:]).all()
        assert torch.isneginf(drawn.threshold_B).all()
        assert torch.isfinite(drawn.slate_log_prob_B).all()
        assert torch.allclose(drawn.weight_BK[:, :3], drawn.log_prob_BK[:, :3].exp())
        assert (drawn.weight_BK[:, 3:] == 0).all()
        assert torch.allclose(drawn.weight_BK.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-6)


def test_plackett_luce_sums_to_one_and_has_the_gradient_of_the_formula():
    logits = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    log_p = torch.log_softmax(logits, 0)
    for k in (1, 2, 3, 5):
        slates = torch.tensor(list(itertools.permutations(range(5), k)))
        value = plackett_luce(log_p[slates])
        assert float(value.detach().exp().sum()) == pytest.approx(1.0)
        assert value.exp().tolist() == pytest.approx([in_order(log_p.exp().tolist(), s) for s in slates.tolist()])
    assert torch.autograd.gradcheck(lambda x: plackett_luce(torch.log_softmax(x, 0)[None, :3]), [logits])
    padded = torch.cat([log_p[None, :2], torch.full((1, 2), -torch.inf, dtype=torch.float64)], 1)
    (gradient,) = torch.autograd.grad(plackett_luce(padded).sum(), logits, retain_graph=True)
    (plain,) = torch.autograd.grad(plackett_luce(log_p[None, :2]).sum(), logits)
    assert torch.allclose(gradient, plain)


def test_plackett_luce_where_rounding_has_used_up_the_rest():
    """Two items with all but 1e-30 of the mass and a third that has it: the third is then certain."""
    log_prob = torch.tensor([[np.log(0.25), np.log(0.75), -30 * np.log(10)]]).requires_grad_()
    value = plackett_luce(log_prob)
    assert float(value.detach()) == pytest.approx(np.log(0.25))
    (gradient,) = torch.autograd.grad(value.sum(), log_prob)
    assert torch.isfinite(gradient).all()
    single = torch.log_softmax(torch.tensor([[0.0, 9.0, -12.0]]), 1)  # float32: 1 - p is off by more than the rest
    order, whole = torch.tensor([[1, 0, 2]]), torch.tensor([True])
    exact = plackett_luce(torch.log_softmax(torch.tensor([[0.0, 9.0, -12.0]]).double(), 1).gather(1, order))
    assert float(plackett_luce(single.gather(1, order), whole)) == pytest.approx(float(exact), abs=1e-6)


def test_weights_far_below_the_threshold():
    """p / q tends to exp(kappa) where p is small against it, also where 1 - exp(-x) would round to 0."""
    log_prob = torch.tensor([[-1.0, -50.0, -800.0, -torch.inf]], dtype=torch.float64)
    weight = importance_weights(log_prob, torch.tensor([2.0]))
    q = 1 - np.exp(-np.exp(-3.0))
    assert weight[0].tolist() == pytest.approx([np.exp(-1.0) / q, np.exp(2.0), np.exp(2.0), 0.0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_random_catalogues_give_distinct_allowed_items(seed, count):
    draw = torch.Generator().manual_seed(seed)
    index = index_of(random_items(count, seed, levels=3, branch=5))
    exclude = torch.randint(-1, index.n_items, (3, index.n_items // 2), generator=draw)
    k, keys = int(torch.randint(1, index.n_items + 1, (), generator=draw)), stream_keys(3, seed)
    if any(len(set(row) - {-1}) == index.n_items for row in exclude.tolist()):
        return
    drawn = sample_without_replacement(MODEL, IDS, MASK, k, index, keys_B=keys, exclude=exclude)
    for user in range(3):
        items = [i for i in drawn.items_BK[user].tolist() if i >= 0]
        left_out = set(exclude[user].tolist()) - {-1}
        assert len(set(items)) == len(items) == min(k, index.n_items - len(left_out))
        assert not set(items) & left_out
    assert torch.isfinite(drawn.slate_log_prob_B).all()
    assert torch.isfinite(drawn.weight_BK).all()
    assert (drawn.slate_log_prob_B <= 1e-6).all()


MODEL = tiny_model("llama", torch.float32)


def test_requests_that_cannot_be_met():
    model = tiny_model("qwen3")
    with pytest.raises(RequestError, match="-k 5000 is more than the 12 items"):
        sample_without_replacement(model, IDS, MASK, 5000, INDEX, keys_B=KEYS)
    with pytest.raises(RequestError, match="-k 0"):
        sample_without_replacement(model, IDS, MASK, 0, INDEX, keys_B=KEYS)
    for temperature in (0.0, float("nan")):
        with pytest.raises(RequestError, match="temperature"):
            sample_without_replacement(model, IDS, MASK, 1, INDEX, keys_B=KEYS, temperature=temperature)
    with pytest.raises(RequestError, match="state number 0"):
        sample_without_replacement(model, IDS, MASK, 2, INDEX, keys_B=KEYS, exclude=torch.arange(N).expand(3, -1))
    with pytest.raises(ValueError, match="keys_B"):
        sample_without_replacement(model, IDS, MASK, 2, INDEX, keys_B=KEYS[:2])
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(RunError, match="logits are not finite"):
        sample_without_replacement(model, IDS, MASK, 2, INDEX, keys_B=KEYS)
