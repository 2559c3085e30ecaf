"""A cart is a click wherever clicks are counted, and has a word of its own where a state tells what was done."""

from __future__ import annotations

import polars as pl
import pytest

from llmrec.dataset.examples import examples
from llmrec.dataset.history import History
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.manifest import Signal
from llmrec.dataset.split import make_split
from llmrec.text.shipped import make_wording
from llmrec.types import Item

EVENTS = """user_id,item_id,time,kind
u,a,1,view
u,b,2,view
u,b,2,addtocart
u,b,3,addtocart
u,b,4,buy
v,a,5,view
v,b,6,view
"""
ITEMS = "item_id,title\na,Kettle\nb,Mug\n"


def shop(folder, cart: str):
    (folder / "events.csv").write_text(EVENTS)
    (folder / "items.csv").write_text(ITEMS)
    kinds = {"view": "click", "addtocart": cart, "buy": "conversion"}
    mapping = {"events": {"file": "events.csv"}, "items": {"file": "items.csv"}, "kinds": kinds, "repeat": "allow"}
    return import_dataset("table", folder, mapping=mapping)


def test_the_signal_click_holds_for_carts_and_the_signal_cart_for_nothing_else():
    kinds = pl.DataFrame({"kind": ["impression", "click", "cart", "rating", "conversion"], "value": [None] * 5})
    assert kinds.select(Signal.parse("click").mask())["kind"].to_list() == [False, True, True, False, False]
    assert kinds.select(Signal.parse("cart").mask())["kind"].to_list() == [False, False, True, False, False]


def test_targets_are_those_of_carts_that_were_imported_as_clicks(tmp_path):
    (tmp_path / "as_cart").mkdir()
    (tmp_path / "as_click").mkdir()
    found = []
    for kind in ("cart", "click"):
        dataset = shop(tmp_path / f"as_{kind}", kind)
        split = make_split(dataset, "time", valid_fraction=0.0, test_fraction=0.2)
        rows = examples(dataset, split, "train", history_events=5)
        found.append([(e.state.user_id, e.state.time, e.target, e.feedback) for e in rows])
    assert found[0] == found[1]


def test_a_state_says_cart_and_of_one_moment_the_strongest(tmp_path):
    dataset = shop(tmp_path, "cart")
    assert dataset.manifest.counts["cart"] == 2
    state = History(dataset, 10).state("u", 5)
    # at second 2 the item was looked at and put into the cart
    assert [(i.item, i.feedback) for i in state.history] == [
        (0, "click"),
        (1, "cart"),
        (1, "cart"),
        (1, "conversion"),
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("domain", ["shop", "film", "music", "news", "course", "social"])
def test_each_domain_words_a_cart_unlike_all_else(language, domain):
    wording = make_wording([Item("a", "Kettle")], domain=domain, language=language)
    said = {
        kind: wording.templates.render("entry.jinja", title="Kettle", feedback=kind, value="")
        for kind in ("impression", "click", "cart", "rating", "conversion")
    }
    assert len(set(said.values())) == len(said), said
