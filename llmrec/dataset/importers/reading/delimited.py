"""Text tables: chunks that are provably plain go through polars, all others through the exact splitter."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from llmrec.bounded import MOST_COLUMNS
from llmrec.dataset.importers.reading.account import EXAMPLES, Ledger
from llmrec.dataset.importers.reading.dialect import (
    AmbiguousQuote,
    DelimitedRow,
    Dialect,
    Splitter,
    detect,
    first_line,
    numeric_columns,
    shown_names,
)
from llmrec.dataset.importers.reading.encoding import BROKEN, Decoded, decoded
from llmrec.dataset.importers.reading.options import ReadOptions
from llmrec.dataset.importers.reading.raw import RawTable
from llmrec.dataset.schema import DType, show
from llmrec.errors import DataError

FIELD_LIMIT = 1 << 20
"""The longest field in characters: longer ones are no value of a log or a catalogue."""
_SAMPLE = 256 << 10
_CHUNK = 32 << 20
_SMALL = 256 << 10
_COMMA = r"^\s*[+-]?\d+,\d+\s*$"
_POINT = r"^\s*[+-]?\d+\.\d+\s*$"


class _NotOfTypes(Exception):
    """A chunk has cells that are not of the types asked for."""


@dataclass
class _Faults:
    """Bad rows by rule, each with its line and a sentence about the first."""

    lines: dict[str, list[int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    sentences: dict[str, str] = field(default_factory=dict)

    def add(self, rule: str, line: int, sentence: str) -> None:
        self.counts[rule] += 1
        self.sentences.setdefault(rule, sentence)
        if self.counts[rule] <= EXAMPLES:
            self.lines.setdefault(rule, []).append(line)


def read_delimited(
    data: bytes,
    path: Path,
    options: ReadOptions,
    ledger: Ledger,
    table: str,
    ending: str,
    types: Mapping[str, DType] | None = None,
) -> RawTable:
    """The table of a text file, all cells text; an empty cell, quoted or not, is null.

    Columns named in `types` have these types if all of their cells are such, which is faster than text; else all
    columns are text.

    Raises:
        DataError: The file is empty, its dialect cannot be told, or a row is bad and bad rows are not skipped.
    """
    if data.startswith((b"PK\x03\x04", b"PAR1", b"%PDF", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise DataError(f"{path} is no text (an archive, a workbook or the like); unpack or export it as CSV first.")
    source = decoded(data, options, str(path))
    del data
    if b"\0" in source.data[:_SAMPLE] and source.data[:_SAMPLE].count(b"\0") > 0.1 * len(source.data[:_SAMPLE]):
        raise DataError(f"{path} is no text: it is full of NUL bytes; give a text file or name its --encoding.")
    source, options = _excel_hint(source, options)
    if not source.data.strip():
        raise DataError(f"{path} is empty; a table starts with a line of column names.")
    head = source.data[:_SAMPLE].decode("utf-8", "replace" if not source.broken else "surrogateescape")
    dialect, sample = detect(head, options, ending, str(path), whole=len(source.data) <= _SAMPLE)
    if not sample:
        raise DataError(f"{path} is empty; a table starts with a line of column names.")
    found = first_line(sample)
    header = options.header if options.header is not None else found != "data"
    width = _width(sample, header)
    names = _names(sample[0], width, header, path, dialect, options)
    splitter = Splitter(dialect)
    splitter.trusted = options.quote is not None
    splitter.width = width
    splitter.numeric = numeric_columns([row.fields for row in sample[int(header) :]], width)
    reader = _Reader(source.data, splitter, path, width)
    reader.types = [(types or {}).get(name, pl.String) for name in names]
    try:
        try:
            frame, line = reader.read(header)
        except _NotOfTypes:
            reader = _Reader(source.data, splitter, path, width)
            frame, line = reader.read(header)
    except AmbiguousQuote as error:
        raise DataError(
            f"{path}, line {error.args[0]}: a quote sign opens a field over several lines, each of which could be a "
            "row by itself; say which with --quote '\"' (it is one field) or --quote none (quote signs are text)."
        ) from None
    rows_in = frame.height + sum(reader.faults.counts.values())
    for rule, count in reader.faults.counts.items():
        ledger.bad(rule, table, reader.faults.lines[rule], reader.faults.sentences[rule], count)
    ledger.limit(table, rows_in)
    frame = _name_columns(frame, names, path, ledger)
    decimal = options.decimal or _decimal(frame, dialect)
    _describe(path, source, dialect, header, decimal, reader.odd_lines, ledger)
    return RawTable(
        frame=frame,
        path=path,
        line=line,
        rows_in=rows_in,
        table=table,
        decimal=decimal,
        first_line="said" if options.header is not None else found,
    )


def _excel_hint(source: Decoded, options: ReadOptions) -> tuple[Decoded, ReadOptions]:
    """Excel's first line `sep=;` names the separator and is no row; a blank line keeps the count of lines."""
    first, _, rest = source.data.partition(b"\n")
    if first[:4].lower() == b"sep=" and len(first) == 5:
        sign = options.separator or first[4:].decode("latin-1")
        return replace(source, data=b"\n" + rest), replace(options, separator=sign)
    return source, options


