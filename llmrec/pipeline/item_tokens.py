"""How items are written: by their titles, or by identifiers, which tokenizer and model first have to learn.

Nothing here looks at events after the training period.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.identifiers import (
    Identifiers,
    build_catalogue,
    described,
    item_vectors,
    make_identifiers,
    word_vectors,
)
from llmrec.catalogue.identifiers.make import check_settings
from llmrec.config import RunConfig
from llmrec.dataset.history import indexed, strongest
from llmrec.errors import ConfigError
from llmrec.files import sha256_of
from llmrec.pipeline.base_model import make_renderer
from llmrec.pipeline.data import RunData
from llmrec.policy.mean_hidden import TextEncoder
from llmrec.policy.new_tokens import add_words, grow_embeddings
from llmrec.text.render import StateRenderer
from llmrec.vectors.sentences import MODULE, check_model

FOLDER = "identifiers"


@dataclass(frozen=True, slots=True)
class Naming:
    """How the items of a run are worded and written. `identifiers` is None where titles are."""

    renderer: StateRenderer
    catalogue: Catalogue
    identifiers: Identifiers | None = None
    new_tokens: tuple[int, ...] = ()

    def save(self, folder: Path) -> None:
        """Writes `catalogue/` and, where there are identifiers, `identifiers/` into `folder`."""
        self.catalogue.save(folder / "catalogue")
        if self.identifiers is not None:
            self.identifiers.save(folder / FOLDER)


def name_items(config: RunConfig, data: RunData, model: Any, tokenizer: Any) -> Naming:
    """Names the items by `config.identifiers`; new words go into `tokenizer` and `model` in place.

    A new row starts from the words of the titles that it stands for.

    Raises:
        ConfigError: settings that cannot be used, or a tokenizer that has the words already.
    """
    item_ids = data.dataset.items["item_id"].to_list()
    if config.identifiers.scheme == "title":
        renderer = make_renderer(config, data, tokenizer)
        return Naming(renderer, _title_catalogue(item_ids, renderer, tokenizer))
    made_from: dict[str, Any] = {
        "seed": config.seed,
        "histories": training_histories(data) if config.identifiers.collaborative else None,
        "encode": TextEncoder(model, tokenizer),
    }
    identifiers = make_identifiers(config.identifiers, data.dataset.item_list, **made_from)
    titles = make_renderer(config, data, tokenizer, titles_only=True).titles
    describe = described(identifiers, titles, tokenizer)
    new = add_words(tokenizer, identifiers.words)
    vectors = None
    if config.identifiers.start == "vectors":
        vectors = word_vectors(identifiers, _vectors(config, data, identifiers, made_from))
    grow_embeddings(model, tokenizer, new, describe=describe, vectors=vectors, seed=config.seed)
    renderer = make_renderer(config, data, tokenizer, identifiers.texts())
    catalogue = build_catalogue(identifiers, item_ids, renderer.titles, tokenizer)
    return Naming(renderer, catalogue, identifiers, tuple(new))


def _vectors(config: RunConfig, data: RunData, identifiers: Identifiers, made_from: dict[str, Any]) -> Any:
    """The items' vectors; semantic identifiers carry what is needed of them in their codebooks."""
    if identifiers.scheme == "semantic":
        return identifiers.vectors()
    return item_vectors(config.identifiers, data.dataset.item_list, **made_from)


def load_identifiers(folder: Path) -> Identifiers | None:
    """What `Naming.save` wrote into `folder`; None where items are written by their titles."""
    place = folder / FOLDER
    return Identifiers.load(place) if place.is_dir() else None


def training_histories(data: RunData) -> list[list[int]]:
    """Item indices that each user of the training period chose, in the order of time; users in the order of ids."""
    chosen = strongest(indexed(data.dataset, data.split.train))
    users = chosen.group_by("user_id", maintain_order=True).agg("item").sort("user_id")
    return [list(map(int, items)) for items in users["item"].to_list()]


def check_naming(config: RunConfig) -> None:
    """Refuses settings of names that cannot work, before anything is loaded.

    Raises:
        ConfigError: the history by identifiers that there are not, a number out of bounds, or no source.
    """
    settings = config.identifiers
    if settings.scheme == "title":
        if settings.start != "words":
            raise ConfigError(
                f"Key 'identifiers.start' is {settings.start!r}, but titles need no new tokens under "
                "identifiers.scheme: title; leave it out, or set identifiers.scheme: semantic or atomic."
            )
        if config.text.history != "title":
            raise ConfigError(
                f"Key 'text.history' is {config.text.history!r}, but items have no identifiers under "
                "identifiers.scheme: title; set text.history: title, or identifiers.scheme: semantic or atomic."
            )
        return
    check_settings(settings)
    if settings.scheme == "semantic" and settings.embedding in ("column", "sentence-transformers"):
        if not settings.source:
            raise ConfigError(
                f"Key 'identifiers.embedding' is {settings.embedding!r}, which needs identifiers.source: the Parquet "
                "file with the vectors, or the name of the sentence-transformers model."
            )
        if settings.embedding == "column" and not Path(settings.source).is_file():
            raise ConfigError(f"Key 'identifiers.source' is {settings.source!r}, but there is no such file.")
        if settings.embedding != "column":
            if importlib.util.find_spec(MODULE) is None:
                raise ConfigError(
                    "Key 'identifiers.embedding' is 'sentence-transformers', which is not installed; install it (pip "
                    "install llmrec[embeddings]) or choose another embedding."
                )
            check_model(settings.source, "Key 'identifiers.source'")


def naming_key(config: RunConfig) -> object:
    """What decides how items are named, beside the data and the base model: part of a stage's key."""
    settings = config.identifiers
    if settings.scheme == "title":
        return "title"
    source = settings.source
    if settings.scheme == "semantic" and settings.embedding == "column" and source and Path(source).is_file():
        return [config.tree()["identifiers"], sha256_of(Path(source).read_bytes())]
    return config.tree()["identifiers"]


def _title_catalogue(item_ids: list[str], renderer: StateRenderer, tokenizer: Any) -> Catalogue:
    return Catalogue.from_titles(item_ids, renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix)
