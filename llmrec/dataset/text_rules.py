"""Soft rules about text and attributes: masks over items and users."""

from __future__ import annotations

import polars as pl

from llmrec.dataset.missing import MISSING
from llmrec.dataset.store import Dataset

LONG_TITLE = 300
"""Characters; a title is decoded token by token, so a long one makes every recommendation slow."""
LONG_TEXT = 20_000
"""Characters of a description; prompts show only its beginning."""

_CONTROL = r"[\p{Cc}\p{Cf}--[\t\n\r\u{200c}\u{200d}]]"  # joiners belong to emoji and to Persian and Indic script
_MARKUP = r"(?i)<\|[^|<>]{0,60}\|>|</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(#\d+|#x[0-9a-f]+|[a-z]{2,8});|\[/?INST\]"


def equal_titles(dataset: Dataset, now: int) -> pl.Series:
    """Items that share their title with another one."""
    return dataset.items["title"].is_duplicated()


def missing_items(dataset: Dataset, now: int) -> pl.Series:
    """Items whose id or title is a word for a missing value, such as nan."""
    return dataset.items["title"].str.strip_chars().is_in(MISSING) | dataset.items["item_id"].is_in(MISSING)


def missing_users(dataset: Dataset, now: int) -> pl.Series:
    """Users whose id is a word for a missing value."""
    return dataset.users["user_id"].is_in(MISSING)


def empty_description(dataset: Dataset, now: int) -> pl.Series:
    """Items without a description."""
    return dataset.items["description"].str.strip_chars() == ""


def long_text(dataset: Dataset, now: int) -> pl.Series:
    """Items with a title or description of unusual length."""
    items = dataset.items
    return (items["title"].str.len_chars() > LONG_TITLE) | (items["description"].str.len_chars() > LONG_TEXT)


def item_control_characters(dataset: Dataset, now: int) -> pl.Series:
    """Items whose title or description holds control or invisible characters other than tab and newline."""
    return _in_item(dataset, _CONTROL)


def item_markup(dataset: Dataset, now: int) -> pl.Series:
    """Items whose title or description holds HTML tags, HTML entities or chat markers."""
    return _in_item(dataset, _MARKUP)


def negative_price(dataset: Dataset, now: int) -> pl.Series:
    """Items with a price below 0."""
    return (dataset.items["price"] < 0).fill_null(False)


def user_control_characters(dataset: Dataset, now: int) -> pl.Series:
    """Users whose profile holds control or invisible characters."""
    return dataset.users["profile"].str.contains(_CONTROL)


def user_markup(dataset: Dataset, now: int) -> pl.Series:
    """Users whose profile holds HTML or chat markers."""
    return dataset.users["profile"].str.contains(_MARKUP)


def _in_item(dataset: Dataset, pattern: str) -> pl.Series:
    return dataset.items["title"].str.contains(pattern) | dataset.items["description"].str.contains(pattern)
