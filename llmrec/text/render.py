"""State -> prompt: what the policy reads.

A prompt is the domain's template filled with a state, inside the model's chat template where it has one, of at most
`max_tokens` tokens in all. What does not fit goes in this order: descriptions on item cards from the oldest to the
newest, the cards' attributes from the oldest to the newest, the oldest of the history, the oldest of the session, the
end of the profile, the end of the context. It ends exactly where the answer's first token begins.
"""

from __future__ import annotations

import bisect
import copy
import itertools
from collections.abc import Collection, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from llmrec.config import CardSettings
from llmrec.config_tree import from_tree, plain
from llmrec.errors import ConfigError, RunError
from llmrec.files import new_folder, read_json, write_json, write_text
from llmrec.text.budget import Fit, PromptEncoder, chunks, longest_that_fit, longest_that_fits
from llmrec.text.cards import Cut, check_cards
from llmrec.text.escape import Cleaner
from llmrec.text.tasks import ID_TASKS, TASKS, TEXT_ANSWERS, Facts, TaskText, task_values
from llmrec.text.templates import FRAMES, TemplateSet, own_sources, shipped_sources
from llmrec.text.wording import Frame, HistoryStyle, RatingWords, StateText, Wording
from llmrec.types import Item, State

_BATCH = 512


def make_wording(
    items: Sequence[Item],
    *,
    domain: str,
    language: str,
    templates: Path | None = None,
    cleaner: Cleaner | None = None,
    profile: bool = True,
    feedback: bool = True,
    chat: bool = False,
    max_events: int = 20,
    identifiers: Sequence[str] | None = None,
    history: HistoryStyle = "title",
    elapsed: bool = False,
    frame: Frame = "ask",
    card: CardSettings | None = None,
    currency: str = "",
    cut: Cut | None = None,
    ratings: RatingWords | None = None,
) -> Wording:
    """The shipped wording of a domain and language, with the files in `templates` in place of those of equal name.

    What `templates` may hold is said by `templates.own_sources`.

    With `identifiers` (one an item) items are answered by identifier; `history` says how entries name them.

    Raises:
        ConfigError: `history` asks for identifiers that there are not, or not one for each item; or templates that
            leave out what `card` asks for.
    """
    if identifiers is None and history != "title":
        raise ConfigError(
            f"Key 'text.history' is {history!r}, but items have no identifiers under identifiers.scheme: title; set "
            "text.history: title, or identifiers.scheme: semantic or atomic."
        )
    if identifiers is not None and len(identifiers) != len(items):
        raise ConfigError(f"There are {len(items)} items but {len(identifiers)} identifiers; give one for each item.")
    sources = {**shipped_sources(language, domain), **(own_sources(templates, language, domain) if templates else {})}
    wording = Wording(
        items,
        _compiled(tuple(sorted(sources.items()))),
        cleaner=cleaner,
        language=language,
        profile=profile,
        feedback=feedback,
        chat=chat,
        max_events=max_events,
        identified=identifiers is not None,
        history=history,
        elapsed=elapsed,
        frame=frame,
        card=card,
        currency=currency,
        cut=cut,
        ratings=ratings,
    )
    if wording.cards.on:
        wording.check_cards()
    return wording


@lru_cache(maxsize=32)
def _compiled(sources: tuple[tuple[str, str], ...]) -> TemplateSet:
    return TemplateSet(dict(sources))


