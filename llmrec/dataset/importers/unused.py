"""Columns that a mapping leaves out, though their cells look like something that llmrec can use."""

from __future__ import annotations

import re
import shlex

import polars as pl

from llmrec.dataset.importers.kinds import USUAL, plain_word
from llmrec.dataset.importers.reading import RawTable
from llmrec.dataset.importers.values import read_prices
from llmrec.dataset.importers.values.cells import as_text, without_missing
from llmrec.dataset.schema import show
from llmrec.errors import DataError

_MONEY = re.compile(r"price|cost|amount|revenue|msrp|preis|prix|precio")
_FACTS = re.compile(
    r"^(age|agegroup|birth|birthyear|dob|gender|sex|city|country|state|region|location|zip|zipcode|postcode|occupation|"
    r"job|profession|interest|interests|hobby|hobbies|income|education|language|marital|segment|tier|bio|about|"
    r"familysize|household\w*|device|signup\w*|joined|plan)$"
)
_RATING = re.compile(r"^(rating|stars|score|rate|overall|bookrating|ratings)$")
_TIME = re.compile(r"time|date|stamp")
_GROUPS = re.compile(r"categor|genre|tags?$|department|topic")
_BRAND = re.compile(r"^(brand|maker|manufacturer|vendor|artist|author|publisher|label|studio)$")
_TEXT = re.compile(r"descri|abstract|summary|plot|synopsis|body|details")
_SAMPLE = 100_000
_MOST = 12


def unused_columns(raw: RawTable, used: list[str], has: set[str]) -> list[str]:
    """What to say of the columns that are left out, one sentence each, and one that names the rest.

    Args:
        raw: The file's own columns.
        used: Names of those that a mapping uses.
        has: llmrec's columns that the table has.
    """
    said, rest, facts = [], [], []
    for column in raw.frame.get_columns():
        if column.name in used:
            continue
        ours = _means(column.head(_SAMPLE), raw.table, has)
        if ours == "profile":
            facts.append(column.name)
        elif ours:
            said.append(_sentence(raw, column, ours))
        else:
            rest.append(column.name)
    if facts:
        maps = " ".join(f"--map {shlex.quote(f'profile={name[:40]}')}" for name in facts[:_MOST])
        where = "" if raw.table == "users" else f" (they need --users {raw.path.name} too)"
        said.append(f"{raw.path.name}: facts of users in {_names(facts)} are left out: take them with {maps}{where}.")
    if rest:
        said.append(f"{raw.path.name}: left out the columns {_names(rest)}.")
    return said


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
    return ", ".join(show(name, 30) for name in names[:_MOST]) + more


def _means(column: pl.Series, table: str, has: set[str]) -> str:
    """llmrec's column that this one looks like, or nothing."""
    name = re.sub(r"[^a-z]", "", column.name.lower()[:60])
    known = column.drop_nulls()
    if not len(known):
        return ""
    if table == "events":
        if "kind" not in has and _kinds(known):
            return "kind"
        if "value" not in has and _RATING.match(name) and _numeric(known):
            return "value"
        if "time" not in has and _TIME.search(name):
            return "time"
        return "profile" if _FACTS.match(name) else ""
    if table == "users":
        return "profile"
    patterns = {"price": _MONEY, "categories": _GROUPS, "brand": _BRAND, "description": _TEXT}
    for ours, pattern in patterns.items():
        if ours not in has and pattern.search(name) and (ours != "price" or _numeric(known)):
            return ours
    return "price" if "price" not in has and _money(known) else ""


def _kinds(column: pl.Series) -> bool:
    """Whether a column holds few distinct words, most of them usual ones for kinds of events."""
    if column.dtype != pl.String or column.n_unique() > 30:
        return False
    words = column.unique().to_list()
    usual = sum(plain_word(word) in USUAL for word in words)
    return usual * 2 >= len(words)


def _numeric(column: pl.Series) -> bool:
    try:
        found = read_prices(without_missing(as_text(column))[0])
    except DataError:
        return False
    return int(found.bad.sum()) * 10 < len(column)


def _money(column: pl.Series) -> bool:
    """Whether most cells name a currency."""
    if column.dtype != pl.String:
        return False
    sign = column.str.contains(r"^\s*(?:[$€£¥₹]|USD|EUR|GBP)\s*\d|\d\s*(?:[$€£¥₹]|USD|EUR|GBP)\s*$")
    return int(sign.sum()) * 2 > len(column)


def _sentence(raw: RawTable, column: pl.Series, ours: str) -> str:
    known = column.drop_nulls()
    if ours == "kind":
        counts = known.value_counts(sort=True)
        held = ", ".join(f"{show(word, 20)} ({n:,})" for word, n in counts.head(5).iter_rows())
    else:
        held = ", ".join(show(value, 20) for value in known.head(2))
    option = shlex.quote(f"{ours}={column.name[:40]}")
    effect = " and every event counts alike" if ours == "kind" else ""
    return (
        f"{raw.path.name}: the column {show(column.name, 40)} holds {held}{effect}; it is left out unless you map it "
        f"with --map {option}."
    )
