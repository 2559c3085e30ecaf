"""Items that a prompt's words name come first; the policy decides among them."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest

from llmrec.catalogue.filters import Filters
from llmrec.errors import RequestError
from llmrec.policy.language_policy import Certified
from llmrec.recommender import Recommender, Request
from llmrec.recommender.words import in_tiers, tiers_of
from llmrec.rules.types import AtMost, ItemSet, Never
from llmrec.service.batches import Job
from llmrec.text.named import Named
from llmrec.types import Interaction, Slate, State
from tests.service.conftest import TITLES

IDS = tuple("abcdef")


def named(facts: list[float], titles: list[float]) -> Named:
    return Named(("w",), np.array(facts), np.array(titles))


def test_tiers_by_hand() -> None:
    everything = np.ones(6, dtype=np.bool_)
    found = named([2.0, 2.0, 1.0, 0.0, 0.0, 2.0], [0.0, 3.0, 9.0, 1.0, 0.0, 0.0])
    # most facts and of these most words; as many facts; fewer facts, or words alone
    assert tiers_of(found, everything, IDS) == (("b",), ("a", "f"), ("c", "d"))
    assert tiers_of(found, np.array([1, 0, 1, 1, 1, 0], dtype=np.bool_), IDS) == (("a",), ("c", "d"))
    words = named([0.0] * 6, [0.0, 3.0, 1.0, 0.0, 0.0, 3.0])
    assert tiers_of(words, everything, IDS) == (("b", "f"), ("c",))
    # where all is named, what is named least is the rest
    assert tiers_of(found, np.array([1, 1, 0, 0, 0, 1], dtype=np.bool_), IDS) == (("b",),)
    assert tiers_of(found, np.array([1, 0, 0, 0, 0, 1], dtype=np.bool_), IDS) == ()
    # what names nothing chooses nothing
    assert tiers_of(named([0.0] * 6, [0.0] * 6), everything, IDS) == ()
    assert tiers_of(found, np.zeros(6, dtype=np.bool_), IDS) == ()


@pytest.fixture(scope="module")
def recommender(run: Any) -> Recommender:
    return Recommender.load(run / "run")


def plain_twin(recommender: Recommender, prompt: str, k: int, **options: Any) -> list[str]:
    """All items by log pi, then sorted by tier: what the tiers are to equal."""
    request = recommender.read(prompt=prompt, k=k, filters=options.get("filters"))
    whole = recommender.recommend(prompt=prompt, k=len(TITLES), exact=True, by_words=False, **options)
    tier = {item_id: n for n, tier in enumerate(request.tiers) for item_id in tier}
    ranked = sorted((item.item_id for item in whole.items), key=lambda item_id: tier.get(item_id, len(request.tiers)))
    return ranked[:k]


@pytest.mark.parametrize("prompt", ["something red", "a lamp that is old", "any rug", "blue or new rugs, no lamp"])
@pytest.mark.parametrize("k", [1, 3, 7, 16])
def test_a_list_is_the_policy_s_within_each_tier(recommender: Recommender, prompt: str, k: int) -> None:
    answer = recommender.recommend(prompt=prompt, k=k, exact=True)
    assert answer.words
    assert [item.item_id for item in answer.items] == plain_twin(recommender, prompt, k)
    alone = {i.item_id: i.log_prob for i in recommender.recommend(prompt=prompt, k=16, by_words=False).items}
    for item in answer.items:  # scores are those of the whole catalogue
        assert item.log_prob == pytest.approx(alone[item.item_id], abs=1e-5)


def test_the_named_come_first_and_filters_hold(recommender: Recommender) -> None:
    prompt = "show me rugs"
    assert all("rug" in item.title for item in recommender.recommend(prompt=prompt, k=5).items)
    only = Filters(price=(None, 12.0))  # two rugs are left
    found = recommender.recommend(prompt=prompt, k=5, filters=only)
    assert [item.item_id for item in found.items] == plain_twin(recommender, prompt, 5, filters=only)
    assert ["rug" in item.title for item in found.items] == [True, True, False, False, False]
    assert all(item.price is not None and item.price <= 12.0 for item in found.items)
    named_out = recommender.recommend(prompt=prompt, k=5, filters=Filters(exclude=("i10", "i11")))
    assert not {"i10", "i11"} & {item.item_id for item in named_out.items}


def test_the_like_of_an_item_comes_first_where_it_is_asked_for(recommender: Recommender) -> None:
    """Of a kettle other kettles are the like, in the policy's order; liking one moves nothing by words."""
    prompt = "Something similar to kettle red, please"
    asked = recommender.recommend(prompt=prompt, k=6)
    assert asked.words == ("like kettle red",)
    assert ["kettle" in item.title for item in asked.items] == [True] * 5 + [False]
    assert "i0" not in {item.item_id for item in asked.items}  # the named one is no answer
    assert [item.item_id for item in asked.items] == plain_twin(recommender, prompt, 6)
    # a fact that is named beside it counts more
    both = recommender.recommend(prompt="Like kettle red, but a lamp", k=6)
    assert ["lamp" in item.title for item in both.items] == [True] * 5 + [False]
    assert recommender.recommend(prompt="I like kettle red", k=6).words == ()


