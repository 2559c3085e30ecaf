"""Columns that a mapping leaves out, though their cells look like something that llmrec can use."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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


class LeftOut:
    """The columns of all files that no table uses, and what those look like that could be used."""

    def __init__(self) -> None:
        self._used: dict[Path, set[str]] = {}
        self._found: dict[Path, dict[str, tuple[str, str]]] = {}

    def add(self, raw: RawTable, used: list[str], has: set[str]) -> None:
        """Takes the columns of one file as it is used for one table.

        Args:
            raw: The file's own columns.
            used: Names of those that the table uses.
            has: llmrec's columns that the table has.
        """
        self._used.setdefault(raw.path, set()).update(used)
        found = self._found.setdefault(raw.path, {})
        for column in raw.frame.get_columns():
            if column.name in self._used[raw.path]:
                continue
            ours = _means(column.head(_SAMPLE), raw.table, has)
            if ours not in ("", "profile"):
                found[column.name] = (ours, _sentence(raw, column, ours))
            elif ours or column.name not in found:
                found[column.name] = (ours, "")

    def sentences(self) -> list[str]:
        """What to say of the columns left out: a sentence for each of use, and one a file for the rest."""
        said = []
        for path, found in self._found.items():
            left = {name: entry for name, entry in found.items() if name not in self._used[path]}
            said += [text for ours, text in left.values() if ours not in ("", "profile")]
            facts = [name for name, (ours, _) in left.items() if ours == "profile"]
            if facts:
                maps = " ".join(f"--map {shlex.quote(f'profile={name[:40]}')}" for name in facts[:_MOST])
                said.append(f"{path.name}: facts of users in {_names(facts)} are left out: take them with {maps}.")
            rest = [name for name, (ours, _) in left.items() if not ours]
            if rest:
                said.append(f"{path.name}: left out the columns {_names(rest)}.")
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
        held = ", ".join(show(value, 20) for value in known.unique(maintain_order=True).head(2))
    option = shlex.quote(f"{ours}={column.name[:40]}")
    effect = " and every event counts alike" if ours == "kind" else ""
    return (
        f"{raw.path.name}: the column {show(column.name, 40)} holds {held}{effect}; it is left out unless you map it "
        f"with --map {option}."
    )
