"""Free requests: which items answer them, by hand, and that no drawn sentence is one that SFT teaches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmrec.config import WorldConfig
from llmrec.dataset.world.world import generate_world
from llmrec.errors import RequestError
from llmrec.evaluation.requests import KINDS, Request, draw_requests, precisions
from llmrec.text.free_prompt import resolve_prompt
from llmrec.types import Item, Slate


def shelf() -> list[Item]:
    """Twelve items: four yoga, four tea, four camp; every other one is made by Marlow; prices 1 to 12."""
    kinds = itertools.chain.from_iterable([kind] * 4 for kind in ("yoga", "tea", "camp"))
    return [
        Item(
            str(n),
            f"{kind.title()} Thing {n}",
            categories=(kind, "shop"),
            brand="Marlow" if n % 4 < 3 else "",
            price=n,
        )
        for n, kind in enumerate(kinds)
    ]


def test_the_answers_are_those_of_the_definitions() -> None:
    items = shelf()
    for request in draw_requests(items, 200, 0):
        fits = [n for n, item in enumerate(items) if answers(request, item, n, items)]
        assert list(request.relevant) == fits, request
        assert 3 <= len(fits) <= 4


def answers(request: Request, item: Item, n: int, items: list[Item]) -> bool:
    kind = item.categories[0]
    if request.kind in ("category", "both"):
        return kind in request.text.lower() and (request.kind == "category" or item.brand == "Marlow")
    named = next(other for other in items if other.title in request.text)
    near = named.categories[0] == kind and named is not item
    return near and (request.kind == "like" or item.price < named.price)


def test_kinds_take_turns_and_what_all_have_is_not_asked_for() -> None:
    found = draw_requests(shelf(), 8, 1)
    assert [request.kind for request in found] == [
        "category",
        "both",
        "like",
        "cheaper",
    ] * 2  # nine of twelve: Marlow
    assert not any("shop" in request.text for request in found)


def test_draws_depend_on_seed_and_name_alone() -> None:
    items = shelf()
    assert draw_requests(items, 20, 3) == draw_requests(items, 20, 3)
    assert draw_requests(items, 20, 3) != draw_requests(items, 20, 4)
    assert draw_requests(items, 20, 3) != draw_requests(items, 20, 3, name="valid")


def test_films_have_decades_and_shops_without_categories_words() -> None:
    films = [Item(str(n), f"Film {n} (19{8 + n % 4 // 2}{n % 10})", categories=("Drama",)) for n in range(12)]
    found = draw_requests([*films, *(Item(f"x{n}", f"Other {n}") for n in range(12))], 30, 0)
    decades = {request.about: request.relevant for request in found if request.kind == "attribute"}
    assert decades == {"1980s": (0, 1, 4, 5, 8, 9), "1990s": (2, 3, 6, 7, 10, 11)}
    tools = [Item(str(n), f"Steel {'hammer' if n < 4 else 'spanner' if n < 8 else 'no'} {n}") for n in range(12)]
    assert {request.about: request.relevant for request in draw_requests(tools, 9, 0)} == {
        "hammer": (0, 1, 2, 3),
        "spanner": (4, 5, 6, 7),
    }


def test_nothing_to_ask_for_is_said() -> None:
    with pytest.raises(RequestError, match="No free request can be drawn"):
        draw_requests([Item("a", "One"), Item("b", "Two")], 5, 0)


def test_precision_by_hand() -> None:
    few, many = Request("like", "x", (1, 2), "x"), Request("like", "x", tuple(range(20)), "x")
    slate = Slate((2, 30, 1, 40), (0.0,) * 4)
    assert precisions([few, many], [slate, slate], 10) == pytest.approx([1.0, 0.2])
    assert precisions([few, many], [slate, slate], 2) == pytest.approx([0.5, 0.5])


def test_a_worlds_requests_are_read_as_they_are_meant() -> None:
    items = generate_world(WorldConfig(users=5), 1000).dataset.item_list
    found = draw_requests(items, 100, 0)
    assert {request.kind for request in found} == set(KINDS)
    named = np.array([len(resolve_prompt(request.text, items).matches) for request in found])
    about_items = np.array([request.kind in ("like", "cheaper") for request in found])
    assert (named == about_items).all()


def test_a_brand_and_a_word_of_its_name_are_one_thing() -> None:
    tools = [Item(str(n), f"Plymor {'flask' if n < 6 else 'bottle'} {n}", brand="Plymor Glass") for n in range(7)]
    others = [Item(f"x{n}", f"Thing {n}") for n in range(20)]
    asked = {request.about for request in draw_requests([*tools, *others], 60, 0) if request.kind == "both"}
    assert asked == {"flask / Plymor Glass"}
