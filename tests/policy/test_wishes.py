"""Wishes as filters, and a policy among a retriever's candidates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmrec.catalogue.filters import Filters
from llmrec.policy.mixture import Mixture
from llmrec.policy.retrieved import Retrieved
from llmrec.policy.wishes import wished
from llmrec.text.wishes import Wish
from llmrec.types import Slate
from tests.policy.test_filtered import CATEGORIES, PRICES, passes
from tests.policy.test_language_policy import STATES, N
from tests.policy.test_mixture import KNOWN, make

HORROR, BRAND_A = Wish("category", "horror", "horror"), Wish("brand", "A", "A")
BELOW_3 = Wish("price below", 3.0, "cheaper", 2)


def left(filters: Filters) -> list[int]:
    return [item for item in range(N) if passes(item, filters, ())]


def test_one_wish_is_the_filter_of_its_attribute() -> None:
    assert wished([], KNOWN) == Filters()
    assert wished([HORROR], KNOWN) == Filters(categories=("horror",))
    assert wished([BRAND_A], KNOWN) == Filters(brands=("A",))
    below = wished([BELOW_3], KNOWN)
    assert below is not None
    assert left(below) == [0, 1]  # 3 itself is not below 3
    most = wished([Wish("price at most", 3.0, "at most 3")], KNOWN)
    assert most is not None
    assert left(most) == [0, 1, 2]


def test_several_wishes_hold_together_and_with_the_callers_filter() -> None:
    both = wished([HORROR, BRAND_A], KNOWN)
    assert both is not None
    assert left(both) == [i for i in range(N) if CATEGORIES[i] == "horror" and i % 2 == 0]
    given = Filters(price=(2.0, None), candidates=("0", "2", "3"), exclude=("3",))
    more = wished([HORROR], KNOWN, given)
    assert more is not None
    assert left(more) == [i for i in (0, 2) if PRICES[i] >= 2]
    assert dataclasses.replace(more, candidates=given.candidates) == given


def test_what_leaves_nothing_is_let_go() -> None:
    assert wished([HORROR, Wish("category", "drama", "drama")], KNOWN) is None
    assert wished([Wish("price below", 1.0, "cheaper", 0)], KNOWN) is None
    assert wished([BELOW_3], KNOWN, hidden=(0, 1)) is None
    assert wished([BELOW_3], KNOWN, hidden=(0,)) is not None
    assert wished([HORROR], KNOWN, Filters(candidates=("4",))) is None


class Nearest:
    """Finds the last items of the catalogue that are not seen."""

    def recommend(self, states, k, *, seen=None):  # type: ignore[no-untyped-def]
        hidden = [set(state.seen()) | (set() if seen is None else set(seen[b])) for b, state in enumerate(states)]
        rows = [[item for item in range(N - 1, -1, -1) if item not in own][:k] for own in hidden]
        return [Slate(tuple(row), tuple(0.0 for _ in row)) for row in rows]


@pytest.mark.parametrize("mixed", [False, True])
def test_a_policy_ranks_what_the_retriever_finds(mixed: bool) -> None:
    policy = make(0)
    ranker = Mixture([policy, make(1)]) if mixed else policy
    near = Retrieved(ranker, Nearest(), 4)
    found = near.recommend(STATES, 3, beams=N)
    for state, slate, whole in zip(STATES, found, ranker.recommend(STATES, N, beams=N), strict=True):
        kept = set(Nearest().recommend([state], 4)[0].items_K)
        assert list(slate.items_K) == [item for item in whole.items_K if item in kept][:3]
    # all candidates: the policy itself; a filter takes candidates away
    assert Retrieved(ranker, Nearest(), 1000).recommend(STATES, 3, beams=N) == ranker.recommend(STATES, 3, beams=N)
    (few,) = near.recommend(
        [STATES[0]], 3, filters=Filters(candidates=("8", "0")), seen=[np.array([], dtype=np.int64)]
    )
    assert set(few.items_K) <= {8}
