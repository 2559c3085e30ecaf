"""Tasks about items beside "what comes next": they teach a model the catalogue (the SFT mixture)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.text.cards import CATEGORIES, DESCRIPTION_CHARACTERS, attributes
from llmrec.text.identified import mark
from llmrec.text.templates import ID_TASKS, TASKS
from llmrec.text.titles import decade
from llmrec.text.wording import Wording
from llmrec.types import Item

__all__ = ["ID_TASKS", "TASKS", "TEXT_ANSWERS", "Facts", "TaskText", "task_values"]

TEXT_ANSWERS = {"description_from_title": "description", "title_from_id": "title", "attributes_from_id": "told"}
"""Tasks whose answer is text, and which value of `task_values` it is; the others are answered by an item."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Which of an item's facts an ask names, such as "War from the 1970s".

    Attributes:
        categories: places of those among the item's categories.
        brand: whether it says who made it.
        decade: whether it says the decade of the year that ends the title.
        cheaper: whether it says that the item costs less than those that the ask names.
    """

    categories: tuple[int, ...] = ()
    brand: bool = False
    decade: bool = False
    cheaper: bool = False

    def of(self, item: Item, known: Mapping[str, str | Sequence[str]]) -> dict[str, object]:
        """The values that the ask shows; `known` as `cards.attributes` has them."""
        return {
            "categories": [known["categories"][place] for place in self.categories],
            "brand": known["brand"] if self.brand else "",
            "decade": decade(item.title) if self.decade else "",
        }

    @classmethod
    def drawn(cls, item: Item, rng: np.random.Generator) -> Facts:
        """Some of what is known of an item: each kind of fact alone, or several at once, categories one or more."""
        count = sum(bool(name.strip()) for name in item.categories[:CATEGORIES])
        kinds = [kind for kind, held in (("c", count), ("b", item.brand.strip()), ("d", decade(item.title))) if held]
        if not kinds:
            return cls()
        chosen = rng.permutation(kinds)[: int(rng.integers(1, len(kinds) + 1))]
        # one category is what people ask for most
        some = min(count, int(rng.geometric(0.6))) if "c" in chosen else 0
        places = sorted(rng.permutation(count)[:some].tolist())
        return cls(tuple(places), "b" in chosen, "d" in chosen)


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
    wording: Wording,
    name: str,
    item: Item | int,
    *,
    liked: Sequence[Item] = (),
    facts: Facts | None = None,
    variant: int = 0,
) -> dict[str, object] | None:
    """The clean values of a task's template; None where the item lacks what the task needs.

    Args:
        wording: cleans the item's text.
        name: one of `TASKS` or `ID_TASKS`.
        item: the item asked for or described, or its index (an item outside of the catalogue has no identifier).
        liked: items that the ask names ("I liked A and B"); without them it names what the item is.
        facts: which facts of the item the ask then names; all categories where None.
        variant: which paraphrase of the ask, or which of the item's attributes; any whole number.
    """
    if name in ID_TASKS:
        return _id_values(wording, name, item, variant) if wording.identified and isinstance(item, int) else None
    item = wording.items[item] if isinstance(item, int) else item
    description = wording.clean(item.description, DESCRIPTION_CHARACTERS)
    if name in ("title_from_description", "description_from_title"):
        return {"title": wording.item_title(item), "description": description} if description else None
    known = attributes(item, wording.clean)
    categories = known["categories"]
    if name == "item_from_prompt":
        titles = [wording.clean(wording.item_title(other), 64) for other in liked]
        named = {"categories": categories, "brand": "", "decade": ""} if facts is None else facts.of(item, known)
        if not titles and not any(named.values()):
            return None
        less = wording.cheaper[variant // 2 % len(wording.cheaper)] if facts is not None and facts.cheaper else ""
        return {"liked": titles, **named, "cheaper": less, "variant": variant}
    return {**known} if categories or known["brand"] else None


def _id_values(wording: Wording, name: str, index: int, variant: int) -> dict[str, object] | None:
    item = wording.items[index]
    values: dict[str, object] = {"identifier": mark(index), "title": wording.item_title(item)}
    if name != "attributes_from_id":
        return values
    named = {key: value for key, value in attributes(item, wording.clean).items() if value}
    if not named:
        return None
    attribute = list(named)[variant % len(named)]
    value = named[attribute]
    told = value if isinstance(value, str) else wording.comma.join(value)
    return {**values, "attribute": attribute, "told": told}
