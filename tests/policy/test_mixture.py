"""Mixtures of policies, scores and ensembles, against enumeration of the whole catalogue."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue import Catalogue
from llmrec.catalogue.filters import Attributes, Filters
from llmrec.errors import RequestError
from llmrec.policy import mixture as mixture_module
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Items, Mixture, Scores
from tests.policy.test_filtered import CATEGORIES, ITEMS, filter_strategy, passes
from tests.policy.test_language_policy import STATES, TITLES, N, Words
from tests.policy.tiny import byte_tokenizer, tiny_model

B = len(STATES)
SEEN = [sorted(state.seen()) for state in STATES]
ALL = torch.arange(N).expand(B, -1)
KNOWN = Attributes.of(ITEMS, in_stock=["0", "2", "4", "6", "8"])
WHOLE = Items(N, "exclude", KNOWN)


def make(seed, *, codes=False, repeat="exclude", ids=None):
    tokenizer = byte_tokenizer()
    model = tiny_model("qwen3", torch.float32, seed=seed)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for weight, part in ((model.get_input_embeddings().weight, 1), (model.get_output_embeddings().weight, 2)):
            weight.normal_(generator=torch.Generator().manual_seed(10 * seed + part))
    ids = [str(i) for i in range(N)] if ids is None else ids
    if codes:
        rows = [[40 + i // 3, 60 + i % 3] for i in range(N)]
        catalogue = Catalogue.from_sequences(ids, TITLES, rows, tokenizer, scheme="codes")
    else:
        catalogue = Catalogue.from_titles(ids, TITLES, tokenizer)
    return LanguagePolicy(model, tokenizer, catalogue, Words(tokenizer), repeat, KNOWN)


def second(states):
    """Different numbers, the same for equal histories."""
    return np.stack([np.random.default_rng(5 + sum(s.seen())).gamma(0.5, size=N) for s in states])


def tied(states):
    """Many equal scores, many zeros."""
    return np.stack([np.array([0, 1, 1, 2, 0, 2, 1, 0, 2]) * (1 + sum(s.seen()) % 3) for s in states])


def silent(states):
    """Knows nothing."""
    return np.zeros((len(states), N))


def parity(state):
    """A group for the tests."""
    return STATES.index(state) % 2


@pytest.fixture(scope="module")
def kinds():
    """What may be a part; the second policy writes items by codes. None gives nearly all its mass to seen items."""
    one, two = make(1), make(2, codes=True)
    inner = Mixture([two, second], [0.25, 0.75])
    return {"one": one, "two": two, "both": Mixture.ensemble([one, two]), "inner": inner} | {
        "second": second,
        "tied": tied,
        "silent": silent,
    }


@pytest.fixture(scope="module")
def whole(kinds):
    """Every part over the whole catalogue, by enumeration: (B, N)."""
    found = {}
    for name in ("one", "two"):
        with torch.no_grad():
            found[name] = kinds[name].log_prob(STATES, ALL).double().exp().numpy()
    for name in ("second", "tied"):
        found[name] = kinds[name](STATES) / kinds[name](STATES).sum(1, keepdims=True)
    found["silent"] = silent(STATES)
    found["both"] = 0.5 * found["one"] + 0.5 * found["two"]
    found["inner"] = 0.25 * found["two"] + 0.75 * found["second"]
    return found


SEARCHED = ("one", "two", "both", "inner")


def truth(whole, names, weights_P, b, hide=True, conditioned=True):
    """p of all items for one state, (N,), and what each part that counts gives them, by the definition."""
    parts = np.stack([whole[name][b] for name in names])
    if conditioned and hide:
        parts[:, SEEN[b]] = 0.0
        parts /= np.maximum(parts.sum(1, keepdims=True), 1e-300)
    for at, name in enumerate(names):
        if name == "silent":
            others = [parts[i] for i, other in enumerate(names) if other in SEARCHED]
            others = others or [parts[i] for i, other in enumerate(names) if other != "silent"]
            parts[at] = np.mean(others, axis=0) if others else 0.0
    weights_P = np.asarray(weights_P)
    return weights_P @ parts, parts[weights_P > 0]


def check(slate, p_N, parts_PN, left, k):
    """The k best of `left` by p, with its logarithm; items that no part tells apart stand by index."""
    items = list(slate.items_K)
    assert len(set(items)) == len(items)
    assert set(items) <= set(left)
    assert len(items) == min(k, len(left)) or p_N[left].tolist().count(0.0) >= len(left) - len(items)
    best = np.sort(p_N[left])[::-1][: len(items)]
    assert np.exp(slate.log_probs_K) == pytest.approx(best, rel=2e-4, abs=1e-12)
    assert p_N[items] == pytest.approx(best, rel=2e-4, abs=1e-12)
    for before, after in itertools.pairwise(items):
        assert before < after or not (parts_PN[:, before] == parts_PN[:, after]).all()
    if len(items) == k:
        last = items[-1]
        assert not any(i < last and i not in items and (parts_PN[:, i] == parts_PN[:, last]).all() for i in left)


some = st.sampled_from
names_strategy = st.lists(some(["one", "two", "both", "inner", "second", "tied", "silent"]), min_size=1, max_size=3)
units = st.lists(st.integers(0, 4), min_size=3, max_size=3)


@settings(max_examples=20, deadline=None)
@given(
    names=names_strategy,
    units_P=units,
    k=st.integers(1, 4),
    shallow=st.booleans(),
    hide=st.booleans(),
    conditioned=st.booleans(),
)
def test_the_list_is_that_of_enumeration(kinds, whole, names, units_P, k, shallow, hide, conditioned):
    """Either all items are candidates, or few are and the search goes deeper until its list is proven."""
    units_P = np.array(units_P[: len(names)], dtype=float)
    weights_P = units_P / units_P.sum() if units_P.sum() else None
    parts = [kinds[name] for name in names]
    mixture = Mixture(parts, weights_P, items=WHOLE, depth=k if shallow else N, conditioned=conditioned)
    slates = mixture.recommend(STATES, k, exclude_seen=hide, exact=shallow, batch_size=2 if shallow else 64)
    for b, slate in enumerate(slates):
        p_N, parts_PN = truth(whole, names, mixture.weights_GP[0], b, hide, conditioned)
        check(slate, p_N, parts_PN, [i for i in range(N) if not (hide and i in SEEN[b])], k)


@settings(max_examples=20, deadline=None)
@given(
    names=names_strategy,
    filters=st.lists(filter_strategy, min_size=B, max_size=B),
    shallow=st.booleans(),
    conditioned=st.booleans(),
)
def test_filters_take_items_away_and_change_no_score(kinds, whole, names, filters, shallow, conditioned):
    mixture = Mixture([kinds[n] for n in names], items=WHOLE, depth=3 if shallow else N, conditioned=conditioned)
    kept = [[i for i in range(N) if passes(i, f, s.seen())] for f, s in zip(filters, STATES, strict=True)]
    if not all(kept):
        with pytest.raises(RequestError, match="leaves no item"):
            mixture.recommend(STATES, 3, filters=filters)
        return
    for b, slate in enumerate(mixture.recommend(STATES, 3, filters=filters, exact=shallow)):
        p_N, parts_PN = truth(whole, names, mixture.weights_GP[0], b, conditioned=conditioned)
        check(slate, p_N, parts_PN, kept[b], 3)


@pytest.mark.parametrize("most", [1, 2])
def test_a_maximum_per_category_is_obeyed_by_the_best_slate_there_is(kinds, whole, most):
    mixture = Mixture([kinds["one"], second], [0.3, 0.7], depth=4)
    for b, slate in enumerate(mixture.recommend(STATES, 4, filters=Filters(max_per_category=most))):
        p_N = truth(whole, ["one", "second"], [0.3, 0.7], b)[0]
        wanted: list[int] = []
        for item in sorted((i for i in range(N) if i not in SEEN[b]), key=lambda i, p=p_N: -p[i]):
            alike = [i for i in wanted if CATEGORIES[i] == CATEGORIES[item] != ""]
            if len(alike) < most and len(wanted) < 4:
                wanted.append(item)
        assert list(slate.items_K) == wanted


def test_few_candidates_have_exact_probabilities(kinds, whole, monkeypatch):
    monkeypatch.setattr(mixture_module, "ROW_ITEMS", 2)
    names = ["one", "two", "second"]
    mixture = Mixture([kinds[name] for name in names])
    for rows, found in mixture.candidates(STATES, 2, beams=N, batch_size=3):
        for row, b in enumerate(range(B)[rows]):
            parts_PN = truth(whole, names, [0.4, 0.3, 0.3], b)[1]
            items = [i for i in found.items_BC[row].tolist() if i >= 0]
            assert items == sorted({int(i) for part_N in parts_PN for i in np.argsort(-part_N)[:2]})
            assert found.parts_PBC[:, row, : len(items)] == pytest.approx(parts_PN[:, items], rel=1e-4)
            assert (found.parts_PBC[:, row, len(items) :] == 0).all()
            assert found.outside_PB[:, row] == pytest.approx(np.sort(parts_PN, axis=1)[:, -2], rel=1e-4)


def test_each_group_has_its_weights(kinds, whole):
    names, weights_GP = ["one", "two", "second"], np.array([[0.5, 0.2, 0.3], [0.0, 0.1, 0.9]])
    mixture = Mixture([kinds[name] for name in names], weights_GP, parity, depth=N)
    for b, slate in enumerate(mixture.recommend(STATES, N)):
        check(slate, *truth(whole, names, weights_GP[b % 2], b), [i for i in range(N) if i not in SEEN[b]], N)
        assert np.exp(slate.log_probs_K).sum() == pytest.approx(1.0, abs=1e-4)


def test_an_ensemble_conditions_as_a_whole_and_a_mixture_part_by_part(kinds, whole):
    """They differ where members spend unlike mass on seen items."""
    parts = [kinds["one"], kinds["two"]]
    differ = 0
    for b, (each, one) in enumerate(
        zip(Mixture(parts).recommend(STATES, 3), Mixture([Mixture.ensemble(parts)]).recommend(STATES, 3), strict=True)
    ):
        raw_PN = np.stack([whole["one"][b], whole["two"][b]])
        open_N = np.array([i not in SEEN[b] for i in range(N)])
        left_P1 = raw_PN[:, open_N].sum(1, keepdims=True)
        assert np.exp(each.log_probs_K) == pytest.approx((raw_PN / left_P1).mean(0)[list(each.items_K)], rel=1e-4)
        assert np.exp(one.log_probs_K) == pytest.approx(raw_PN.mean(0)[list(one.items_K)] / left_P1.mean(), rel=1e-4)
        differ += abs(left_P1[0, 0] - left_P1[1, 0]) > 0.01
    assert differ


def test_one_part_or_the_same_twice_is_that_part(kinds):
    own = kinds["one"].recommend(STATES, 4, beams=N)
    for copies in (1, 2):
        for slate, plain in zip(Mixture.ensemble([kinds["one"]] * copies).recommend(STATES, 4), own, strict=True):
            assert slate.items_K == plain.items_K
            assert slate.log_probs_K == pytest.approx(plain.log_probs_K, abs=1e-5)


def test_recommenders_of_scores_are_parts_to_a_power():
    @dataclasses.dataclass
    class Model:
        score: object

        def distribution(self, states, power=1.0):
            sharp_BN = self.score(states) ** power
            return sharp_BN / sharp_BN.sum(1, keepdims=True)

    one_BN, two_BN = (Model(score).distribution(STATES, 2.0) for score in (second, tied))
    mixture = Mixture([Scores((Model(second), Model(tied)), 2.0)], items=Items(N, "allow"), depth=N)
    for b, slate in enumerate(mixture.recommend(STATES, 4)):
        mean_N = (one_BN[b] + two_BN[b]) / 2
        assert list(slate.items_K) == np.argsort(-mean_N, kind="stable")[:4].tolist()
        assert np.exp(slate.log_probs_K) == pytest.approx(mean_N[list(slate.items_K)])
    even = Mixture([Model(second).distribution, Model(tied).distribution], items=Items(N, "allow")).recommend(
        STATES, 4
    )
    for slate, b in zip(even, range(B), strict=True):
        mean_N = (Model(second).distribution(STATES)[b] + Model(tied).distribution(STATES)[b]) / 2
        assert np.exp(slate.log_probs_K) == pytest.approx(np.sort(mean_N)[::-1][:4])


def test_seen_items_are_left_out_and_short_slates_say_so(kinds):
    mixture = Mixture([kinds["one"], kinds["both"], second])
    seen = [np.arange(N - 2) for _ in STATES]
    for slate, state in zip(mixture.recommend(STATES, 5, seen=seen), STATES, strict=True):
        assert set(slate.items_K) == {N - 2, N - 1} - set(state.seen())
    everything = [np.arange(N) for _ in STATES]
    assert {slate.items_K for slate in mixture.recommend(STATES, 5, seen=everything)} == {()}
    assert mixture.recommend([], 5) == []


def test_the_scale_of_a_score_does_not_matter_nor_does_the_batch(kinds):
    plain = Mixture([kinds["one"], second], [0.4, 0.6]).recommend(STATES, 4)
    huge = Mixture([kinds["one"], lambda states: second(states) * 1e307], [0.4, 0.6])
    again = huge.recommend(STATES, 4, batch_size=2)
    assert [s.items_K for s in plain] == [s.items_K for s in again]
    assert plain[0].log_probs_K == pytest.approx(again[0].log_probs_K, abs=1e-5)


def test_dropout_is_off_and_training_mode_survives(kinds):
    mixture = Mixture([kinds["both"], second], [0.5, 0.5])
    before = mixture.recommend(STATES, 3)
    for policy in mixture.policies:
        policy.model.train()
    try:
        assert mixture.recommend(STATES, 3) == before
        assert all(policy.model.training for policy in mixture.policies)
    finally:
        for policy in mixture.policies:
            policy.model.eval()


def test_mixtures_that_cannot_be(kinds):
    one, two = kinds["one"], kinds["two"]
    with pytest.raises(RequestError, match="at least one part"):
        Mixture.ensemble([])
    with pytest.raises(RequestError, match="without a policy needs items"):
        Mixture([second])
    with pytest.raises(RequestError, match="but its policies have"):
        Mixture([one, second], items=Items(N + 1, "exclude"))
    with pytest.raises(RequestError, match="do not fit 3 parts"):
        Mixture([one, two, second], [0.5, 0.5])
    for weights in ([0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]):
        with pytest.raises(RequestError, match="sum 1"):
            Mixture([one, two, second], weights)
    with pytest.raises(RequestError, match="Policy 1 of the mixture has other items"):
        Mixture([one, Mixture.ensemble([make(4, ids=[str(i) for i in reversed(range(N))])])])
    with pytest.raises(RequestError, match="Policy 1 of the mixture says 'allow'"):
        Mixture([one, make(4, repeat="allow")])


def test_requests_that_cannot_be_met(kinds):
    one = kinds["one"]
    for k in (0, N + 1):
        with pytest.raises(RequestError, match=f"-k {k}"):
            Mixture([one]).recommend(STATES, k)
    with pytest.raises(RequestError, match="depth of 2"):
        Mixture([one], depth=2).recommend(STATES, 3)
    with pytest.raises(RequestError, match="group 7"):
        Mixture([one], group=lambda state: 7).recommend(STATES, 2)
    with pytest.raises(RequestError, match="2 filters were given for 5 states"):
        Mixture([one]).recommend(STATES, 2, filters=[Filters()] * 2)
    with pytest.raises(RequestError, match="knows no attributes"):
        Mixture([second], items=Items(N, "exclude")).recommend(STATES, 2, filters=Filters(brands=("A",)))
    for scores, words in (
        (np.zeros((B, N + 1)), "shape"),
        (np.full((B, N), -1.0), "negative"),
        (np.full((B, N), np.nan), "not finite"),
    ):
        with pytest.raises(RequestError, match=words):
            Mixture([one, lambda states, scores=scores: scores]).recommend(STATES, 2)


@pytest.mark.parametrize("name", ["one", "both"])
def test_an_option_that_there_is_not_is_refused(kinds, name):
    with pytest.raises(TypeError, match="no option 'beam' of a search; give some of beams,"):
        kinds[name].recommend(STATES, 2, beam=3)
