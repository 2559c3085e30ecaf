"""A data set with written profiles and descriptions, and who wrote each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from llmrec.dataset.authorship import Drawn
from llmrec.dataset.split import Split
from llmrec.dataset.store import FILES, MANIFEST, OPINIONS, TEXTS, Dataset
from llmrec.enrich.cache import DraftCache
from llmrec.enrich.checks import Checks
from llmrec.enrich.extractive import ExtractiveWriter
from llmrec.enrich.review import Entry, flagged_items, flagged_sentences, write_entries
from llmrec.enrich.reviews import Review
from llmrec.enrich.sources import (
    CATEGORY,
    SourceSettings,
    item_sources,
    review_sources,
    training_reviews,
    user_sources,
)
from llmrec.enrich.types import Author, Opinion, Source, Writer, Written
from llmrec.enrich.writing import Shares, shares, write_texts
from llmrec.errors import DataError, RunError
from llmrec.files import matching, new_folder
from llmrec.storage import shown
from llmrec.text.escape import clean_text
from llmrec.written import file_hash

Mode = Literal["append", "replace"]
What = Literal["users", "items"]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be written.

    Attributes:
        what: of users, of items, or of both.
        mode: whether a written text stands behind the given one or in its place; where nothing could be written the
            given text stays in both cases.
        sources: how much a source holds.
        users: how many users at most, the first ones; None for all.
    """

    what: tuple[What, ...] = ("users", "items")
    mode: Mode = "append"
    sources: SourceSettings = field(default_factory=SourceSettings)
    users: int | None = None


@dataclass(frozen=True)
class Enriched:
    """A data set with its texts.

    Attributes:
        dataset: profiles and descriptions are the new ones, and its manifest says so.
        texts: all that was written, reviews' opinions among them.
        entries: what a person should look at.
        reviews: those of the training part, in the order of the texts of reviews.
    """

    dataset: Dataset
    texts: Sequence[Written]
    entries: Sequence[Entry]
    reviews: Sequence[Review]

    @property
    def shares(self) -> dict[Author, Shares]:
        """What became of each writer's sentences."""
        return shares(self.texts)

    def save(self, folder: Path) -> None:
        """Writes the data set's folder with who wrote what and what to look at, whole or not at all.

        Raises:
            DataError: something else than a data set lies there.
        """
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise DataError(f"{shown(folder)} exists and is no llmrec data set, so it is not replaced.")
        with new_folder(folder, mark=MANIFEST, ours=matching(*FILES)) as work:
            texts_table(self.texts).write_parquet(work / TEXTS, compression="zstd")
            if self.reviews:
                opinions_table(self.reviews, self.texts).write_parquet(work / OPINIONS, compression="zstd")
            write_entries(work, self.entries)
            self.dataset.manifest.written["texts"] = file_hash(work / TEXTS)
            self.dataset.write(work)


def enrich(
    dataset: Dataset,
    split: Split,
    writer: Writer,
    checks: Checks,
    wish: Wish | None = None,
    *,
    reviews: Sequence[Review] = (),
    cache: DraftCache | None = None,
    fallback: bool = True,
) -> Enriched:
    """Writes profiles from the users' histories and descriptions from the items' attributes and reviews.

    Nothing after the training part of `split` is read: neither events nor reviews of later ones.

    Args:
        dataset: as it was given.
        split: whose training part histories are.
        writer: who writes.
        checks: what each sentence has to pass.
        wish: what is to be written.
        reviews: of the items, whatever their time.
        cache: where drafts are kept.
        fallback: whether the writer by rule writes where the other gave nothing that may stay.

    Raises:
        DataError: the data set holds written texts already, or nothing can be written of it.
    """
    wish = wish or Wish()
    if dataset.manifest.written:
        raise DataError(
            f"{dataset.manifest.name!r} holds written texts already; give the data set that it was made from."
        )
    unknown = checks.forbidden.items - dataset.item_index.keys()
    if unknown:
        raise DataError(f"Item {min(unknown)!r} is forbidden but not in the data set; mend the list.")
    checks = checks.naming(clean_text(name, CATEGORY) for item in dataset.item_list for name in item.categories)
    rule = ExtractiveWriter(checks.language, dataset.manifest.domain)
    entries, unnamed = flagged_items(dataset.item_list, checks)
    past = training_reviews(reviews, split)
    title_of = {item.item_id: item.title for item in dataset.item_list}

    def written(sources: Sequence[Source], what: str) -> list[Written]:
        helper = rule if fallback else None
        return write_texts(sources, writer, checks, cache=cache, fallback=helper, what=what)

    opinions = written(review_sources(past, lambda item: title_of[item]), "Reading reviews") if past else []
    said = [(review, one.opinion) for review, one in zip(past, opinions, strict=True) if one.opinion is not None]
    texts: list[Written] = [*opinions]
    profiles, descriptions = dataset.users["profile"].to_list(), dataset.items["description"].to_list()
    if "users" in wish.what:
        by_pair = {(review.user_id, review.item_id): opinion for review, opinion in said}
        ids = dataset.users["user_id"].to_list()[: wish.users]
        found = user_sources(dataset, split, wish.sources, users=ids, unnamed=unnamed, opinions=by_pair)
        users = written(found, "Writing profiles")
        profiles = _with(profiles, dataset.user_index, users, wish.mode, checks.language)
        texts += users
    if "items" in wish.what:
        found = item_sources(dataset, wish.sources, reviews=_by_item(said), unnamed=unnamed)
        items = written(found, "Writing descriptions")
        descriptions = _with(descriptions, dataset.item_index, items, wish.mode, checks.language)
        texts += items
    if not texts:
        raise DataError(f"Nothing can be written of {dataset.manifest.name!r}: its training part holds no choice.")
    record = _record(dataset, split, texts, wish)
    made = dataset.with_texts(profiles=profiles, descriptions=descriptions, written=record)
    return Enriched(made, texts, [*entries, *flagged_sentences(texts)], past)


