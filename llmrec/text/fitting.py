"""How much of a state or a task goes into a prompt of so many tokens, and as which token ids.

What does not fit goes in this order: descriptions on item cards from the oldest to the newest, the cards' attributes
from the oldest to the newest, the oldest of the history, the oldest of the session, the end of the profile, the end
of the context.
"""

from __future__ import annotations

import bisect
import copy
import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self

from llmrec.errors import ConfigError
from llmrec.text.budget import Fit, PromptEncoder, chunks, longest_that_fit, longest_that_fits
from llmrec.text.wording import StateText, Wording
from llmrec.types import State

_BATCH = 512


def cut_texts(encoder: PromptEncoder, texts: list[str], tokens: int) -> list[str]:
    """The beginnings of `texts`, at a word, of at most so many tokens each."""
    return [part for some in chunks(texts, _BATCH) for part in longest_that_fit(some, encoder.counts, tokens)]


class PromptFitter:
    """Fills the templates of a wording with as much as fits.

    Args:
        wording: what is said.
        encoder: counts it.

    Attributes:
        bare: tokens of the empty prompt.
    """

    def __init__(self, wording: Wording, encoder: PromptEncoder) -> None:
        self.wording, self.encoder = wording, encoder
        # Profiles and contexts repeat over the states of a user.
        self._count = lru_cache(maxsize=65536)(encoder.count)
        self._costs: dict[str, int] = {}
        self.bare, self._labels = self._measure_template()

    def over(self, wording: Wording) -> Self:
        """The same for a wording that differs in its cards alone; it shares what is known of the tokenizer."""
        other = copy.copy(self)
        other.wording = wording
        return other

    def check(self, max_tokens: int) -> None:
        """Raises `ConfigError` where the empty prompt, or a card that is alone in it, does not fit."""
        if self.bare > max_tokens:
            raise ConfigError(
                f"text.max_tokens is {max_tokens}, but the empty prompt alone takes {self.bare} tokens; raise it."
            )
        cards = self.wording.cards
        if not cards.on:
            return
        # The template with as little in it as can be, and the description's own budget beside it
        text = self.wording.state_text(StateText("", "", ((self.wording.bare_entry(),),), ()))
        tokens = len(self.encoder.encode([text])[0]) + max(cards.settings.description - 1, 0)
        if tokens > max_tokens:
            raise ConfigError(
                f"text.max_tokens is {max_tokens}, but a prompt with one item card takes {tokens} tokens, "
                f"text.card.description: {cards.settings.description} of them; raise the one or lower the other."
            )

    def fit(self, states: Sequence[State], rooms: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The text within the frame and the prompt's token ids of each state, which has room for so many tokens."""
        fitted: list[tuple[str, list[int]]] = []
        for chunk in chunks(list(zip(states, rooms, strict=True)), _BATCH):
            values = self._values([state for state, _ in chunk])
            # Even with little room the bare template goes in: a prompt without it would be no prompt.
            fitted += self._fit_batch(values, [max(room, self.bare) for _, room in chunk])
        return fitted

    def whole(self, states: Sequence[State], room: int) -> list[int]:
        """How many of the newest interactions of each state's history fit with their whole cards."""
        found: list[int] = []
        for chunk in chunks(list(states), _BATCH):
            values = self._values(chunk)
            fits = self._measured(values, [room] * len(values))[0]
            counts = map(self._whole, values, fits)
            found += [max(0, count - len(value.session)) for count, value in zip(counts, values, strict=True)]
        return found

    def task(self, name: str, values: dict[str, Any], room: int) -> list[int]:
        """Prompt ids of a task; a long description is cut at a word, then lists lose their last entries.

        Raises:
            ConfigError: even so it takes more than `room` tokens.
        """
        ids = self._encode_task(name, values)
        if len(ids) > room and "description" in values and name == "title_from_description":
            best = longest_that_fits(
                values["description"],
                lambda part: len(self._encode_task(name, {**values, "description": part})) <= room,
            )
            ids = self._encode_task(name, {**values, "description": best or ""})
        lists = [key for key in ("liked", "categories") if len(values.get(key, ())) > 1]
        while len(ids) > room and lists:
            values = {**values, lists[0]: values[lists[0]][:-1]}
            lists = [key for key in lists if len(values[key]) > 1]
            ids = self._encode_task(name, values)
        if len(ids) > room:
            raise ConfigError(f"text.max_tokens is {room}, too little for task {name!r}; raise it.")
        return ids

    def _encode_task(self, name: str, values: dict[str, Any]) -> list[int]:
        return self.encoder.encode([self.wording.render(name, **values)])[0]

    def _values(self, states: Sequence[State]) -> list[StateText]:
        """The clean values of states, with what their entries cost learnt."""
        self.wording.prepare(states)
        values = [self.wording.values(state) for state in states]
        self._learn_costs(values)
        return values

    def _whole(self, values: StateText, fit: Fit) -> int:
        """How many of the newest entries fit whole."""
        count, entries = len(values.parts()), values.entries
        if fit.best >= count or count == len(entries):  # nothing is given up, or entries alone
            return max(0, min(fit.best, len(entries)))
        # A prompt gives up all descriptions before an entry, so the one that was measured does not tell.
        costs = [self._costs[forms[-1]] for forms in reversed(entries)]
        room = fit.room - self._base(values)
        return min(bisect.bisect_right(list(itertools.accumulate(costs)), room), len(entries) - 1)

    def _fit_batch(self, values: list[StateText], rooms: list[int]) -> list[tuple[str, list[int]]]:
        """The text and the token ids of the longest prompts that fit."""
        fits, best = self._measured(values, rooms)
        rows = range(len(fits))
        return [best[row] if row in best else self._shorten(values[row], rooms[row]) for row in rows]

    def _measured(
        self, values: list[StateText], rooms: list[int]
    ) -> tuple[list[Fit], dict[int, tuple[str, list[int]]]]:
        """Encodes guesses for all states together until each search is done; mostly once or twice."""
        fits = [self._search(value, room) for value, room in zip(values, rooms, strict=True)]
        best: dict[int, tuple[str, list[int]]] = {}
        open_rows = list(range(len(values)))
        while open_rows:
            # All open searches are encoded together: a tokenizer's batch is many times faster than its single calls.
            texts = [self.wording.state_text(values[row].keep(fits[row].guess)) for row in open_rows]
            for row, text, ids in zip(open_rows, texts, self.encoder.encode(texts), strict=True):
                if len(ids) <= rooms[row]:
                    best[row] = (text, ids)
                fits[row].measured(len(ids))
            open_rows = [row for row in open_rows if not fits[row].done]
        return fits, best

    def _search(self, values: StateText, room: int) -> Fit:
        entries, costs = values.entries, self._costs
        more = [
            max(0, costs[entries[row][level]] - (costs[entries[row][level - 1]] if level else 0))
            for row, level in values.parts()
        ]
        return Fit(more, self._base(values), room)

    def _base(self, values: StateText) -> int:
        """About how many tokens a prompt has beside its entries."""
        base = self.bare + sum(self._count(text) for text in (values.profile, values.context) if text)
        return base + sum(label for label, value in zip(self._labels, values.fields(), strict=True) if value)

    def _measure_template(self) -> tuple[int, list[int]]:
        """Tokens of the empty prompt, and what the label of each field of `StateText` adds."""
        fields = [("a", "", (), ()), ("", "a", (), ()), ("", "", (("a",),), ()), ("", "", (), (("a",),))]
        texts = [self.wording.state_text(StateText(*values)) for values in (("", "", (), ()), *fields)]
        bare, *filled = map(len, self.encoder.encode(texts))
        probe = self.encoder.count("a")
        # A list's cost per entry counts one separator too many
        return bare, [length - bare - probe - (row >= 2) for row, length in enumerate(filled)]

    def _learn_costs(self, values: list[StateText]) -> None:
        """Counts, for each new entry, the tokens that one more of it adds to a list."""
        new = list({form for value in values for forms in value.entries for form in forms} - self._costs.keys())
        pairs = [(entry + self.wording.separator + entry) for entry in new]
        # Tokens of a text depend on what stands before it; an entry behind itself and a separator costs what one more
        # entry of a list does.
        twice, once = self.encoder.encode_unchecked(pairs), self.encoder.encode_unchecked(new)
        self._costs.update((e, len(t) - len(o)) for e, t, o in zip(new, twice, once, strict=True))

    def _shorten(self, values: StateText, room: int) -> tuple[str, list[int]]:
        """Without any entry: cuts the profile, then the context, at a word."""

        def text(profile: str, context: str) -> str:
            return self.wording.state_text(StateText(profile, context, (), ()))

        def fits(profile: str, context: str) -> bool:
            return len(self.encoder.encode([text(profile, context)])[0]) <= room

        context = values.context
        profile = longest_that_fits(values.profile, lambda part: fits(part, context))
        if profile is None:
            profile, context = "", longest_that_fits(context, lambda part: fits("", part)) or ""
        short = text(profile, context)
        return short, self.encoder.encode([short])[0]
