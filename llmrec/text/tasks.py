"""Tasks about items beside "what comes next": they teach a model the catalogue (the SFT mixture)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmrec.text.budget import longest_that_fits
from llmrec.text.templates import TASKS
from llmrec.text.wording import DESCRIPTION_CHARACTERS, Wording
from llmrec.types import Item, State

if TYPE_CHECKING:
    from llmrec.text.render import StateRenderer

__all__ = ["TASKS", "TaskText", "documents", "task_values"]


@dataclass(frozen=True, slots=True)
class TaskText:
    """A prompt and what should follow it.

    Either `target_item` is an item index (the answer is the catalogue's token sequence of that item) or `answer` is
    text to encode without special tokens right behind the prompt; it starts with the answer prefix already.
    """

    prompt_ids: list[int]
    answer: str | None = None
    target_item: int | None = None


def task_values(
    wording: Wording, name: str, item: Item, *, liked: Sequence[Item] = (), variant: int = 0
) -> dict[str, object] | None:
    """The clean values of a task's template; None where the item lacks what the task needs.

    Args:
        wording: cleans the item's text.
        name: one of `TASKS`.
        item: the item asked for or described.
        liked: items that the ask names ("I liked A and B"); without them it names the item's categories.
        variant: which paraphrase of the ask, any whole number.
    """
    description = wording.clean(item.description, DESCRIPTION_CHARACTERS)
    categories = [wording.clean(c, 40) for c in item.categories[:6] if c.strip()]
    if name in ("title_from_description", "description_from_title"):
        return {"title": wording.item_title(item), "description": description} if description else None
    if name == "item_from_prompt":
        titles = [wording.clean(wording.item_title(other), 64) for other in liked]
        return {"liked": titles, "categories": categories, "variant": variant} if titles or categories else None
    brand = wording.clean(item.brand, 60)
    price = "" if item.price is None else f"{item.price:.2f}".removesuffix(".00")
    return {"categories": categories, "brand": brand, "price": price} if categories or brand else None


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
