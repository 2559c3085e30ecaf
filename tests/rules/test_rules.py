"""Rules: how they are read, whom they mean, what contradicts, and that every ranker obeys them."""

import dataclasses

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue.filters import Bound, Filters
from llmrec.errors import ConfigError, RequestError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.policy.retrieved import Retrieved
from llmrec.rules import Exposure, RuleBook, Ruled, parse_rules, read_rules, write_rules
from llmrec.text.profiles import stated_age
from llmrec.types import Item, Slate, State
from tests.policy.test_language_policy import TITLES, Words, policy  # noqa: F401

ITEMS = [
    Item("0", "Alien", "a ship", ("horror", "space"), "Fox", 5.0),
    Item("1", "Aliens", "a bet in space", ("space",), "Fox", 15.0),
    Item("2", "The Thing", "", ("horror",), "Uni", None),
    Item("3", "The Fly", "", ("horror",), "Fox", 20.0),
    Item("4", "Solaris", "", ("drama",), "Mos", 3.0),
    Item("5", "Stalker", "", ("drama",), "Mos", 4.0),
    Item("6", "三体", "", ("space",), "", 9.0),
    Item("7", "三国", "", (), "", 9.0),
    Item("8", "Her", "", ("drama",), "Uni", 9.0),
]
N = len(ITEMS)
ADULT, CHILD, NOBODY = (State(profile=p) for p in ("A 30-year-old man; job: nurse.", "A 12-year-old woman.", ""))


def book(*trees):
    return RuleBook.of(parse_rules(trees, "a test"), ITEMS)


class Scores:
    """Ranks by one fixed order; knows no filter."""

    def __init__(self, score_N):
        self.score_N = np.array(score_N, dtype=float)
        self.asked = []

    def recommend(self, states, k, *, seen=None):
        self.asked.append(k)
        order = np.argsort(-self.score_N, kind="stable")[:k]
        return [Slate(tuple(order.tolist()), tuple(self.score_N[order].tolist())) for _ in states]


def left(rules, state):
    """Items that a book lets through for a state."""
    ranker = Scores(-np.arange(N))
    return list(Ruled(ranker, rules, ITEMS).recommend([state], N)[0].items_K)


@pytest.mark.parametrize(
    ("profile", "age"),
    [
        ("A 24-year-old man; occupation: technician.", 24),
        ("A man, under 18 years old; occupation: K-12 student.", 0),
        ("A man, 18 to 24 years old.", 18),
        ("A man, 56 or more years old.", 56),
        ("28岁，北京的老师。", 28),
        ("未满18岁，学生", 0),
        ("18岁以下", 0),
        ("年龄：16", 16),
        ("Likes tea. Reads. age: 17", 17),
        ("Age: under 13; x", 0),
        ("A person aged 18-24.", 18),
        ("17yo", 17),
        ("35+ years old", 35),
        ("I am 25 years old, my son is a 3-year-old boy", 3),
        ("44, chef from Ottawa. Likes jazz.", 44),
        ("16, shop assistant from New York.", 16),
        ("34 岁，喜欢跑步和喝茶", 34),
        ("未满18周岁，学生", 0),
        ("A man aged over 60; lives in a rural place.", 60),
        ("A person aged under 20; lives in an urban place.", 0),
        ("A household of 2 adults 2 kids; aged 45-54; income 35-49K.", 45),
        ("Likes tea. Reads. age group: 25-34", 25),
        ("gender: F; age:31", 31),
        ("A 3.5 years old child", 3),
        ("24 y.o. nurse", 24),
        ("Aged 41 years of age", 41),
        ("44 Main Street", None),
        ("44, Main Street from the bridge on", None),
        ("44, main street, Ottawa", None),
        ("4 children, from Ottawa", None),
        ("A household of 2 adults 2 kids; income 35-49K.", None),
        ("Last order 10 months ago. Spent $100 - $200 in a year.", None),
        ("Has a 20-year-old cat.", None),
        ("My house is 100 years old.", None),
        ("Loves whisky aged 18 years.", None),
        ("养了一只20岁的猫。", None),
        ("A house 250 years old", None),
        ("Since 2024 years old songs only", None),
        ("221, somebody from London.", None),
        ("aged 2024", None),
        ("aged 10 months", None),
        ("A student. Likes tea. Loves films of a 12-year-old story", None),
        ("watched 24 films", None),
        ("", None),
    ],
)
def test_the_least_age_that_a_profile_allows_for(profile, age):
    assert stated_age(profile) == age


