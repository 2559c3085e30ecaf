"""What a free prompt asks of its items outright, and what it only mentions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.text.free_prompt import resolve_prompt
from llmrec.text.wishes import WishIndex
from llmrec.types import Item

ITEMS = [
    Item("a", "Cork Yoga Block", categories=("yoga", "eco"), brand="Marlow", price=20.0),
    Item("b", "Steel Yoga Wheel", categories=("yoga",), brand="Hale & Co", price=30.0),
    Item("c", "The War (1994)", categories=("War", "Sci-Fi"), brand=""),
    Item("d", "Hobby Knife", categories=("hobbies",), brand="yoga", price=5.0),
    Item("e", "瑜伽垫", categories=("瑜伽",), brand="马洛", price=99.0),
]
INDEX = WishIndex(ITEMS)


def wishes(text: str) -> list[tuple[str, object, str]]:
    return [(wish.kind, wish.value, wish.text) for wish in resolve_prompt(text, ITEMS, wishes=True).wishes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Something in Yoga made by MARLOW", [("category", "yoga", "Yoga"), ("brand", "Marlow", "MARLOW")]),
        ("eco things by Hale & Co", [("category", "eco", "eco"), ("brand", "Hale & Co", "Hale & Co")]),
        ("a new hobby", [("category", "hobbies", "hobby")]),
        ("some sci-fi", [("category", "Sci-Fi", "sci-fi")]),
        ("Like Cork Yoga Block but cheaper", [("price below", 20.0, "cheaper")]),
        ("I loved Steel Yoga Wheel and Cork Yoga Block. Less expensive?", [("price below", 20.0, "Less expensive")]),
        ("cheaper, please", []),
        ("The War, only cheaper", []),  # it has no price
        ("yoga under $25", [("category", "yoga", "yoga"), ("price below", 25.0, "under $25")]),
        ("at most 9.50 please", [("price at most", 9.5, "at most 9.50")]),
        ("Steel Yoga Wheel but cheaper than 12", [("price below", 12.0, "cheaper than 12")]),
        ("no yoga, please", []),
        ("anything but not for yoga", []),
        ("I hate eco things", []),
        ("No, thanks. Yoga!", [("category", "yoga", "Yoga")]),
        ("yogas and yogascience", [("category", "yoga", "yogas")]),
        ("我想要瑜伽，便宜一点", [("category", "瑜伽", "瑜伽")]),
        ("瑜伽 50元以下", [("category", "瑜伽", "瑜伽"), ("price at most", 50.0, "50元以下")]),
        ("不要瑜伽", []),
        ("像瑜伽垫但是更便宜", [("price below", 99.0, "更便宜")]),
        ("", []),
    ],
)
def test_wishes(text: str, expected: list[tuple[str, object, str]]) -> None:
    assert wishes(text) == expected


def test_a_category_is_no_title_unless_it_is_written_as_one() -> None:
    for text, titles in (("Something in War", []), ("I liked The War", [2]), ('I liked "The War (1994)"', [2])):
        resolved = resolve_prompt(text, ITEMS, wishes=True)
        assert [match.item for match in resolved.matches] == titles
        assert bool(resolved.wishes) is (not titles)
    # without wishes everything is read as before
    before = resolve_prompt("Something in War", ITEMS)
    assert [match.item for match in before.matches] == [2]
    assert before.wishes == ()


def test_cheaper_says_than_what() -> None:
    (wish,) = resolve_prompt("Like Steel Yoga Wheel but cheaper", ITEMS, wishes=True).wishes
    assert wish.like == 1
    (bound,) = resolve_prompt("under 7", ITEMS, wishes=True).wishes
    assert bound.like is None


def test_without_prices_nothing_is_cheaper() -> None:
    items = [Item("a", "Fargo (1996)", categories=("Crime",))]
    assert resolve_prompt("Like Fargo but cheaper, under 5", items, wishes=True).wishes == ()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_no_text_is_too_strange(text: str) -> None:
    for wish in INDEX.find(text):
        assert wish.text in text
