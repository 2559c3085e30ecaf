"""The shipped wording of a domain and language, with a person's own templates in the place of some of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from llmrec.config import CardSettings
from llmrec.errors import ConfigError
from llmrec.text.cards import Cut
from llmrec.text.escape import Cleaner
from llmrec.text.templates import TemplateSet, own_sources, shipped_sources
from llmrec.text.wording import Frame, HistoryStyle, RatingWords, Wording
from llmrec.types import Item


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
