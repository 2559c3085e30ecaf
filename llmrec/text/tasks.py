"""Tasks about items beside "what comes next": they teach a model the catalogue (the SFT mixture)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmrec.text.templates import TASKS
from llmrec.text.wording import DESCRIPTION_CHARACTERS, Wording
from llmrec.types import Item

__all__ = ["TASKS", "TaskText", "task_values"]


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
