"""From items and states to text, before any tokenizer counts it: clean values in, rendered templates out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

from llmrec.errors import RequestError
from llmrec.text.escape import Cleaner
from llmrec.text.identified import mark
from llmrec.text.templates import COMMAS, ELAPSED, ELAPSED_DAYS, FRAMES, IDENTIFIER, SEPARATORS, TemplateSet
from llmrec.types import Interaction, Item, State

TITLE_CHARACTERS = 160
"""A title as an answer is cut here; the catalogue must tell items apart within it."""
ENTRY_CHARACTERS = 64
"""A title inside the history is cut here, at a word: old favourites should not crowd out recent ones."""
DESCRIPTION_CHARACTERS = 600
TEXT_CHARACTERS = 2000
"""Profile and context are cut here before tokens are counted."""

SECONDS_A_DAY = 86_400
HistoryStyle = Literal["title", "id", "both"]
Frame = Literal["ask", "list"]
_LIST_MARKS = str.maketrans({";": ",", "；": "，"})
JUDGED_TITLES = 5000
"""Titles that are looked at, at most."""
HAN = 0.2
"""Least share of Chinese characters among the letters of a Chinese title; brands and sizes are often Latin."""


@dataclass(frozen=True, slots=True)
class StateText:
    """The clean values of a state's template. `history` and `session` are finished entries, oldest first."""

    profile: str
    context: str
    history: tuple[str, ...]
    session: tuple[str, ...]

    @property
    def entries(self) -> tuple[str, ...]:
        """History, then session: the order in which entries are given up."""
        return self.history + self.session

    def fields(self) -> tuple[str | tuple[str, ...], ...]:
        """The values in the order of their declaration."""
        return self.profile, self.context, self.history, self.session

    def keep(self, count: int) -> StateText:
        """The same with only the newest `count` entries; history goes before session."""
        session = self.session[max(0, len(self.session) - count) :]
        rest = count - len(session)
        return StateText(self.profile, self.context, self.history[len(self.history) - rest :], session)


def elapsed_band(state: State) -> int:
    """How long before the state's moment its latest interaction was: the number of `ELAPSED_DAYS` it reaches."""
    if state.time is None or not state.history:
        return len(ELAPSED_DAYS)
    days = (state.time - state.history[-1].time) / SECONDS_A_DAY
    return sum(days >= limit for limit in ELAPSED_DAYS)