class StateRenderer:
    """Turns states into prompt tokens.

    Args:
        items: the catalogue in item-index order.
        tokenizer: the policy's Hugging Face tokenizer.
        domain: "shop", "film", "music", "news", "course" or "social".
        language: "en" or "zh".
        max_tokens: bound of the whole prompt, chat template included.
        profile: whether the user's profile is shown.
        feedback: whether what the user did with an item is shown.
        templates: a folder whose templates replace the shipped ones of equal name.
        chat: force or forbid the chat template; by default it is used where the tokenizer has one.
        identifiers: for each item its identifier, trusted special tokens of `tokenizer` such as "<a_3><b_7>". Items
            are then answered by identifier, and `tasks.ID_TASKS` can be asked.
        history: whether history and session name items by title, by identifier or by both.
        elapsed: whether the latest entry of the history says how long ago it was.
        frame: "ask", a question behind the history, or "list", a plain list that the answer goes on with; there is no
            chat template around a list.
        card: what entries tell of an item beside its title; nothing where None.
        currency: of the items' prices; empty where it is not known.
        ratings: what counts as liked and as disliked, to say that of ratings; None says their number.

    Raises:
        ConfigError: unknown domain or language, a template that does not render, a bare template (a user about
            whom nothing is known) or a single card that takes more than `max_tokens`, templates that leave out what
            `card` asks for, or identifiers that do not fit.
    """

    def __init__(
        self,
        items: Sequence[Item],
        tokenizer: Any,
        *,
        domain: str,
        language: str,
        max_tokens: int,
        profile: bool = True,
        feedback: bool = True,
        templates: Path | None = None,
        chat: bool | None = None,
        identifiers: Sequence[str] | None = None,
        history: HistoryStyle = "title",
        elapsed: bool = False,
        frame: Frame = "ask",
        card: CardSettings | None = None,
        currency: str = "",
        ratings: RatingWords | None = None,
    ) -> None:
        self.domain, self.language, self.max_tokens = domain, language, max_tokens
        if card is not None:
            check_cards(card, max_tokens)
        self.encoder = PromptEncoder(tokenizer, False if frame == "list" else chat, identifiers)
        self.wording = make_wording(
            items,
            domain=domain,
            language=language,
            templates=templates,
            cleaner=Cleaner(tokenizer),
            profile=profile,
            feedback=feedback,
            chat=self.encoder.chat,
            max_events=max(max_tokens, 1),  # an entry takes a token at least
            identifiers=identifiers,
            history=history,
            elapsed=elapsed,
            frame=frame,
            card=card,
            currency=currency,
            cut=self._cut,
            ratings=ratings,
        )
        self.answer_prefix = self.wording.answer_prefix
        self._index = {item.item_id: row for row, item in enumerate(items)}
        self._titles: tuple[str, ...] | None = None
        # Profiles and contexts repeat over the states of a user.
        self._count = lru_cache(maxsize=65536)(self.encoder.count)
        self._costs: dict[str, int] = {}
        self._bare, self._labels = self._measure_template()
        if self._bare > max_tokens:
            raise ConfigError(
                f"text.max_tokens is {max_tokens}, but the empty prompt alone takes {self._bare} tokens; raise it."
            )
        self._check_card_fits()

    @property
    def card_fields(self) -> tuple[str, ...]:
        """What entries tell of an item beside its title."""
        return self.wording.cards.fields

    def without(self, fields: Collection[str]) -> Self:
        """What a renderer would be whose cards leave out `fields`; it shares what is known of the tokenizer."""
        other = copy.copy(self)
        other.wording = self.wording.without(fields)
        return other

    @property
    def templates(self) -> dict[str, str]:
        """The template sources in use, by name."""
        return dict(self.wording.templates.sources)

    @property
    def titles(self) -> tuple[str, ...]:
        """Clean titles in item-index order: what the catalogue encodes, each behind `answer_prefix`."""
        if self._titles is None:
            self._titles = tuple(map(self.wording.item_title, self.wording.items))
        return self._titles

    def prompt(self, state: State) -> str:
        """The whole prompt as a string (without the BOS that a base model's tokenizer may add)."""
        return self.prompts([state])[0]

    def prompts(self, states: Sequence[State], reserve: Sequence[int] | None = None) -> list[str]:
        """The prompts of many states; `reserve` tokens of the budget of each are left free."""
        fitted = self._fit(states, reserve or [0] * len(states))
        return [self.encoder.wrap(text) for text, _ in fitted]

    def token_ids(self, state: State) -> list[int]:
        """The prompt's token ids, at most `max_tokens`."""
        return self.token_ids_many([state])[0]

    def token_ids_many(self, states: Sequence[State]) -> list[list[int]]:
        """`token_ids` of many states, several times faster than one by one."""
        return [ids for _, ids in self._fit(states, [0] * len(states))]

    def shown(self, states: Sequence[State]) -> list[int]:
        """How many of the newest interactions of each state's history fit `max_tokens` with their whole cards."""
        found: list[int] = []
        for chunk in chunks(list(states), _BATCH):
            self.wording.prepare(chunk)
            values = [self.wording.values(state) for state in chunk]
            self._learn_costs(values)
            fits = self._measured(values, [self.max_tokens] * len(values))[0]
            whole = map(self._whole, values, fits)
            found += [max(0, count - len(value.session)) for count, value in zip(whole, values, strict=True)]
        return found

    def _whole(self, values: StateText, fit: Fit) -> int:
        """How many of the newest entries fit whole."""
        count, entries = len(values.parts()), values.entries
        if fit.best >= count or count == len(entries):  # nothing is given up, or entries alone
            return max(0, min(fit.best, len(entries)))
        # A prompt gives up all descriptions before an entry, so the one that was measured does not tell.
        costs = [self._costs[forms[-1]] for forms in reversed(entries)]
        room = fit.room - self._base(values)
        return min(bisect.bisect_right(list(itertools.accumulate(costs)), room), len(entries) - 1)

    def task_text(
        self,
        name: str,
        item: Item | int,
        *,
        liked: Sequence[Item | int] = (),
        facts: Facts | None = None,
        variant: int = 0,
    ) -> TaskText | None:
        """A training task about an item; None where the item lacks the text or identifier that it needs.

        Args:
            name: one of `tasks.TASKS` or `tasks.ID_TASKS`.
            item: an item of the catalogue or its index.
            liked: for item_from_prompt, the items that the ask names; without them it names what the item is.
            facts: which facts of the item it then names; all categories where None.
            variant: which paraphrase of the ask.

        Raises:
            ConfigError: unknown task, or a task whose bare template does not fit the budget.
        """
        if name not in (*TASKS, *ID_TASKS):
            known = ", ".join(("next_item", *TASKS, *ID_TASKS))
            raise ConfigError(f"There is no task {name!r}; choose one of {known}.")
        index = item if isinstance(item, int) else self._index[item.item_id]
        pool = self.wording.items
        named = [pool[other] if isinstance(other, int) else other for other in liked]
        values = task_values(self.wording, name, index, liked=named, facts=facts, variant=variant)
        if values is None:
            return None
        prompt_ids = self._fit_task(name, values)
        if name in TEXT_ANSWERS:
            return TaskText(prompt_ids, answer=f"{self.answer_prefix}{values[TEXT_ANSWERS[name]]}")
        return TaskText(prompt_ids, target_item=index)

    def save(self, folder: Path) -> None:
        """Writes settings and templates to `folder`; no item, no user."""
        wording = self.wording
        settings = {
            "domain": self.domain,
            "language": self.language,
            "max_tokens": self.max_tokens,
            "profile": wording.profile,
            "feedback": wording.feedback,
            "chat": self.encoder.chat,
            "history": wording.history,
            "elapsed": bool(wording.elapsed),
            "frame": wording.frame,
            "card": plain(asdict(wording.cards.settings)),
            "currency": wording.cards.currency,
            "ratings": None if wording.ratings is None else asdict(wording.ratings),
        }
        with new_folder(folder, mark="renderer.json") as work:
            write_json(work / "renderer.json", settings)
            for name, source in wording.templates.sources.items():
                write_text(work / name, source)

    @classmethod
    def load(
        cls, folder: Path, items: Sequence[Item], tokenizer: Any, identifiers: Sequence[str] | None = None
    ) -> Self:
        """Reads what `save` wrote. Raises `RunError` where that is incomplete."""
        settings = read_json(folder / "renderer.json")
        kinds = {"domain": str, "language": str, "max_tokens": int, "profile": bool, "feedback": bool, "chat": bool}
        for key, kind in kinds.items():
            if not isinstance(settings, dict) or not isinstance(settings.get(key), kind):
                raise RunError(f"Key {key!r} in {folder / 'renderer.json'} is missing or of a wrong kind; save anew.")
        history = settings.get("history", "title")  # older folders name items by title alone
        if history not in ("title", "id", "both"):
            raise RunError(f"Key 'history' in {folder / 'renderer.json'} is {history!r}; save anew.")
        frame = settings.get("frame", "ask")  # older folders ask
        if frame not in FRAMES:
            raise RunError(f"Key 'frame' in {folder / 'renderer.json'} is {frame!r}; save anew.")
        known = {key: settings[key] for key in kinds} | {"frame": frame}
        elapsed = settings.get("elapsed") is True  # older folders never say it
        card, ratings = _cards_of(settings, folder / "renderer.json")
        return cls(
            items,
            tokenizer,
            templates=folder,
            identifiers=identifiers,
            history=history,
            elapsed=elapsed,
            card=card,
            currency=str(settings.get("currency", "")),
            ratings=ratings,
            **known,
        )

    def _cut(self, texts: list[str], tokens: int) -> list[str]:
        """The beginnings of `texts`, at a word, of at most so many tokens each."""
        return [
            part for some in chunks(texts, _BATCH) for part in longest_that_fit(some, self.encoder.counts, tokens)
        ]

    def _check_card_fits(self) -> None:
        """Refuses a card that even alone would never be shown."""
        cards = self.wording.cards
        if not cards.on:
            return
        # The template with as little in it as can be, and the description's own budget beside it
        text = self.wording.state_text(StateText("", "", ((self.wording.bare_entry(),),), ()))
        tokens = len(self.encoder.encode([text])[0]) + max(cards.settings.description - 1, 0)
        if tokens > self.max_tokens:
            raise ConfigError(
                f"text.max_tokens is {self.max_tokens}, but a prompt with one item card takes {tokens} tokens, "
                f"text.card.description: {cards.settings.description} of them; raise the one or lower the other."
            )

    def _fit_task(self, name: str, values: dict[str, Any]) -> list[int]:
        """Prompt ids of a task; a long description is cut at a word, then lists lose their last entries."""
        ids = self._encode_task(name, values)
        if len(ids) > self.max_tokens and "description" in values and name == "title_from_description":
            best = longest_that_fits(
                values["description"],
                lambda part: len(self._encode_task(name, {**values, "description": part})) <= self.max_tokens,
            )
            ids = self._encode_task(name, {**values, "description": best or ""})
        lists = [key for key in ("liked", "categories") if len(values.get(key, ())) > 1]
        while len(ids) > self.max_tokens and lists:
            values = {**values, lists[0]: values[lists[0]][:-1]}
            lists = [key for key in lists if len(values[key]) > 1]
            ids = self._encode_task(name, values)
        if len(ids) > self.max_tokens:
            raise ConfigError(f"text.max_tokens is {self.max_tokens}, too little for task {name!r}; raise it.")
        return ids

    def _encode_task(self, name: str, values: dict[str, Any]) -> list[int]:
        return self.encoder.encode([self.wording.render(name, **values)])[0]

    def _fit(self, states: Sequence[State], reserve: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The text within the frame and the prompt's token ids of each state."""
        fitted: list[tuple[str, list[int]]] = []
        for chunk in chunks(list(zip(states, reserve, strict=True)), _BATCH):
            self.wording.prepare(state for state, _ in chunk)
            values = [self.wording.values(state) for state, _ in chunk]
            self._learn_costs(values)
            # Even with much held free the bare template goes in: a prompt without it would be no prompt.
            rooms = [max(self.max_tokens - free, self._bare) for _, free in chunk]
            fitted += self._fit_batch(values, rooms)
        return fitted

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
        base = self._bare + sum(self._count(text) for text in (values.profile, values.context) if text)
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


def _cards_of(settings: dict[str, Any], file: Path) -> tuple[CardSettings, RatingWords | None]:
    """What renderer.json says of cards and ratings; older ones say nothing of either.

    Raises:
        RunError: values that cannot be.
    """
    tree, words = settings.get("card", {}), settings.get("ratings")
    try:
        card = from_tree(CardSettings, tree, str(file), "card.")
        return card, None if words is None else from_tree(RatingWords, words, str(file), "ratings.")
    except ConfigError as error:
        raise RunError(f"{error} Save it anew.") from None
