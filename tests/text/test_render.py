"""State -> prompt: what is shown, what is dropped first, and that the tokens are those of the string.

Semantics pinned here: `max_tokens` bounds the whole prompt; the oldest history goes first, then the oldest of the
session, then the end of the profile, then the end of the context; a template that does not fit is an error.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.errors import ConfigError, RequestError, RunError
from llmrec.text.render import StateRenderer
from llmrec.types import EVENT_KINDS, Interaction, Item, State
from tests.text.conftest import CHATS, NAMES, clicks


def make(items: list[Item], tokenizer: Any, max_tokens: int = 96, **options: Any) -> StateRenderer:
    options = {"domain": "shop", "language": "en", **options}
    return StateRenderer(items, tokenizer, max_tokens=max_tokens, **options)


def test_a_full_state_in_the_words_of_the_domain(items: list[Item], base: Any) -> None:
    history = (
        Interaction(0, "impression", 1),
        Interaction(1, "click", 2),
        Interaction(2, "rating", 3, 4.0),
        Interaction(3, "conversion", 4, 12.5),
    )
    state = State("u", "woman, 34", history, clicks(4), "tea for two")
    assert make(items, base).prompt(state) == (
        "Profile: woman, 34\n"
        "Request: tea for two\n"
        "History: Red Kettle (skipped); Blue Mug (clicked); Steel Knife (rated 4); Green Teapot (bought)\n"
        "This visit: Wooden Spoon (clicked)\n"
        "Next product:"
    )
    plain = make(items, base, profile=False, feedback=False).prompt(state)
    assert "woman" not in plain
    assert "History: Red Kettle; Blue Mug; Steel Knife; Green Teapot\n" in plain


def test_chinese_wording(items: list[Item], base: Any) -> None:
    renderer = make([Item("a", "红水壶"), Item("b", "蓝杯；大")], base, language="zh", domain="film")
    state = State(profile="女，34岁", history=(Interaction(0, "click", 1), Interaction(1, "rating", 2, 4.5)))
    assert renderer.prompt(state) == "用户画像：女，34岁\n历史：红水壶（点开）；蓝杯，大（评分4.5）\n下一部电影："
    assert renderer.answer_prefix == ""


def test_cold_start_is_the_question_alone(items: list[Item], base: Any) -> None:
    renderer = make(items, base)
    assert renderer.prompt(State()) == "Next product:"
    assert renderer.answer_prefix == " "
    assert base.decode(renderer.token_ids(State())) == "Next product:"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("domain", ["shop", "film", "music", "news", "course", "social"])
@pytest.mark.parametrize("chat", [False, True])
def test_every_domain_renders_every_template(
    items: list[Item], chats: dict[str, Any], language: str, domain: str, chat: bool
) -> None:
    renderer = make(items, chats["chatml"], 400, language=language, domain=domain, chat=chat)
    history = tuple(Interaction(n, kind, n, 3.0) for n, kind in enumerate(EVENT_KINDS))
    prompt = renderer.prompt(State("u", "woman", history, clicks(5, 6), "a gift"))
    assert all(name in prompt for name in [*NAMES[:4], *NAMES[5:7], "woman", "a gift"])
    assert prompt.rstrip("\n").endswith("</think>") if chat else prompt.endswith((":", "："))
    tasks = [renderer.task_text(name, 0) for name in ("title_from_description", "description_from_title")]
    tasks += [renderer.task_text("item_from_attributes", 0), renderer.task_text("item_from_prompt", 0, liked=[1, 2])]
    assert all(task is not None and len(task.prompt_ids) <= 400 for task in tasks)


states = st.builds(
    lambda history, session, profile, context: State("u", profile, history, session, context),
    st.lists(st.builds(Interaction, st.integers(0, 6), st.sampled_from(EVENT_KINDS), st.just(0), st.just(4.0)), max_size=20).map(tuple),
    st.lists(st.builds(Interaction, st.integers(0, 6), st.sampled_from(EVENT_KINDS), st.just(0)), max_size=5).map(tuple),
    st.text("abc de红, ", max_size=60) | st.sampled_from(["", "woman, 34, likes cooking"]),
    st.text("tea gift", max_size=30),
)  # fmt: skip


def longest_suffix(renderer: StateRenderer, state: State, size: Any) -> int | None:
    """How many newest interactions fit, by trying every number."""
    every = (*state.history, *state.session)
    fitting = None
    for count in range(len(every) + 1):
        kept = every[len(every) - count :]
        session = kept[max(0, len(kept) - len(state.session)) :]
        shown = replace(state, history=kept[: len(kept) - len(session)], session=session)
        text = renderer.wording.state_text(renderer.wording.values(shown))
        if size(renderer.encoder.wrap(text)) <= renderer.max_tokens:
            fitting = count
    return fitting


@pytest.fixture(scope="module")
def renderers(items: list[Item], base: Any, chats: dict[str, Any]) -> list[StateRenderer]:
    return [make(items, tokenizer) for tokenizer in (base, chats["chatml"])]


@settings(max_examples=60, deadline=None)
@given(state=states, extra=st.integers(0, 120))
def test_keeps_the_most_recent_entries_that_fit(renderers: list[StateRenderer], state: State, extra: int) -> None:
    for renderer in renderers:
        tokenizer = renderer.encoder.tokenizer

        def size(text: str, tokenizer: Any = tokenizer) -> int:
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])

        renderer.max_tokens = 1000
        room = renderer.max_tokens = len(renderer.token_ids(State())) + extra

        prompt, ids = renderer.prompt(state), renderer.token_ids(state)
        assert ids == tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert len(ids) <= room
        best = longest_suffix(renderer, state, size)
        if best is not None:
            shown = prompt.count("(") + prompt.count("（")
            assert shown == best


def test_many_at_once_equal_one_by_one(items: list[Item], base: Any) -> None:
    renderer = make(items, base, 50)
    many = [State(profile="woman " * n, history=clicks(*(k % 7 for k in range(n)))) for n in range(40)]
    fresh = make(items, base, 50)
    assert renderer.token_ids_many(many) == [fresh.token_ids(state) for state in reversed(many)][::-1]


def test_what_goes_first(items: list[Item], base: Any) -> None:
    state = State("u", "woman, 34, likes cooking", clicks(0, 1, 2), clicks(3, 4), "tea")
    tokens = len(make(items, base, 500).token_ids(state))
    shown = []
    bare = len(base("Next product:")["input_ids"])
    for room in range(tokens, bare - 1, -1):
        prompt = make(items, base, room).prompt(state)
        shown.append([name for name in NAMES[:5] if name in prompt] + [w for w in ("woman", "tea") if w in prompt])
        assert prompt.endswith("Next product:")
    distinct = [now for n, now in enumerate(shown) if n == 0 or now != shown[n - 1]]
    names = NAMES[:5]
    assert distinct[:6] == [[*names[n:], "woman", "tea"] for n in range(6)]
    assert distinct[6:] == [["tea"], []]


def test_a_long_profile_is_cut_at_a_word(items: list[Item], base: Any) -> None:
    renderer = make(items, base, 40)
    prompt = renderer.prompt(State(profile="cooking " * 2000, history=clicks(0, 1)))
    first, *_, last = prompt.split("\n")
    assert set(first.removeprefix("Profile: ").split()) == {"cooking"}
    assert last == "Next product:"
    assert len(base(prompt)["input_ids"]) > 30


def test_only_the_newest_of_an_endless_history_is_read(items: list[Item], base: Any) -> None:
    renderer = make(items, base, 60)
    ids = renderer.token_ids(State(history=clicks(*[0] * 50_000, 1)))
    assert len(ids) <= 60
    assert "Blue Mug (clicked)\nNext product:" in base.decode(ids)


def test_budget_below_the_bare_template(items: list[Item], base: Any) -> None:
    bare = len(base("Next product:")["input_ids"])
    assert len(make(items, base, bare).token_ids(State(profile="x" * 99, history=clicks(1)))) == bare
    with pytest.raises(ConfigError, match=rf"max_tokens is {bare - 1}.*takes {bare} tokens"):
        make(items, base, bare - 1)


@pytest.mark.parametrize("chat", [*CHATS])
def test_chat_prompt_is_the_tokenizers_own(items: list[Item], chats: dict[str, Any], chat: str) -> None:
    tokenizer = chats[chat]
    renderer = make(items, tokenizer, 200)
    state = State("u", "woman", clicks(0, 1))
    text = renderer.wording.state_text(renderer.wording.values(state))
    turns = [{"role": "user", "content": text}]
    options = {"add_generation_prompt": True, "enable_thinking": False}
    assert renderer.prompt(state) == tokenizer.apply_chat_template(turns, tokenize=False, **options)
    assert renderer.token_ids(state) == tokenizer.apply_chat_template(turns, **options)["input_ids"]
    assert "Answer with the title only." in text
    assert renderer.answer_prefix == ""


def test_bos_only_where_the_tokenizer_adds_it_and_no_end(items: list[Item], base: Any, bos: Any) -> None:
    renderer = make(items, bos)
    ids = renderer.token_ids(State())
    assert bos.decode(ids) == "<s>Next product:"
    assert make(items, base).token_ids(State())[0] != base.convert_tokens_to_ids("<|endoftext|>")


def test_the_answer_continues_the_prompt(items: list[Item], base: Any) -> None:
    renderer = make(items, base)
    state = State(history=clicks(0, 1))
    for title in renderer.titles:
        answer = renderer.answer_prefix + title
        together = base(renderer.prompt(state) + answer)["input_ids"]
        assert together == renderer.token_ids(state) + base(answer, add_special_tokens=False)["input_ids"]


def test_an_invisible_title_falls_back_to_the_id(base: Any) -> None:
    renderer = make([Item("p9", "\u200b\n")], base)
    assert renderer.titles == ("item p9",)


def test_unknown_item(items: list[Item], base: Any) -> None:
    with pytest.raises(RequestError, match="Item index 7 is outside the catalogue of 7"):
        make(items, base).prompt(State(history=clicks(7)))


@pytest.mark.parametrize(
    ("days", "en", "zh"),
    [
        (0.5, "(today)", "（今天）"),
        (3, "(days ago)", "（几天前）"),
        (20, "(weeks ago)", "（几周前）"),
        (60, "(long ago)", "（很久以前）"),
    ],
)
def test_how_long_ago_the_latest_choice_was(items: list[Item], base: Any, days: float, en: str, zh: str) -> None:
    history = (Interaction(0, "click", 0), Interaction(1, "click", 1000))
    state = State(history=history, time=1000 + round(days * 86_400))
    for language, word in (("en", en), ("zh", zh)):
        renderer = StateRenderer(items, base, domain="shop", language=language, max_tokens=200, elapsed=True)
        assert word in renderer.prompt(state)
        assert renderer.prompt(state).count(word) == 1
    untold = StateRenderer(items, base, domain="shop", language="en", max_tokens=200)
    told = StateRenderer(items, base, domain="shop", language="en", max_tokens=200, elapsed=True)
    assert en not in untold.prompt(state)
    for silent in (State(), State(history=history), State(history=history, session=history[:1], time=9**9)):
        assert told.prompt(silent) == untold.prompt(silent)


def test_saved_and_loaded_again(items: list[Item], base: Any, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "state.jinja").write_text("{{ profile }} {{ history | join(separator) }}{{ session }}{{ context }} ->")
    renderer = make(items, base, 50, templates=own, feedback=False)
    state = State(profile="woman", history=clicks(0, 1))
    assert renderer.prompt(state) == "woman Red Kettle; Blue Mug() ->"
    renderer.save(tmp_path / "prompts")
    again = StateRenderer.load(tmp_path / "prompts", items, base)
    assert again.templates == renderer.templates
    assert again.prompt(state) == renderer.prompt(state)
    assert (again.max_tokens, again.answer_prefix) == (50, " ")
    with pytest.raises(RunError, match=r"renderer\.json does not exist"):
        StateRenderer.load(own, items, base)
    (tmp_path / "prompts" / "renderer.json").write_text('{"domain": "shop"}')
    with pytest.raises(RunError, match="Key 'language'"):
        StateRenderer.load(tmp_path / "prompts", items, base)


def test_a_list_goes_on_with_the_answer(items: list[Item], base: Any, chats: dict[str, Any], tmp_path: Path) -> None:
    renderer = make(items, base, frame="list", feedback=False)
    state = State("u", "woman, 34", clicks(0, 1), context="tea for two")
    assert renderer.prompt(state) == (
        "Profile: woman, 34\nRequest: tea for two\nProducts chosen, the latest last:\n- Red Kettle\n- Blue Mug\n-"
    )
    answer = base(f"{renderer.answer_prefix}{renderer.titles[2]}", add_special_tokens=False)["input_ids"]
    longer = renderer.token_ids(replace(state, history=clicks(0, 1, 2)))
    shorter = renderer.token_ids(state)
    assert longer[: len(shorter) + len(answer)] == [*shorter, *answer]
    # the tokenizer's chat template is no part of a list
    assert make(items, next(iter(chats.values())), frame="list").encoder.chat is False
    renderer.save(tmp_path / "r")
    assert StateRenderer.load(tmp_path / "r", items, base).prompt(state) == renderer.prompt(state)
    chinese = make([Item("a", "红水壶")], base, language="zh", domain="film", frame="list")
    assert chinese.prompt(State(history=clicks(0))) == "看过的电影（最新的在最后）：\n-红水壶（点开）\n-"
