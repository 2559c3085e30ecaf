"""From settings and items to identifiers, how well these use their words, and from identifiers to a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.identifiers.embeddings import (
    Vectors,
    column_embedding,
    covisitation_embedding,
    joined,
    model_embedding,
    reduced,
    scaled,
    sentence_embedding,
    text_embedding,
)
from llmrec.catalogue.identifiers.quantise import residual_kmeans
from llmrec.catalogue.identifiers.scheme import Identifiers, atomic, semantic
from llmrec.config import IdentifierSettings
from llmrec.errors import CatalogueError, ConfigError
from llmrec.types import Item
from llmrec.vectors.space import Encode

NEIGHBOURS = 5
"""Known items that a new item's vector is taken from."""
_BATCH = 1024


def make_identifiers(
    settings: IdentifierSettings,
    items: Sequence[Item],
    *,
    seed: int,
    histories: Sequence[Sequence[int]] | None = None,
    encode: Encode | None = None,
) -> Identifiers:
    """Identifiers of `items` under the semantic or the atomic scheme.

    Args:
        settings: scheme, levels and codes, and what is quantised.
        items: the catalogue in item-index order.
        seed: run seed.
        histories: item indices of each user of the training period in the order of time, for the collaborative part.
        encode: texts to vectors (n, H) by the base model, for `embedding: model`.

    Raises:
        ConfigError: settings that cannot be used.
        CatalogueError: no item.
        DataError: vectors that cannot be used.
    """
    check_settings(settings)
    if not items:
        raise CatalogueError("The catalogue is empty; it needs at least one item.")
    if settings.scheme == "atomic":
        return atomic(len(items))
    vectors_ND = item_vectors(settings, items, seed=seed, histories=histories, encode=encode)
    return semantic(residual_kmeans(vectors_ND, settings.levels, settings.codes, seed=seed))


def word_vectors(identifiers: Identifiers, vectors_ND: Vectors) -> Vectors:
    """What each word of the identifiers stands for: an item's vector or a code's centre, 0 for tie words; (W, D)."""
    if identifiers.scheme == "atomic":
        return vectors_ND
    books_LKD = identifiers.codebooks_LKD
    out = np.zeros((len(identifiers.words), books_LKD.shape[2]), dtype=np.float32)
    centres = books_LKD.reshape(-1, books_LKD.shape[2])
    out[: len(centres)] = centres
    return out


def item_vectors(
    settings: IdentifierSettings,
    items: Sequence[Item],
    *,
    seed: int,
    histories: Sequence[Sequence[int]] | None = None,
    encode: Encode | None = None,
) -> Vectors:
    """The vectors (N, D) that are quantised: content, and co-visitation where there are histories to take it from."""
    content_ND = content_vectors(settings, items, seed=seed, encode=encode)
    if histories is None or settings.collaborative == 0:
        return content_ND
    together_ND = covisitation_embedding(histories, len(items), settings.dimensions, seed)
    return joined([content_ND, together_ND], [1 - settings.collaborative, settings.collaborative])


def content_vectors(
    settings: IdentifierSettings, items: Sequence[Item], *, seed: int, encode: Encode | None = None
) -> Vectors:
    """The vectors of the items' content, at most `settings.dimensions` wide."""
    if settings.embedding == "text":
        return text_embedding(items, settings.dimensions, seed)
    if settings.embedding == "model":
        if encode is None:
            raise ConfigError("identifiers.embedding is model, but no model was given to embed the items with.")
        wide = model_embedding(items, encode)
    elif settings.embedding == "column":
        wide = column_embedding(items, Path(_source(settings, "the Parquet file that holds the vectors")))
    else:
        wide = sentence_embedding(items, _source(settings, "the name of a sentence-transformers model"))
    return scaled(reduced(wide, settings.dimensions, seed))


def add_items(
    identifiers: Identifiers,
    settings: IdentifierSettings,
    items: Sequence[Item],
    new_items: Sequence[Item],
    *,
    seed: int,
    encode: Encode | None = None,
) -> Identifiers:
    """Identifiers of `items` as they are, and of `new_items` behind them.

    Nothing is fitted anew: a new item's vector is the mean of what the codes of the known items with the likest
    content stand for, so that it gets a place among the items that people take together, too.

    Raises:
        CatalogueError: atomic identifiers, or no tie word left.
    """
    if identifiers.scheme == "atomic" or not new_items:
        return identifiers if not new_items else identifiers.added(np.zeros((len(new_items), 0), dtype=np.float32))
    content = content_vectors(settings, [*items, *new_items], seed=seed, encode=encode)
    # Content alone is known of a new item; the codes of its likest neighbours carry what is known of company too.
    likest = likest_rows(content[: len(items)], content[len(items) :], min(NEIGHBOURS, len(items)))
    return identifiers.added(identifiers.vectors()[likest].mean(axis=1))


