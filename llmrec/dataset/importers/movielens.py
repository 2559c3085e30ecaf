"""MovieLens (Harper and Konstan 2015) in its three layouts: 100K, 1M/10M (`::`) and csv (latest-small, 25M, 32M)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from llmrec.dataset.importers.reading import (
    ReadOptions,
    find_file,
    need_file,
    read_csv_rows,
    read_fields,
    read_numbers,
)
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError

TERMS = (
    "Research use with acknowledgement; no redistribution and no commercial use without permission of GroupLens "
    "(see the README of the archive)."
)
PROXY = "MovieLens logs ratings only: any rating stands for a click and a rating of 4 or more for a conversion."

_GENRE_NAMES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
_AGES = {
    1: "under 18",
    18: "18 to 24",
    25: "25 to 34",
    35: "35 to 44",
    45: "45 to 49",
    50: "50 to 55",
    56: "56 or more",
}
_JOB_NAMES = (
    "|academic or educator|artist|clerical or admin|college or graduate student|customer service|"
    "doctor or health care|executive or managerial|farmer|homemaker|K-12 student|lawyer|programmer|retired|"
    "sales or marketing|scientist|self-employed|technician or engineer|tradesman or craftsman|unemployed|writer"
)
_GENRES, _JOBS = _GENRE_NAMES.split("|"), _JOB_NAMES.split("|")
_ARTICLES = "The|A|An|L'|Le|La|Les|Un|Une|Il|Lo|Gli|I|Der|Die|Das|Ein|Eine|El|Los|Las|Una|O|Os|As|Den|Det|De|Het"
_TRAILING = re.compile(rf"^(?P<name>.*\S), (?P<article>{_ARTICLES})$")
_YEAR = re.compile(r"\((\d{4})\)\s*$")

Item = dict[str, object]


def import_movielens(source: Path, *, name: str | None = None, tags: bool = False) -> Dataset:
    """Imports a MovieLens folder, or one that holds just that folder; the layout is found by the file names.

    Ratings become events of kind "rating". The data has no plot texts, so a description only restates year and
    genres. With `tags` the csv layout adds each film's five most given tags: people wrote some of them after the
    moments that are later predicted, so leave it off where figures are compared.

    Args:
        source: The unpacked archive.
        name: Name of the data set; by default after the layout.
        tags: Add tags.csv to the descriptions.

    Raises:
        DataError: No layout fits, or a line is broken.
    """
    folder = _folder(source)
    if find_file(folder, "u.data"):
        default, (items, users, events) = "movielens-100k", _layout_100k(folder)
    elif find_file(folder, "ratings.dat"):
        default = "movielens-1m" if find_file(folder, "users.dat") else "movielens-10m"
        items, users, events = _layout_double_colon(folder)
    else:
        default = f"movielens-{folder.name.removeprefix('ml-')}" if folder.name.startswith("ml-") else "movielens"
        items, users, events = _layout_csv(folder, tags)
    ids = [pl.col("user_id", "item_id").cast(pl.String), pl.lit("rating").alias("kind")]
    return Dataset.build(
        pl.DataFrame(items, infer_schema_length=None),
        pl.DataFrame(users, schema={"user_id": pl.String, "profile": pl.String}),
        events.with_columns(ids),
        name=name or default,
        domain="film",
        source="https://grouplens.org/datasets/movielens/",
        terms=TERMS,
        repeat="exclude",
        click="rating",
        conversion="rating>=4",
        proxy=PROXY,
        add_missing_users=True,
    )


def plain_title(title: str) -> str:
    """The title as people write it: "Postino, Il (1994)" becomes "Il Postino (1994)"; other titles in it too."""
    parts = re.split(r"(?<=\S) (?=\()", " ".join(title.split()))
    return " ".join(_unturned(part) for part in parts)


def _unturned(part: str) -> str:
    inside = part.startswith("(") and part.endswith(")")
    match = _TRAILING.match(part[1:-1] if inside else part)
    if match is None:
        return part
    article, word = match["article"], match["name"]
    prefix = re.match(r"(a\.k\.a\. )?", word)
    lead = prefix[0] if prefix else ""
    turned = lead + article + ("" if article.endswith("'") else " ") + word[len(lead) :]
    return f"({turned})" if inside else turned


def _folder(source: Path) -> Path:
    """`source`, or the folder in it that holds one of the layouts."""
    names = ("u.data", "ratings.dat", "ratings.csv")
    if source.is_file():
        raise DataError(f"{source} is a file; unpack the MovieLens archive and give its folder.")
    inner = sorted(p for p in source.iterdir() if p.is_dir())
    found = next((p for p in (source, *inner) if find_file(p, *names)), None)
    if found is None:
        raise DataError(f"{source} is no MovieLens folder: it has none of {', '.join(names)}.")
    return found


def _item(item_id: str, title: str, genres: list[str], extra: str = "") -> Item:
    genres = [g for g in genres if g not in ("unknown", "(no genres listed)", "")]
    year = _YEAR.search(title)
    about = " ".join(filter(None, [", ".join(genres), "film", f"of {year[1]}" if year else ""]))
    description = f"{about[0].upper()}{about[1:]}.{extra}"
    return {"item_id": item_id, "title": plain_title(title), "description": description, "categories": genres}


def _layout_100k(folder: Path) -> tuple[list[Item], list[dict[str, str]], pl.DataFrame]:
    items = []
    for line, fields in read_fields(need_file(folder, "u.item"), "|", 24, "latin-1"):
        if set(fields[5:]) - {"0", "1"}:
            raise DataError(f"{folder / 'u.item'}, line {line}: its last 19 fields (genres) must be 0 or 1.")
        genres = [genre for genre, flag in zip(_GENRES, fields[5:], strict=True) if flag == "1"]
        items.append(_item(fields[0], fields[1], genres))
    users = []
    if path := find_file(folder, "u.user"):
        for _, (user_id, age, gender, job, _zip) in read_fields(path, "|", 5, "latin-1"):
            users.append({"user_id": user_id, "profile": _profile(age, gender, job)})
    return items, users, _ratings(need_file(folder, "u.data"), "\t")


def _layout_double_colon(folder: Path) -> tuple[list[Item], list[dict[str, str]], pl.DataFrame]:
    movies = need_file(folder, "movies.dat")
    encoding = "latin-1" if find_file(folder, "users.dat") else "utf-8"
    items = [_item(i, title, g.split("|")) for _, (i, title, g) in read_fields(movies, "::", 3, encoding)]
    users = []
    if path := find_file(folder, "users.dat"):
        for line, (user_id, gender, age, job, _zip) in read_fields(path, "::", 5, "latin-1"):
            if not (age.isdigit() and int(age) in _AGES and job.isdigit() and int(job) < len(_JOBS)):
                raise DataError(
                    f"{path}, line {line}: age {age[:20]!r} or occupation {job[:20]!r} is no MovieLens code."
                )
            users.append({"user_id": user_id, "profile": _profile(_AGES[int(age)], gender, _JOBS[int(job)])})
    return items, users, _ratings(need_file(folder, "ratings.dat"), "::")


def _ratings(path: Path, separator: str) -> pl.DataFrame:
    """Ratings of a layout without names: user, item, rating, time."""
    columns = {"user_id": "1", "item_id": "2", "value": "3", "time": "4"}
    return read_numbers(path, columns, ReadOptions(separator=separator, quote="none", header=False))


def _layout_csv(folder: Path, tags: bool) -> tuple[list[Item], list[dict[str, str]], pl.DataFrame]:
    movies = need_file(folder, "movies.csv")
    extra = _tags(need_file(folder, "tags.csv")) if tags else {}
    items = []
    for _, row in read_csv_rows(movies, ("movieId", "title", "genres")):
        item_id = row["movieId"]
        items.append(_item(item_id, row["title"], row["genres"].split("|"), extra.get(item_id, "")))
    path = need_file(folder, "ratings.csv")
    columns = {"user_id": "userId", "item_id": "movieId", "value": "rating", "time": "timestamp"}
    return items, [], read_numbers(path, columns, ReadOptions(header=True))


def _tags(path: Path) -> dict[str, str]:
    """A sentence with the five most given tags of each film."""
    given: dict[str, Counter[str]] = {}
    for item_id, tag in _tag_rows(path):
        given.setdefault(item_id, Counter())[tag] += 1
    best = {i: sorted(c.items(), key=lambda pair: (-pair[1], pair[0]))[:5] for i, c in given.items()}
    return {i: f" Tagged {', '.join(tag for tag, _ in pairs)}." for i, pairs in best.items()}


def _tag_rows(path: Path) -> Iterator[tuple[str, str]]:
    for _, row in read_csv_rows(path, ("movieId", "tag")):
        if row["tag"].strip():
            yield row["movieId"], " ".join(row["tag"].lower().split())


def _profile(age: str, gender: str, job: str) -> str:
    """An English sentence, for example "A 24-year-old man; occupation: technician."."""
    who = {"M": "man", "F": "woman"}.get(gender, "person")
    article = "An" if age.startswith("8") or age in ("11", "18") else "A"
    aged = f"{article} {age}-year-old {who}" if age.isdigit() else f"A {who}, {age} years old"
    work = f"; occupation: {job}" if job not in ("other", "none", "") else ""
    return f"{aged}{work}."
