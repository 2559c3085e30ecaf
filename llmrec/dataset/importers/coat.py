"""Coat Shopping (Schnabel et al. 2016): ratings of coats that users picked themselves, and of coats drawn at random.

290 users rated 24 coats of their own choice (train) and 16 uniformly random ones (test), so the test says without
bias how a model of self-selected ratings does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from llmrec.dataset.importers.reading import find_file, need_file, number, read_lines
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.types import FloatArray

SOURCE = "https://www.cs.cornell.edu/~schnabts/mnar/"
TERMS = "No licence is stated; research use, with citation of Schnabel et al. 2016."
PROXY = "Coat logs ratings only: any rating stands for a click and a rating of 4 or more for a conversion."
TIMES = {"train": 0, "test": 1}
"""The data names no moments; the test part counts as later."""
_FEATURES = "user_item_features"


def import_coat(source: Path, *, name: str = "coat", propensities: bool = True) -> Dataset:
    """Imports the folder with train.ascii, test.ascii and the folder of features.

    Ratings become events with `split` train or test. With `propensities` each train event carries the published
    P(rated | user, item) where the file is there; a test event carries its share of random coats.

    Args:
        source: The folder.
        name: Name of the data set.
        propensities: Attach propensities.

    Raises:
        DataError: A file is missing, or a table has another shape or a value that cannot be.
    """
    if source.is_file():
        raise DataError(f"{source} is a file; give the folder that holds train.ascii and test.ascii.")
    train_UN = _matrix(need_file(source, "train.ascii", "train.ascii.gz"))
    test_UN = _matrix(need_file(source, "test.ascii", "test.ascii.gz"), train_UN.shape)
    users, coats = (_feature_words(source / _FEATURES, who) for who in ("user", "item"))
    for who, words, size in (("user", users, train_UN.shape[0]), ("item", coats, train_UN.shape[1])):
        if len(words) != size:
            raise DataError(f"{source / _FEATURES} describes {len(words)} {who}s where the ratings have {size}.")
    chosen_UN = _published(source, train_UN.shape) if propensities else None
    uniform_UN = np.broadcast_to((test_UN > 0).mean(axis=1, keepdims=True), test_UN.shape) if propensities else None
    events = pl.concat([_events(train_UN, "train", chosen_UN), _events(test_UN, "test", uniform_UN)])
    return Dataset.build(
        pl.DataFrame([_coat(n, words) for n, words in enumerate(coats)]),
        pl.DataFrame([{"user_id": f"u{u}", "profile": _profile(words)} for u, words in enumerate(users)]),
        events,
        name=name,
        domain="shop",
        source=SOURCE,
        terms=TERMS,
        repeat="exclude",
        click="rating",
        conversion="rating>=4",
        proxy=PROXY,
    )


def _matrix(path: Path, shape: tuple[int, ...] | None = None, high: float = 5.0) -> FloatArray:
    """Numbers in rows of equal length, each from 0 to `high`."""
    rows: list[list[float]] = []
    for line, text in read_lines(path):
        if text.strip():
            rows.append([number(value, path, line, "a value") for value in text.split()])
            if len(rows[-1]) != len(rows[0]) or min(rows[-1]) < 0 or max(rows[-1]) > high:
                raise DataError(f"{path}, line {line} must hold {len(rows[0])} numbers from 0 to {high:g}; mend it.")
    found = np.array(rows)
    if not rows or (shape is not None and found.shape != shape):
        wanted = "" if shape is None else f" where {shape} is expected"
        raise DataError(f"{path} holds a table of shape {found.shape}{wanted}; fetch it again.")
    return found


def _published(source: Path, shape: tuple[int, ...]) -> FloatArray | None:
    path = find_file(source, "propensities.ascii.gz", "propensities.ascii")
    return None if path is None else _matrix(path, shape, high=1.0)


def _feature_words(folder: Path, who: str) -> list[list[tuple[str, str]]]:
    """The (feature, value) pairs that each user or item has."""
    names = []
    for line, text in read_lines(need_file(folder, f"{who}_features_map.txt")):
        feature, colon, value = text.strip().partition(":")
        if text.strip() and not colon:
            raise DataError(f"{folder / f'{who}_features_map.txt'}, line {line} is not feature:value; mend it.")
        if colon:
            names.append((feature, value))
    flags_XF = _matrix(need_file(folder, f"{who}_features.ascii"), high=1.0)
    if flags_XF.shape[1] != len(names):
        raise DataError(
            f"{folder / f'{who}_features.ascii'} has {flags_XF.shape[1]} columns for {len(names)} feature names."
        )
    return [[name for name, flag in zip(names, row, strict=True) if flag] for row in flags_XF]


def _coat(n: int, words: list[tuple[str, str]]) -> dict[str, object]:
    has = dict(words)
    who, kind, colour = has.get("gender", ""), has.get("jackettype", "other"), has.get("color", "other")
    title = f"{colour.capitalize()} {kind} coat for {who or 'all'} (no. {n})"
    front = "Shown on the front page." if has.get("onfrontpage") == "yes" else ""
    return {"item_id": f"c{n}", "title": title, "description": front, "categories": [who, kind, colour], "brand": ""}


def _profile(words: list[tuple[str, str]]) -> str:
    has = dict(words)
    who = {"men": "man", "women": "woman"}.get(has.get("gender", ""), "person")
    return (
        f"A {who} aged {has.get('age', 'unknown')}; lives in a {has.get('location', 'unknown')} place; "
        f"{has.get('fashioninterest', 'unknown')} interested in fashion."
    )


def _events(rating_UN: FloatArray, part: str, propensity_UN: FloatArray | None) -> pl.DataFrame:
    user_M, item_M = np.nonzero(rating_UN)
    chance = None if propensity_UN is None else propensity_UN[user_M, item_M]
    return pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in user_M],
            "item_id": [f"c{n}" for n in item_M],
            "kind": ["rating"] * len(user_M),
            "time": [TIMES[part]] * len(user_M),
            "value": rating_UN[user_M, item_M],
            "propensity": pl.Series([None] * len(user_M) if chance is None else chance, dtype=pl.Float64),
            "split": [part] * len(user_M),
        }
    )
