"""List-level terms: worked examples, a plain twin written with dictionaries, and properties of slates."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from scipy.stats import entropy

from llmrec.errors import DataError
from llmrec.rewards import (
    CalibrationReward,
    Categories,
    CategoryLikeness,
    CoherenceReward,
    DiversityReward,
    VectorLikeness,
    combine,
)
from llmrec.types import Feedback, Interaction, Item, State

from .sample import ITEMS, STATES

ALPHA = 0.01
CATEGORIES = st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(tuple)
WORLD = st.lists(CATEGORIES, min_size=6, max_size=6).filter(lambda w: len({c or ("",) for c in w}) > 1 and any(w))
SLATES = st.lists(st.permutations(range(-1, 6)).map(lambda p: p[:5]), min_size=1, max_size=3)


def credits_of(term, slates, states):
    items_BK = np.array(slates)
    feedback = Feedback(np.zeros(items_BK.shape), np.zeros(items_BK.shape))
    return combine([term], states, items_BK, feedback).terms[term.name]


def categories(world):
    return Categories.of([Item(str(k), "t", categories=own) for k, own in enumerate(world)], "test")


def one_hot(world, item):
    own = world[item] or ("",)
    return [float(name in own) for name in ("", "a", "b", "c", "d")]


def past(items):
    return State("u", history=tuple(Interaction(int(i), "click", k) for k, i in enumerate(items)))


def distribution(world, items):
    share = Counter()
    for item in items:
        for name in world[item] or ("",):
            share[name] += 1 / len(world[item] or ("",)) / len(items)
    return share


def test_diversity_by_hand():
    world = [("a",), ("a",), ("b",)]
    term = DiversityReward(CategoryLikeness(categories(world)))
    np.testing.assert_allclose(credits_of(term, [[0, 1, 2]], [State()]), [[0, 0, 2 / 3]], atol=1e-12)
    np.testing.assert_allclose(credits_of(term, [[0, 2, 1]], [State()]), [[0, 1 / 3, 1 / 3]], atol=1e-12)
    np.testing.assert_allclose(credits_of(term, [[0, -1, 2]], [State()]), [[0, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(credits_of(term, [[0, -1, -1], [-1, -1, -1]], [State()] * 2), np.zeros((2, 3)))


def test_coherence_by_hand():
    world = [("a",), ("a",), ("b",)]
    term = CoherenceReward(CategoryLikeness(categories(world)))
    np.testing.assert_allclose(credits_of(term, [[0, 1, 2]], [State()]), [[0, 1 / 3, 0]], atol=1e-12)
    np.testing.assert_allclose(credits_of(term, [[0, -1, 1]], [State()]), [[0, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(credits_of(term, [[0, -1, -1], [-1, -1, -1]], [State()] * 2), np.zeros((2, 3)))


@given(WORLD, SLATES)
@settings(deadline=None)
def test_coherence_and_diversity_are_1_together(world, slates):
    likeness = CategoryLikeness(categories(world))
    both = [
        credits_of(kind(likeness), slates, [State()] * len(slates)) for kind in (CoherenceReward, DiversityReward)
    ]
    pairs = np.array([sum(item >= 0 for item in slate) > 1 for slate in slates])
    np.testing.assert_allclose(sum(both).sum(axis=1), pairs.astype(float), atol=1e-9)


def test_items_of_two_categories_are_half_alike():
    # |{a} and {a, b}| / sqrt(1 * 2) = 0.7071
    found = CategoryLikeness(Categories.of(ITEMS, "test"))(np.array([[0, 2, 1, 3]]))
    root = math.sqrt(0.5)
    np.testing.assert_allclose(found[0], [[1, root, 0, 0], [root, 1, root, 0], [0, root, 1, 0], [0, 0, 0, 1]])


@given(WORLD, SLATES)
@settings(deadline=None)
def test_diversity_is_the_mean_distance_of_pairs(world, slates):
    """The mean over pairs of scipy's cosine distance; the credits of a slate's places sum to it."""
    credit_BK = credits_of(DiversityReward(CategoryLikeness(categories(world))), slates, [State()] * len(slates))
    for slate, credit_K in zip(slates, credit_BK, strict=True):
        real = [item for item in slate if item >= 0]
        pairs = [cosine(one_hot(world, i), one_hot(world, j)) for i, j in itertools.combinations(real, 2)]
        assert credit_K.sum() == pytest.approx(np.mean(pairs), abs=1e-9)
    assert (credit_BK > -1e-12).all()
    assert (credit_BK.sum(axis=1) < 1 + 1e-12).all()


def test_diversity_of_vectors_equals_that_of_indicators():
    world = [("a",), ("b",), ("a", "b"), ()]
    vectors = VectorLikeness(np.array([one_hot(world, k) for k in range(4)]) * [[3.0], [0.1], [7.0], [1.0]])
    slates = [[0, 1, 2, 3], [3, 2, -1, 1]]
    np.testing.assert_allclose(
        credits_of(DiversityReward(vectors), slates, STATES),
        credits_of(DiversityReward(CategoryLikeness(categories(world))), slates, STATES),
        atol=1e-6,
    )


def test_vectors_that_point_apart_and_vectors_of_nothing():
    term = DiversityReward(VectorLikeness(np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])))
    np.testing.assert_allclose(credits_of(term, [[0, 1], [2, 2]], STATES), [[0, 2], [0, 1]], atol=1e-7)
    with pytest.raises(DataError, match="finite numbers"):
        VectorLikeness(np.array([[np.nan]]))


def test_calibration_by_hand():
    # half a and half b: the slate (a) has KL 0.5 log(0.5 / 0.995) + 0.5 log(0.5 / 0.005) = 1.9585 of log(100) = 4.6052
    term = CalibrationReward(categories([("a",), ("b",), ("c",)]), ALPHA)
    found = credits_of(term, [[0, 1], [0, -1], [2, 2], [-1, 1]], [past([0, 1])] * 4)
    np.testing.assert_allclose(found, [[0.5747, 0.4253], [0.5747, 0], [0, 0], [0, 0.5747]], atol=1e-4)


def test_calibration_counts_what_was_chosen_and_nothing_without_a_past():
    state = State("u", history=(Interaction(0, "click", 1), Interaction(1, "impression", 2)))
    term = CalibrationReward(categories([("a",), ("b",)]), ALPHA)
    np.testing.assert_allclose(
        credits_of(term, [[0], [1], [0]], [state, state, State()]), [[1], [0], [0]], atol=1e-12
    )


@given(WORLD, SLATES, st.lists(st.integers(0, 5), max_size=6), st.sampled_from([0.01, 0.3]))
@settings(deadline=None)
def test_calibration_is_one_minus_the_scaled_divergence(world, slates, chosen, alpha):
    """Against Steck's formula by scipy's relative entropy, for every prefix of every slate."""
    credit_BK = credits_of(CalibrationReward(categories(world), alpha), slates, [past(chosen)] * len(slates))
    p = distribution(world, chosen)
    for slate, credit_K in zip(slates, credit_BK, strict=True):
        for k in range(1, 6):
            real = [item for item in slate[:k] if item >= 0]
            q = distribution(world, real)
            names = list(p)
            mixed = [(1 - alpha) * q[c] + alpha * p[c] for c in names]
            kl = np.sum([p[c] * math.log(p[c] / m) for c, m in zip(names, mixed, strict=True)])
            value = 1 - kl / math.log(1 / alpha) if chosen else 0.0
            assert credit_K[:k].sum() == pytest.approx(value, abs=1e-9)
        if chosen and set(q) <= set(p):  # all mass is compared: scipy's normalisation changes nothing
            assert kl == pytest.approx(entropy([p[c] for c in names], mixed), abs=1e-9)
    total_B = credit_BK.sum(axis=1)
    assert ((total_B > -1e-9) & (total_B < 1 + 1e-9)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda c: DiversityReward(CategoryLikeness(c)),
        lambda c: CoherenceReward(CategoryLikeness(c)),
        lambda c: CalibrationReward(c, ALPHA),
    ],
)
@given(WORLD, st.permutations(range(6)), st.permutations(range(4)))
@settings(deadline=None)
def test_credits_sum_to_a_value_that_ignores_order_and_look_back_only(make, world, items, order):
    term, slate = make(categories(world)), list(items[:4])
    state = past([0, 0, 3])
    other = [slate[k] for k in order]
    changed = [*slate[:3], items[4]]
    credit_BK = credits_of(term, [slate, other, changed], [state] * 3)
    assert credit_BK[0].sum() == pytest.approx(credit_BK[1].sum(), abs=1e-9)
    np.testing.assert_allclose(credit_BK[2, :3], credit_BK[0, :3], atol=1e-12)


def test_slates_of_a_batch_do_not_meet():
    world = [("a",), ("b",), ("a", "c"), ()]
    states, slates = [past([0, 2]), past([3]), State()], [[0, 1, 2], [3, -1, 1], [2, 1, 0]]
    for term in (DiversityReward(CategoryLikeness(categories(world))), CalibrationReward(categories(world))):
        term = pickle.loads(pickle.dumps(term))
        together = credits_of(term, slates, states)
        for row in range(3):
            np.testing.assert_array_equal(
                credits_of(term, slates[row : row + 1], states[row : row + 1])[0], together[row]
            )


def test_catalogues_of_one_category_are_refused():
    for world in ([(), ()], [("a",), ("a",)]):
        with pytest.raises(DataError, match="'test' needs items of different category"):
            categories(world)
