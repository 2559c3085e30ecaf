"""Texts to pretrain a small model on, in the wording that it will be asked in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmrec.text.budget import longest_that_fits
from llmrec.text.render import StateRenderer
from llmrec.text.tasks import TASKS, task_values
from llmrec.text.wording import Wording
from llmrec.types import Item, State


def documents(items: Sequence[Item], states: Sequence[State], renderer: StateRenderer | Wording) -> Iterator[str]:
    """Texts to pretrain a small model on: every item in the wording of the tasks, and states with their next title.

    A state's own latest interaction is taken out of it and becomes the title behind the prompt, so that nothing later
    than the state is told. With a `StateRenderer` a text keeps within its `max_tokens` together with one end token;
    with a `Wording` (no tokenizer yet, as when one is to be trained) texts are as long as they are.
    """
    if isinstance(renderer, Wording):
        yield from _plain_documents(items, states, renderer)
        return
    wording, limit = renderer.wording, renderer.max_tokens
    for item in items:
        for text in item_texts(item, wording, renderer.answer_prefix):
            yield longest_that_fits(text, lambda part: renderer.encoder.count(part) < limit) or ""
    kept = [(before, last) for before, last in map(_without_last, states) if last is not None]
    answers = [renderer.answer_prefix + renderer.titles[last] for _, last in kept]
    reserve = [min(renderer.encoder.count(answer) + 1, limit // 2) for answer in answers]
    prompts = renderer.prompts([before for before, _ in kept], reserve)
    yield from (prompt + answer for prompt, answer in zip(prompts, answers, strict=True))


def item_texts(item: Item, wording: Wording, answer_prefix: str) -> Iterator[str]:
    """What the tasks say about an item, each with its answer."""
    title = answer_prefix + wording.item_title(item)
    for name in TASKS:
        values = task_values(wording, name, item)
        if values is not None:
            answer = f"{answer_prefix}{values['description']}" if name == "description_from_title" else title
            yield wording.render(name, **values) + answer


def _plain_documents(items: Sequence[Item], states: Sequence[State], wording: Wording) -> Iterator[str]:
    prefix = wording.answer_prefix
    for item in items:
        yield from item_texts(item, wording, prefix)
    for before, last in map(_without_last, states):
        if last is not None:
            yield wording.state_text(wording.values(before)) + prefix + wording.title(last)


def _without_last(state: State) -> tuple[State, int | None]:
    """The state before its latest interaction, and that item; None where it was only shown or nothing is there."""
    past = state.session or state.history
    if not past or past[-1].feedback == "impression":
        return state, None
    before = replace(state, session=past[:-1]) if state.session else replace(state, history=past[:-1])
    return before, past[-1].item
