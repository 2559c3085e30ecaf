"""Counterfactual sets against brute force over all sets of the history."""

from __future__ import annotations

import dataclasses
import itertools
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.explain import Parted, explained
from llmrec.explain.counterfactual import counterfactuals
from llmrec.explain.effects import attribute
from llmrec.types import Slate, State
from tests.explain.conftest import ITEMS, STATE, events, policy_of

MANY = dataclasses.replace(STATE, history=events(0, 4, 7, 2, 9, 10), session=())


@lru_cache
def lists_of(way, k):
    """What is recommended without each set of the history, every one of them: sets to slates."""
    policy, parted = policy_of(way), Parted(MANY, ITEMS)
    history = parted.of_kind("item")
    sets = [gone for size in range(len(history) + 1) for gone in itertools.combinations(history, size)]
    states = [parted.without(gone).state for gone in sets]
    slates = policy.recommend(states, k, seen=[np.array(MANY.seen())] * len(sets), beams=12)
    return {gone: slate.items_K for gone, slate in zip(sets, slates, strict=True)}


@pytest.mark.parametrize("way", ["titles", "semantic", "short"])
@pytest.mark.parametrize("most_sets", [400, 6, 0])
def test_sets_against_brute_force(way, most_sets):
    policy, k = policy_of(way), 3
    parted = Parted(MANY, ITEMS)
    lists = lists_of(way, k)
    items = policy.recommend([MANY], k, exact=True)[0].items_K
    scores = explained(policy, MANY, exact=True)
    nats = {i: a.nats_P for i, a in zip(items, attribute(scores, parted, items), strict=True)}
    found = counterfactuals(scores, parted, nats, k, most_sets=most_sets)
    assert list(found) == list(items)
    for item, one in found.items():
        out = [gone for gone, listed in lists.items() if item not in listed]
        least = min(map(len, out), default=None)
        gone = tuple(parted.parts.index(part) for part in one.parts)
        if gone:
            assert tuple(sorted(gone)) in out
        if one.found == "smallest":
            assert len(gone) == least == one.ruled_out + 1
        elif one.found == "greedy":
            assert least > one.ruled_out
            # irreducible: with any item back, it is recommended again
            assert all(item in lists[tuple(sorted(set(gone) - {back}))] for back in gone)
        else:
            assert gone == ()
            assert least is None or least > one.ruled_out
        if most_sets == 400 and (least is None or least > 2):
            assert one.ruled_out == 2
        if most_sets == 400 and least is not None and least <= 2:
            assert one.found == "smallest"


class Votes:
    """A recommender by hand: item i stays while at least `needs[i]` of its supporters are in the state."""

    def __init__(self, supporters, needs):
        self.supporters, self.needs = supporters, needs

    def distribution(self, states, power=1.0):
        rows = []
        for state in states:
            there = {e.item for e in state.history}
            row = np.array([len(there & self.supporters[i]) + 0.5 for i in range(12)])
            rows.append(row / row.sum())
        return np.array(rows)

    def recommend(self, states, k, *, seen=None, **_):
        slates = []
        for state in states:
            there = {e.item for e in state.history}
            on = [i for i in range(12) if len(there & self.supporters[i]) >= self.needs[i]]
            slates.append(Slate(tuple(on[:k]), (0.0,) * len(on[:k])))
        return slates


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(0, 5))
def test_what_needs_many_votes_falls_when_just_enough_are_gone(support, slack):
    """n supporters, m needed: the smallest set has n - m + 1 items; found exactly, or by greed with that size."""
    needs = max(support - slack, 1)
    supporters = [set() for _ in range(12)]
    supporters[11] = set(range(support))
    ranker = Votes(supporters, [99] * 11 + [needs])
    state = State(history=events(*range(6)))
    parted, scores = Parted(state, ITEMS), explained(ranker, state)
    nats = {11: attribute(scores, parted, [11])[0].nats_P}
    found = counterfactuals(scores, parted, nats, 5)[11]
    least = support - needs + 1
    assert len(found.parts) == least
    assert {int(p.item_id[1:]) for p in found.parts} <= supporters[11]
    assert found.found == ("smallest" if least <= 3 else "greedy")
    assert found.ruled_out == min(least - 1, 2)


def test_an_item_that_nobody_asked_for_is_not_undone():
    ranker = Votes([set() for _ in range(12)], [0] * 12)
    state = State(history=events(0, 1, 2))
    scores, parted = explained(ranker, state), Parted(state, ITEMS)
    found = counterfactuals(scores, parted, {5: (0.0, 0.0, 0.0)}, 12)[5]
    assert (found.found, found.parts, found.ruled_out) == ("none", (), 2)
    assert counterfactuals(explained(ranker, State()), Parted(State(), ITEMS), {5: ()}, 12)[5].found == "none"
