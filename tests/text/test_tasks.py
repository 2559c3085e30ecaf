from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmrec.errors import ConfigError
from llmrec.text.documents import documents
from llmrec.text.render import StateRenderer
from llmrec.text.shipped import make_wording
from llmrec.text.tasks import TASKS, Facts
from llmrec.types import Item, State
from tests.text.conftest import clicks


@pytest.fixture(scope="module")
def renderer(items: list[Item], base: Any) -> StateRenderer:
    return StateRenderer(items, base, domain="shop", language="en", max_tokens=80)


def prompt_of(renderer: StateRenderer, base: Any, name: str, item: Item | int, **options: Any) -> str:
    task = renderer.task_text(name, item, **options)
    assert task is not None
    return str(base.decode(task.prompt_ids))


def test_tasks_about_an_item(renderer: StateRenderer, items: list[Item], base: Any) -> None:
    assert prompt_of(renderer, base, "title_from_description", items[0]) == (
        "Description: A sturdy red kettle for every kitchen.\nProduct:"
    )
    assert prompt_of(renderer, base, "description_from_title", 0) == "Product: Red Kettle\nDescription:"
    assert prompt_of(renderer, base, "item_from_attributes", 1) == (
        "Category: Kitchen, Mug\nBrand: Acme\nPrice: 19.90\nProduct:"
    )
    assert prompt_of(renderer, base, "item_from_prompt", 1, liked=[0, items[2]]) == (
        "Request: I liked Red Kettle and Steel Knife.\nNext product:"
    )
    assert "something in Kitchen, Mug." in prompt_of(renderer, base, "item_from_prompt", 1)


def test_answers(renderer: StateRenderer) -> None:
    back = renderer.task_text("description_from_title", 0)
    assert back is not None
    assert (back.answer, back.target_item) == (" A sturdy red kettle for every kitchen.", None)
    for name in sorted(set(TASKS) - {"description_from_title"}):
        task = renderer.task_text(name, 3)
        assert task is not None
        assert (task.answer, task.target_item) == (None, 3)


def test_paraphrases_differ_and_repeat(renderer: StateRenderer, base: Any) -> None:
    texts = [prompt_of(renderer, base, "item_from_prompt", 1, liked=[0], variant=n) for n in range(12)]
    assert len(set(texts)) == 4
    assert texts[:4] == texts[4:8]
    assert all("Red Kettle" in text for text in texts)


def test_none_where_the_item_says_nothing(base: Any) -> None:
    renderer = StateRenderer([Item("a", "Kettle")], base, domain="shop", language="en", max_tokens=80)
    assert [renderer.task_text(name, 0) for name in TASKS] == [None] * 4
    with pytest.raises(ConfigError, match="There is no task 'riddle'"):
        renderer.task_text("riddle", 0)


def test_long_texts_keep_the_budget(base: Any) -> None:
    endless = Item(
        "a", "Red Kettle " * 400, "A sturdy kettle. " * 6000, tuple(f"Category {n}" for n in range(99)), "B"
    )
    renderer = StateRenderer([endless] * 3, base, domain="shop", language="en", max_tokens=64)
    for name in ("title_from_description", "item_from_attributes", "item_from_prompt"):
        task = renderer.task_text(name, 0, liked=[1, 2])
        assert task is not None
        assert 20 < len(task.prompt_ids) <= 64
        assert base.decode(task.prompt_ids).endswith("roduct:")
        assert base.decode(task.prompt_ids).startswith(("Description:", "Category:", "Request:"))


def test_documents_tell_items_and_next_titles(renderer: StateRenderer, items: list[Item], base: Any) -> None:
    states = [State("u", "woman", clicks(0, 1, 2)), State("v"), State("w", history=clicks(4), session=clicks(5))]
    told = list(documents(items, states, renderer))
    assert "Product: Red Kettle\nDescription: A sturdy red kettle for every kitchen." in told
    assert told[-2:] == [
        "Profile: woman\nHistory: Red Kettle (clicked); Blue Mug (clicked)\nNext product: Steel Knife",
        "History: Wooden Spoon (clicked)\nNext product: Copper Pan",
    ]
    assert len(told) == 4 * len(items) + 2
    wording = make_wording(items, domain="shop", language="en")
    assert list(documents(items, states, wording)) == told  # these are short enough to be left whole


