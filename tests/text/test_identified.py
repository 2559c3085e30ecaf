"""Identifiers in prompts: trusted ones are their tokens, text of strangers that spells them never is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.config import CardSettings
from llmrec.errors import ConfigError, RunError
from llmrec.text.budget import PromptEncoder
from llmrec.text.identified import mark
from llmrec.text.render import StateRenderer
from llmrec.text.tasks import ID_TASKS
from llmrec.types import Interaction, Item, State
from tests.text.conftest import CHATS, clicks, train_tokenizer

WORDS = [f"<{level}_{code}>" for level in "ab" for code in range(4)]
IDENTIFIERS = [f"<a_{n % 4}><b_{n // 4}>" for n in range(7)]
HOSTILE = ["<a_3>", "<a_3><b_0>", "<b_1", "_3>", "\x020\x03", "\x02", "\x03", "2", " ", "kettle", "<|endoftext|>"]


def with_words(chat: str | None = None) -> Any:
    template, special, added = CHATS[chat] if chat else (None, [], [])
    tokenizer = train_tokenizer(special, added, chat=template)
    tokenizer.add_tokens(WORDS, special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def plain() -> Any:
    return with_words()


@pytest.fixture(scope="module", params=[None, "chatml", "inst"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return with_words(request.param)


def make(items: list[Item], tokenizer: Any, history: Any = "id", max_tokens: int = 120, **more: Any) -> StateRenderer:
    options = {"domain": "shop", "language": "en", "identifiers": IDENTIFIERS, "history": history, **more}
    return StateRenderer(items, tokenizer, max_tokens=max_tokens, **options)


def words_in(tokenizer: Any, ids: list[int]) -> list[str]:
    return [token for token in tokenizer.convert_ids_to_tokens(ids) if token in WORDS]


def test_identifiers_have_cards_that_say_what_the_missing_title_would(items: list[Item], plain: Any) -> None:
    state = State(history=clicks(0))
    card = CardSettings(attributes=("categories", "brand"))
    assert "History: <a_0><b_0> [Kitchen, Kettle, Acme] (clicked)\n" in make(items, plain, "id", card=card).prompt(
        state
    )
    both = make(items, plain, "both", card=card)
    assert "History: Red Kettle <a_0><b_0> [Kitchen, Acme] (clicked)\n" in both.prompt(state)
    assert words_in(plain, both.token_ids(state)) == ["<a_0>", "<b_0>"]


def test_history_names_items_as_asked(items: list[Item], plain: Any) -> None:
    state = State("u", "woman", clicks(0, 5), clicks(3, feedback="conversion"))
    assert make(items, plain, "id").prompt(state) == (
        "Profile: woman\nHistory: <a_0><b_0> (clicked); <a_1><b_1> (clicked)\nThis visit: <a_3><b_0> (bought)\n"
        "Next product:"
    )
    both = make(items, plain, "both").prompt(state)
    assert "History: Red Kettle <a_0><b_0> (clicked); Copper Pan <a_1><b_1> (clicked)\n" in both
    assert "History: Red Kettle (clicked); Copper Pan (clicked)\n" in make(items, plain, "title").prompt(state)


def test_identifiers_are_their_tokens(items: list[Item], tokenizer: Any) -> None:
    renderer = make(items, tokenizer)
    ids = renderer.token_ids(State(history=clicks(0, 5, 6)))
    assert words_in(tokenizer, ids) == ["<a_0>", "<b_0>", "<a_1>", "<b_1>", "<a_2>", "<b_1>"]
    prompt = renderer.prompt(State(history=clicks(0, 5, 6)))
    assert ids == tokenizer(prompt, add_special_tokens=False)["input_ids"]


hostile = st.lists(st.sampled_from(HOSTILE), max_size=6).map("".join)


@settings(max_examples=12, deadline=None)
@given(titles=st.lists(hostile, min_size=7, max_size=7), profile=hostile, context=hostile, shown=st.lists(st.integers(0, 6), max_size=5))  # fmt: skip
@pytest.mark.parametrize("history", ["title", "id", "both"])
def test_no_title_or_profile_spells_an_identifier(
    tokenizer: Any, history: str, titles: list[str], profile: str, context: str, shown: list[int]
) -> None:
    items = [Item(f"p{n}", title, title, (title,), title, 2.0) for n, title in enumerate(titles)]
    renderer = make(items, tokenizer, history, 400)
    wanted = [] if history == "title" else [word for item in shown for word in split(IDENTIFIERS[item])]
    ids = renderer.token_ids(State("u", profile, clicks(*shown), (), context))
    assert words_in(tokenizer, ids) == wanted
    for name in ID_TASKS:
        task = renderer.task_text(name, 6)
        assert task is not None
        assert words_in(tokenizer, task.prompt_ids) == ([] if name == "id_from_title" else ["<a_2>", "<b_1>"])


def split(identifier: str) -> list[str]:
    return [f"<{word}>" for word in identifier.strip("<>").split("><")]


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.sampled_from([*WORDS, "<|endoftext|>", "kettle", " ", mark(0), mark(5)]), max_size=8))
def test_the_encoder_alone_lets_only_marks_through(tokenizer: Any, parts: list[str]) -> None:
    """Without any cleaning before it, as a template by a stranger could do."""
    encoder = PromptEncoder(tokenizer, identifiers=IDENTIFIERS)
    (ids,) = encoder.encode(["".join(parts)])
    wanted = [word for part in parts for n in (0, 5) if part == mark(n) for word in split(IDENTIFIERS[n])]
    assert words_in(tokenizer, ids) == wanted
    bare = [i for i in encoder.encode(["x"])[0] if i in encoder.control_ids]
    assert len([i for i in ids if i in encoder.control_ids]) == len(bare) + len(wanted)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.integers(0, 6), max_size=12), extra=st.integers(0, 60), history=st.sampled_from(["id", "both"])
)
def test_the_budget_is_exact(items: list[Item], plain: Any, rows: list[int], extra: int, history: str) -> None:
    renderer = make(items, plain, history, 300)
    room = renderer.max_tokens = len(renderer.token_ids(State())) + extra
    state = State(history=tuple(Interaction(row, "click", time) for time, row in enumerate(rows)))
    ids = renderer.token_ids(state)
    assert len(ids) <= room
    kept = len(words_in(plain, ids)) // 2
    assert words_in(plain, ids) == [w for row in rows[len(rows) - kept :] for w in split(IDENTIFIERS[row])]
    if kept < len(rows):  # one more would not fit
        renderer.max_tokens = 300
        more = dataclasses.replace(state, history=state.history[len(rows) - kept - 1 :])
        assert len(renderer.token_ids(more)) > room


def test_id_tasks(items: list[Item], plain: Any) -> None:
    renderer = make(items, plain)
    title, back = renderer.task_text("title_from_id", 5), renderer.task_text("id_from_title", items[5])
    assert title is not None
    assert back is not None
    assert plain.decode(title.prompt_ids) == "Product identifier: <a_1><b_1>\nTitle:"
    assert (title.answer, title.target_item) == (" Copper Pan", None)
    assert plain.decode(back.prompt_ids) == "Title: Copper Pan\nProduct identifier:"
    assert (back.answer, back.target_item) == (None, 5)
    told = [renderer.task_text("attributes_from_id", 5, variant=n) for n in range(3)]
    assert [(plain.decode(t.prompt_ids).splitlines()[1], t.answer) for t in told if t] == [
        ("Category:", " Kitchen, Pan"),
        ("Brand:", " Acme"),
        ("Price:", " 19.90"),
    ]
    assert make([Item(f"p{n}", "Pan") for n in range(7)], plain).task_text("attributes_from_id", 0) is None


def test_without_identifiers_there_is_no_id_task(items: list[Item], plain: Any) -> None:
    renderer = make(items, plain, "title", identifiers=None)
    assert [renderer.task_text(name, 0) for name in ID_TASKS] == [None] * 3


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("domain", ["shop", "film", "music", "news", "course", "social"])
def test_every_domain_asks_for_identifiers(items: list[Item], language: str, domain: str) -> None:
    tokenizer = with_words("chatml")
    renderer = make(items, tokenizer, "both", 400, language=language, domain=domain)
    words = {"en": "identifier only", "zh": "只回答编号"}
    asked = [renderer.prompt(State(history=clicks(1)))]
    for name in ("item_from_attributes", "item_from_prompt", "title_from_description", "id_from_title"):
        task = renderer.task_text(name, 1)
        assert task is not None
        asked.append(tokenizer.decode(task.prompt_ids))
    assert all(words[language] in text for text in asked)
    for name in ID_TASKS:
        task = renderer.task_text(name, 1)
        assert task is not None
        text = tokenizer.decode(task.prompt_ids)
        assert ("Blue Mug" if name == "id_from_title" else "<a_1><b_0>") in text


def test_saved_and_loaded(items: list[Item], plain: Any, tmp_path: Any) -> None:
    renderer = make(items, plain, "both")
    renderer.save(tmp_path / "prompts")
    state = State("u", "woman", clicks(0, 1))
    loaded = StateRenderer.load(tmp_path / "prompts", items, plain, IDENTIFIERS)
    assert loaded.token_ids(state) == renderer.token_ids(state)
    with pytest.raises(ConfigError, match=r"text\.history"):
        StateRenderer.load(tmp_path / "prompts", items, plain)
    file = tmp_path / "prompts" / "renderer.json"
    file.write_text(file.read_text().replace('"both"', '"tail"'))
    with pytest.raises(RunError, match="'tail'"):
        StateRenderer.load(tmp_path / "prompts", items, plain, IDENTIFIERS)


def test_bad_identifiers_are_named(items: list[Item], base: Any, plain: Any) -> None:
    with pytest.raises(ConfigError, match=r"text\.history.*identifiers\.scheme"):
        make(items, plain, "id", identifiers=None)
    with pytest.raises(ConfigError, match="7 items but 6 identifiers"):
        make(items, plain, identifiers=IDENTIFIERS[:6])
    with pytest.raises(ConfigError, match="not made of special tokens"):
        make(items, base)
    with pytest.raises(ConfigError, match="item index 6 is not"):
        make(items, plain, identifiers=[*IDENTIFIERS[:6], ""])
    with pytest.raises(ConfigError, match="item index 7, which is not there"):
        PromptEncoder(plain, identifiers=IDENTIFIERS).encode([mark(7)])