def _width(sample: list[DelimitedRow], header: bool) -> int:
    """The usual number of fields: the header's, or one less or more where all other lines say so."""
    usual = Counter(len(row.fields) for row in sample[int(header) :]).most_common(1)
    first = len(sample[0].fields)
    if not header:
        return usual[0][0]
    trailing = usual and usual[0][0] == first + 1
    if trailing and all(not r.fields[-1].strip() for r in sample[1:] if len(r.fields) == first + 1):
        return first + 1  # each line ends in a separator
    return first


def _names(
    first: DelimitedRow, width: int, header: bool, path: Path, dialect: Dialect, options: ReadOptions
) -> list[str]:
    if width > MOST_COLUMNS:
        raise DataError(f"{path} has {width:,} columns, which no table of a log has; look at its separator.")
    if not header:
        return [str(n) for n in range(1, width + 1)]
    if broken := BROKEN.search("".join(first.fields)):
        raise DataError(
            f"{path}, line {first.line}: byte 0x{ord(broken[0]) - 0xDC00:02x} in the columns' names is not of the "
            "file's encoding; mend it or name the --encoding."
        )
    names = [" ".join(name.replace("\ufeff", "").replace("\0", "").split()) for name in first.fields]
    return names + [""] * (width - len(names))


def _name_columns(frame: pl.DataFrame, names: list[str], path: Path, ledger: Ledger) -> pl.DataFrame:
    """Columns under distinct names: unnamed ones by their number or, without a value, left out."""
    columns = frame.get_columns()
    counts = Counter(names)
    seen: Counter[str] = Counter()
    kept: dict[str, pl.Series] = {}
    for n, (name, column) in enumerate(zip(names, columns, strict=True), start=1):
        if not name and column.null_count() == len(column):
            ledger.assume(f"{path.name}: column {n} has neither name nor values and is left out.")
            continue
        if not name:
            ledger.assume(f"{path.name}: column {n} has no name and is called '{n}'.")
            name = str(n)
        elif counts[name] > 1:
            seen[name] += 1
            twin = next((old for old in kept if old.startswith(f"{name}.") and kept[old].equals(column)), None)
            if twin is not None:
                ledger.assume(f"{path.name}: column {n} repeats {show(name, 40)} value by value and is left out.")
                continue
            name = f"{name}.{seen[name]}"
        kept[name] = column
    for name in [name for name, count in counts.items() if count > 1 and name]:
        own = [other for other in kept if other.startswith(f"{name}.") and other[len(name) + 1 :].isdigit()]
        if len(own) == 1:
            kept = {(name if other == own[0] else other): column for other, column in kept.items()}
        else:
            ledger.assume(
                f"{path.name}: {len(own)} columns are called {show(name, 40)}; they are {shown_names(own)}."
            )
    return pl.DataFrame([column.alias(name) for name, column in kept.items()])


def _decimal(frame: pl.DataFrame, dialect: Dialect) -> str:
    """ "," where a column holds numbers like 4,5 and none like 4.5, and the file is not cut at commas."""
    if dialect.separator == ",":
        return "."
    commas = points = 0
    for column in frame.get_columns():
        if column.dtype != pl.String:
            continue
        cells = column.drop_nulls().head(10_000)
        comma = int(cells.str.contains(_COMMA).sum())
        if comma and comma + int(cells.str.contains(r"^\s*[+-]?\d+\s*$").sum()) >= 0.95 * len(cells):
            commas += comma
        points += int(cells.str.contains(_POINT).sum())
    return "," if commas and not points else "."


