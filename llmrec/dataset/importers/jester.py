"""Jester (Goldberg et al. 2001), the sample of 5,000 users: jokes rated from -10 to 10.

Two files: `ratings.csv` with the columns user, joke, rating, and `jokes.json`, the list of the texts in the order of
the joke numbers. Users who rated every joke make every counterfactual known, which off-policy estimates are tried on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from llmrec.bounded import parse_json, read_document
from llmrec.dataset.importers.reading import need_file, number, plain_text, read_csv_rows
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray

SOURCE = "https://eigentaste.berkeley.edu/dataset/"
TERMS = "Free for research, with citation of Goldberg et al. 2001. Some jokes are offensive."
PROXY = "Jester logs ratings only: one above 0 stands for a click and one of 5 or more for a conversion."
PARTS = ("train", "valid", "test")
SHARES = (0.8, 0.1, 0.1)
"""Of the ratings, drawn at random: the data names no moments, and a later part counts as a later time."""
WIDEST = 10.0
_COLUMNS = ("user", "joke", "rating")
_TITLE_WORDS = 8


def import_jester(source: Path, *, name: str = "jester", seed: int = 0) -> Dataset:
    """Imports the folder with ratings.csv (or .gz) and jokes.json.

    A joke's title is its number and first words, its description the text. Ratings are shared out at random to
    train, valid and test (column `split`, see `SHARES`).

    Args:
        source: The folder.
        name: Name of the data set.
        seed: Seed of the shares.

    Raises:
        DataError: A file or column is missing, or a line is broken; named with its number.
    """
    if source.is_file():
        raise DataError(f"{source} is a file; give the folder that holds ratings.csv and jokes.json.")
    path = need_file(source, "ratings.csv.gz", "ratings.csv")
    jokes = _jokes(need_file(source, "jokes.json"))
    user_M, joke_M, rating_M = _ratings(path, len(jokes))
    part_M = numpy_stream(seed, "jester", "split").choice(len(PARTS), size=len(user_M), p=SHARES)
    return Dataset.build(
        pl.DataFrame([_item(n, text) for n, text in enumerate(jokes)]),
        pl.DataFrame({"user_id": [f"u{u}" for u in sorted(set(user_M))]}),
        pl.DataFrame(
            {
                "user_id": [f"u{u}" for u in user_M],
                "item_id": [f"j{n}" for n in joke_M],
                "kind": ["rating"] * len(user_M),
                "time": part_M,
                "value": rating_M,
                "split": [PARTS[part] for part in part_M],
            }
        ),
        name=name,
        domain="social",
        source=SOURCE,
        terms=TERMS,
        repeat="exclude",
        click="rating>=0.01",
        conversion="rating>=5",
        proxy=PROXY,
    )


def rating_table(dataset: Dataset) -> FloatArray:
    """Ratings as a table of users by jokes, nan where a user did not rate: (U, N)."""
    table_UN = np.full((dataset.users.height, dataset.n_items), np.nan)
    users = dataset.events["user_id"].replace_strict(dataset.user_index, return_dtype=pl.Int64)
    jokes = dataset.events["item_id"].replace_strict(dataset.item_index, return_dtype=pl.Int64)
    table_UN[users.to_numpy(), jokes.to_numpy()] = dataset.events["value"].to_numpy()
    return table_UN


def _jokes(path: Path) -> list[str]:
    try:
        found = parse_json(read_document(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON in UTF-8 ({error}); fetch it again.") from None
    if not isinstance(found, list) or not found:
        raise DataError(f"{path} must be a list of the jokes' texts; fetch it again.")
    for n, text in enumerate(found):
        if not isinstance(text, str) or not plain_text(text):
            raise DataError(f"{path}: joke {n} (counted from 0) has no text; write one.")
    return [plain_text(text) for text in found]


def _item(n: int, text: str) -> dict[str, object]:
    words = text.split()
    more = " …" if len(words) > _TITLE_WORDS else ""
    return {"item_id": f"j{n}", "title": f"Joke {n}: {' '.join(words[:_TITLE_WORDS])}{more}", "description": text}


def _ratings(path: Path, jokes: int) -> tuple[list[int], list[int], list[float]]:
    seen: dict[tuple[int, int], float] = {}
    for line, row in read_csv_rows(path, _COLUMNS, description=f"Reading {path.name}"):
        user, joke = (_whole(row[key], path, line, key) for key in ("user", "joke"))
        rating = number(row["rating"], path, line, "rating")
        if joke >= jokes:
            raise DataError(
                f"{path}, line {line}: joke {joke} is not among the {jokes} of jokes.json; mend that line."
            )
        if abs(rating) > WIDEST:
            raise DataError(
                f"{path}, line {line}: rating is {rating:g}, outside -10 to 10; leave out jokes that were not rated."
            )
        if (user, joke) in seen:
            raise DataError(f"{path}, line {line}: user {user} rated joke {joke} before; keep one of the lines.")
        seen[user, joke] = rating
    if not seen:
        raise DataError(f"{path} holds no rating; fetch it again.")
    return [user for user, _ in seen], [joke for _, joke in seen], list(seen.values())


def _whole(text: str, path: Path, line: int, name: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise DataError(f"{path}, line {line}: {name} is {text[:60]!r}, but it must be a whole number from 0.")
    return int(text)