class Wording:
    """Words items and states by templates; every value is cleaned on its way in.

    Args:
        items: the catalogue in item-index order.
        templates: the templates of the domain and language.
        cleaner: knows the tokenizer's control tokens; the general rules alone where None.
        language: "en" or "zh"; decides the list separator.
        profile: whether states show the user's profile.
        feedback: whether states show what the user did with an item.
        chat: whether the text becomes a chat turn (templates then say what is asked for).
        max_events: newest interactions considered at all.
        identified: whether items have identifiers; they are then what the model answers with.
        history: whether history and session name items by title, by identifier (as `identified.mark`) or by both.
        elapsed: whether the latest entry of the history says how long ago it was, where there is no session yet.
        frame: a question behind the history, or a list that the answer goes on with.
    """

    def __init__(
        self,
        items: Sequence[Item],
        templates: TemplateSet,
        *,
        cleaner: Cleaner | None = None,
        language: str = "en",
        profile: bool = True,
        feedback: bool = True,
        chat: bool = False,
        max_events: int = 200,
        identified: bool = False,
        history: HistoryStyle = "title",
        elapsed: bool = False,
        frame: Frame = "ask",
    ) -> None:
        self.frame = frame
        self.items, self.templates, self.cleaner = items, templates, cleaner or Cleaner()
        self.profile, self.feedback, self.chat, self.max_events = profile, feedback, chat, max_events
        self.identified, self.history = identified, history
        self.elapsed = ELAPSED.get(language, ELAPSED["en"]) if elapsed else ()
        self.answer = IDENTIFIER.get(language, "identifier") if identified else ""
        self.separator, self.comma = SEPARATORS.get(language, "; "), COMMAS.get(language, ", ")
        # Behind "Next film:" a base model expects a space; behind a chat turn or a Chinese colon nothing.
        self.answer_prefix = " " if language == "en" and not chat else ""
        self.clean = lru_cache(maxsize=65536)(self.cleaner.clean)
        self._entries: dict[tuple[int, str, float | None], str] = {}

    def title(self, item: int) -> str:
        """The item's clean title; "item ID" where nothing visible is left of it."""
        return self.item_title(self.items[item])

    def item_title(self, item: Item) -> str:
        """`title` for an item that may be outside the catalogue."""
        name = self.clean(item.title, TITLE_CHARACTERS) or f"item {self.clean(item.item_id, 40)}".strip()
        return name.translate(_LIST_MARKS)  # a title must not look like two entries of a list

    def entry(self, interaction: Interaction) -> str:
        """An entry of history or session, such as "Red Kettle (bought)"; cached."""
        value = interaction.value if interaction.feedback == "rating" else None
        key = (interaction.item, interaction.feedback, value)
        if key not in self._entries:
            if not 0 <= interaction.item < len(self.items):
                raise RequestError(f"Item index {interaction.item} is outside the catalogue of {len(self.items)}.")
            self._entries[key] = self.templates.render(
                "entry.jinja",
                title=self._named(interaction.item),
                feedback=interaction.feedback if self.feedback else "",
                value=f"{value:g}" if value is not None and self.feedback else "",
            )
        return self._entries[key]

    def _named(self, item: int) -> str:
        """The item as an entry of the history names it."""
        if self.history == "id":
            return mark(item)
        title = self.clean(self.title(item), ENTRY_CHARACTERS)
        return title if self.history == "title" else f"{title} {mark(item)}"

    def values(self, state: State) -> StateText:
        """The clean values of a state; without a limit on tokens."""
        session = state.session[-self.max_events :]
        room = self.max_events - len(session)
        return StateText(
            self.clean(state.profile, TEXT_CHARACTERS) if self.profile and state.profile else "",
            self.clean(state.context, TEXT_CHARACTERS) if state.context else "",
            self._history(state, room),
            tuple(map(self.entry, session)),
        )

    def _history(self, state: State, room: int) -> tuple[str, ...]:
        entries = tuple(map(self.entry, state.history[-room:] if room else ()))
        if not (self.elapsed and entries) or state.session or state.time is None:
            return entries
        return (*entries[:-1], entries[-1] + self.elapsed[elapsed_band(state)])

    def state_text(self, values: StateText) -> str:
        """Renders state.jinja, or list.jinja in the list frame."""
        return self.render(
            FRAMES[self.frame],
            profile=values.profile,
            context=values.context,
            history=values.history,
            session=values.session,
        )

    def render(self, name: str, **values: Any) -> str:
        """Renders template `name`.jinja with values that are clean already."""
        shared = {"chat": self.chat, "separator": self.separator, "answer": self.answer}
        return self.templates.render(f"{name}.jinja", **{**values, **shared})


def written_in(titles: Iterable[str]) -> str | None:
    """The language of more than half of `titles` by their letters: "zh", "en" for Latin ones, None for others."""
    # A title's beginning tells its language, and a catalogue's first thousands that of a million.
    starts = (title[:200] for title in islice(titles, JUDGED_TITLES))
    found = Counter(_one(title) for title in starts if any(map(str.isalpha, title)))
    language, count = max(found.items(), key=lambda pair: pair[1], default=(None, 0))
    return language if count > found.total() / 2 else None


def _one(title: str) -> str | None:
    letters = [c for c in title if c.isalpha()]
    if any("\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7a3" for c in letters):  # kana, Hangul
        return None
    if sum("\u4e00" <= c <= "\u9fff" or "\u3400" <= c <= "\u4dbf" for c in letters) >= HAN * len(letters):
        return "zh"
    return "en" if sum(c < "\u0250" for c in letters) > len(letters) / 2 else None
