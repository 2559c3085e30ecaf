"""A free prompt becomes a state. A title of one word counts only capitalised or in quotation marks."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.text.free_prompt import TitleIndex, resolve_prompt
from llmrec.text.titles import title_variants
from llmrec.types import Item, State

FILMS = [
    "Fargo (1996)",
    "Seven (a.k.a. Se7en) (1995)",
    "Usual Suspects, The (1995)",
    "Heat (1995)",
    "It (1990)",
    "Toy Story (1995)",
    "Toy Story 2 (1999)",
    "Schindler's List (1993)",
    "Game, The (1997)",
    "Amélie (2001)",
    "Dune: Part Two (2024)",
    "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
    "!!! (2001)",
    "Star Trek: First Contact (1996)",
    "2001: A Space Odyssey (1968)",
]
CHINESE = ["红色水壶", "七宗罪", "冰血暴 (1996)", "iPhone 手机", "霸王别姬：修复版", "火"]


def index(titles: list[str]) -> TitleIndex:
    return TitleIndex([Item(f"i{n}", title) for n, title in enumerate(titles)])


films, chinese = index(FILMS), index(CHINESE)


@pytest.mark.parametrize(
    ("text", "titles", "rest"),
    [
        ("I liked Fargo and Se7en", [0, 1], ""),
        ("I liked Seven, and Fargo (1996)!", [1, 0], ""),
        ("i loved the usual suspects but nothing violent", [2], "nothing violent"),
        ("usual suspects or Shindlers List", [2, 7], ""),
        ("The heat is on. It was late.", [], "The heat is on. It was late."),
        ("I liked It and Heat", [4, 3], ""),
        ('have you seen "it"? Or "heat"', [4, 3], "have you seen"),
        ("i want the game of my life", [], "i want the game of my life"),
        ("I liked The Game", [8], ""),
        ("Toy Story 2 please, not toy story", [6, 5], "please, not"),
        ("amelie", [9], ""),
        ("“Amelie” please", [9], ""),
        ("La Cité des Enfants Perdus", [11], ""),
        ("star trek first contact", [13], ""),
        ("dune part two", [10], ""),
        ('"!!! (2001)"', [12], ""),
        ("I liked 2001: A Space Odyssey", [14], ""),
        ("", [], ""),
        ("something funny for a rainy evening", [], "something funny for a rainy evening"),
    ],
)
def test_films(text: str, titles: list[int], rest: str) -> None:
    resolved = resolve_prompt(text, films)
    assert [match.item for match in resolved.matches] == titles
    assert resolved.rest.rstrip("?") == rest
    assert [i.item for i in resolved.state.history] == titles
    assert resolved.state.context == resolved.rest


@pytest.mark.parametrize(
    ("text", "titles", "rest"),
    [
        ("我喜欢《冰血暴》和七宗罪", [2, 1], ""),
        ("我喜欢红色水壶，想要便宜一点的", [0], "想要便宜一点的"),
        ("推荐iphone手机类似的", [3], ""),
        ("我很爱霸王别姬", [4], ""),
        ("火车很快", [], "火车很快"),
        ("我喜欢《火》", [5], ""),
    ],
)
def test_chinese(text: str, titles: list[int], rest: str) -> None:
    resolved = resolve_prompt(text, chinese)
    assert [match.item for match in resolved.matches] == titles
    assert resolved.rest == rest


def test_matches_are_shown_with_what_named_them() -> None:
    first, second = resolve_prompt("Schindler List, Fargo", films).matches
    assert (first.title, first.text) == ("Schindler's List (1993)", "Schindler List")
    assert 86 <= first.score < 100 == second.score


def test_the_state_is_in_the_past_and_counts_as_asked() -> None:
    state = resolve_prompt("Fargo", films, time=1000, feedback="rating", value=5.0).state
    assert (state.time, state.history[0].time) == (1000, 999)
    assert (state.history[0].feedback, state.history[0].value) == ("rating", 5.0)
    assert resolve_prompt("Fargo and Fargo", films).state.seen() == (0,)
    assert resolve_prompt("hello", [Item("a", "Kettle")]).state == State(context="hello")


def test_variants_by_hand() -> None:
    assert title_variants("Seven (a.k.a. Se7en) (1995)")[1:] == ["Seven (a.k.a. Se7en)", "Seven", "Se7en"]
    assert "The Usual Suspects" in title_variants("Usual Suspects, The (1995)")
    assert title_variants("Kettle (Red)") == ["Kettle (Red)", "Kettle"]


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=80) | st.text("\"“”'《》()<> aeIt红\u200b\ud800", max_size=60))
def test_no_text_is_too_strange(text: str) -> None:
    for titles in (films, chinese, index([]), index([text, "Fargo"])):
        resolved = resolve_prompt(text, titles)
        assert len(resolved.rest) <= len(text) + 8
        assert all(match.text in text for match in resolved.matches)


@settings(max_examples=150, deadline=None)
@given(
    title=st.text(min_size=1, max_size=30).filter(str.strip),
    before=st.text("abc ,.", max_size=20),
    after=st.text("abc ,.", max_size=20),
    quote=st.sampled_from(['""', "“”", "《》", "「」"]),
)
def test_a_title_in_quotation_marks_is_always_found(title: str, before: str, after: str, quote: str) -> None:
    titles = index(["Fargo", title])
    found = resolve_prompt(f"{before}{quote[0]}{title}{quote[1]}{after}", titles)
    assert 1 in [match.item for match in found.matches] or title.strip().casefold() == "fargo"


def test_ten_thousand_titles_take_no_time() -> None:
    random_ = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprst" for b in "aeiou"]
    words = ["".join(random_.choices(syllables, k=random_.randint(2, 4))) for _ in range(8000)]
    titles = [" ".join(random_.choices(words, k=random_.randint(2, 6))).title() for _ in range(10_000)]
    big = index(titles)
    prompts = [f"I liked {titles[n].lower()} and {titles[-n]}, but want somthing newer" for n in range(1, 21)]
    start = time.process_time()
    for n, prompt in enumerate(prompts, 1):
        found = [match.title for match in resolve_prompt(prompt, big).matches]
        assert {titles[n].lower(), titles[-n].lower()} <= {title.lower() for title in found}
    assert (time.process_time() - start) / len(prompts) < 0.05


def test_movielens_titles() -> None:
    folder = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[2] / "../shared/data"))
    path = folder / "movielens-100k" / "u.item"
    if not path.exists():
        pytest.skip(f"{path} is absent; set LLMREC_DATA to a folder that holds movielens-100k")
    rows = [line.split("|")[:2] for line in path.read_text(encoding="latin-1").splitlines()]
    movies = TitleIndex([Item(key, title) for key, title in rows])
    named = resolve_prompt("I liked Fargo and Se7en, silense of the lambs and Star Wars", movies).matches
    assert [match.title for match in named] == [
        "Fargo (1996)",
        "Seven (Se7en) (1995)",
        "Silence of the Lambs, The (1991)",
        "Star Wars (1977)",
    ]
    for _, title in rows[::12]:
        assert title in {match.title for match in resolve_prompt(f'Like "{title}".', movies).matches}
