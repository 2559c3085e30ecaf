"""Lists in a cell: categories divided by a mark, printed lists of Python, JSON and numpy, records with names."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from llmrec.dataset.importers.values.cells import Reading, none_bad, without_missing
from llmrec.dataset.schema import MISSING, TEXT_LIST, show
from llmrec.errors import DataError

_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_ENTITY = re.compile(r"&#?\w{1,31};")
_NAMES = ("name", "title", "label", "category", "genre", "value", "text", "tag", "description")
_RECORDS = ('{"', "{'", '["', "['", "[{")  # how a list or record in a list begins, unlike a title such as [Deluxe]
_LONGEST = 100_000  # characters of one printed list: longer ones are no lists of categories
_DEEPEST = 50  # lists within lists: no list of categories nests like that
_WANTED = "categories: a text, texts divided by a mark, a list of texts, or records with a name"


def read_categories(column: pl.Series, words: Sequence[str] = MISSING, *, separator: str | None = None) -> Reading:
    """(N) lists of text. Distinct cells are read once each.

    Printed lists (`['a', 'b']`, `["a", "b"]`) and records (`{"name": "a"}`, a list of them, or counts by name) are
    recognised. `separator` divides all other text; without one `|`, `;` and `>` do where a cell has them, and a
    comma or a slash where most of its parts stand in other cells too (so that "Clothing, Shoes & Jewelry" stays one).

    Raises:
        DataError: The cells are of a type that holds no categories; without its place.
    """
    dtype = column.dtype
    if dtype == pl.Null:
        return Reading(column.cast(TEXT_LIST), none_bad(len(column)), _WANTED)
    if isinstance(dtype, pl.List | pl.Array):
        return _listed(column, words)
    if dtype == pl.Struct:
        column = column.struct.json_encode()
    elif dtype.is_numeric() or dtype in (pl.Categorical, pl.Boolean) or isinstance(dtype, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        raise DataError(f"the cells are {dtype}, but they must be {_WANTED}")
    missing = {"", *words}
    _, said = without_missing(column.str.strip_chars(), words)
    # Parsing is slow and categories repeat: each distinct cell is read once.
    distinct = [t for t in column.unique().drop_nulls().to_list() if t.strip() not in missing]
    texts = [t for t in distinct if not _printed(t)]
    mark, notes = (separator, ()) if separator is not None else _separator(texts)
    found: dict[str, list[str] | None] = {}
    for text in distinct:
        parts = _parse(text.strip()) if _printed(text) else _divided(text, mark)
        found[text] = None if parts is None else _clean(parts, missing)
    if len(texts) < len(distinct):
        notes = (*notes, f"printed lists such as {show(next(t for t in distinct if _printed(t)), 40)} read as lists")
    notes = (*said, *notes)
    names = list(found)
    values = pl.Series("value", [found[n] for n in names], dtype=TEXT_LIST)
    table = pl.DataFrame({"key": pl.Series(names, dtype=pl.String), "value": values, "here": [True] * len(names)})
    joined = column.to_frame("key").join(table, on="key", how="left", maintain_order="left")
    bad = joined["here"].fill_null(False) & joined["value"].is_null()
    return Reading(joined["value"].alias(column.name), bad, _WANTED, notes)


def _listed(column: pl.Series, words: Sequence[str]) -> Reading:
    """Lists already; their elements may be texts, numbers, records or lists again (paths)."""
    missing = {"", *words}
    bad, lists = [], []
    for cell in column.to_list():
        parts = None if cell is None else _texts(cell)
        bad.append(cell is not None and parts is None)
        lists.append(None if parts is None else _clean(parts, missing))
    return Reading(pl.Series(column.name, lists, dtype=TEXT_LIST), pl.Series(bad, dtype=pl.Boolean), _WANTED)


def _clean(parts: Iterable[str], missing: set[str]) -> list[str]:
    return list(dict.fromkeys(part for p in parts if (part := p.strip()) not in missing))


def _printed(text: str) -> bool:
    text = text.strip()
    return (
        (text[:1] + text[-1:]) in ("[]", "{}", "()")
        and len(text) > 1
        and not (text[0] == "(" and not _QUOTED.search(text))
    )


def _parse(text: str, depth: int = 0) -> list[str] | None:
    """The texts of a printed list or record; None if it is none that can be read."""
    if len(text) > _LONGEST:
        return None
    tree = _tree(text)
    if tree is not None:
        return _texts(tree, depth)
    quoted = [first or second for first, second in _QUOTED.findall(text)]
    inside = text[1:-1].strip()
    if quoted and not re.sub(r"[\s,]|dtype=object", "", _QUOTED.sub("", inside)):
        return [re.sub(r"\\(.)", r"\1", part) for part in quoted]
    if text[0] == "[" and not set(inside) & set("[]{}\"'"):
        return inside.split(",")
    return None


def _tree(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    # Python joins texts that stand side by side ('a' 'b', as numpy prints lists), which would make one of two
    if re.search(r"['\"]\s+['\"]", _QUOTED.sub("''", text)):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _texts(tree: Any, depth: int = 0) -> list[str] | None:
    """The texts in a list, record or counts by name; None where a record has no name, or too much lies within."""
    if depth > _DEEPEST:  # how deep Python itself goes differs between its versions
        return None
    if isinstance(tree, str):
        tree = tree.strip()
        return _parse(tree, depth + 1) if tree[:2] in _RECORDS and _printed(tree) else [tree]
    if tree is None:
        return []
    if isinstance(tree, bool | int | float):
        return [str(tree)]
    if isinstance(tree, dict):
        # The first key that usually names a thing; other keys of a record are ids and links.
        name = next((key for key in _NAMES if isinstance(tree.get(key), str)), None)
        if name is not None:
            return [tree[name]]
        if tree and all(isinstance(v, bool | int | float) for v in tree.values()):
            return [str(key) for key, value in tree.items() if value]
        return [] if not tree else None
    if isinstance(tree, list | tuple | set):
        parts = [_texts(part, depth + 1) for part in tree]
        return None if any(p is None for p in parts) else [text for p in parts for text in p or ()]
    return None


def _divided(text: str, mark: str) -> list[str]:
    """The parts between marks; the semicolon of an entity such as &amp; is none."""
    if not mark:
        return [text]
    parts = _ENTITY.sub(lambda found: found[0][:-1] + "\0", text).split(mark) if mark == ";" else text.split(mark)
    return [part.replace("\0", ";") for part in parts]


def _separator(texts: list[str]) -> tuple[str, tuple[str, ...]]:
    """The mark that divides the categories of most cells, or none."""
    plain = [_ENTITY.sub("", text) for text in texts]
    counts = {mark: sum(mark in text for text in plain) for mark in ("|", ";", ">")}
    # The mark that divides most cells is the one that was meant; others may be part of a name.
    mark = max(counts, key=lambda m: counts[m])
    if counts[mark]:
        others = ", ".join(f"{m!r} too in {n:,}" for m, n in counts.items() if m != mark and n)
        more = f" (distinct cells have {others})" if others else ""
        return mark, (f"categories are divided by {mark!r}{more} (--option category_separator)",)
    notes: tuple[str, ...] = ()
    for mark in (",", "/"):  # which are parts of names as well
        cut = [text.split(mark) for text in plain if mark in text]
        if not cut:
            continue
        cells = Counter(part.strip() for text in plain for part in set(text.split(mark)))
        shared = [cells[part.strip()] > 1 for parts in cut for part in parts]
        first = show(next(text for text in texts if mark in text), 40)
        # Parts that stand in other cells too are categories; parts that stand once are halves of names.
        if sum(shared) * 2 >= len(shared):
            return mark, (f"categories such as {first} are divided by {mark!r} (--option category_separator)",)
        notes = (*notes, f"categories such as {first} are one each (--option category_separator={mark} divides them)")
    return "", notes
