"""How a run words its states: the language of the frame, and templates of one's own."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from llmrec.config import RunConfig
from llmrec.dataset.manifest import Signal
from llmrec.dataset.scales import rating_scale
from llmrec.dataset.store import Dataset
from llmrec.pipeline.data import RunData
from llmrec.pipeline.work import say
from llmrec.seeding import numpy_stream
from llmrec.text.cards import deciding
from llmrec.text.documents import documents
from llmrec.text.objectives import drawn_preferences
from llmrec.text.shipped import make_wording
from llmrec.text.tasks import ID_TASKS, task_values
from llmrec.text.templates import check_own
from llmrec.text.wording import RatingWords, written_in
from llmrec.types import EVENT_KINDS, Interaction, Item, State

NAMES = {"en": "English", "zh": "Chinese"}
TOLD = Item("trial", "Title", "A description.", ("first category", "second category"), "Brand", 1.0)
"""An item about which all is known, for which every template is tried."""


def run_language(config: RunConfig, dataset: Dataset) -> str:
    """The language of the prompts: `text.language`, else the data set's.

    One that calls itself English, as all do unless told otherwise, and has Chinese titles is worded in Chinese.
    """
    if config.text.language is not None:
        return config.text.language
    language = dataset.manifest.language
    return "zh" if language == "en" and _titles_are(dataset) == "zh" else language


def told_preferences(config: RunConfig, dataset: Dataset, states: list[State], stage: str) -> list[State]:
    """The states of a training, half of which ask for drawn weights where the reward takes them from the text."""
    if not config.reward.stated:
        return states
    random = numpy_stream(config.seed, "stated", stage)
    return drawn_preferences(states, config.reward.stated, run_language(config, dataset), random)


def templates_of(config: RunConfig) -> Path | None:
    """The folder of `text.templates`."""
    return None if config.text.templates is None else Path(config.text.templates).expanduser()


def rating_words(config: RunConfig, dataset: Dataset | None) -> RatingWords | None:
    """What counts as liked and as disliked, where states say that of ratings; None where they do not.

    Liked is what the data set's rule for conversions asks of a rating, else what its scale calls high. Disliked is
    what lies below the middle of stars, points and marks; of counts and amounts nothing is, a little is no dislike.
    """
    if config.text.ratings == "number" or not config.text.feedback:
        return None
    if dataset is None:
        return RatingWords(0.0)
    values = dataset.events.filter(pl.col("kind") == "rating")["value"]
    scale = rating_scale(values)
    if scale is None:
        return None
    rule = Signal.parse(dataset.manifest.conversion)
    liked = scale.conversion if rule.kind != "rating" or rule.at_least is None else rule.at_least
    return RatingWords(liked, min(scale.middle, liked) if scale.kind in ("graded", "binary") else None)


def wording_of(config: RunConfig, dataset: Dataset, *, cards: bool = True) -> dict[str, Any]:
    """The settings of a run's wording, as arguments of `make_wording` and `StateRenderer`, without the history's."""
    text = config.text
    return {
        "domain": dataset.manifest.domain,
        "language": run_language(config, dataset),
        "templates": templates_of(config),
        "profile": text.profile,
        "feedback": text.feedback,
        "elapsed": text.elapsed,
        "frame": text.frame,
        "ratings": rating_words(config, dataset),
        **({"card": text.card, "currency": dataset.manifest.currency} if cards else {}),
    }


def text_key(config: RunConfig, dataset: Dataset | None = None) -> dict[str, Any]:
    """What decides the wording beside the data: part of stages' keys; templates count by their contents.

    Keys of runs without templates, cards and words for ratings, in the frame and language that there always were,
    are as they were before there was a choice.
    """
    tree: dict[str, Any] = dict(config.tree()["text"])
    for key in ("templates", "card", "ratings"):
        del tree[key]
    if tree["frame"] == "ask":
        del tree["frame"]
    told = deciding(config.text.card, "" if dataset is None else dataset.manifest.currency)
    tree |= {"card": told} if told else {}
    words = rating_words(config, dataset)
    tree |= {"ratings": asdict(words)} if words is not None else {}
    folder = templates_of(config)
    if folder is not None:
        files = sorted(folder.rglob("*.jinja"))
        parts = [f"{file.relative_to(folder).as_posix()}\0{file.read_text(encoding='utf-8')}" for file in files]
        tree["templates"] = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    if dataset is not None and config.text.language is None:
        language = run_language(config, dataset)
        tree |= {"language": language} if language != dataset.manifest.language else {}
    return tree


def check_wording(config: RunConfig, data: RunData) -> None:
    """Says where the frame's language is not the titles', and tries templates of one's own on states of all kinds.

    Raises:
        ConfigError: an unknown language, or a template that cannot be rendered; it is named.
    """
    _say_language(config, data.dataset)
    _say_ratings(config, data.dataset)
    known = wording_of(config, data.dataset)
    items = [TOLD, *data.dataset.item_list[:20]]
    folder = templates_of(config)
    if folder is None:
        return
    check_own(folder, known["language"], known["domain"])
    users = data.dataset.users["profile"].drop_nulls().head(1).to_list() or [""]
    # templates written before there were carts serve data without any
    kinds = [kind for kind in EVENT_KINDS if kind != "cart" or data.dataset.manifest.counts.get("cart")]
    past = tuple(
        Interaction(n % len(items), kind, n, 4.0 if kind == "rating" else None) for n, kind in enumerate(kinds * 2)
    )
    states = [
        State(),
        State("u", users[0], past, time=len(past)),
        State("u", users[0], past, session=past[:3], context="a request", time=len(past)),
        State("u", "", past[:1], time=10**7),
    ]
    words = known["ratings"]
    if words is not None:  # a rating for each word
        low = words.liked if words.disliked is None else words.disliked
        states += [
            State(history=(Interaction(0, "rating", 0, value),)) for value in (words.liked, low, low - 1, -math.inf)
        ]
    named = config.identifiers.scheme != "title"
    for chat in (False, True):
        wording = make_wording(items, **known, chat=chat, identifiers=["?"] * len(items) if named else None)
        for state in states:
            wording.state_text(wording.values(state))
        for _ in documents(items, states, wording):
            pass
        for task in ID_TASKS if named else ():
            wording.render(task, **(task_values(wording, task, 0) or {}))


def _say_ratings(config: RunConfig, dataset: Dataset) -> None:
    if config.text.ratings == "words" and config.text.feedback and rating_words(config, dataset) is None:
        say("  The data set has no ratings, so text.ratings=words changes nothing.", style="dim")


def _titles_are(dataset: Dataset) -> str | None:
    return written_in(dataset.items["title"].drop_nulls())


def _say_language(config: RunConfig, dataset: Dataset) -> None:
    language, titles = run_language(config, dataset), _titles_are(dataset)
    if titles is None or titles == language:
        if language != dataset.manifest.language and config.text.language is None:
            say(
                f"  Titles are {NAMES[language]}, so prompts are too, though the manifest says "
                f"{dataset.manifest.language!r}; text.language decides otherwise.",
                style="dim",
            )
        return
    say(
        f"  Prompts are worded in {NAMES.get(language, language)}, but titles look {NAMES[titles]}; set "
        f"text.language={titles} to word them alike.",
        style="dim",
    )