def test_documents_keep_room_for_the_title_and_an_end_token(items: list[Item], base: Any) -> None:
    renderer = StateRenderer(items, base, domain="shop", language="en", max_tokens=40)
    states = [State("u", "woman, 34", clicks(*range(7), *range(n))) for n in range(1, 7)]
    told = list(documents(items, states, renderer))
    assert all(len(base(text)["input_ids"]) <= 39 for text in told)
    assert [text.endswith(f"Next product: {items[n].title}") for n, text in enumerate(told[-6:])] == [True] * 6


DOMAINS = ("course", "film", "music", "news", "shop", "social")


@pytest.mark.parametrize("frame", ["ask", "list"])
@pytest.mark.parametrize(("language", "label"), [("en", "Request: "), ("zh", "需求：")])
def test_a_request_is_taught_in_the_words_in_which_it_is_served(
    items: list[Item], base: Any, frame: Any, language: str, label: str
) -> None:
    """A request's state, in either frame, is what item_from_prompt shows: the same tokens, in all domains."""
    for domain in DOMAINS:
        renderer = StateRenderer(items, base, domain=domain, language=language, max_tokens=300, frame=frame)
        for variant in range(8):
            for liked, facts in (((), None), ((0, 2), None), ((0,), Facts(cheaper=True))):
                taught = prompt_of(renderer, base, "item_from_prompt", 1, liked=liked, facts=facts, variant=variant)
                (ask,) = (line.removeprefix(label) for line in taught.splitlines() if line.startswith(label))
                assert taught == base.decode(renderer.token_ids(State(context=ask))), (domain, variant)


def test_requests_name_the_facts_that_they_are_told(base: Any) -> None:
    film = Item("a", "Fargo (1996)", "", ("Crime", "Drama"), "Gramercy")
    facts = [Facts((1,)), Facts(brand=True), Facts(decade=True), Facts((0, 1), True, True)]
    english = StateRenderer([film], base, domain="film", language="en", max_tokens=120)
    asks = [prompt_of(english, base, "item_from_prompt", 0, facts=own).splitlines()[0] for own in facts]
    assert asks == [
        "Request: I am in the mood for Drama.",
        "Request: I am in the mood for something by Gramercy.",
        "Request: I am in the mood for something from the 1990s.",
        "Request: I am in the mood for Crime, Drama by Gramercy from the 1990s.",
    ]
    chinese = StateRenderer([film], base, domain="film", language="zh", max_tokens=120)
    assert prompt_of(chinese, base, "item_from_prompt", 0, facts=facts[3]).splitlines()[0] == (
        "需求：我想看1990年代的Gramercy的Crime、Drama。"
    )
    shop = StateRenderer([film], base, domain="shop", language="en", max_tokens=120)
    assert "for something by Gramercy." in prompt_of(shop, base, "item_from_prompt", 0, facts=facts[1])
    assert "for something in Crime by Gramercy." in prompt_of(
        shop, base, "item_from_prompt", 0, facts=Facts((0,), True)
    )
    less = [
        prompt_of(shop, base, "item_from_prompt", 0, liked=[0], facts=Facts(cheaper=True), variant=v) for v in (0, 2)
    ]
    assert [text.splitlines()[0] for text in less] == [
        "Request: I liked Fargo (1996). It should cost less.",
        "Request: Something that goes with Fargo (1996), please. But cheaper, please.",
    ]
    # nothing is said of what is not known
    assert english.task_text("item_from_prompt", 0, facts=Facts()) is None


def test_facts_are_drawn_among_those_that_there_are() -> None:
    rng = np.random.default_rng(0)
    film = Item("a", "Fargo (1996)", "", ("Crime", " ", "Drama"), "Gramercy")
    drawn = {Facts.drawn(film, rng) for _ in range(600)}
    every = {
        Facts(places, brand, decade)
        for places in ((), (0,), (1,), (0, 1))
        for brand in (False, True)
        for decade in (False, True)
    }
    assert drawn == every - {Facts()}
    assert {Facts.drawn(Item("b", "Fargo", "", ("Crime",)), rng) for _ in range(20)} == {Facts((0,))}
    assert Facts.drawn(Item("c", "Fargo"), rng) == Facts()
