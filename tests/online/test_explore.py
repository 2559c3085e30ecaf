"""Exploration: propensities against enumeration of all slates and against frequencies."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from llmrec.errors import ConfigError, RequestError
from llmrec.online.explore import EpsilonGreedy, WithoutReplacement
from llmrec.types import Interaction, Slate, State

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
