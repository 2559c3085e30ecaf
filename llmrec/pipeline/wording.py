"""How a run words its states: the language of the frame, and templates of one's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.dataset.store import Dataset
from llmrec.pipeline.data import RunData
from llmrec.pipeline.work import say
from llmrec.text.documents import documents
from llmrec.text.render import make_wording
from llmrec.text.tasks import ID_TASKS, task_values
from llmrec.text.templates import check_own
from llmrec.text.wording import written_in
from llmrec.types import EventKind, Interaction, Item, State

NAMES = {"en": "English", "zh": "Chinese"}
KINDS: tuple[EventKind, ...] = ("impression", "click", "rating", "conversion")
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


def templates_of(config: RunConfig) -> Path | None:
    """The folder of `text.templates`."""
    return None if config.text.templates is None else Path(config.text.templates).expanduser()


def text_key(config: RunConfig, dataset: Dataset | None = None) -> dict[str, Any]:
    """What decides the wording beside the data: part of stages' keys; templates count by their contents.

    Keys of runs without templates, in the frame and language that there always were, are as they were before there
    was a choice.
    """
    tree: dict[str, Any] = dict(config.tree()["text"])
    del tree["templates"]
    if tree["frame"] == "ask":
        del tree["frame"]
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
    if config.text.templates is None:
        return
    manifest, items = data.dataset.manifest, [TOLD, *data.dataset.item_list[:20]]
    check_own(Path(config.text.templates).expanduser(), run_language(config, data.dataset), manifest.domain)
    users = data.dataset.users["profile"].drop_nulls().head(1).to_list() or [""]
    past = tuple(
        Interaction(n % len(items), kind, n, 4.0 if kind == "rating" else None) for n, kind in enumerate(KINDS * 2)
    )
    states = [
        State(),
        State("u", users[0], past, time=len(past)),
        State("u", users[0], past, session=past[:3], context="a request", time=len(past)),
        State("u", "", past[:1], time=10**7),
    ]
    named = config.identifiers.scheme != "title"
    for chat in (False, True):
        wording = make_wording(
            items,
            domain=manifest.domain,
            language=run_language(config, data.dataset),
            templates=templates_of(config),
            profile=config.text.profile,
            feedback=config.text.feedback,
            chat=chat,
            elapsed=config.text.elapsed,
            frame=config.text.frame,
            identifiers=["?"] * len(items) if named else None,
        )
        for state in states:
            wording.state_text(wording.values(state))
        for _ in documents(items, states, wording):
            pass
        for task in ID_TASKS if named else ():
            wording.render(task, **(task_values(wording, task, 0) or {}))


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
