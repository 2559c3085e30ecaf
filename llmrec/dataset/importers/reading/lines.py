"""Reading files of strangers: every fault is one sentence that names the file and the line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import html
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from llmrec.errors import DataError
from llmrec.progress import Bar

_TAG = re.compile(r"<[^<>]{0,2000}>")
_BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


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
        DataError: Bytes that are not `encoding`, or a gzip file that ends early; named with line and byte.
    """
    watched = Bar(description, path.stat().st_size) if description else contextlib.nullcontext()
    with watched as bar, path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw
        number = start = 0
        try:
            for number, line in enumerate(stream, start=1):
                yield number, _decoded(line, path, number, start, encoding)
                start += len(line)
                if bar and number % 10_000 == 0:
                    bar.advance(raw.tell() - bar.done)
        except _BROKEN_GZIP as error:
            raise DataError(f"{path} is a broken gzip file after line {number} ({error}); fetch it again.") from None


def _decoded(line: bytes, path: Path, number: int, start: int, encoding: str) -> str:
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
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deep"
            raise DataError(f"{path}, line {number} is not JSON ({reason}); mend or remove that line.") from None
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


def read_csv_rows(
    path: Path, separator: str = ",", *, description: str | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Streams (line number, row) of a quoted CSV file with a header; every row must have the header's fields."""
    lines = (line for _, line in read_lines(path, description=description))
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator)
    try:
        header = next(reader, None)
        if not header:
            raise DataError(f"{path} is empty; a CSV file starts with a line of column names.")
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num} has {len(row)} fields where its header has {len(header)}; "
                    "quote fields that hold a comma."
                )
            if row:
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not CSV ({error}); mend that line.") from None


def number(value: str, path: Path, line: int, name: str) -> float:
    """`value` as a finite number, or a `DataError` that names file, line and field."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if found != found or found in (float("inf"), float("-inf")):
        raise DataError(f"{path}, line {line}: {name} is {str(value)[:60]!r}, but it must be a number.")
    return found


def read_numbers(path: Path, text: bytes, columns: list[str], *, separator: str, header: bool) -> pl.DataFrame:
    """A table of numbers only (ids, ratings, times) from the bytes `text` of `path`; columns are Float64 or Int64.

    Raises:
        DataError: The first line whose fields are not numbers.
    """
    schema = {name: pl.Float64 if name == "value" else pl.Int64 for name in columns}
    try:
        frame = pl.read_csv(
            text, separator=separator, has_header=header, new_columns=columns, schema_overrides=list(schema.values())
        )
    except pl.exceptions.PolarsError:
        frame = None
    if frame is not None and frame.width == len(columns):
        finite = frame["value"].is_finite() if "value" in columns else pl.Series([True])
        if finite.all() and not any(frame.null_count().row(0)):
            return frame
    for number_, line in enumerate(text.decode("latin-1").splitlines()[int(header) :], start=1 + int(header)):
        fields = line.split(separator)
        if line and (len(fields) != len(columns) or not all(map(_is_number, fields, columns))):
            raise DataError(
                f"{path}, line {number_} is {line[:80]!r}, but it must hold the {len(columns)} numbers "
                f"{', '.join(columns)}; mend that line."
            )
    raise DataError(f"{path} holds no rows of the numbers {', '.join(columns)}.")


def _is_number(text: str, column: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?" if column == "value" else r"\d+", text.strip()) is not None


def plain_text(text: str) -> str:
    """Markup taken out: tags dropped, entities resolved, white space collapsed."""
    return " ".join(_TAG.sub(" ", html.unescape(text)).split())