def test_from_an_age_on_and_who_does_not_say():
    rule = {"minimum_age": 18, "items": {"categories": "horror"}}
    for unknown, nobody in (("forbid", [1, 4, 5, 6, 7, 8]), ("allow", list(range(N)))):
        rules = book({**rule, "unknown": unknown})
        assert left(rules, ADULT) == list(range(N))
        assert left(rules, CHILD) == [1, 4, 5, 6, 7, 8]
        assert left(rules, NOBODY) == nobody
    assert left(book(rule), NOBODY) == [1, 4, 5, 6, 7, 8], "an unknown age is below it"


def test_never_to_whom():
    men = book({"never": {"brands": ["Fox"], "price": {"high": 15}}, "to": {"Gender": ["M"]}})
    assert left(men, ADULT) == [2, 3, 4, 5, 6, 7, 8]
    assert left(men, CHILD) == left(men, NOBODY) == list(range(N))
    strict = book({"never": {"categories": ["drama"]}, "to": {"job": "NURSE"}, "unknown": "forbid"})
    assert left(strict, ADULT) == left(strict, NOBODY) == [0, 1, 2, 3, 6, 7]
    other = book({"never": {"ids": ["0"]}, "to": {"job": ["pilot", "cook"]}})
    assert left(other, ADULT) == list(range(N))


def test_forbidden_words_in_whatever_text_and_case():
    assert left(book({"forbidden_words": ["BET", "fox", "三体"]}), ADULT) == [2, 4, 5, 7, 8]
    assert left(book({"forbidden_words": "thin"}), ADULT) == list(range(N)), "whole words alone"


def test_caps_and_floors_of_a_slate_by_a_ranker_that_knows_none():
    ranker = Scores(-np.arange(N))
    rules = book(
        {"at_most": 1, "items": {"categories": ["horror"]}},
        {"at_least": "50%", "items": {"categories": ["drama"]}},
    )
    ruled = Ruled(ranker, rules, ITEMS)
    (slate,) = ruled.recommend([ADULT], 4)
    assert slate.items_K == (0, 1, 4, 5)
    (slate,) = Ruled(ranker, book({"at_most": 1, "per": "category"}), ITEMS).recommend([ADULT], 5)
    assert slate.items_K == (0, 1, 4, 7), "of each first category one, and the one without"


def test_what_cannot_be_had_is_said():
    rules = book({"at_least": 2, "items": {"ids": ["7"]}, "name": "sellers"}, {"never": {"categories": ["space"]}})
    (asked,) = rules.asked([ADULT], 8)
    (slate,) = Ruled(Scores(-np.arange(N)), rules, ITEMS).recommend([ADULT], 8)
    assert rules.remarks(asked, slate, 8) == [
        "Only 6 of 8 items are left under the rules.",
        "Only 1 of 2 that 'sellers' asks for are to be had.",
    ]
    nothing = book({"minimum_age": 18, "items": {"words": [w for i in ITEMS for w in (i.title,)]}})
    with pytest.raises(RequestError, match="leaves no item"):
        Ruled(Scores(-np.arange(N)), nothing, ITEMS).recommend([CHILD], 3)
    lists = Ruled(Scores(-np.arange(N)), nothing, ITEMS, may_be_empty=True).recommend([CHILD, ADULT, CHILD], 3)
    assert [slate.items_K for slate in lists] == [(), (0, 1, 2), ()]


