"""JSON: an array of objects, one object a line, objects one after the other, or lines of printed Python objects."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from llmrec.bounded import HALF, MOST_COLUMNS, check_depth
from llmrec.dataset.importers.reading.account import Ledger
from llmrec.dataset.importers.reading.delimited import FIELD_LIMIT
from llmrec.dataset.importers.reading.encoding import BROKEN, decoded
from llmrec.dataset.importers.reading.options import ReadOptions
from llmrec.dataset.importers.reading.raw import RawTable
from llmrec.dataset.schema import show
from llmrec.errors import DataError

Found = tuple[int, Any]  # line, object
_BLANK = re.compile(r"\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_EXACT = 2**53
_HEAD, _LINES = 1 << 16, 5  # characters and lines from which the layout is found
_INT64 = 2**63


class _Bad(ValueError):
    """A text that is no object, with the line it begins in; `last` if what follows cannot be told apart."""

    def __init__(self, line: int, reason: str, *, last: bool = False) -> None:
        super().__init__(reason)
        self.line, self.last = line, last


def read_records(data: bytes, path: Path, options: ReadOptions, ledger: Ledger, table: str) -> RawTable:
    """The table of a JSON file: a column a key, in the order of first sight.

    Columns of whole numbers, numbers, booleans and texts have these types; a column with lists holds lists of text;
    objects are JSON text, and a column of mixed kinds is text. NaN, which is no JSON, is null.

    Raises:
        DataError: It is none of the layouts, or an object is bad and bad ones are not skipped.
    """
    source = decoded(data, options, str(path))
    text = source.data.decode("utf-8", "surrogateescape")
    if source.encoding != "utf-8":
        ledger.assume(f"{path.name}: {source.encoding.upper()}.")
    layout, objects = _layout(text, path)
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    bad: list[tuple[int, str]] = []
    for line, value, reason in _checked(objects, text, path):
        if reason:
            bad.append((line, reason))
        else:
            rows.append(value)
            lines.append(line)
    if bad:
        line, reason = bad[0]
        ledger.bad("no object of JSON", table, [n for n, _ in bad], f"{path}, line {line} {reason}")
    ledger.limit(table, len(rows) + len(bad))
    ledger.assume(f"{path.name}: {layout}.")
    frame = _frame(rows, path)
    return RawTable(
        frame=frame,
        path=path,
        line=pl.Series("line", lines, dtype=pl.UInt32),
        rows_in=len(rows) + len(bad),
        table=table,
    )


def _layout(text: str, path: Path) -> tuple[str, Iterator[Found]]:
    start = _BLANK.match(text)
    place = start.end() if start else 0
    if place == len(text):
        raise DataError(f"{path} is empty; write one object a line, or an array of objects.")
    if text[place] == "[":
        return "an array of JSON objects", _array(text, place + 1)
    end = text.find("\n", place)
    first = text[place : len(text) if end < 0 else end].strip()
    heads = [first, *(line.strip() for line in text[place : place + _HEAD].split("\n")[1:_LINES])]
    for parse, said in ((_json, "one JSON object a line"), (_python, "one printed Python object a line")):
        if any(head.startswith("{") and head.endswith("}") and _is_object(head, parse) for head in heads):
            return said, _by_line(text, parse)
    if first.startswith("{") and _is_object_at(text, place):
        return "JSON objects one after the other", _one_after_the_other(text, place)
    return "one JSON object a line", _by_line(text, _json)


def _is_object_at(text: str, place: int) -> bool:
    try:
        return isinstance(_DECODER.raw_decode(text, place)[0], dict)
    except (ValueError, RecursionError):
        return False


def _is_object(line: str, parse: Callable[[str], Any]) -> bool:
    try:
        return isinstance(parse(line), dict)
    except ValueError:
        return False


def _whole(digits: str) -> int | str:
    """A whole number; one with very many digits stays text."""
    return int(digits) if len(digits) < 100 else digits


_DECODER = json.JSONDecoder(parse_constant=lambda name: None, parse_int=_whole)


def _json(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise ValueError(error.msg) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _python(line: str) -> Any:
    if len(line) > 16 * FIELD_LIMIT:
        raise ValueError("it is too long")
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise ValueError("it is no printed Python object either") from None


def _by_line(text: str, parse: Callable[[str], Any]) -> Iterator[Found]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace():
            try:
                yield number, parse(line)
            except ValueError as error:
                yield number, _Bad(number, f"is not JSON ({error})")


def _array(text: str, place: int) -> Iterator[Found]:
    """The elements of an array; after one that is broken nothing more can be told apart."""
    line, counted = 1, 0
    while True:
        place = _skip(text, place)
        line, counted = line + text.count("\n", counted, place), place
        if text[place : place + 1] == "]" or place >= len(text):
            if place >= len(text):
                yield line, _Bad(line, "ends before the array does; the file is cut off", last=True)
            elif text[place + 1 :].strip():
                yield line, _Bad(line, "goes on after the end of the array", last=True)
            return
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deep"
            at = text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else line
            yield line, _Bad(at, f"is not JSON ({reason}), and what follows in the array cannot be read", last=True)
            return
        yield line, value
        place = _skip(text, place)
        if text[place : place + 1] == ",":
            place += 1


def _one_after_the_other(text: str, place: int) -> Iterator[Found]:
    line, counted = 1, 0
    while (place := _skip(text, place)) < len(text):
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            yield line, _Bad(line, "begins no whole JSON object, and what follows cannot be read", last=True)
            return
        yield line, value


def _skip(text: str, place: int) -> int:
    blank = _BLANK.match(text, place)
    return blank.end() if blank else place


def _checked(objects: Iterator[Found], text: str, path: Path) -> Iterator[tuple[int, Any, str]]:
    suspicious = (
        "\0" in text or "\\u0000" in text or "\\x00" in text or (BROKEN.search(text) or HALF.search(text)) is not None
    )
    deep = text.count("[") + text.count("{") > 64
    for line, value in objects:
        if isinstance(value, _Bad) and value.last:  # nobody can count the rows that are lost
            raise DataError(f"{path}, line {value.line} {value}; mend it, or write one object a line.")
        if isinstance(value, _Bad):
            yield value.line, None, str(value)
        elif not isinstance(value, dict):
            yield line, None, f"holds {type(value).__name__}, not an object with keys"
        else:
            yield line, value, _fault(value, suspicious, deep)


def _fault(value: dict[str, Any], suspicious: bool, deep: bool) -> str:
    if deep:
        try:
            check_depth(value)
        except ValueError:
            return "is nested too deep"
    for key, cell in value.items():
        if len(str(key)) > 200:
            return "has a key of more than 200 characters"
        if isinstance(cell, str) and len(cell) > FIELD_LIMIT:
            return f"has a value of more than {FIELD_LIMIT:,} characters under {show(key, 40)}"
    if suspicious:
        whole = json.dumps(value, ensure_ascii=False, default=str)
        if "\0" in whole or "\\u0000" in whole:
            return "holds a NUL byte, which is no text"
        if _SURROGATE.search(whole):
            return "holds bytes that are not of the file's encoding, or half of a character (a lone surrogate)"
    return ""


def _frame(rows: list[dict[str, Any]], path: Path) -> pl.DataFrame:
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    if len(names) > MOST_COLUMNS:
        raise DataError(
            f"{path} has {len(names):,} different keys, which no table has; write one object a row, with the same "
            "keys in each."
        )
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in names])


def _column(name: str, values: list[Any]) -> pl.Series:
    values = [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
    kinds = {type(value) for value in values if value is not None}
    if any(issubclass(kind, list | tuple | set) for kind in kinds):
        lists = [None if v is None else [_text(t) for t in _items(v) if t is not None] for v in values]
        return pl.Series(name, lists, dtype=pl.List(pl.String))
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {int} and all(v is None or -_INT64 <= v < _INT64 for v in values):
        return pl.Series(name, values, dtype=pl.Int64)
    if kinds <= {int, float} and kinds and all(v is None or abs(v) <= _EXACT or type(v) is float for v in values):
        return pl.Series(name, values, dtype=pl.Float64)
    return pl.Series(name, [None if v is None or v == "" else _text(v) for v in values], dtype=pl.String)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _text(value: Any) -> str:
    """Text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False, default=str)
