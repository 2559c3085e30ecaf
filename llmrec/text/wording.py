"""From items and states to text, before any tokenizer counts it: clean values in, rendered templates out."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, Self

from llmrec.config import CardSettings
from llmrec.errors import ConfigError, RequestError
from llmrec.text.cards import TEMPLATE, TITLE, Cards, Cut
from llmrec.text.escape import Cleaner
from llmrec.text.identified import mark
from llmrec.text.templates import CHEAPER, COMMAS, ELAPSED, ELAPSED_DAYS, FRAMES, IDENTIFIER, SEPARATORS, TemplateSet
from llmrec.types import Interaction, Item, State

TITLE_CHARACTERS = 160
"""A title as an answer is cut here; the catalogue must tell items apart within it."""
ENTRY_CHARACTERS = 64
"""A title inside the history is cut here, at a word: old favourites should not crowd out recent ones."""
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


Forms = tuple[str, ...]
"""An entry, finished, with the card of each level that it may have, the shortest first."""


@dataclass(frozen=True, slots=True)
class StateText:
    """The clean values of a state's template. `history` and `session` are entries, oldest first."""

    profile: str
    context: str
    history: tuple[Forms, ...]
    session: tuple[Forms, ...]

    @property
    def entries(self) -> tuple[Forms, ...]:
        """History, then session: the order in which entries are given up."""
        return self.history + self.session

    def fields(self) -> tuple[str | tuple[Forms, ...], ...]:
        """The values in the order of their declaration."""
        return self.profile, self.context, self.history, self.session

    def parts(self) -> list[tuple[int, int]]:
        """What can be given up, as (entry, level of its card), in the order in which it is.

        Descriptions go first, then attributes, then entries, each time from the oldest to the newest.
        """
        entries = self.entries
        deepest = max(map(len, entries), default=0)
        return [
            (row, level)
            for level in range(deepest - 1, -1, -1)
            for row, forms in enumerate(entries)
            if level == 0 or (level < len(forms) and forms[level] != forms[level - 1])
        ]

    def keep(self, count: int) -> StateText:
        """The same with only the last `count` of `parts`."""
        parts = self.parts()
        # Backwards, so that what is said last of an entry is the highest level that is kept of it.
        top = dict(reversed(parts[len(parts) - count :]))
        kept = [(row, forms[: top[row] + 1]) for row, forms in enumerate(self.entries) if row in top]
        older = len(self.history)
        return StateText(
            self.profile,
            self.context,
            tuple(forms for row, forms in kept if row < older),
            tuple(forms for row, forms in kept if row >= older),
        )


def elapsed_band(state: State) -> int:
    """How long before the state's moment its latest interaction was: the number of `ELAPSED_DAYS` it reaches."""
    if state.time is None or not state.history:
        return len(ELAPSED_DAYS)
    days = (state.time - state.history[-1].time) / SECONDS_A_DAY
    return sum(days >= limit for limit in ELAPSED_DAYS)


