"""Requests as they were read, and what answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmrec.catalogue.filters import Filters
from llmrec.explain import Explanation
from llmrec.printing import short_line
from llmrec.text.free_prompt import Match, Wish
from llmrec.types import IntArray, Item, State


@dataclass(frozen=True, slots=True)
class RecommendedItem:
    """One place of the answer; `log_prob` is log pi(item | state) over the whole catalogue (log p of a mixture)."""

    item_id: str
    title: str
    log_prob: float
    explanation: Explanation | None = None
    """Why, where that was asked for."""
    price: float | None = None
    categories: tuple[str, ...] = ()
    brand: str = ""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Items, best first, and how the request was read: titles, what the items must be, and the rest."""

    items: tuple[RecommendedItem, ...]
    matches: tuple[Match, ...] = ()
    rest: str = ""
    note: str = ""
    wishes: tuple[Wish, ...] = ()
    related: bool = True
    """Whether any word of the prompt has to do with an item; where none has, `note` says so, too."""
    words: tuple[str, ...] = ()
    """Words of the prompt that items have in title, brand or categories, and titles that it asks for the like of
    ("like Fargo"); such items come first."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists; items have the key `explanation` where that was asked for."""
        tree = asdict(self)
        for item in tree["items"]:
            if item["explanation"] is None:
                del item["explanation"]
        return tree

    def __str__(self) -> str:
        return "\n".join(f"{n:2d}. {short_line(i.title)}  ({i.log_prob:.3f})" for n, i in enumerate(self.items, 1))


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was read: the state, what the user has seen beside it, and what was asked of items.

    `matches`, `rest`, `wishes`, `note`, `related` and `words` are those of the answer; `tiers` are the ids of the
    items that come first (`words.tiers_of`).
    """

    state: State
    seen: IntArray | None = None
    filters: Filters | None = None
    matches: tuple[Match, ...] = ()
    rest: str = ""
    wishes: tuple[Wish, ...] = ()
    note: str = ""
    related: bool = True
    words: tuple[str, ...] = ()
    tiers: tuple[tuple[str, ...], ...] = ()

    def tiered(self, filters: Filters | None) -> bool:
        """Whether some items come first under `filters`; bounds on the slate look at all of it at once."""
        return bool(self.tiers) and not (filters is not None and filters.bounds_slate)


def named_first(words: Sequence[str]) -> str:
    """How a person is told that words of a prompt decided what comes first."""
    return f"Looked up, and shown first: {', '.join(map(short_line, words))}."


def recommended(item: Item, log_prob: float, why: Explanation | None) -> RecommendedItem:
    """A place of the answer."""
    return RecommendedItem(item.item_id, item.title, log_prob, why, item.price, item.categories, item.brand)