@pytest.mark.parametrize("kind", ["policy", "mixture", "retrieved", "scores"])
def test_every_kind_of_ranker_obeys_beside_the_callers_own_filters(policy, kind):  # noqa: F811
    own = LanguagePolicy(policy.model, policy.tokenizer, policy.catalogue, Words(policy.tokenizer), "allow")
    flat = Scores(-np.arange(N))
    ranker = {
        "policy": own,
        "mixture": Mixture([own, lambda states: np.ones((len(states), N))], [0.5, 0.5]),
        "retrieved": Retrieved(own, flat, N),
        "scores": flat,
    }[kind]
    rules = book(
        {"minimum_age": 18, "items": {"categories": ["horror"]}},
        {"at_most": 1, "items": {"categories": ["drama"]}},
        {"at_least": 1, "items": {"ids": ["7"]}},
    )
    adult, child = Ruled(ranker, rules, ITEMS).recommend([ADULT, CHILD], 4, filters=Filters(exclude=("1",)))
    for slate in (adult, child):
        assert sum(i in (4, 5, 8) for i in slate.items_K) <= 1
        assert 7 in slate.items_K
        assert 1 not in slate.items_K
    assert len(adult.items_K) == 4
    assert set(child.items_K) <= {4, 5, 8, 6, 7}
    assert len(child.items_K) == 3
    # rules of another book on the same policy do not leak into this one
    other = RuleBook.of(parse_rules([{"name": "rule 1", "never": {"ids": ["6"]}}], "other"), ITEMS)
    assert 6 not in Ruled(ranker, other, ITEMS).recommend([CHILD], 8)[0].items_K
    assert set(Ruled(ranker, rules, ITEMS).recommend([CHILD], 4)[0].items_K) <= {1, 4, 5, 8, 6, 7}


def test_draws_of_single_items_obey_what_is_asked_of_single_items(policy):  # noqa: F811
    own = LanguagePolicy(policy.model, policy.tokenizer, policy.catalogue, Words(policy.tokenizer), "allow")
    rules = book({"minimum_age": 18, "items": {"categories": ["horror"]}}, {"forbidden_words": ["bet"]})
    ruled = Ruled(own, rules, ITEMS)
    ruled.tell()
    drawn = own.sample([ADULT, CHILD], 40, seed=0, filters=ruled.asked([ADULT, CHILD], 1))
    assert 1 not in drawn.items_BG
    assert not set(drawn.items_BG[1].tolist()) & {0, 1, 2, 3}
    assert set(drawn.items_BG[0].tolist()) & {0, 2, 3}


@settings(max_examples=30, deadline=None)
@given(data=st.data(), share=st.sampled_from([0.1, 0.25, 0.5, 0.9]))
def test_a_share_of_the_day_holds_after_every_batch(data, share):
    clock = [0.0]
    exposure = Exposure(lambda: clock[0])
    rules = book({"at_least": share, "of": "day", "items": {"categories": ["drama"]}})
    ruled = Ruled(Scores(-np.arange(N)), rules, ITEMS, exposure)
    shown = drama = 0
    for batch, k in data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=6)):
        for slate in ruled.recommend([ADULT] * batch, k):
            shown, drama = shown + len(slate.items_K), drama + sum(i in (4, 5, 8) for i in slate.items_K)
        assert drama >= share * shown - 1e-9
        assert (exposure.shown, exposure.of_group.get("rule 1", 0)) == (shown, drama)
    clock[0] += 86_400
    ruled.recommend([ADULT], 1)
    assert exposure.shown == 1, "a new day begins with nothing"
    clock[0] -= 86_400
    ruled.recommend([ADULT], 1)
    assert exposure.shown == 2, "a clock that goes back loses no count"


def test_a_day_asks_for_no_more_than_it_must():
    rules = book({"at_least": "20%", "of": "day", "items": {"categories": ["drama"]}})
    exposure = Exposure(lambda: 0.0)
    asked = rules.asked([ADULT] * 3, 4, exposure=exposure)
    assert [[b.low for b in one.bounds] for one in asked] == [[1], [1], [1]]
    exposure.add([Slate((4, 5, 8, 0), (0.0,) * 4)], rules.groups)
    assert rules.asked([ADULT], 4, exposure=exposure)[0].bounds == ()


GOOD = [
    {"name": "adults", "minimum_age": 18, "items": {"categories": ["horror"]}, "unknown": "allow"},
    {"never": {"ids": ["1"], "price": {"low": 2}}, "to": {"gender": ["man"], "job": ["nurse"]}, "unknown": "forbid"},
    {"forbidden_words": ["bet", "三体"]},
    {"at_most": 2, "items": {"brands": ["Fox"]}, "to": {"gender": "woman"}},
    {"at_most": 3, "per": "category"},
    {"at_least": 1, "items": {"words": ["stalker"]}},
    {"at_least": "20%", "of": "day", "items": {"brands": ["Uni"]}},
]


