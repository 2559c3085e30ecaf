"""Whether a prompt has to do with a catalogue: by hand, and over a generated world."""

from __future__ import annotations

import pytest

from llmrec.config import RunConfig
from llmrec.dataset.world import generate_world
from llmrec.evaluation.requests import draw_requests
from llmrec.text.relatedness import KnownWords
from llmrec.types import Item

ITEMS = [
    Item("a", "Red Kettle", "Boils water fast.", ("kitchen",), "Acme", 20.0),
    Item("b", "Steel Scale", "Weighs flour. Ships with a manual.", ("kitchen",), "Orbita"),
    Item("c", "Yoga Mat", "For the studio, with a strap.", ("yoga",)),
    Item("d", "竹制茶壶", "适合泡茶。", ("厨房",)),
]
UNRELATED = [
    "new puppy",
    "train ticket to Madrid",
    "wedding speech",
    "fix my car engine",
    "mortgage advice",
    "trombone lessons",
    "divorce lawyer",
    "\nlearn Portuguese",
    "quantum physics lecture",
    "cancel my subscription",
    "football scores",
    "dinosaur",
    "chainsaw",
    "guitar strings",
    "lipstick",
    "\nmicroscope",
    "novel about pirates",
    "sushi restaurant nearby",
    "job interview",
    "ski pass",
    "tax return",
    "horror movie",
    "dental floss",
    "violin",
    "\nchess opening",
    "bitcoin wallet",
    "wheelchair",
    "fireworks",
    "kayak rental",
    "telescope",
    "piano",
    "vampire costume",
    "submarine",
]


@pytest.mark.parametrize(
    ("prompt", "related"),
    [
        ("I want a kettle", True),
        ("KETTLES!", True),
        ("kettel", True),  # misspelt: 83 of 100 alike
        ("something by acme", True),
        ("weighing flours", True),
        ("new puppy", False),
        ("a train to Madrid", False),
        ("show me something nice, please", True),  # asks for nothing in particular
        ("", True),
        ("under 20", True),
        ("想要一个茶壶", True),
        ("厨房用品", True),
        ("新小狗", False),
        ("去马德里的火车票", False),
    ],
)
def test_by_hand(prompt, related):
    assert KnownWords(ITEMS).related(prompt) is related


def test_words_that_all_texts_have_tell_nothing():
    items = [Item(f"i{n}", f"Thing{n} lamp", "Comes with warranty.", ()) for n in range(40)]
    known = KnownWords(items)
    assert not known.related("warranty")
    assert known.related("lamp")  # in every title, which is a name


def test_long_prompts_are_read_up_to_a_bound():
    assert not KnownWords(ITEMS).related("zzzz " * 100_000)


@pytest.mark.parametrize("seed", [0, 1])
def test_over_a_world(seed):
    """The figures of docs/retrieval.md: no request for what is there is called unrelated."""
    dataset = generate_world(RunConfig.read(None, {"world.users": 50, "world.items": 300}).world, seed).dataset
    items = dataset.item_list
    known = KnownWords(items)
    asked = draw_requests(items, 200, seed=seed)
    assert [request.text for request in asked if not known.related(request.text)] == []
    categories = sorted({name for item in items for name in item.categories})
    misspelt = [name[:1] + name[2] + name[1] + name[3:] for name in categories if len(name) > 4]
    assert [name for name in misspelt if not known.related(f"looking for {name}")] == []
    assert [prompt for prompt in UNRELATED if known.related(prompt)] == []