def _describe(
    path: Path, source: Decoded, dialect: Dialect, header: bool, decimal: str, odd: list[int], ledger: Ledger
) -> None:
    names = "columns named by the first line" if header else "no line of names, columns are called 1, 2, …"
    comma = ", decimal commas" if decimal == "," else ""
    ends = "" if source.line_ends != "CR" else ", lines end in CR"
    encoding = source.encoding.upper().replace("_", "-")
    ledger.assume(f"{path.name}: {encoding}{ends}, {dialect.text()}{comma}, {names}.")
    if odd:
        ledger.assume(
            f"{path.name}: quote signs that do not stand around a field are text (first in line "
            f"{', '.join(map(str, odd[:EXAMPLES]))})."
        )


class _Reader:
    """Reads the rows of a file chunk by chunk; `faults` holds bad rows, `odd_lines` those with stray quote signs."""

    def __init__(self, data: bytes, splitter: Splitter, path: Path, width: int) -> None:
        self.data, self.splitter, self.path, self.width = data, splitter, path, width
        self.faults = _Faults()
        self.odd_lines: list[int] = []
        self.types: list[DType] = [pl.String] * width
        self.names = [f"column_{n}" for n in range(1, width + 1)]

    @property
    def _typed(self) -> bool:
        return any(dtype != pl.String for dtype in self.types)

    def read(self, header: bool) -> tuple[pl.DataFrame, pl.Series]:
        """All good rows with their lines; the first row is passed over if it is the header."""
        place, line = self._after_header() if header else (0, 1)
        frames, lines, size = [], [], _CHUNK
        while place < len(self.data):
            stop = self.data.find(b"\n", place + size)
            stop = len(self.data) if stop < 0 else stop + 1
            frame = self._fast(self.data[place:stop], last=stop == len(self.data))
            if frame is not None:
                frames.append(frame)
                lines.append(pl.int_range(line, line + frame.height, dtype=pl.UInt32, eager=True))
                place, line, size = stop, line + frame.height, min(size * 8, _CHUNK)
            elif size > _SMALL:
                size = max(size // 8, _SMALL)  # most of the chunk may be plain
            else:
                frame, where, place, line = self._exact(place, stop, line)
                frames.append(frame)
                lines.append(where)
        if not frames:
            frames, lines = [self._frame([])], [pl.Series([], dtype=pl.UInt32)]
        return pl.concat(frames), pl.concat(lines).alias("line")

    def _after_header(self) -> tuple[int, int]:
        text = self.data[: 4 * _SAMPLE].decode("utf-8", "surrogateescape")
        _, end = next(self.splitter.rows(text))
        return len(text[:end].encode("utf-8", "surrogateescape")), 1 + text.count("\n", 0, end)

    def _frame(self, rows: list[list[str]]) -> pl.DataFrame:
        cells = zip(*rows, strict=True) if rows else [[] for _ in range(self.width)]
        columns = [pl.Series(n, list(c), dtype=pl.String) for n, c in zip(self.names, cells, strict=True)]
        return _empty_is_null(pl.DataFrame(columns))

    def _fast(self, chunk: bytes, *, last: bool) -> pl.DataFrame | None:
        """The chunk by polars if that is provably what the splitter would give, else None."""
        dialect = self.splitter.dialect
        sign = dialect.separator.encode()
        body = chunk.rstrip(b"\n") if last else chunk.removesuffix(b"\n")
        if (
            dialect.padded
            or dialect.separator == " "
            or b"\0" in body
            or b"\r" in body
            or b"\n\n" in body
            or body.startswith(b"\n")
            or body.endswith(b"\n")
            or not body
        ):
            return None
        quote = dialect.quote.encode() if dialect.quote else b""
        quoted = bool(quote) and quote in body
        rows = body.count(b"\n") + 1
        if quoted:
            if dialect.escape or len(sign) != 1 or not _well_quoted(body, sign, quote, (self.width - 1) * rows):
                return None
        elif body.count(sign) != (self.width - 1) * rows:
            return None
        if len(sign) > 1:
            if b"\x1f" in body or sign[:1] * (len(sign) + 1) in body:
                return None
            body, sign = body.replace(sign, b"\x1f"), b"\x1f"
        try:
            frame = pl.read_csv(
                io.BytesIO(body),
                separator=sign.decode(),
                quote_char=quote.decode() if quoted else None,
                has_header=False,
                infer_schema=False,
                new_columns=self.names,
                schema_overrides=self.types,
            )
        except (pl.exceptions.PolarsError, ValueError):
            return None
        if frame.shape != (rows, self.width) or _longest(frame) > FIELD_LIMIT:
            return None
        return _empty_is_null(frame) if quoted else frame

    def _exact(self, place: int, stop: int, line: int) -> tuple[pl.DataFrame, pl.Series, int, int]:
        """Rows that begin in `data[place:stop]`; the last may reach beyond."""
        if self._typed:
            raise _NotOfTypes
        inside = text = self.data[place:stop].decode("utf-8", "surrogateescape")
        quote = self.splitter.dialect.quote
        if quote and quote in inside:  # the last field may reach beyond
            text += self.data[stop : stop + 4 * FIELD_LIMIT].decode("utf-8", "surrogateescape")
        suspicious = "\0" in inside or BROKEN.search(inside) is not None
        rows: list[list[str]] = []
        lines: list[int] = []
        end = 0
        for row, after in self.splitter.rows(text, 0, len(inside), line):
            if row.odd:
                self.odd_lines.append(row.line)
            plain = not suspicious and after - end <= FIELD_LIMIT and len(row.fields) == self.width
            if plain or self._is_good(row):
                rows.append(row.fields)
                lines.append(row.line)
            end = after
        end = max(end, len(inside)) if text[end : len(inside)].isspace() or end >= len(inside) else len(inside)
        used = text[:end]
        return (
            self._frame(rows),
            pl.Series(lines, dtype=pl.UInt32),
            place + len(used.encode("utf-8", "surrogateescape")),
            line + used.count("\n"),
        )

    def _is_good(self, row: DelimitedRow) -> bool:
        where = f"{self.path}, line {row.line}"
        if len(row.fields) != self.width:
            found, wanted = len(row.fields), self.width
            sign = f"separated by {self.splitter.dialect.between}"
            self.faults.add(
                "wrong number of fields",
                row.line,
                f"{where} has {found:,} fields ({sign}) where its header or the first lines have {wanted:,}",
            )
        elif any("\0" in value for value in row.fields):
            self.faults.add("NUL bytes", row.line, f"{where} holds a NUL byte, which is no text")
        elif any(len(value) > FIELD_LIMIT for value in row.fields):
            self.faults.add(
                "a field that is too long", row.line, f"{where} has a field of more than {FIELD_LIMIT:,} characters"
            )
        elif broken := BROKEN.search("".join(row.fields)):
            byte = ord(broken[0]) - 0xDC00
            self.faults.add("broken encoding", row.line, f"{where}: byte 0x{byte:02x} is not of the file's encoding")
        else:
            return True
        return False


def _empty_is_null(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.when(pl.col(pl.String) != "").then(pl.col(pl.String)))


def _longest(frame: pl.DataFrame) -> int:
    """An upper bound of the longest field: its bytes."""
    texts = frame.select(pl.col(pl.String).str.len_bytes().max())
    return max((int(n or 0) for n in texts.row(0)), default=0) if texts.width else 0


def _well_quoted(body: bytes, sign: bytes, quote: bytes, separators: int) -> bool:
    """Whether every quote sign opens or closes a field or is doubled in one, no field spans lines, and the
    separators outside of quotes are `separators` in all.

    Signs alternate in a well-formed text: those at even places open a field (a separator or line break before them)
    or are the second of a pair; those at odd places close one or are the first of a pair.
    """
    bytes_B = np.frombuffer(body, dtype=np.uint8)
    sign_Q = np.flatnonzero(bytes_B == quote[0])
    if len(sign_Q) % 2:
        return False
    opening, closing = sign_Q[0::2], sign_Q[1::2]
    border = np.array([sign[0], 10], dtype=np.uint8)
    before = np.concatenate([np.array([10], dtype=np.uint8), bytes_B])[opening]
    after = np.concatenate([bytes_B, np.array([10], dtype=np.uint8)])[closing + 1]
    paired = closing[:-1] + 1 == opening[1:]
    opens, closes = np.isin(before, border), np.isin(after, border)
    if not (opens[:1].all() and closes[-1:].all() and (opens[1:] | paired).all() and (closes[:-1] | paired).all()):
        return False
    for value, outside in ((sign[0], separators), (10, None)):
        place = np.flatnonzero(bytes_B == value)
        within = int((np.searchsorted(sign_Q, place) % 2).sum())
        if (outside is None and within) or (outside is not None and len(place) - within != outside):
            return False
    return True
