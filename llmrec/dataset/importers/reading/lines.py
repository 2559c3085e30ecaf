"""Reading files of strangers: every fault is one sentence that names the file and the line."""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrec.bounded import Unpacked, parse_json
from llmrec.errors import DataError
from llmrec.progress import Bar

_TAG = re.compile(r"<[^<>]{0,2000}>")
LONGEST_LINE = 16 << 20
"""The longest line of a streamed file in bytes."""


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of `names` that is a file in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def need_file(folder: Path, *names: str) -> Path:
    """Like `find_file`, but a missing file is a `DataError` that says what is there instead."""
    found = find_file(folder, *names)
    if found is None:
        there = sorted(p.name for p in folder.iterdir())[:12] if folder.is_dir() else []
        raise DataError(f"{folder} has no {' or '.join(names)} (it has: {', '.join(there) or 'nothing'}).")
    return found


def read_lines(path: Path, encoding: str = "utf-8", *, description: str | None = None) -> Iterator[tuple[int, str]]:
    """Streams (line number from 1, text without the line end) of a plain or gzipped file.

    With a `description` a progress bar counts the bytes read.

    Raises:
        DataError: Bytes that are not `encoding`, NUL bytes, a line without end, or a gzip file that ends early or
            unpacks beyond all measure; named with the line.
    """
    watched = Bar(description, path.stat().st_size) if description else contextlib.nullcontext()
    with watched as bar, path.open("rb") as raw:
        number = start = 0
        lines = Unpacked(raw, held=False).lines(LONGEST_LINE)
        while True:
            try:
                line = next(lines, None)
            except ValueError as error:
                raise DataError(f"{path}: {error} (after line {number}).") from None
            if line is None:
                return
            number += 1
            if len(line) > LONGEST_LINE:
                raise DataError(
                    f"{path}, line {number} is longer than {LONGEST_LINE >> 20} MiB, which no row is; mend that line."
                )
            yield number, _decoded(line, path, number, start, encoding)
            start += len(line)
            if bar and number % 10_000 == 0:
                bar.advance(raw.tell() - bar.done)


def _decoded(line: bytes, path: Path, number: int, start: int, encoding: str) -> str:
    if b"\0" in line and not encoding.startswith("utf-16"):
        raise DataError(f"{path}, line {number} holds a NUL byte, which is no text; mend that line.")
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: byte {start + error.start} (0x{line[error.start]:02x}) is not "
            f"{encoding.upper()}; save the file as {encoding.upper()}."
        ) from None
    return text.removeprefix("\ufeff").rstrip("\r\n") if number == 1 else text.rstrip("\r\n")


def read_json_lines(path: Path, *, description: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Streams (line number, object) of a JSON-lines file; empty lines are passed over.

    Raises:
        DataError: A line that is not a JSON object, named with its number.
    """
    for number, line in read_lines(path, description=description):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON ({error}); mend or remove that line.") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number} is {type(value).__name__}, not an object with keys; mend it.")
        yield number, value


def read_fields(path: Path, separator: str, width: int, encoding: str = "utf-8") -> Iterator[tuple[int, list[str]]]:
    """Streams (line number, fields) of an unquoted file whose every line has `width` fields."""
    for number, line in read_lines(path, encoding):
        if not line:
            continue
        fields = line.split(separator)
        if len(fields) != width:
            raise DataError(
                f"{path}, line {number} has {len(fields)} fields where {width} separated by {separator!r} are "
                "expected; mend that line."
            )
        yield number, fields


def number(value: str, path: Path, line: int, name: str) -> float:
    """`value` as a finite number, or a `DataError` that names file, line and field."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if found != found or found in (float("inf"), float("-inf")):
        raise DataError(f"{path}, line {line}: {name} is {str(value)[:60]!r}, but it must be a number.")
    return found


def plain_text(text: str) -> str:
    """Markup taken out: tags dropped, entities resolved, white space collapsed."""
    return " ".join(_TAG.sub(" ", html.unescape(text)).split())
