"""Rows of public layouts, streamed: dialect and fields are found as by `read_table`, but the table is not held."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmrec.bounded import Unpacked
from llmrec.dataset.importers.reading.delimited import FIELD_LIMIT
from llmrec.dataset.importers.reading.dialect import (
    AmbiguousQuote,
    DelimitedRow,
    Splitter,
    detect,
    numeric_columns,
    shown_names,
)
from llmrec.dataset.importers.reading.encoding import BROKEN, encoding_of
from llmrec.dataset.importers.reading.options import ReadOptions
from llmrec.errors import DataError
from llmrec.progress import Bar

_HEAD = 256 << 10  # characters from which the dialect is found
_AHEAD = 2 * FIELD_LIMIT  # what a row that begins before it may reach beyond the part that is cut


def read_csv_rows(
    path: Path, columns: Iterable[str] = (), *, description: str | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Streams (line number, row) of a text table with a line of names; every row must have as many fields.

    With a `description` a progress bar counts the bytes read.

    Raises:
        DataError: The file is empty, a name stands twice, or one of `columns` is missing; or a row has another number
            of fields, NUL bytes, or bytes of another encoding, named with its line.
    """
    parts = _parts(path, description)
    text, last = next(parts)
    while len(text) < _HEAD and not last:
        part, last = next(parts)
        text += part
    splitter, names = _opened(text, path, whole=last)
    missing = next((column for column in columns if column not in names), None)
    if missing is not None:
        raise DataError(f"{path} lacks the column {missing!r} (it has: {shown_names(names)}); is it this data?")
    line, header = 1, True
    while True:
        end = 0
        suspicious = "\0" in text or BROKEN.search(text) is not None
        for row, after in _rows(splitter, text, len(text) if last else len(text) - _AHEAD, line, path):
            if after > len(text) and not last:
                raise DataError(f"{path}, line {row.line} is longer than a row can be; mend that line.")
            if suspicious or after - end > FIELD_LIMIT or len(row.fields) != len(names):
                _check(row, len(names), path)
            end = after
            if header:
                header = False
            else:
                yield row.line, dict(zip(names, row.fields, strict=True))
        if last:
            return
        line += text.count("\n", 0, end)
        part, last = next(parts)
        text = text[end:] + part


def _parts(path: Path, description: str | None) -> Iterator[tuple[str, bool]]:
    """Text with plain line ends, and whether it is the last."""
    watched = Bar(description, path.stat().st_size) if description else contextlib.nullcontext()
    with watched as bar, path.open("rb") as raw:
        chunks = Unpacked(raw, held=False).chunks()
        try:
            first = b""
            while len(first) < _HEAD and (chunk := next(chunks, b"")):
                first += chunk
            encoding, mark = encoding_of(first[: first.rfind(b"\n") + 1] or first, str(path))
            bytes_to_text = codecs.getincrementaldecoder(encoding)("surrogateescape")
            decoder = io.IncrementalNewlineDecoder(bytes_to_text, translate=True)
            yield decoder.decode(first[mark:]), False
            for chunk in chunks:
                if bar:
                    bar.advance(raw.tell() - bar.done)
                yield decoder.decode(chunk), False
            yield decoder.decode(b"", final=True), True
        except ValueError as error:
            raise DataError(f"{path}: {error}.") from None


def _opened(text: str, path: Path, *, whole: bool) -> tuple[Splitter, list[str]]:
    dialect, sample = detect(text[:_HEAD], ReadOptions(), path.suffix, str(path), whole=whole and len(text) <= _HEAD)
    if not sample:
        raise DataError(f"{path} is empty; a CSV file starts with a line of column names.")
    names = [name.strip() for name in sample[0].fields]
    repeated = next((name for n, name in enumerate(names) if name in names[:n]), None)
    if repeated is not None:
        raise DataError(f"{path} names the column {repeated[:60]!r} twice; rename one of them.")
    splitter = Splitter(dialect)
    splitter.width = len(names)
    splitter.numeric = numeric_columns([row.fields for row in sample[1:]], len(names))
    return splitter, names


def _rows(splitter: Splitter, text: str, stop: int, line: int, path: Path) -> Iterator[tuple[DelimitedRow, int]]:
    try:
        yield from splitter.rows(text, 0, max(stop, 0), line)
    except AmbiguousQuote as error:
        raise DataError(
            f"{path}, line {error.args[0]}: a quote sign opens a field over several lines, each of which could be a "
            "row by itself; double quote signs that are text, and put them around the field."
        ) from None


def _check(row: DelimitedRow, width: int, path: Path) -> None:
    where = f"{path}, line {row.line}"
    if len(row.fields) != width:
        raise DataError(
            f"{where} has {len(row.fields)} fields where its header has {width}; quote fields that hold a separator."
        )
    whole = "".join(row.fields)
    if "\0" in whole:
        raise DataError(f"{where} holds a NUL byte, which is no text; mend that line.")
    if broken := BROKEN.search(whole):
        raise DataError(f"{where}: byte 0x{ord(broken[0]) - 0xDC00:02x} is not of the file's encoding; mend it.")
    if any(len(field) > FIELD_LIMIT for field in row.fields):
        raise DataError(f"{where} has a field of more than {FIELD_LIMIT:,} characters, which is no value; mend it.")
