"""Exploration: propensities against enumeration of all slates and against frequencies."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmrec.catalogue.filters import Attributes, Bound, Filters
from llmrec.errors import ConfigError, RequestError
from llmrec.online.explore import EpsilonGreedy, UnderRules, WithoutReplacement
from llmrec.policy.filtered import passing
from llmrec.rules import Exposure, RuleBook, parse_rules
from llmrec.types import Interaction, Item, Slate, State

DRAWS = 1500


class Listed:
    """A ranker with one list for everybody, without what was seen."""

    def __init__(self, items, repeat="allow"):
        self.items, self.repeat = items, repeat

    def recommend(self, states, k, *, seen=None):
        found = []
        for state in states:
            out = set(state.seen()) if self.repeat == "exclude" else set()
            items = tuple(i for i in self.items if i not in out)[:k]
            found.append(Slate(items, tuple(-float(place) for place in range(len(items)))))
        return found


def epsilon_chances(ranked, allowed, k, epsilon):
    """P(slate) of every ordered slate, by walking through both coins of every place."""
    found = Counter({(): 1.0})
    for _ in range(k):
        following: Counter = Counter()
        for slate, chance in found.items():
            left = [i for i in allowed if i not in slate]
            if not left:
                following[slate] += chance
                continue
            best = next((i for i in ranked if i in left), None)
            greedy = 0.0 if best is None else 1 - epsilon
            if best is not None:
                following[(*slate, best)] += chance * greedy
            for item in left:
                following[(*slate, item)] += chance * (1 - greedy) / len(left)
        found = following
    return {slate: chance for slate, chance in found.items() if chance > 0}


@pytest.mark.parametrize(
    ("ranked", "n_items", "k", "epsilon"),
    [((2, 0, 3), 5, 3, 0.3), ((1,), 4, 3, 0.2), ((3, 2, 1, 0), 4, 4, 0.5), ((0, 1), 3, 2, 1.0)],
)
def test_epsilon_greedy_is_what_enumeration_says(ranked, n_items, k, epsilon):
    explorer = EpsilonGreedy(Listed(ranked), n_items, epsilon, seed=1, repeat="allow")
    exact = epsilon_chances(ranked, range(n_items), k, epsilon)
    assert sum(exact.values()) == pytest.approx(1)
    made = explorer.propose([State()] * DRAWS, k, [str(n) for n in range(DRAWS)])
    for one in made:
        assert np.prod(one.propensity_K) == pytest.approx(exact[one.items_K])
    counted = Counter(one.items_K for one in made)
    for slate, chance in exact.items():
        assert abs(counted[slate] / DRAWS - chance) < 5 * np.sqrt(chance * (1 - chance) / DRAWS) + 1e-9


def test_epsilon_greedy_leaves_out_what_was_seen():
    state = State(history=(Interaction(0, "click", 1), Interaction(4, "click", 2)))
    explorer = EpsilonGreedy(Listed((0, 2, 1), "exclude"), 6, 0.5, seed=2, repeat="exclude")
    made = explorer.propose([state] * 500, 3, [str(n) for n in range(500)], seen=[np.array([5])] * 500)
    assert {item for one in made for item in one.items_K} == {1, 2, 3}
    assert all(len(one.items_K) == 3 for one in made)
    everything = State(history=tuple(Interaction(i, "click", i) for i in range(6)))
    with pytest.raises(RequestError, match="Nothing is left"):
        explorer.propose([everything], 3, ["x"])


def test_without_epsilon_the_list_is_served():
    explorer = EpsilonGreedy(Listed((2, 0, 3)), 5, 0.0, seed=1, repeat="allow")
    (made,) = explorer.propose([State()], 2, ["x"])
    assert (made.items_K, made.propensity_K) == ((2, 0), (1.0, 1.0))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        EpsilonGreedy(Listed((1,)), 5, 1.5, seed=1)


@pytest.mark.parametrize(
    ("repeat", "temperature", "k"), [("allow", 1.0, 2), ("exclude", 0.7, 2), ("exclude", 1.0, 9)]
)
def test_drawing_from_the_policy_has_the_chances_of_plackett_luce(policy_of, repeat, temperature, k):
    policy = policy_of(repeat)
    n = len(policy.catalogue)
    state = State(history=(Interaction(1, "click", 1), Interaction(3, "click", 2)))
    explorer = WithoutReplacement(policy, seed=3, temperature=temperature)
    everything = torch.arange(n).unsqueeze(0)
    with torch.no_grad():
        pi = (
            policy.log_prob([state], everything, exclude_seen=repeat == "exclude", temperature=temperature)[0]
            .double()
            .exp()
            .numpy()
        )
    draws = 300 if k > 2 else DRAWS
    made = explorer.propose([state] * draws, k, [str(n) for n in range(draws)])
    for one in made[:100]:
        left, chances = 1.0, []
        for item in one.items_K:
            chances.append(pi[item] / left)
            left -= pi[item]
        assert one.propensity_K == pytest.approx(chances, rel=1e-3, abs=1e-5)
    allowed = np.flatnonzero(pi > 0)
    assert all(len(one.items_K) == min(k, len(allowed)) for one in made)
    if k > len(allowed):
        assert all(one.propensity_K[-1] == pytest.approx(1) for one in made)
        return
    counted = Counter(one.items_K for one in made)
    for first, second in itertools.permutations(allowed, 2):
        chance = pi[first] * pi[second] / (1 - pi[first])
        assert abs(counted[(first, second)] / draws - chance) < 5 * np.sqrt(chance / draws) + 1e-9


def test_a_slate_is_drawn_by_its_name(policy_of):
    explorer = WithoutReplacement(policy_of("allow"), seed=3)
    states = [State(), State(history=(Interaction(2, "click", 1),)), State()]
    together = explorer.propose(states, 3, ["a", "b", "c"])
    alone = [explorer.propose([s], 3, [n])[0] for s, n in zip(states, ["a", "b", "c"], strict=True)]
    assert [one.items_K for one in together] == [one.items_K for one in alone]
    assert explorer.propose(states, 3, ["a", "b", "a"])[2].items_K == together[0].items_K


# Under rules: every set of bounds that a slate of three can meet, miss or run into.
FEW = 500
GROUPS = {"a": (0, 1, 2), "b": (2, 3), "c": (4, 5), "d": (1, 4)}
BOUNDS = [
    Filters(without=("a",)),
    Filters(bounds=(Bound("a", high=1),)),
    Filters(bounds=(Bound("c", low=2),)),
    Filters(bounds=(Bound("a", high=1), Bound("b", high=1), Bound("c", high=1))),  # caps that cross in item 2
    Filters(bounds=(Bound("b", low=2), Bound("d", low=1), Bound("a", high=1))),
    Filters(bounds=(Bound("d", low=2), Bound("c", high=1)), without=("b",)),
    Filters(max_per_category=1),
    Filters(bounds=(Bound("a", low=3, high=3),), exclude=("p1",)),  # more than there are
    Filters(bounds=(Bound("a", high=0), Bound("b", high=0), Bound("c", high=1)), exclude=("p4", "p5")),  # short lists
]


def known(policy):
    """Attributes with the groups, for however many items there are."""
    n = len(policy.catalogue)
    items = [Item(item, item, categories=(f"k{row % 3}",)) for row, item in enumerate(policy.catalogue.item_ids)]
    groups = {name: np.isin(np.arange(n), rows) for name, rows in GROUPS.items()}
    return Attributes.of(items).with_groups(groups)


def counts(slate, filters, attributes):
    """What a slate lacks of the floors, how many items it has, and whether caps hold."""
    has = {bound.group: int(attributes.groups[bound.group][list(slate)].sum()) for bound in filters.bounds}
    lacks = sum(max(bound.low - has[bound.group], 0) for bound in filters.bounds)
    holds = all(bound.high is None or has[bound.group] <= bound.high for bound in filters.bounds)
    if filters.max_per_category is not None:
        categories = Counter(int(attributes.main_category_N[item]) for item in slate)
        holds &= max(categories.values(), default=0) <= filters.max_per_category
    return lacks, len(slate), holds


def best_slates(filters, attributes, allowed, k):
    """All ordered slates that obey as well as can be: the fewest lacking, of these the longest."""
    found = []
    for size in range(1, k + 1):
        for slate in itertools.permutations(allowed, size):
            lacks, length, holds = counts(slate, filters, attributes)
            if holds:
                found.append(((lacks, -length), slate))
    least = min(rank for rank, _ in found)
    return [slate for rank, slate in found if rank == least]


def open_at(best, above):
    """The items that may stand below those above, by all the slates that go on from there."""
    return sorted({slate[len(above)] for slate in best if slate[: len(above)] == above and len(slate) > len(above)})


@pytest.mark.parametrize("filters", BOUNDS, ids=str)
def test_slates_drawn_under_rules_have_the_probabilities_of_the_enumeration(policy_of, filters):
    """P of all slates sum to 1, each draw has its own, and each comes as often as it says."""
    policy, k = policy_of("allow"), 3
    attributes = known(policy)
    filters = replace(filters, exclude=tuple(policy.catalogue.item_ids[int(one[1:])] for one in filters.exclude))
    policy.set_attributes(attributes)
    allowed = [int(i) for i in np.flatnonzero(passing(attributes, [filters])[0])]
    best, state = best_slates(filters, attributes, allowed, k), State()

    @functools.cache
    def pi(left):
        """pi_F of single items, F leaving these."""
        out = tuple(item for row, item in enumerate(policy.catalogue.item_ids) if row not in left)
        with torch.no_grad():
            return policy.log_prob([state], torch.tensor([left]), filters=Filters(exclude=out))[0].double().exp()

    def chances(slate):
        """Of each place, from single draws alone."""
        if not filters.bounds_slate:  # Plackett-Luce
            single = dict(zip(allowed, pi(tuple(allowed)).tolist(), strict=True))
            return [single[item] / (1 - sum(single[i] for i in slate[:n])) for n, item in enumerate(slate)]
        rows = [open_at(best, slate[:n]) for n in range(len(slate))]
        return [float(pi(tuple(row))[row.index(item)]) for row, item in zip(rows, slate, strict=True)]

    exact = {slate: float(np.prod(chances(slate))) for slate in best}
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    explorer = WithoutReplacement(policy, seed=5)
    made = explorer.propose([state] * FEW, k, [str(n) for n in range(FEW)], filters=[filters] * FEW)
    assert {one.items_K for one in made} <= set(exact)
    for one in made[:100]:
        assert one.propensity_K == pytest.approx(chances(one.items_K), rel=1e-4, abs=1e-6)
    counted = Counter(one.items_K for one in made)
    for slate, chance in exact.items():
        assert abs(counted[slate] / FEW - chance) < 5 * np.sqrt(chance / FEW) + 4 / FEW


@pytest.mark.parametrize("filters", BOUNDS, ids=str)
def test_epsilon_greedy_under_rules_is_what_enumeration_says(policy_of, filters):
    """The checker walks through both coins of every place among what all best slates leave open there."""
    policy, k, epsilon = policy_of("allow"), 3, 0.4
    attributes, n = known(policy), len(policy.catalogue)
    filters = replace(filters, exclude=tuple(policy.catalogue.item_ids[int(one[1:])] for one in filters.exclude))
    allowed = [int(i) for i in np.flatnonzero(passing(attributes, [filters])[0])]
    best = best_slates(filters, attributes, allowed, k)
    order = [3, 1, 4, 0, 2, 5, *range(6, n)]
    explorer = EpsilonGreedy(Listed(order), n, epsilon, seed=6, repeat="allow", attributes=attributes)
    (greedy,) = replace(explorer, epsilon=0.0).propose([State()], k, ["x"], filters=[filters])
    assert set(greedy.propensity_K) == {1.0}
    made = explorer.propose([State()] * FEW, k, [str(n) for n in range(FEW)], filters=[filters] * FEW)
    # what stands in for closed items of the list are the next of twice as many
    ranked = [*greedy.items_K, *[i for i in order if i in allowed][: 2 * k]]
    exact = {(): 1.0}
    for _ in range(k):
        following: Counter = Counter()
        for slate, chance in exact.items():
            left = [i for i in allowed if i not in slate] if not filters.bounds_slate else open_at(best, slate)
            if not left:
                following[slate] += chance
                continue
            first = next((i for i in ranked if i in left), None)
            share = 1.0 if first is None else epsilon
            for item in left:
                following[(*slate, item)] += chance * (share / len(left) + (1 - share) * (item == first))
        exact = dict(following)
    assert sum(exact.values()) == pytest.approx(1)
    assert {one.items_K for one in made} <= set(exact)
    for one in made:
        assert np.prod(one.propensity_K) == pytest.approx(exact[one.items_K])
    counted = Counter(one.items_K for one in made)
    for slate, chance in exact.items():
        assert abs(counted[slate] / FEW - chance) < 5 * np.sqrt(chance / FEW) + 4 / FEW


def test_drawn_slates_depend_on_nothing_beside_them_in_the_batch(policy_of):
    policy = policy_of("exclude")
    policy.set_attributes(known(policy))
    states = [State(), State(history=(Interaction(2, "click", 1),)), State(history=(Interaction(4, "click", 1),) * 3)]
    wishes = [BOUNDS[3], BOUNDS[4], BOUNDS[0]]
    explorer = WithoutReplacement(policy, seed=3, temperature=0.8)
    names = ["a", "b", "c"]
    together = explorer.propose(states, 3, names, filters=wishes)
    for row, one in enumerate(together):
        (alone,) = explorer.propose([states[row]], 3, [names[row]], filters=[wishes[row]])
        assert alone.items_K == one.items_K
        assert alone.propensity_K == pytest.approx(one.propensity_K, rel=1e-4)
    with pytest.raises(RequestError, match="knows no attributes"):
        EpsilonGreedy(Listed((1,)), 5, 0.1, seed=1).propose(states, 1, names, filters=wishes)


def test_a_floor_of_a_day_counts_what_was_drawn(policy_of):
    """At every moment at least half of what was drawn is of the group, though the policy gives it less."""
    policy = policy_of("allow")
    items = [Item(one, one, categories=("tea" if row in (0, 3) else "other",))
             for row, one in enumerate(policy.catalogue.item_ids)]  # fmt: skip
    book = RuleBook.of(parse_rules([{"at_least": "50%", "of": "day", "items": {"categories": ["tea"]}}], "x"), items)
    exposure = Exposure(clock=lambda: 0.0)
    explorer = UnderRules(WithoutReplacement(policy, seed=1), book, items, exposure)
    shown: list[int] = []
    for turn in range(30):
        for one in explorer.propose([State()] * 2, 3, [f"{turn}-{n}" for n in range(2)]):
            shown += one.items_K
            assert 2 * sum(item in (0, 3) for item in shown) >= len(shown)
    assert exposure.shown == len(shown) == 180
