import numpy as np
import pytest

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.errors import RequestError
from llmrec.types import Item

ITEMS = [
    Item("a", "A", categories=("yoga", "eco"), brand="Wren", price=10.0),
    Item("b", "B", categories=("yoga",), brand="Hale", price=20.0),
    Item("c", "C", categories=("home", "eco"), brand="Wren"),
    Item("d", "D", brand="Kestrel", price=5.0),
]
ATTRIBUTES = Attributes.of(ITEMS, in_stock=["a", "d"])


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        (Filters(), "abcd"),
        (Filters(categories=("eco",)), "ac"),
        (Filters(categories=("yoga", "home")), "abc"),
        (Filters(brands=("Wren", "Kestrel")), "acd"),
        (Filters(price=(10.0, None)), "ab"),
        (Filters(price=(None, 10.0)), "ad"),
        (Filters(price=(10.0, 10.0)), "a"),
        (Filters(in_stock=True), "ad"),
        (Filters(categories=("eco",), brands=("Wren",), price=(1.0, 15.0), in_stock=True), "a"),
        (Filters(categories=("yoga",), price=(None, 5.0)), ""),
    ],
)
def test_attributes_are_anded(filters, passing):
    assert ATTRIBUTES.passes(filters).tolist() == [item.item_id in passing for item in ITEMS]
    assert ATTRIBUTES.passes(filters) is ATTRIBUTES.passes(filters)


def test_the_first_category_is_the_main_one():
    names = list(ATTRIBUTES.members)
    assert [names[n] if n >= 0 else "" for n in ATTRIBUTES.main_category_N] == ["yoga", "yoga", "home", ""]


def test_new_stock_forgets_the_old_answer():
    before = ATTRIBUTES.passes(Filters(in_stock=True))
    after = ATTRIBUTES.with_stock(["b"]).passes(Filters(in_stock=True))
    assert before.tolist() == [True, False, False, True]
    assert after.tolist() == [False, True, False, False]


def test_the_shared_part_of_a_filter_has_attributes_alone():
    assert Filters(candidates=("a",), exclude=("b",), max_per_category=2).attributes is None
    assert Filters(brands=("Wren",), exclude=("b",)).attributes == Filters(brands=("Wren",))


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(categories=("yogo",)), "category names 'yogo'.*did you mean 'yoga'"),
        (Filters(brands=("Nobody at all",)), "brand names 'Nobody at all'.*no brand"),
        (Filters(price=(5.0, 1.0)), "lower bound first"),
        (Filters(price=(float("nan"), None)), "finite"),
        (Filters(max_per_category=0), "at least 1"),
    ],
)
def test_bad_filters_are_one_sentence(filters, message):
    with pytest.raises(RequestError, match=message):
        ATTRIBUTES.passes(filters)


def test_unknown_ids_and_unknown_stock():
    with pytest.raises(RequestError, match="candidates names 'z'"):
        ATTRIBUTES.indices(["a", "z"], "candidates")
    with pytest.raises(RequestError, match="needs to know the stock"):
        Attributes.of(ITEMS).passes(Filters(in_stock=True))
    assert ATTRIBUTES.indices(["d", "a", "d"], "exclude").tolist() == [3, 0]


def test_filters_say_what_they_are():
    filters = Filters(("yoga", "home"), ("Wren",), (1.0, 2.5), True, ("a",), ("b", "c"), 3)
    assert str(filters) == (
        "category yoga or home, brand Wren, price from 1, price to 2.5, in stock, 1 candidates, without 2 items, "
        "at most 3 per category"
    )
    assert str(Filters()) == "no filter"


def test_items_without_a_price_pass_no_bound():
    assert not ATTRIBUTES.passes(Filters(price=(0.0, None)))[2]
    assert np.isnan(ATTRIBUTES.price_N[2])
