"""State -> prompt: what the policy reads.

A prompt is the domain's template filled with a state, inside the model's chat template where it has one, of at most
`max_tokens` tokens in all; `fitting` says what goes where not all of it fits. It ends exactly where the answer's
first token begins.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

from llmrec.config import CardSettings
from llmrec.config_tree import from_tree, plain
from llmrec.errors import ConfigError, RunError
from llmrec.files import new_folder, read_json, write_json, write_text
from llmrec.text.budget import PromptEncoder
from llmrec.text.cards import check_cards
from llmrec.text.escape import Cleaner
from llmrec.text.fitting import PromptFitter, cut_texts
from llmrec.text.shipped import make_wording
from llmrec.text.tasks import ID_TASKS, TASKS, TEXT_ANSWERS, Facts, TaskText, task_values
from llmrec.text.templates import FRAMES
from llmrec.text.wording import Frame, HistoryStyle, RatingWords
from llmrec.types import Item, State


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
            cut=partial(cut_texts, self.encoder),
            ratings=ratings,
        )
        self.answer_prefix = self.wording.answer_prefix
        self._index = {item.item_id: row for row, item in enumerate(items)}
        self._titles: tuple[str, ...] | None = None
        self._fitter = PromptFitter(self.wording, self.encoder)
        self._fitter.check(max_tokens)

    @property
    def card_fields(self) -> tuple[str, ...]:
        """What entries tell of an item beside its title."""
        return self.wording.cards.fields

    def without(self, fields: Collection[str]) -> Self:
        """What a renderer would be whose cards leave out `fields`; it shares what is known of the tokenizer."""
        other = copy.copy(self)
        other.wording = self.wording.without(fields)
        other._fitter = self._fitter.over(other.wording)
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
        rooms = [self.max_tokens - free for free in reserve or [0] * len(states)]
        return [self.encoder.wrap(text) for text, _ in self._fitter.fit(states, rooms)]

    def token_ids(self, state: State) -> list[int]:
        """The prompt's token ids, at most `max_tokens`."""
        return self.token_ids_many([state])[0]

    def token_ids_many(self, states: Sequence[State]) -> list[list[int]]:
        """`token_ids` of many states, several times faster than one by one."""
        return [ids for _, ids in self._fitter.fit(states, [self.max_tokens] * len(states))]

    def shown(self, states: Sequence[State]) -> list[int]:
        """How many of the newest interactions of each state's history fit `max_tokens` with their whole cards."""
        return self._fitter.whole(states, self.max_tokens)

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
        prompt_ids = self._fitter.task(name, values, self.max_tokens)
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
