"""Amazon reviews, 2018 (Ni et al. 2019) and 2023 (Hou et al. 2024): reviews and metadata as JSON lines.

The two releases name their fields differently; which one a file is of, and whether it holds reviews or metadata,
is seen from its first line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from llmrec.dataset.importers.reading import number, plain_text, read_json_lines
from llmrec.dataset.importers.values import read_prices
from llmrec.dataset.schema import SCHEMAS
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.progress import console

TERMS = "No licence is stated; research use, with citation of the paper (see the data's page)."
PROXY = "Amazon reviews log no clicks: any review stands for a click and a rating of 4 or more for a conversion."
SOURCES = {2018: "https://nijianmo.github.io/amazon/", 2023: "https://amazon-reviews-2023.github.io/"}

_CHUNK = 200_000
_LONGEST_PRICE = 100  # characters; some fields hold the scripts of a page instead
_EVENTS = {"user_id": pl.String, "item_id": pl.String, "value": pl.Float64, "time": pl.Int64}


def import_amazon(
    source: Path,
    *,
    reviews: Path | str | None = None,
    meta: Path | str | None = None,
    name: str | None = None,
    core: int = 0,
) -> Dataset:
    """Imports one category: a reviews file and a metadata file, plain or gzipped, streamed line by line.

    Items without a title in the metadata are left out together with their reviews, and exact copies of a review
    (same user, item, time and rating) are kept once; both are counted on the console. A 2018 price range counts as
    its lower end. The whole log takes part in `core`, the future included, as in the published 5-core files.

    Args:
        source: A folder with both files, or the reviews file itself.
        reviews: The reviews file, if `source` holds several.
        meta: The metadata file, if `source` holds several.
        name: Name of the data set; by default after the reviews file.
        core: Keep users and items with at least this many reviews, applied until nothing more falls out.

    Raises:
        DataError: A file is missing, or a line is broken; named with its number.
    """
    review_path, meta_path = _files(source, reviews, meta)
    year, fields = _review_fields(review_path)
    events = _dense(_read_reviews(review_path, fields), core)
    if events.is_empty():
        raise DataError(f"{review_path} leaves no reviews with core={core}; lower it.")
    items = _read_items(meta_path, set(events["item_id"].unique()), year)
    known = events.filter(pl.col("item_id").is_in(items["item_id"].implode()))
    lost = events.height - known.height
    if known.is_empty():
        raise DataError(f"{meta_path} has a title for no item of {review_path}; are both of the same category?")
    if lost:
        missing = events["item_id"].n_unique() - items.height
        console.print(f"Left out {lost} reviews of {missing} items that have no title in {meta_path.name}.")
    return Dataset.build(
        items,
        None,
        known.with_columns(pl.lit("rating").alias("kind")),
        name=name or f"amazon-{year}-{review_path.name.split('.')[0]}",
        domain="shop",
        source=SOURCES[year],
        terms=TERMS,
        repeat="allow",
        click="rating",
        conversion="rating>=4",
        proxy=PROXY,
        currency="USD",
    )


def is_amazon(source: Path) -> bool:
    """Whether a folder holds one file of reviews and one of items in a layout that is known here."""
    try:
        _review_fields(_files(source, None, None)[0])
    except DataError:
        return False
    return True


def _files(source: Path, reviews: Path | str | None, meta: Path | str | None) -> tuple[Path, Path]:
    if source.is_file():
        reviews, source = reviews or source, source.parent
    found: dict[str, list[Path]] = {"reviews": [], "meta": []}
    endings = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
    for path in sorted(p for p in source.iterdir() if p.is_file() and p.name.endswith(endings)):
        if reviews is None or meta is None:
            found[_content(path)].append(path)
    chosen = []
    for what, given in (("reviews", reviews), ("meta", meta)):
        paths = [Path(given)] if given is not None else found[what]
        if len(paths) != 1:
            there = ", ".join(p.name for p in paths) or "none"
            raise DataError(
                f"{source} holds {len(paths)} files of Amazon {what} ({there}); name the one to take as {what}=FILE."
            )
        if not paths[0].is_file():
            raise DataError(f"{paths[0]} does not exist; give the {what} file.")
        chosen.append(paths[0])
    return chosen[0], chosen[1]


def _first(path: Path) -> dict[str, Any]:
    _, row = next(read_json_lines(path), (0, None))
    if row is None:
        raise DataError(f"{path} is empty; fetch it again.")
    return row


def _content(path: Path) -> str:
    return "reviews" if {"reviewerID", "user_id"} & set(_first(path)) else "meta"


def _review_fields(path: Path) -> tuple[int, dict[str, str]]:
    """The release's year and the names of its fields."""
    layouts = {
        2018: {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"},
        2023: {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"},
    }
    first = _first(path)
    for year, fields in layouts.items():
        if set(fields.values()) <= set(first):
            return year, fields
    raise DataError(
        f"{path} holds no Amazon reviews: its first line has {', '.join(list(first)[:12])} and lacks "
        f"{', '.join(layouts[2018].values())} (2018) or {', '.join(layouts[2023].values())} (2023)."
    )


def _read_reviews(path: Path, fields: dict[str, str]) -> pl.DataFrame:
    """Exact copies are dropped here: the releases hold some reviews twice."""
    parts: list[pl.DataFrame] = []
    rows: list[tuple[str, str, float, int]] = []
    for line, review in read_json_lines(path, description=f"Reading {path.name}"):
        rows.append(_review(review, fields, path, line))
        if len(rows) == _CHUNK:
            parts.append(pl.DataFrame(rows, schema=_EVENTS, orient="row"))
            rows = []
    parts.append(pl.DataFrame(rows, schema=_EVENTS, orient="row"))
    events = pl.concat(parts)
    unique = events.unique(maintain_order=True)
    if unique.height < events.height:
        console.print(f"Left out {events.height - unique.height} exact copies of reviews in {path.name}.")
    return unique


def _review(review: dict[str, Any], fields: dict[str, str], path: Path, line: int) -> tuple[str, str, float, int]:
    user, item = review.get(fields["user"]), review.get(fields["item"])
    for key, value in (("user", user), ("item", item)):
        if not isinstance(value, str) or not value:
            raise DataError(
                f"{path}, line {line}: {fields[key]!r} is {value!r}, but it must be text; mend that line."
            )
    rating = number(review.get(fields["rating"], ""), path, line, fields["rating"])
    time = int(number(review.get(fields["time"], ""), path, line, fields["time"]))
    return str(user), str(item), rating, time // 1000 if fields["time"] == "timestamp" else time


def _dense(events: pl.DataFrame, core: int) -> pl.DataFrame:
    """The k-core: users and items with at least `core` reviews each."""
    while core > 1:
        enough = (pl.len().over("user_id") >= core) & (pl.len().over("item_id") >= core)
        kept = events.filter(enough)
        if kept.height == events.height:
            break
        events = kept
    return events


def _read_items(path: Path, wanted: set[str], year: int) -> pl.DataFrame:
    """Items that have reviews and a title, in the order of the file; of repeated ids the first."""
    key = "asin" if year == 2018 else "parent_asin"
    items: dict[str, dict[str, object]] = {}
    for line, row in read_json_lines(path, description=f"Reading {path.name}"):
        item_id = row.get(key)
        if not isinstance(item_id, str):
            raise DataError(f"{path}, line {line} has no {key!r}; is this the {year} metadata?")
        if item_id in wanted and item_id not in items:
            title = plain_text(" ".join(_texts(row.get("title"))))
            if title:
                items[item_id] = {"item_id": item_id, "title": title, **_item_texts(row)}
    table = {name: [item[name] for item in items.values()] for name in SCHEMAS["items"]}
    return pl.DataFrame({**table, "price": prices(table["price"])}, schema=SCHEMAS["items"])


def _item_texts(row: dict[str, Any]) -> dict[str, object]:
    pieces = [
        plain_text(t) for t in (*_texts(row.get("description")), *_texts(row.get("features") or row.get("feature")))
    ]
    groups = [plain_text(t) for t in _texts(row.get("categories") or row.get("category"))]
    return {
        "description": " ".join(dict.fromkeys(p for p in pieces if p)),
        # the 2018 files carry whole product blurbs at the end of some category lists
        "categories": list(dict.fromkeys(g for g in groups if 0 < len(g) <= 60)),
        "brand": plain_text(" ".join(_texts(row.get("brand") or row.get("store")))),
        "price": row.get("price"),
    }


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (v for v in value if isinstance(v, str))


def prices(values: Iterable[object]) -> pl.Series:
    """Prices in dollars from 12.99, "$1,012.99" or "$12.99 - $19.99" (its lower end); null where there is none."""
    texts = [_price_text(value) for value in values]
    found = read_prices(pl.Series("price", texts, dtype=pl.String), decimal=".", currency="USD").values
    return found.set(found < 0, None)


def _price_text(value: object) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    return value if isinstance(value, str) and len(value) < _LONGEST_PRICE else None
