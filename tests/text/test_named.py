"""Which items a request's words name."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from llmrec.text.named import Named, NameWords, asks_alike
from llmrec.types import Item

FILMS = [
    Item("a", "War Games (1983)", "", ("Thriller",), "Sherwood"),
    Item("b", "The Killing Fields (1984)", "", ("Drama", "War"), "Goldcrest"),
    Item("c", "Alien (1979)", "", ("Horror", "Sci-Fi"), "Brandywine"),
    Item("d", "Manhattan (1979)", "", ("Comedy", "Drama"), "Rollins"),
    Item("e", "What's Love Got to Do with It (1993)", "", ("Drama",), "Touchstone"),
    Item("f", "Gattaca", "", ("Sci-Fi",), "Jersey"),
]


@pytest.fixture(scope="module")
def names() -> NameWords:
    return NameWords(FILMS)


def rows(found: Named) -> tuple[dict[str, float], dict[str, float]]:
    """Facts and words of titles by item id."""
    return tuple(  # type: ignore[return-value]
        {item.item_id: value for item, value in zip(FILMS, score.tolist(), strict=True) if value}
        for score in (found.facts_N, found.titles_N)
    )


def test_facts_and_words_of_titles_are_told_apart(names: NameWords) -> None:
    found = names.find("Something about war, please")
    assert found.words == ("war",)
    assert rows(found) == ({"b": pytest.approx(log(7 / 1))}, {"a": pytest.approx(log(7 / 1))})


def test_several_words_add_up_by_how_rare_they_are(names: NameWords) -> None:
    facts, titles = rows(names.find("a drama of the 1970s by Rollins"))
    assert facts == {
        "b": pytest.approx(log(7 / 3)),
        "c": pytest.approx(log(7 / 2)),
        "d": pytest.approx(log(7 / 3) + log(7 / 2) + log(7 / 1)),
        "e": pytest.approx(log(7 / 3)),
    }
    assert titles == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What have you got in Sci-Fi?", ("sci", "fi")),  # "got" stands in any request, and in a title
        ("films of the 1970s", ("1970s",)),
        ("something from the '70s", ("1970s",)),
        ("80s thrillers", ("1980s", "thriller")),
        ("the 1960s", ()),  # nothing is of them
        ("in 1979 or for 70 dollars", ()),
        ("70年代的电影", ("1970s",)),
        ("commedy", ("comedy",)),
        ("a comedy of the 80s, but no war", ("1980s", "comedy")),
        ("thrillers without horror, not from the 1970s", ("thriller",)),
        ("不要70年代的", ()),
        ("a fantastic holiday in Iceland", ()),
        ("", ()),
    ],
)
def test_what_counts_as_a_name(names: NameWords, text: str, words: tuple[str, ...]) -> None:
    assert names.find(text).words == words


def test_chinese_names_are_found_by_pairs_of_characters() -> None:
    items = [
        Item("a", "紫砂茶壶", "", ("茶具",)),
        Item("b", "棉布围裙", "", ("厨房",)),
        Item("c", "木勺", "", ("厨房",)),
    ]
    found = NameWords(items).find("请推荐一些厨房用品")
    assert found.words == ("厨房",)
    assert [value > 0 for value in found.facts_N] == [False, True, True]


def test_a_word_of_many_titles_names_nothing_but_a_fact_may_be_common() -> None:
    items = [Item(str(n), f"Acme thing {n}", "", ("tools",)) for n in range(9)] + [Item("x", "Other", "", ("toys",))]
    found = NameWords(items).find("acme tools")
    assert found.words == ("tool",)
    assert found.facts_N[0] == pytest.approx(log(11 / 9))


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("More things like Alien", True),
        ("Something similar to Alien", True),
        ("I loved Alien, what is like it?", True),
        ("Like Alien but cheaper", True),
        ("Films like Alien, please", True),
        ("something scary like Alien", True),
        ("像《异形》一样的电影", True),
        ("类似《异形》", True),
        ("I like Alien", False),
        ("I liked Alien", False),
        ("I would like a comedy", False),
        ("我喜欢《异形》", False),
    ],
)
def test_asking_for_the_like_is_told_from_liking(text: str, alike: bool) -> None:
    assert asks_alike(text) is alike


def test_being_like_what_is_named_counts_as_words_do(names: NameWords) -> None:
    found = names.find("sci-fi").with_like(["Alien (1979)"], [3, 5])
    assert found.words == ("sci", "fi", "like Alien (1979)")
    facts, titles = rows(found)
    assert set(facts) == {"c", "f"}
    assert titles == {"d": pytest.approx(log(7)), "f": pytest.approx(log(7))}


def test_a_price_within_the_bound_is_one_more_fact(names: NameWords) -> None:
    drama = names.find("a drama")
    found = drama.with_price("under $9", np.array([0, 1, 1, 0, 0, 0], dtype=np.bool_))
    assert found.words == ("drama", "under $9")
    facts, titles = rows(found)
    bound, named = log(7 / 2), log(7 / 3)
    assert facts == pytest.approx({"b": named + bound, "c": bound, "d": named, "e": named})
    assert titles == {}
    # a bound that all or none are within chooses nothing
    for within in (True, False):
        assert drama.with_price("under $9", np.full(6, within)) is drama