def likest_rows(known_ND: Vectors, new_MD: Vectors, count: int) -> npt.NDArray[np.int64]:
    """For each new vector the `count` known ones of largest cosine, the likest first, (M, count)."""
    known_ND, new_MD = _unit(known_ND), _unit(new_MD)
    parts = []
    for start in range(0, len(new_MD), _BATCH):
        cosine = new_MD[start : start + _BATCH] @ known_ND.T
        parts.append(np.argsort(-cosine, axis=1, kind="stable")[:, :count])
    return np.concatenate(parts)


def build_catalogue(
    identifiers: Identifiers, item_ids: Sequence[str], titles: Sequence[str], tokenizer: Any
) -> Catalogue:
    """The catalogue whose items are written by their identifiers; `tokenizer` has the words (`add_words`)."""
    if len(identifiers) != len(item_ids):
        raise CatalogueError(f"{len(item_ids)} items but {len(identifiers)} identifiers; make them for these items.")
    rows = identifiers.tokens(tokenizer)
    return Catalogue.from_sequences(item_ids, titles, rows, tokenizer, scheme=identifiers.scheme)


def check_settings(settings: IdentifierSettings) -> None:
    """Raises `ConfigError` for a number that cannot be used, or a scheme without words of its own."""
    if settings.scheme == "title":
        raise ConfigError("identifiers.scheme is title, which needs no identifiers; choose semantic or atomic.")
    bounds = {"levels": (1, 25), "codes": (2, 65_536), "dimensions": (1, 65_536)}
    for key, (low, high) in bounds.items():
        if not low <= getattr(settings, key) <= high:
            raise ConfigError(
                f"Key 'identifiers.{key}' is {getattr(settings, key)}; it must be from {low} to {high}."
            )
    if not 0 <= settings.collaborative <= 1:
        raise ConfigError(f"Key 'identifiers.collaborative' is {settings.collaborative}; it must be from 0 to 1.")


def _source(settings: IdentifierSettings, what: str) -> str:
    if not settings.source:
        raise ConfigError(f"identifiers.embedding is {settings.embedding}; give identifiers.source, {what}.")
    return settings.source


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


@dataclass(frozen=True, slots=True)
class LevelUsage:
    """One level: words there are, words in use, and the perplexity exp(entropy) of their use (at most `words`)."""

    words: int
    used: int
    perplexity: float


@dataclass(frozen=True, slots=True)
class Usage:
    """How a catalogue's identifiers use their words.

    Attributes:
        levels: one entry a level, tie words left out.
        tokens_per_item: mean length, the end token not counted.
        colliding: items whose codes (without tie word) another item has too.
        largest_group: most items that share their codes; 1 is none.
        tied: items that carry a tie word.
        shared: items whose whole identifier another item has too; always 0.
    """

    levels: tuple[LevelUsage, ...]
    tokens_per_item: float
    colliding: int
    largest_group: int
    tied: int
    shared: int

    def tree(self) -> dict[str, Any]:
        """The figures as plain dictionaries and lists, ready for JSON."""
        return asdict(self) | {"levels": [asdict(level) for level in self.levels]}


def usage(identifiers: Identifiers) -> Usage:
    """Measures `identifiers`."""
    codes_NL, levels = identifiers.codes_NL, identifiers.levels
    size = len(identifiers.codebooks_LKD[0]) if len(identifiers.codebooks_LKD) else len(identifiers.words)
    group_N = _group_sizes(codes_NL[:, :levels])
    return Usage(
        tuple(_level(codes_NL[:, level], size) for level in range(levels)),
        float((codes_NL >= 0).sum(axis=1).mean()),
        int((group_N > 1).sum()),
        int(group_N.max()),
        int((codes_NL[:, levels:] >= 0).sum()),
        int((_group_sizes(codes_NL) > 1).sum()),
    )


def _level(code_N: npt.NDArray[np.integer], size: int) -> LevelUsage:
    _, count = np.unique(code_N, return_counts=True)
    # exp(entropy): the number of words that, used evenly, would carry as much.
    share = count / count.sum()
    return LevelUsage(size, len(count), float(np.exp(-(share * np.log(share)).sum())))


def _group_sizes(codes_NL: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """How many rows equal each row, itself included, (N,)."""
    _, group_N, count = np.unique(codes_NL, axis=0, return_inverse=True, return_counts=True)
    sizes: npt.NDArray[np.int64] = count[group_N.reshape(-1)]
    return sizes