def _by_item(said: Sequence[tuple[Review, Opinion]]) -> Mapping[str, Sequence[tuple[Review, Opinion]]]:
    found: dict[str, list[tuple[Review, Opinion]]] = {}
    for review, opinion in said:
        found.setdefault(review.item_id, []).append((review, opinion))
    return found


def _with(
    given: Sequence[str], index: Mapping[str, int], texts: Sequence[Written], mode: Mode, language: str
) -> list[str]:
    """The given texts with the written ones: of one subject in the order in which they were written."""
    new: dict[int, list[str]] = {}
    for one in texts:
        if text := one.text(language):
            new.setdefault(index[one.source.subject], []).append(text)
    space = "" if language == "zh" else " "
    found = list(given)
    for row, parts in new.items():
        before = [found[row].strip()] if mode == "append" and found[row].strip() else []
        found[row] = space.join([*before, *parts])
    return found


def _record(dataset: Dataset, split: Split, texts: Sequence[Written], wish: Wish) -> dict[str, Any]:
    """What the manifest says of the texts."""
    by_author = shares(texts)
    return {
        "source": dataset.manifest.content_hash,
        "drawn": Drawn.of(split).tree(),
        "mode": wish.mode,
        "writers": [
            {
                "id": author.key[:12],
                **{**asdict(author), "settings": dict(author.settings)},
                **asdict(found),
                "grounded_share": found.grounded_share,
            }
            for author, found in by_author.items()
        ],
        "texts": "",
    }


def texts_table(texts: Sequence[Written]) -> pl.DataFrame:
    """Who wrote each text: kind, subject, field, text, writer (an id of the manifest), source hash, what went."""
    rows = [
        {
            "kind": one.source.kind,
            "subject": one.source.subject,
            "field": one.source.field,
            "text": " ".join(one.sentences),
            "writer": one.author.key[:12],
            "tried": "" if one.tried is None else one.tried.key[:12],
            "failure": one.failure,
            "source_hash": one.source.content_hash,
            "dropped": [f"{gone.reason}: {gone.sentence}" for gone in (*one.tried_dropped, *one.dropped)],
        }
        for one in texts
    ]
    schema = dict.fromkeys(
        ("kind", "subject", "field", "text", "writer", "tried", "failure", "source_hash"), pl.String
    )
    return pl.DataFrame(rows, schema={**schema, "dropped": pl.List(pl.String)})


def opinions_table(reviews: Sequence[Review], texts: Sequence[Written]) -> pl.DataFrame:
    """What each review of the training part says: user_id, item_id, time, sentiment, praised and blamed aspects."""
    found = [one.opinion for one in texts if one.source.kind == "review"]
    rows = [
        {
            "user_id": review.user_id,
            "item_id": review.item_id,
            "time": review.time,
            "sentiment": opinion.sentiment,
            "praised": [name for name, side in opinion.aspects if side == "positive"],
            "blamed": [name for name, side in opinion.aspects if side == "negative"],
        }
        for review, opinion in zip(reviews, found, strict=True)
        if opinion is not None
    ]
    many = pl.List(pl.String)
    schema = {"user_id": pl.String, "item_id": pl.String, "time": pl.Int64, "sentiment": pl.String}
    return pl.DataFrame(rows, schema={**schema, "praised": many, "blamed": many})


def read_texts(folder: Path, dataset: Dataset) -> pl.DataFrame:
    """Who wrote each text of a saved data set (see `texts_table`).

    Raises:
        RunError: the table is missing or not the one that the manifest names.
    """
    from llmrec.bounded import read_parquet

    place = folder / TEXTS
    if not place.is_file() or file_hash(place) != dataset.manifest.written.get("texts"):
        raise RunError(
            f"{shown(place)} is missing or not the table that {MANIFEST} names; run `llmrec enrich` again."
        )
    return read_parquet(place)
