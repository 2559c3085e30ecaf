"""Perturbations: what may change and what may not, on any text; prompts keep their budget and their frame."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.errors import ConfigError
from llmrec.studies.robustness_table import standard_perturbations
from llmrec.text.hostile import KINDS, Hostile, hostile_title
from llmrec.text.perturb import (
    SYNONYMS,
    Described,
    DroppedHistory,
    Renamed,
    ShuffledHistory,
    Typos,
    described,
    renamed,
    with_typos,
)
from llmrec.text.render import StateRenderer
from llmrec.types import Interaction, Item, State
from tests.text.conftest import clicks

TEXTS = st.text(max_size=40)
RATES = st.floats(0, 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def item(title: str, **fields: Any) -> Item:
    return Item("x", title, **fields)


STATES = [
    State("u", "likes tea", clicks(0, 1, 2, 3), time=10),
    State("v", "", clicks(4, 5), session=clicks(6, 0), context="a gift", time=9),
    State(),
]


@given(TEXTS, RATES, st.integers(0, 99))
def test_typos_make_up_no_letter_and_leave_signs_and_digits_in_place(text: str, rate: float, seed: int) -> None:
    typed = with_typos(text, rate, rng(seed))
    assert set(typed) <= set(text)
    plain = [c for c in text if not c.isalpha()]
    if all(not c.isalpha() and ord(c) < 0x300 for c in plain):  # no marks that go with a letter
        assert [c for c in typed if not c.isalpha()] == plain
    assert all(n <= 2 * Counter(text)[c] for c, n in Counter(typed).items())
    assert typed.strip() or not text.strip()
    assert typed == with_typos(text, rate, rng(seed))


@given(TEXTS, st.integers(0, 99))
def test_no_typos_at_rate_zero_and_every_letter_is_hit_at_rate_one(text: str, seed: int) -> None:
    assert with_typos(text, 0.0, rng(seed)) == text
    # a text whose letters would all be left out stays; among so many letters that does not happen with these seeds
    if text.isascii() and len(text) > 12 and text.isalpha() and len(set(text)) == len(text):
        assert with_typos(text, 1.0, rng(seed)) != text


def test_every_letter_is_mistyped_at_rate_one() -> None:
    text = "abcdefghijklmnopqrst"
    assert all(with_typos(text, 1.0, rng(seed)) != text for seed in range(100))
    assert with_typos("AB", 1.0, rng(5)) == "AB", "both letters would be left out, so the text stays"


def test_a_letter_keeps_its_marks_and_a_lone_letter_stays() -> None:
    text = "cafe\u0301 ne\u0301e"
    for seed in range(200):
        typed = with_typos(text, 0.5, rng(seed))
        assert all(typed[at - 1] == "e" for at, c in enumerate(typed) if c == "\u0301")
    assert {with_typos("M", 1.0, rng(seed)) for seed in range(30)} == {"M", "MM"}


def test_the_rate_is_the_share_of_letters() -> None:
    swapped = dropped = doubled = 0
    for seed in range(300):
        typed = with_typos("abcdefghijklmnopqrst", 0.1, rng(seed))
        dropped += sum(c not in typed for c in "abcdefghijklmnopqrst")
        doubled += len(typed) - len(set(typed))
        order = list(dict.fromkeys(typed))
        swapped += sum(a > b for a, b in itertools.pairwise(order))
    assert (swapped + dropped + doubled) / 6000 == pytest.approx(0.1, abs=0.015)
    assert min(swapped, dropped, doubled) > 100


def test_history_is_dropped_at_the_share_and_keeps_its_order(items: list[Item]) -> None:
    states = [State(f"u{n}", history=clicks(*range(7)), session=clicks(1, 2), time=n) for n in range(400)]
    seen = DroppedHistory(share=0.3).view(states, items)
    kept = [len(state.history) for state in seen.states]
    assert sum(kept) / 2800 == pytest.approx(0.7, abs=0.03)
    assert len({state.history for state in seen.states}) > 50
    for state in seen.states:
        assert [i.item for i in state.history] == sorted(i.item for i in state.history)
    assert seen.items is items
    assert all(not s.history + s.session for s in DroppedHistory(share=1.0).view(states, items).states)
    assert list(DroppedHistory(share=0.0).view(states, items).states) == states


def test_a_shuffled_history_has_the_same_feedback_on_the_same_items_and_rising_times(items: list[Item]) -> None:
    past = tuple(Interaction(n, "rating", 10 * n, float(n)) for n in range(7))
    state = State("u", history=past, session=clicks(1, 2), time=99)
    (seen,) = ShuffledHistory().view([state], items).states
    assert seen.history != past
    assert {(i.item, i.feedback, i.value) for i in seen.history} == {(i.item, i.feedback, i.value) for i in past}
    assert [i.time for i in seen.history] == [i.time for i in past]
    assert seen.session == state.session


def test_a_state_is_perturbed_alike_whatever_stands_beside_it(items: list[Item]) -> None:
    for perturbation in standard_perturbations("film", seed=3):
        together = perturbation.view(STATES, items)
        alone = [perturbation.view([state], items).states[0] for state in STATES]
        assert list(together.states) == alone
        assert perturbation.view(STATES, items).items == together.items


def test_other_seeds_are_other_perturbations(items: list[Item]) -> None:
    assert Typos(seed=1, rate=0.5).view([], items).items != Typos(seed=2, rate=0.5).view([], items).items
    assert len({Hostile(seed=n, kind="orders").view([], items).promoted for n in range(20)}) > 3


@pytest.mark.parametrize("perturbation", standard_perturbations("shop"), ids=lambda p: p.name)
def test_items_states_and_users_keep_their_identity(perturbation: Any, items: list[Item]) -> None:
    view = perturbation.view(STATES, items)
    assert [i.item_id for i in view.items] == [i.item_id for i in items]
    assert [(i.categories, i.brand, i.price) for i in view.items] == [(i.categories, i.brand, i.price) for i in items]
    for seen, state in zip(view.states, STATES, strict=True):
        assert set(seen.seen()) <= set(state.seen())
        assert (seen.user_id, seen.time, seen.profile, seen.context) == (
            state.user_id,
            state.time,
            state.profile,
            state.context,
        )


@given(TEXTS.filter(str.strip))
def test_a_new_name_is_another_and_no_name_that_is_taken(title: str) -> None:
    other = renamed(title, {title})
    assert other.strip()
    assert other != title
    assert renamed(title, {title}) == other
    assert renamed(title, {title, other}) != other


def test_names_by_synonym_by_turning_and_in_capitals() -> None:
    assert renamed("Small Blue Mug (2 Pack)") == "Little Blue Cup"
    assert renamed("Steel Ladle") == "Ladle, Steel"
    assert renamed("LOST Highway") == "MISSING Highway"
    assert renamed("Matrix, The (1999)") == "The, Matrix"
    assert renamed("三体") == "“三体”"
    assert renamed("Big Mug", {"Large Cup"}) == "Mug, Big"
    assert all(word != other for word, other in SYNONYMS.items())


def test_described_items_have_no_word_of_their_title() -> None:
    kettle = item("Red Kettle", description="A red kettle of steel, two litres.", categories=("Kitchen", "Tea"))
    assert described(kettle) == "Kitchen, Tea, A of steel, two"
    assert described(item("Red Kettle")) == "?"
    assert Described().view([], [kettle]).items[0].title == described(kettle)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_text_names_the_promoted_item_and_spares_its_own(kind: Any, items: list[Item]) -> None:
    view = Hostile(kind=kind, promoted=2).view(STATES, items)
    assert view.items[2] == items[2]
    assert all("Steel Knife" in other.title for row, other in enumerate(view.items) if row != 2)
    assert all("Steel Knife" in other.description for row, other in enumerate(view.items) if row != 2)
    some = Hostile(kind=kind, promoted=2, share=0.5).view(STATES, items).items
    assert 0 < sum(a == b for a, b in zip(some, items, strict=True)) < len(items)


@given(TEXTS, TEXTS, st.sampled_from(KINDS), st.integers(0, 9))
def test_titles_with_braces_are_text_and_no_template(title: str, promoted: str, kind: Any, turn: int) -> None:
    made = hostile_title(kind, f"{title}{{promoted}}{{0}}", f"{promoted}{{title}}", turn)
    assert f"{promoted}{{title}}" in made
    assert f"{title}{{promoted}}{{0}}" in made


@settings(max_examples=8)
@given(st.lists(TEXTS, min_size=7, max_size=7), st.integers(48, 80), st.sampled_from(["film", "news"]))
def test_prompts_keep_the_budget_and_the_frames_control_tokens(
    base: Any, chats: dict[str, Any], titles: list[str], budget: int, domain: str
) -> None:
    own = [Item(f"p{n}", title, title) for n, title in enumerate(titles)]
    for tokenizer in (base, chats["chatml"]):
        limit = budget + 90 * (tokenizer is not base)
        bare = StateRenderer(own, tokenizer, domain=domain, language="en", max_tokens=limit)
        control = bare.encoder.control_ids
        frame = [t for t in bare.token_ids(State()) if t in control]
        for perturbation in standard_perturbations(domain):
            view = perturbation.view(STATES, own)
            renderer = StateRenderer(
                view.items, tokenizer, domain=view.wording or domain, language="en", max_tokens=limit
            )
            for ids in renderer.token_ids_many(view.states):
                assert len(ids) <= limit
                assert [t for t in ids if t in control] == frame


def test_settings_out_of_bounds_are_refused(items: list[Item]) -> None:
    makers: list[Any] = [
        lambda: Typos(rate=1.5),
        lambda: DroppedHistory(share=-0.1),
        lambda: Hostile(kind="orders", share=2.0),
    ]
    for make in makers:
        with pytest.raises(ConfigError, match="must lie between 0 and 1"):
            make()
    with pytest.raises(ConfigError, match="choose one of orders"):
        Hostile(kind="polite")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Item index 7 cannot be promoted"):
        Hostile(kind="long", promoted=7).view([], items)
    assert len({p.name for p in standard_perturbations("shop")}) == len(standard_perturbations("shop"))
    assert dataclasses.replace(Renamed(), seed=4).seed == 4
