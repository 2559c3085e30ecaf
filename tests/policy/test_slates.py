"""Slates under bounds: the best there is by enumeration, whatever the groups and however little is read."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue.filters import Attributes, Bound, Filters
from llmrec.errors import RequestError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Items, Mixture
from llmrec.policy.slates import Again, bounded_slates
from llmrec.types import Item, Slate
from tests.policy.test_filtered import ITEMS, N
from tests.policy.test_language_policy import STATES, Words, exact, policy  # noqa: F401


def limits(chosen, filters, attributes):
    """Missing items of floors, and whether a cap is broken: the plain reading of bounds."""
    missing, broken = 0, False
    for bound in filters.bounds:
        count = sum(bool(attributes.groups[bound.group][i]) for i in chosen)
        missing += max(bound.low - count, 0)
        broken |= bound.high is not None and count > bound.high
    if filters.max_per_category is not None:
        named = [attributes.main_category_N[i] for i in chosen if attributes.main_category_N[i] >= 0]
        broken |= any(named.count(name) > filters.max_per_category for name in named)
    return missing, broken


def best_by_enumeration(score_N, allowed, filters, attributes, k):
    """(missing, -items, -sum) of the best slate."""
    found = []
    for size in range(min(k, len(allowed)) + 1):
        for chosen in itertools.combinations(allowed, size):
            missing, broken = limits(chosen, filters, attributes)
            if not broken:
                found.append((missing, -size, -sum(score_N[i] for i in chosen)))
    return min(found)


def check(slate, score_N, allowed, filters, attributes, k, atol=1e-9):
    missing, broken = limits(slate.items_K, filters, attributes)
    want = best_by_enumeration(score_N, allowed, filters, attributes, k)
    assert not broken
    assert set(slate.items_K) <= set(allowed)
    assert len(set(slate.items_K)) == len(slate.items_K)
    assert (missing, -len(slate.items_K)) == want[:2]
    np.testing.assert_allclose(-sum(score_N[i] for i in slate.items_K), want[2], atol=atol)
    assert list(slate.log_probs_K) == sorted(slate.log_probs_K, reverse=True)


bounds_of_any_kind = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.none() | st.integers(0, 3)).map(
        lambda b: Bound(b[0], b[1], None if b[2] is None else max(b[1], b[2]))
    ),
    max_size=3,
).map(tuple)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), bounds=bounds_of_any_kind, most=st.none() | st.integers(1, 2), k=st.integers(1, 4))
def test_lists_of_scores_give_the_best_slate_however_groups_cross(data, bounds, most, k):
    n = 8
    flags = st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
    items = [Item(str(i), f"t{i}", categories=(c,) if c else ()) for i, c in enumerate(data.draw(
        st.lists(st.sampled_from(["", "x", "y"]), min_size=n, max_size=n)))]  # fmt: skip
    attributes = Attributes.of(items).with_groups({name: data.draw(flags) for name in "abc"})
    score_N = np.array(data.draw(st.lists(st.integers(-6, 0), min_size=n, max_size=n)), dtype=float)
    filters = Filters(bounds=bounds, max_per_category=most)
    order = sorted(range(n), key=lambda i: -score_N[i])
    reads = []

    def lists(passes_N):
        def ask(states, depth):
            reads.append(depth)
            return [Slate(tuple(order[:depth]), tuple(score_N[order[:depth]])) for _ in states]

        return Again(ask, 1, n, passes_N[None])

    everything = np.ones(n, dtype=bool)
    floor = lambda name: lists(attributes.groups[name])  # noqa: E731
    (slate,) = bounded_slates(lists(everything), floor, [filters], attributes, k)
    check(slate, score_N, range(n), filters, attributes, k)


def test_a_floor_far_down_is_found_without_reading_the_catalogue():
    n = 10_000
    far_N = np.zeros(n, dtype=bool)
    far_N[-50:] = True
    attributes = Attributes.of([Item(str(i), "t") for i in range(n)]).with_groups({"far": far_N})
    reads = []

    class Lists:
        def __init__(self, items):
            self.items, self.at = items, 0

        def following(self, states, count):
            reads.append(count)
            got = self.items[self.at : self.at + count]
            self.at += count
            return [[(int(i), -float(i)) for i in got] for _ in states]

    floor = lambda name: Lists(np.flatnonzero(far_N))  # noqa: E731
    asked = [Filters(bounds=(Bound("far", 2),), max_per_category=3)]
    (slate,) = bounded_slates(Lists(np.arange(n)), floor, asked, attributes, 5)
    assert slate.items_K == (0, 1, 2, 9950, 9951)
    assert sum(reads) < 50


@pytest.fixture(scope="module")
def ruled(policy):  # noqa: F811
    groups = {
        "odd": np.array([i % 2 == 1 for i in range(N)]),
        "late": np.array([i >= 6 for i in range(N)]),
        "none": np.zeros(N, dtype=bool),
    }
    attributes = Attributes.of(ITEMS).with_groups(groups)
    own = LanguagePolicy(
        policy.model, policy.tokenizer, policy.catalogue, Words(policy.tokenizer), "exclude", attributes
    )
    return own


ASKED = [
    Filters(bounds=(Bound("odd", 2),), without=("late",)),
    Filters(bounds=(Bound("late", 1), Bound("odd", 0, 1)), max_per_category=2),
    Filters(bounds=(Bound("none", 2), Bound("odd", 1, 2))),
    Filters(max_per_category=1),
    Filters(within=("odd",), bounds=(Bound("late", 3),)),
]


def test_policy_and_mixture_obey_bounds_exactly(ruled):
    log_pi = exact(ruled).double().numpy()
    attributes = ruled.filters.attributes
    mixture = Mixture([ruled, lambda states: np.full((len(states), N), 1.0 / N)], [0.5, 0.5])
    p = mixture.probabilities(STATES, np.tile(np.arange(N), (len(STATES), 1)), mixture_hidden())
    for ranker, score_BN in ((ruled, log_pi), (mixture, np.log(np.maximum(p, 1e-30)))):
        slates = ranker.recommend(STATES, 4, filters=ASKED)
        for b, slate in enumerate(slates):
            passes_N = attributes.passes(ASKED[b])
            allowed = [i for i in range(N) if passes_N[i] and i not in STATES[b].seen()]
            check(slate, score_BN[b], allowed, ASKED[b], attributes, 4, atol=1e-4)


def mixture_hidden():
    rows = [state.seen() for state in STATES]
    return np.array([[*row, *[-1] * (4 - len(row))] for row in rows])


def test_scores_alone_obey_bounds_too(ruled):
    attributes = ruled.filters.attributes
    score_N = np.linspace(1.0, 2.0, N) / np.linspace(1.0, 2.0, N).sum()
    items = Items(N, "exclude", attributes)
    mixture = Mixture([lambda states: np.tile(score_N, (len(states), 1))], items=items, conditioned=False)
    for b, slate in enumerate(mixture.recommend(STATES, 3, filters=ASKED)):
        passes_N = attributes.passes(ASKED[b])
        allowed = [i for i in range(N) if passes_N[i] and i not in STATES[b].seen()]
        check(slate, np.log(score_N), allowed, ASKED[b], attributes, 3)


def test_what_bounds_cannot_be(ruled):
    for filters, message in (
        (Filters(bounds=(Bound("od", 1),)), "did you mean 'odd'"),
        (Filters(bounds=(Bound("odd", 3, 1),)), "at least the minimum"),
        (Filters(without=("nobody",)), "names the group 'nobody'"),
        (Filters(within=("none",)), "leaves no item"),
    ):
        with pytest.raises(RequestError, match=message):
            ruled.recommend(STATES, 2, filters=filters)
    with pytest.raises(RequestError, match="on whole slates"):
        ruled.sample(STATES, 2, seed=0, filters=Filters(bounds=(Bound("odd", 1),)))