@dataclass(frozen=True, slots=True)
class RatingWords:
    """From which rating on one is liked, and below which it is disliked (None: no rating says so)."""

    liked: float
    disliked: float | None = None

    def word(self, value: float) -> str:
        """ "liked", "disliked" or "so-so": what templates of entries call feedback then."""
        if value >= self.liked:
            return "liked"
        return "disliked" if self.disliked is not None and value < self.disliked else "so-so"


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
        card: what entries tell of an item beside its title; nothing where None.
        currency: of the items' prices; empty where it is not known.
        cut: cuts descriptions to a number of tokens.
        ratings: what counts as liked and as disliked, to say that of ratings; None says their number.
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
        card: CardSettings | None = None,
        currency: str = "",
        cut: Cut | None = None,
        ratings: RatingWords | None = None,
    ) -> None:
        self.frame = frame
        self.items, self.templates, self.cleaner = items, templates, cleaner or Cleaner()
        self.profile, self.feedback, self.chat, self.max_events = profile, feedback, chat, max_events
        self.identified, self.history = identified, history
        self.elapsed = ELAPSED.get(language, ELAPSED["en"]) if elapsed else ()
        self.cheaper = CHEAPER.get(language, CHEAPER["en"])
        self.answer = IDENTIFIER.get(language, "identifier") if identified else ""
        self.separator, self.comma = SEPARATORS.get(language, "; "), COMMAS.get(language, ", ")
        # Behind "Next film:" a base model expects a space; behind a chat turn or a Chinese colon nothing.
        self.answer_prefix = " " if language == "en" and not chat else ""
        self.clean = lru_cache(maxsize=65536)(self.cleaner.clean)
        self.ratings = ratings
        self.cards = Cards(
            items,
            card or CardSettings(),
            self.clean,
            language=language,
            currency=currency,
            cut=cut,
            titled=history != "id",
        )
        self._forms: dict[tuple[int, str, float | None, int], Forms] = {}

    def without(self, fields: Collection[str]) -> Self:
        """The same wording with cards that leave out `fields` (see `cards.fields`)."""
        other = copy.copy(self)
        other.cards, other._forms = self.cards.without(fields), {}
        return other

    def title(self, item: int) -> str:
        """The item's clean title; "item ID" where nothing visible is left of it."""
        return self.item_title(self.items[item])

    def item_title(self, item: Item) -> str:
        """`title` for an item that may be outside the catalogue."""
        name = self.clean(item.title, TITLE_CHARACTERS) or f"item {self.clean(item.item_id, 40)}".strip()
        return name.translate(_LIST_MARKS)  # a title must not look like two entries of a list

    def entry(self, interaction: Interaction) -> str:
        """An entry of history or session without a card, such as "Red Kettle (bought)"; cached."""
        return self.forms(interaction, TITLE)[0]

    def forms(self, interaction: Interaction, level: int) -> Forms:
        """An entry with the cards of all levels up to `level`; cached."""
        value = interaction.value if interaction.feedback == "rating" else None
        key = (interaction.item, interaction.feedback, value, level)
        if key not in self._forms:
            if not 0 <= interaction.item < len(self.items):
                raise RequestError(f"Item index {interaction.item} is outside the catalogue of {len(self.items)}.")
            less = self.forms(interaction, level - 1) if level > TITLE else ()
            self._forms[key] = (*less, self._entry(interaction, value, level))
        return self._forms[key]

    def _entry(self, interaction: Interaction, value: float | None, level: int) -> str:
        title = self._named(interaction.item)
        if level > TITLE:
            title = self._card(self.cards.values(interaction.item, title, level))
        said: str = interaction.feedback
        if self.ratings is not None and value is not None:
            said, value = self.ratings.word(value), None
        return self.templates.render(
            "entry.jinja",
            title=title,
            feedback=said if self.feedback else "",
            value=f"{value:g}" if value is not None and self.feedback else "",
        )

    def _card(self, values: dict[str, Any]) -> str:
        """What an entry shows in place of the title."""
        return self.templates.render(TEMPLATE, **values, separator=self.comma)

    def bare_entry(self) -> str:
        """An entry with the longest card, each value of it as short as can be."""
        card = self._card(self.cards.made_up("a"))
        return self.templates.render("entry.jinja", title=card, feedback="click" if self.feedback else "", value="")

    def check_cards(self) -> None:
        """Tries the templates of cards on a made-up item.

        Raises:
            ConfigError: a template that cannot be rendered, or that leaves out what the settings ask for.
        """
        values = self.cards.made_up()
        card = self._card(values)
        for name, value in values.items():
            if value and self._card({**values, name: type(value)()}) == card:
                asks = "attributes" if name in self.cards.settings.attributes else name
                reason = (
                    "which says what item an entry is about"
                    if name == "title"
                    else f"which text.card.{asks} asks for"
                )
                raise ConfigError(
                    f"Template {TEMPLATE} does not show the {name} of an item, {reason}; use {{{{ {name} }}}} in it."
                )
        shown = [self.templates.render("entry.jinja", title=t, feedback="", value="") for t in (card, "title")]
        if shown[0] == shown[1]:
            raise ConfigError(
                "Template entry.jinja does not show its title, which holds the item's card under text.card; use "
                "{{ title }} in it."
            )

    def _named(self, item: int) -> str:
        """The item as an entry of the history names it."""
        if self.history == "id":
            return mark(item)
        title = self.clean(self.title(item), ENTRY_CHARACTERS)
        return title if self.history == "title" else f"{title} {mark(item)}"

    def prepare(self, states: Iterable[State]) -> None:
        """Cuts the descriptions that the entries of many states need, together."""
        if self.cards.on:
            needed = (self._considered(state) for state in states)
            self.cards.prepare(one.item for past in needed for one in past if 0 <= one.item < len(self.items))

    def values(self, state: State) -> StateText:
        """The clean values of a state; without a limit on tokens."""
        past = self._considered(state)
        entries = list(map(self.forms, past, self.cards.levels(len(past))))
        older = len(past) - min(len(state.session), self.max_events)
        if self.elapsed and older and not state.session and state.time is not None:
            entries[-1] = tuple(form + self.elapsed[elapsed_band(state)] for form in entries[-1])
        return StateText(
            self.clean(state.profile, TEXT_CHARACTERS) if self.profile and state.profile else "",
            self.clean(state.context, TEXT_CHARACTERS) if state.context else "",
            tuple(entries[:older]),
            tuple(entries[older:]),
        )

    def _considered(self, state: State) -> tuple[Interaction, ...]:
        """The newest of history and session, oldest first."""
        session = state.session[-self.max_events :]
        room = self.max_events - len(session)
        return (*(state.history[-room:] if room else ()), *session)

    def state_text(self, values: StateText) -> str:
        """Renders state.jinja, or list.jinja in the list frame, with the longest card of each entry."""
        return self.render(
            FRAMES[self.frame],
            profile=values.profile,
            context=values.context,
            history=tuple(forms[-1] for forms in values.history),
            session=tuple(forms[-1] for forms in values.session),
        )

    def render(self, name: str, **values: Any) -> str:
        """Renders template `name`.jinja with values that are clean already."""
        shared = {
            "chat": self.chat,
            "separator": self.separator,
            "answer": self.answer,
            "listed": self.frame == "list",
        }
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
