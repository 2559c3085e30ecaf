"""Filters of requests end to end: the right items, unfiltered scores, honest errors."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.errors import RequestError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.types import Item
from tests.policy.test_language_policy import STATES, TITLES, Words, exact, policy  # noqa: F401

CATEGORIES = ["horror", "horror", "horror", "horror", "drama", "drama", "", "history", "drama"]
PRICES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, None, 9.0]
ITEMS = [
    Item(str(i), title, categories=(category,) if category else (), brand="AB"[i % 2], price=price)
    for i, (title, category, price) in enumerate(zip(TITLES, CATEGORIES, PRICES, strict=True))
]
N = len(ITEMS)


@pytest.fixture(scope="module")
def filtering(policy):  # noqa: F811
    attributes = Attributes.of(ITEMS, in_stock=["0", "2", "4", "6", "8"])
    return LanguagePolicy(
        policy.model, policy.tokenizer, policy.catalogue, Words(policy.tokenizer), "exclude", attributes
    )


def passes(item, filters, seen):
    low, high = filters.price
    return (
        item not in seen
        and (not filters.categories or CATEGORIES[item] in filters.categories)
        and (not filters.brands or "AB"[item % 2] in filters.brands)
        and (low is None or (PRICES[item] is not None and PRICES[item] >= low))
        and (high is None or (PRICES[item] is not None and PRICES[item] <= high))
        and (not filters.in_stock or item % 2 == 0)
        and (filters.candidates is None or str(item) in filters.candidates)
        and str(item) not in filters.exclude
    )


some = st.sampled_from
ids = st.sets(some([str(i) for i in range(N)]), min_size=1)
filter_strategy = st.builds(
    Filters,
    categories=st.lists(some(["horror", "drama", "history"]), max_size=2, unique=True).map(tuple),
    brands=st.lists(some(["A", "B"]), max_size=1).map(tuple),
    price=some([(None, None), (2.0, None), (None, 6.0), (2.5, 8.0)]),
    in_stock=some([False, False, True]),
    candidates=st.none() | ids.map(sorted).map(tuple),
    exclude=ids.map(sorted).map(lambda x: tuple(x[:2])),
)


@settings(max_examples=25, deadline=None)
@given(filters=st.lists(filter_strategy, min_size=len(STATES), max_size=len(STATES)), exactly=st.booleans())
def test_each_request_gets_the_best_of_what_its_filter_leaves(filtering, filters, exactly):
    log_pi = exact(filtering)
    kept = [[i for i in range(N) if passes(i, f, s.seen())] for f, s in zip(filters, STATES, strict=True)]
    if not all(kept):
        with pytest.raises(RequestError, match="leaves no item"):
            filtering.recommend(STATES, 3, filters=filters, beams=N)
        return
    slates = filtering.recommend(STATES, 3, filters=filters, beams=N, exact=exactly, batch_size=2)
    for b, slate in enumerate(slates):
        best = sorted(kept[b], key=lambda i: -log_pi[b, i])[:3]
        assert list(slate.items_K) == best
        np.testing.assert_allclose(slate.log_probs_K, log_pi[b, best], atol=1e-5)


@pytest.mark.parametrize("most", [1, 2])
def test_a_maximum_per_category_gives_the_best_slate_there_is(filtering, most):
    log_pi = exact(filtering)
    slates = filtering.recommend(STATES, 4, filters=Filters(max_per_category=most))
    for b, slate in enumerate(slates):
        left = [i for i in range(N) if i not in STATES[b].seen()]

        def fits(chosen):
            named = [CATEGORIES[i] for i in chosen if CATEGORIES[i]]
            return all(named.count(name) <= most for name in named)

        most_items = next(n for n in (4, 3, 2, 1) if any(map(fits, itertools.combinations(left, n))))
        combinations = itertools.combinations(left, most_items)
        best = max(filter(fits, combinations), key=lambda chosen: float(log_pi[b, list(chosen)].sum()))
        assert set(slate.items_K) == set(best)
        assert list(slate.log_probs_K) == sorted(slate.log_probs_K, reverse=True)


def test_one_filter_serves_all_and_fewer_than_k_are_fewer(filtering):
    slates = filtering.recommend(STATES, 5, filters=Filters(categories=("history",)), exclude_seen=False)
    assert [slate.items_K for slate in slates] == [(7,)] * len(STATES)


def test_what_cannot_be_asked(filtering, policy):  # noqa: F811
    for filters, message in (
        (Filters(exclude=("nowhere",)), "exclude names 'nowhere'"),
        (Filters(candidates=("nowhere",)), "candidates names 'nowhere'"),
        (Filters(categories=("horor",)), "did you mean 'horror'"),
        (Filters(candidates=()), "leaves no item"),
        ([Filters()], "1 filters were given for 5 states"),
    ):
        with pytest.raises(RequestError, match=message):
            filtering.recommend(STATES, 2, filters=filters)
    with pytest.raises(RequestError, match="knows no attributes"):
        policy.recommend(STATES, 2, filters=Filters())


def test_new_attributes_are_seen_at_once(policy):  # noqa: F811
    own = LanguagePolicy(policy.model, policy.tokenizer, policy.catalogue, Words(policy.tokenizer), "allow")
    own.set_attributes(Attributes.of(ITEMS, in_stock=["3"]))
    only = Filters(in_stock=True)
    assert own.recommend(STATES[:1], 1, filters=only)[0].items_K == (3,)
    own.set_attributes(Attributes.of(ITEMS, in_stock=["4"]))
    assert own.recommend(STATES[:1], 1, filters=only)[0].items_K == (4,)
    assert torch.is_grad_enabled()


def test_draws_and_scores_under_filters_agree(filtering):
    filters = [
        Filters(brands=("A",)),
        Filters(candidates=("1", "3", "8")),
        Filters(),
        Filters(price=(None, 6.0)),
        Filters(),
    ]
    kept = [[i for i in range(N) if passes(i, f, s.seen())] for f, s in zip(filters, STATES, strict=True)]
    drawn = filtering.sample(STATES, 6, seed=3, filters=filters, batch_size=2)
    for b, items in enumerate(drawn.items_BG.tolist()):
        assert set(items) <= set(kept[b])
    items = torch.arange(N).expand(len(STATES), -1)
    log_prob = filtering.log_prob(STATES, items, exclude_seen=True, filters=filters)
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(len(STATES)), atol=1e-5, rtol=0)
    assert [[i for i in range(N) if torch.isfinite(row[i])] for row in log_prob] == kept
    torch.testing.assert_close(log_prob.gather(1, drawn.items_BG), drawn.log_prob_BG, atol=1e-5, rtol=0)
    assert log_prob.requires_grad