def test_a_bound_of_price_comes_first_as_a_fact_does(recommender: Recommender) -> None:
    """Item n costs n + 1; kettles cost 1 to 5, lamps 6 to 10, rugs 11 to 15."""
    prompt = "a lamp under $9"
    found = recommender.recommend(prompt=prompt, k=5)
    assert found.words == ("lamp", "under $9")
    assert {item.item_id for item in found.items[:3]} == {"i5", "i6", "i7"}
    assert [item.item_id for item in found.items] == plain_twin(recommender, prompt, 5)
    # "at most" lets the bound itself through
    assert "i8" in {i.item_id for i in recommender.recommend(prompt="a lamp, at most 9.00", k=4).items[:4]}
    # the like of an item among what costs less than it, in the policy's order
    cheaper = recommender.recommend(prompt="Like lamp old but cheaper", k=5)
    assert cheaper.words == ("cheaper", "like lamp old")
    assert {item.item_id for item in cheaper.items[:3]} == {"i5", "i6", "i7"}
    assert all(item.price is not None and item.price < 9.0 for item in cheaper.items)
    # cheaper than anything: nothing is chosen by it
    assert recommender.recommend(prompt="Something cheaper than 0.50", k=5).words == ()


def test_what_leaves_lists_as_they_were(recommender: Recommender) -> None:
    """No name in the words, words switched off, or a bound on the slate, which looks at all of it at once."""
    for prompt in ("quantum physics", "I liked kettle red"):
        plain = recommender.recommend(prompt=prompt, k=4, by_words=False)
        assert recommender.recommend(prompt=prompt, k=4) == plain
        assert plain.words == ()
    capped = Filters(max_per_category=1)
    bounded = recommender.recommend(prompt="show me rugs", k=3, filters=capped)
    off = recommender.recommend(prompt="show me rugs", k=3, filters=capped, by_words=False)
    assert [item.item_id for item in bounded.items] == [item.item_id for item in off.items]


def test_a_category_s_name_is_no_title(run: Any) -> None:
    """ "Something in Rug" asks for the category, also where an item is called "The Rug"."""
    recommender = Recommender.load(run / "run")
    called = [dataclasses.replace(i, title="The Rug") if i.item_id == "i3" else i for i in recommender.bundle.items]
    recommender.bundle.items[:] = called
    answer = recommender.recommend(prompt="Something in Rug, please", k=3)
    assert answer.matches == ()
    assert all(item.categories == ("rug",) for item in answer.items)


def test_rules_hold_within_tiers(run: Any) -> None:
    recommender = Recommender.load(run / "run", rules=[Never(name="never", items=ItemSet(ids=("i10", "i12")))])
    found = [item.item_id for item in recommender.recommend(prompt="show me rugs", k=4).items]
    assert set(found[:3]) == {"i11", "i13", "i14"}
    assert not {"i10", "i12"} & set(found)
    recommender = Recommender.load(run / "run", rules=[AtMost(name="one", most=1, items=None)])
    assert sum("rug" in i.title for i in recommender.recommend(prompt="show me rugs", k=3).items) <= 1


def test_reasons_are_given_for_named_items(recommender: Recommender) -> None:
    told = recommender.recommend(prompt="I liked kettle red. Show me rugs", k=3, explain=2)
    assert [item.explanation is not None for item in told.items] == [True, True, False]
    assert "rug" in told.items[0].title


def test_lists_of_a_batch_are_those_of_each_alone() -> None:
    """Requests with as many tiers, fewer or none; each is asked for what it lacks and no more."""
    order = "fedcba"
    asked: list[tuple[list[int], int]] = []

    def decode(rows: Any, k: int, filters: Any) -> Any:
        asked.append((list(rows), k))
        lists = []
        for wish in filters:
            may = [x for x in order if (wish.candidates is None or x in wish.candidates) and x not in wish.exclude]
            lists.append(certified(may[:k]))
        return lists

    tiers = [(("a",), ("c", "b")), (), (("a", "b", "c", "d"),)]
    found = in_tiers(decode, 4, [None, None, Filters(exclude=("f",))], tiers)
    names = ["".join(IDS[i] for i in one.slate.items_K) for one in found]
    assert names == ["acbf", "fedc", "dcba"]
    assert asked == [([0, 2], 4), ([0], 3), ([0, 1], 4)]


def test_a_request_whose_others_are_all_gone_keeps_what_was_named() -> None:
    def decode(rows: Any, k: int, filters: Any) -> Any:
        lists = [[x for x in wish.candidates or "ab" if x not in wish.exclude] for wish in filters]
        if not all(lists):
            raise RequestError("nothing is left")
        return [certified(own[:k]) for own in lists]

    found = in_tiers(decode, 3, [None, None], [(("a", "b"),), ()])
    assert ["".join(IDS[i] for i in one.slate.items_K) for one in found] == ["ab", "ab"]
    with pytest.raises(RequestError, match="nothing is left"):
        in_tiers(decode, 3, [Filters(exclude=("a", "b"))], [()])


def certified(ids: list[str]) -> Certified:
    return Certified(Slate(tuple(map(IDS.index, ids)), (0.0,) * len(ids)), True, None)


def test_a_job_that_comes_to_obey_a_floor_of_the_day_has_no_tiers() -> None:
    """Such a floor is added when the batch is made: it looks at all of the slate."""
    job = Job(Request(State(), tiers=(("i1",),)), cast(Any, None), 3, "slate")
    assert job.tiered
    job.filters = Filters(max_per_category=1)
    assert not job.tiered
    assert not Job(job.request, cast(Any, None), 3, "slate", explore=(None, 1.0)).tiered


def test_what_is_chosen_meanwhile_leaves_its_tier(recommender: Recommender) -> None:
    """The page asks with the same prompt and a session that grows: a tier that was clicked away is passed over."""
    request = recommender.read(prompt="a green rug", k=3)
    (first,), *_ = request.tiers
    row = [item.item_id for item in recommender.bundle.items].index(first)
    clicked = dataclasses.replace(request.state, session=(Interaction(row, "click", 1),))
    again = recommender.slate(dataclasses.replace(request, state=clicked), 3)
    assert row not in again.items_K
    assert all("rug" in recommender.bundle.items[i].title for i in again.items_K)