def test_rules_are_written_and_read_as_they_are(tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"rules": GOOD}, allow_unicode=True))
    rules = read_rules(file)
    assert len(rules) == len(GOOD)
    assert rules[0].name == "adults"
    assert rules[1].name == "rule 2"
    file.write_text(write_rules(rules))
    assert read_rules(file) == rules
    assert RuleBook.of(rules, ITEMS).groups["adults"].tolist() == [True, False, True, True, *[False] * 5]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"nevr": {}}, "did you mean 'never'"),
        ("never", "no mapping"),
        ({}, "says nothing"),
        ({"never": {"ids": ["1"]}, "at_most": 1}, "both never and at_most"),
        ({"never": {}}, "about all items"),
        ({"never": {"ids": ["1"]}, "per": "category"}, "means nothing beside 'never'"),
        ({"minimum_age": 0, "items": {"ids": ["1"]}}, "1 to 120"),
        ({"minimum_age": 18}, "names no items"),
        ({"at_most": 0, "items": {"ids": ["1"]}}, "write `never`"),
        ({"at_most": 1}, "items or `per: category`"),
        ({"at_most": 1, "per": "brand"}, "choose one of category"),
        ({"at_least": "lots", "items": {"ids": ["1"]}}, "a share as 20%"),
        ({"at_least": "120%", "items": {"ids": ["1"]}}, "a share as 20%"),
        ({"at_least": 2, "of": "day", "items": {"ids": ["1"]}}, "or a share"),
        ({"at_least": 0.2, "of": "day", "items": {"ids": ["1"]}, "to": {"job": "x"}}, "leave out `to`"),
        ({"forbidden_words": [" "]}, "forbids no word"),
        ({"never": {"price": {"low": 3, "high": 2}}}, "the lower one first"),
        ({"never": {"categories": ["horor"]}}, "did you mean 'horror'"),
        ({"never": {"ids": ["99"]}}, "which no item has"),
    ],
)
def test_rules_that_cannot_be_read(tree, message):
    with pytest.raises(ConfigError, match=message):
        book(tree)


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        ([{"never": {"price": {"low": 0}}}, {"never": {"ids": ["2"]}}], "forbid every item"),
        ([{"at_least": 1, "items": {"ids": ["2"]}}, {"never": {"categories": ["horror"]}}], "other rules forbid"),
        ([{"at_least": 3, "items": {"ids": ["0", "2"]}}, {"at_most": 2, "items": {"categories": ["horror"]}}],
         "of which 'rule 2' allows 2"),
        ([{"at_least": 0.6, "items": {"brands": ["Fox"]}}, {"at_least": "50%", "items": {"brands": ["Uni"]}}],
         "110% together"),
        ([{"name": "a", "never": {"ids": ["1"]}}, {"name": "a", "never": {"ids": ["2"]}}], "two rules of the name"),
    ],
)  # fmt: skip
def test_rules_that_contradict_one_another(trees, message):
    with pytest.raises(ConfigError, match=message):
        book(*trees)


def test_a_category_that_has_gone_from_the_catalogue_forbids_nothing():
    rules = parse_rules([{"never": {"categories": ["gone"]}}], "a test")
    assert not RuleBook.of(rules, ITEMS, known=False).groups["rule 1"].any()


def test_joined_with_bounds_of_the_caller():
    rules = book({"at_most": 2, "per": "category"}, {"never": {"ids": ["1"]}, "name": "n"})
    attributes = rules.groups | {"own": np.ones(N, dtype=bool)}
    given = Filters(max_per_category=1, bounds=(Bound("own", 1),), without=("own",))
    (asked,) = rules.asked([ADULT], 3, [given])
    assert asked.max_per_category == 1
    assert set(asked.without) == {"n", "own"}
    assert asked.bounds == given.bounds
    assert dataclasses.replace(given, max_per_category=3) != given
    assert set(attributes) == {"n", "own"}
