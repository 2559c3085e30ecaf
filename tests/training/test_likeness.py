"""Which items are like an item, and requests that name titles."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmrec.config import SFTSettings
from llmrec.text.free_prompt import resolve_prompt
from llmrec.text.templates import CHEAPER
from llmrec.training.likeness import Likeness
from llmrec.training.sft_data import RowEncoder, build_rows, weakest
from llmrec.types import Example, Interaction, Item, State


def item(n, title, categories=(), brand="", description=""):
    return Item(f"i{n}", title, description, tuple(categories), brand)


def test_categories_come_before_words_and_words_decide_among_them():
    items = [
        item(0, "plain tent", ("camping", "plain"), "acme", "sold by many, loved by all"),
        item(1, "plain mug", ("coffee", "plain"), "acme", "sold by many, loved by all"),
        item(2, "rugged tent", ("camping", "rugged"), "other", "for two"),
        item(3, "rugged lantern", ("camping", "rugged"), "other", "for two"),
        item(4, "plain tarp", ("camping", "plain"), "other", "for two"),
        item(5, "rugged mug", ("coffee", "rugged"), "other", "for two"),
    ]
    near = Likeness(items).of(0).tolist()
    # both categories; then of the first category the one that is a tent too; item 1, which shares maker and a whole
    # sentence, is not half as like
    assert near == [4, 2, 3]


def test_without_categories_words_alone_decide():
    items = [item(0, "red lamp"), item(1, "blue chair"), item(2, "red lamp shade"), item(3, "desk")]
    assert Likeness(items).of(0).tolist() == [2]
    assert Likeness(items).of(3).tolist() == []


def test_the_nearest_among_some():
    items = [item(0, "red lamp"), item(1, "red lamp shade"), item(2, "red lamp stand"), item(3, "desk")]
    likeness = Likeness(items, nearest=1)
    (nearest,) = likeness.of(0).tolist()
    assert likeness.of(0, np.array([True] * 4)).tolist() == [nearest]
    others = np.arange(4) != nearest
    assert likeness.of(0, others).tolist() == [3 - nearest]
    assert likeness.of(0, np.array([True, False, False, True])).tolist() == []


def test_so_many_and_never_the_item_itself(shop):
    likeness = Likeness(shop.items, nearest=2)
    for n in range(len(shop.items)):
        near = likeness.of(n).tolist()
        assert len(near) == 2
        assert n not in near
        assert {shop.items[other].categories for other in near} == {shop.items[n].categories}


@pytest.fixture
def asked(shop):
    """Rows of item_from_prompt about one example: (prompt, answer's item)."""
    encoder = RowEncoder(shop.items, shop.catalogue, shop.renderer, shop.tokenizer)
    example = Example(State("u", "likes red", (Interaction(7, "click", 1),), time=9), target=4)
    rng = np.random.default_rng(0)
    own = {tuple(shop.catalogue.token_ids(i)): i for i in range(12)}
    rows = [encoder.item_task("item_from_prompt", example, rng) for _ in range(200)]
    return [(shop.tokenizer.decode(row.input_ids[: -row.answer]), own[row.input_ids[-row.answer :]]) for row in rows]


def test_requests_name_what_is_like_the_answer(shop, asked):
    chairs = [i.title for i in shop.items if i.categories == ("chair",)]
    naming = [(text, answer) for text, answer in asked if any(i.title in text for i in shop.items)]
    assert 120 < len(naming) < 180
    assert {answer for _, answer in naming} == {4}
    for text, _ in naming:
        named = [i.title for i in shop.items if i.title in text]
        assert set(named) <= set(chairs) - {shop.items[4].title}
        assert "likes red" not in text


def test_requests_may_be_answered_by_every_item_alike(shop):
    """Those too that no example has chosen: each is asked for by what is like it."""
    encoder = RowEncoder(shop.items, shop.catalogue, shop.renderer, shop.tokenizer, answers="catalogue")
    example, rng = Example(State("u", "", (), time=9), target=4), np.random.default_rng(0)
    own = {tuple(shop.catalogue.token_ids(i)): i for i in range(12)}
    kinds = {item.title: item.categories for item in shop.items}
    answers = []
    for row in (encoder.item_task("item_from_prompt", example, rng) for _ in range(400)):
        text, answer = shop.tokenizer.decode(row.input_ids[: -row.answer]), own[row.input_ids[-row.answer :]]
        named = [title for title in kinds if title in text]
        answers += [answer] if named else []
        assert all(kinds[title] == shop.items[answer].categories for title in named)
        assert shop.items[answer].title not in named
    assert 250 < len(answers) < 350
    assert np.bincount(answers, minlength=12).min() > 8


def test_requests_may_name_some_of_the_facts(shop):
    """Half of them name facts of the answer, each kind of them alone, too; the others name what is like it."""
    encoder = RowEncoder(shop.items, shop.catalogue, shop.renderer, shop.tokenizer, answers="catalogue", facts="some")
    example, rng = Example(State("u", "", (), time=9), target=4), np.random.default_rng(0)
    own = {tuple(shop.catalogue.token_ids(i)): i for i in range(12)}
    rows = [encoder.item_task("item_from_prompt", example, rng) for _ in range(400)]
    told = [(shop.tokenizer.decode(row.input_ids[: -row.answer]), own[row.input_ids[-row.answer :]]) for row in rows]
    facts = [(text, answer) for text, answer in told if not any(item.title in text for item in shop.items)]
    assert 150 < len(facts) < 250
    for text, answer in facts:
        known = shop.items[answer]
        assert any(word in text for word in (*known.categories, *([known.brand] if known.brand else ())))


def test_requests_ask_for_what_costs_less_where_the_answer_does(shop):
    priced = [dataclasses.replace(item, price=float(n)) for n, item in enumerate(shop.items)]
    prices = {item.title: item.price for item in priced}
    encoder = RowEncoder(priced, shop.catalogue, shop.renderer, shop.tokenizer, answers="catalogue", facts="some")
    example, rng = Example(State("u", "", (), time=9), target=4), np.random.default_rng(0)
    own = {tuple(shop.catalogue.token_ids(i)): i for i in range(12)}
    words, served, may = 0, 0, 0
    for row in (encoder.item_task("item_from_prompt", example, rng) for _ in range(600)):
        text, answer = shop.tokenizer.decode(row.input_ids[: -row.answer]), own[row.input_ids[-row.answer :]]
        named = [prices[title] for title in prices if title in text]
        less = any(phrase in text for phrase in CHEAPER["en"])
        cheap = bool(named) and all(answer < price for price in named)
        assert cheap or not less
        may += cheap
        words, served = words + (less and "History" not in text), served + (less and "History" in text)
    assert 0.35 < (words + served) / may < 0.65
    assert min(words, served) > 20


def test_half_of_them_stand_as_they_are_served(shop, asked):
    others = [n for n in range(12) if shop.items[n].categories == ("chair",) and n != 4]
    pairs = [(n,) for n in others] + [(a, b) for a in others for b in others if a != b]
    requests = ["I liked " + " and ".join(shop.items[n].title for n in pair) for pair in pairs]
    served = {shop.renderer.prompt(resolve_prompt(request, shop.items).state).strip() for request in requests}
    found = [text for text, answer in asked if text.strip() in served]
    assert 50 < len(found) < 100


def test_a_request_never_says_that_something_was_bought(shop):
    """Where clicks are known, a bought item that is answered by its like would unlearn what follows on purchases."""
    bought = Example(State("u", "", (Interaction(7, "conversion", 1),), time=9), target=4)
    clicked = Example(State("v", "", (Interaction(7, "click", 1), Interaction(8, "conversion", 2)), time=9), target=4)
    assert weakest(e.state.history for e in (bought, clicked)) == "click"
    assert weakest(e.state.history for e in (bought,)) == "conversion"  # a log of purchases alone
    assert weakest([]) == "click"
    settings = SFTSettings(examples=40, mixture={"item_from_prompt": 1.0})
    rows = build_rows(
        [bought, clicked] * 20, shop.items, shop.catalogue, shop.renderer, shop.tokenizer, settings, seed=1
    )
    prompts = [shop.tokenizer.decode(row.input_ids) for row in rows]
    assert not any("(bought)" in prompt for prompt in prompts)
    assert sum("(clicked)" in prompt for prompt in prompts) > 10
