"""Reading what strangers wrote, within bounds: bytes that unpack, JSON and YAML that nest, lists of ids.

Nothing here trusts a file's size, depth or encoding. A fault is a `ValueError` (or an `OSError`) whose text is short
and says what is wrong; who calls names the file and the class of error.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from llmrec.printing import one_line

if TYPE_CHECKING:
    import polars as pl

LIMIT_VARIABLE = "LLMREC_READ_LIMIT"
"""Environment variable: the most that one file may take in memory, in GiB."""
DEFAULT_LIMIT = 8.0
RATIO = 100
"""A gzip or Parquet file that grows by more than this, to more than `FREE` bytes, is not data."""
FREE = 64 << 20
LINE = 4 << 20
"""The longest line of JSON lines in bytes."""
DEPTH = 64
"""The deepest nesting of JSON and YAML that is read."""
DOCUMENT = 256 << 20
"""The largest JSON document (facts of a run, a list of ids) in bytes."""
SETTINGS = 8 << 20
"""The largest YAML document (a configuration, a mapping) in bytes."""
MOST_COLUMNS = 10_000
"""The most columns of a table."""
_CELL = 8  # bytes that a cell of a table takes in memory at least
NODES = 1_000_000
"""The most nodes of a YAML document, aliases counted as often as they stand."""
HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""What begins a JSON escape of half a character; two of them are one character, one alone is none."""
_CHUNK = 1 << 20
_BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


def read_limit() -> int:
    """The most bytes that one file may take in memory; `LLMREC_READ_LIMIT` (GiB) raises or lowers it."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        value = float(text) if text else DEFAULT_LIMIT
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ValueError(f"the environment variable {LIMIT_VARIABLE} is {text[:40]!r}, not a number of GiB above 0")
    return int(value * 2**30)


def check_growth(packed: int, unpacked: int, *, held: bool = True) -> None:
    """Refuses what unpacks to more than data would, or (if it is held in memory) to more than the limit.

    Args:
        packed: Bytes on the disk.
        unpacked: Bytes they become.
        held: Whether all of it is held in memory at once.

    Raises:
        ValueError: It is too much; the text names the sizes and the variable that raises the limit.
    """
    limit = read_limit()
    if unpacked > FREE and unpacked > RATIO * max(packed, 1) and not os.environ.get(LIMIT_VARIABLE):
        raise ValueError(
            f"it unpacks from {packed:,} bytes to {unpacked:,} or more, which no log does (beyond {RATIO} times as "
            f"much); if it is right, set the environment variable {LIMIT_VARIABLE} to the GiB it may take"
        )
    if held and unpacked > limit:
        raise ValueError(
            f"it takes more than {limit / 2**30:.3g} GiB; set the environment variable {LIMIT_VARIABLE} to the GiB "
            "it may take, or cut the file"
        )


class Unpacked:
    """The bytes of a plain or gzipped file, as chunks or lines, stopped where they grow beyond all measure."""

    def __init__(self, raw: IO[bytes], *, held: bool = True) -> None:
        """Takes an open file at its start; `held` says whether the whole will be held in memory."""
        self._raw, self._held, self._done = raw, held, 0
        # by its first bytes and not by its name, which may say anything
        self.packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self._stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if self.packed else raw  # type: ignore[assignment]

    def chunks(self) -> Iterator[bytes]:
        """Chunks of up to 1 MiB.

        Raises:
            ValueError: The gzip file is broken or unpacks to too much.
        """
        while chunk := self._read(_CHUNK, lines=False):
            yield chunk

    def lines(self, longest: int) -> Iterator[bytes]:
        r"""Lines with their "\n"; one longer than `longest` bytes comes cut to `longest + 1`, and is the last.

        Raises:
            ValueError: The gzip file is broken or unpacks to too much.
        """
        while line := self._read(longest + 1, lines=True):
            yield line
            if len(line) > longest:
                return

    def _read(self, size: int, *, lines: bool) -> bytes:
        try:
            found = self._stream.readline(size) if lines else self._stream.read(size)
        except _BROKEN_GZIP as error:
            raise ValueError(f"it is a broken gzip file ({error}); fetch it again") from None
        self._done += len(found)
        # while it unpacks, since what a gzip file says of its own size may be wrong
        if self.packed and self._done > FREE:
            check_growth(self._raw.tell(), self._done, held=self._held)
        elif self._held and self._done > FREE:
            check_growth(self._done, self._done)
        return found


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a plain or gzipped file.

    Args:
        path: The file.
        limit: The most bytes, unpacked; by default `read_limit`.

    Raises:
        ValueError: The file is a broken gzip file or too large.
        OSError: It cannot be read.
    """
    with path.open("rb") as raw:
        parts, size = [], 0
        for chunk in Unpacked(raw).chunks():
            parts.append(chunk)
            size += len(chunk)
            if limit is not None and size > limit:
                raise ValueError(f"it is larger than {limit / 2**20:g} MiB, which is more than such a file holds")
    return b"".join(parts)


def read_document(path: Path, limit: int = DOCUMENT) -> str:
    """The text of a file of up to `limit` bytes: UTF-8, or UTF-16 that says so; without its byte order mark.

    Raises:
        ValueError: It is too large, holds NUL bytes or is not UTF-8.
        OSError: It cannot be read.
    """
    data = read_bytes(path, limit)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("it holds NUL bytes, so it is not text; save it as UTF-8")
    return text


def json_objects(path: Path, longest: int = LINE) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, plain or gzipped, each with its line's number; empty lines are skipped.

    Raises:
        ValueError: A line is no JSON object or too long, or the file is broken.
        OSError: It cannot be read.
    """
    with path.open("rb") as raw:
        for number, line in enumerate(Unpacked(raw).lines(longest), 1):
            if not line.strip():
                continue
            if len(line) > longest:
                raise ValueError(f"line {number} is longer than {longest >> 20} MiB; write one object a line")
            try:
                value = parse_json(line.decode("utf-8-sig"))
            except (ValueError, UnicodeDecodeError) as error:
                raise ValueError(f"line {number} is no JSON in UTF-8 ({one_line(error, 120)}); mend it") from None
            if not isinstance(value, dict):
                raise ValueError(f"line {number} is no JSON object; write one object a line")
            yield number, value


def parse_json(text: str) -> Any:
    """The value of a JSON text whose nesting is at most `DEPTH` deep.

    Raises:
        ValueError: It is not JSON, or is nested deeper, or holds a number of thousands of digits or half a character.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH} levels") from None
    except ValueError:
        raise ValueError("a number has too many digits") from None
    # a text with fewer brackets cannot nest deeper, and most have few
    if text.count("[") + text.count("{") > DEPTH:
        check_depth(value)
    if HALF.search(text) and not _is_text(value):
        raise ValueError("it holds half of a character (a lone surrogate such as \\ud83d)")
    return value


def _is_text(value: Any) -> bool:
    """Whether all texts in a value can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_depth(value: Any) -> None:
    """Refuses a JSON value nested deeper than `DEPTH`, by a `ValueError`."""
    # level by level and not by recursion, whose own limit is what is to be kept
    level, depth = [value], 0
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"it is nested deeper than {DEPTH} levels")


class _Loader(yaml.SafeLoader):
    """Plain YAML within bounds: aliases may neither nest without end nor multiply."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEPTH:
            raise ValueError(f"it is nested deeper than {DEPTH} levels")
        alias = self.check_event(yaml.events.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and not alias:
            # Sizes count an alias as what it stands for: a few hundred bytes of nested aliases can mean billions of
            # values.
            self._sizes[id(node)] = self._size(node)
        elif node is not None and id(node) not in self._sizes:
            raise ValueError("an alias stands inside of what it names")
        return node

    def _size(self, node: yaml.Node) -> int:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        size = 1 + sum(self._sizes[id(part)] for part in inner)
        if size > NODES:
            raise ValueError(f"it holds more than {NODES:,} values")
        return size


class _TextLoader(_Loader):
    """YAML whose plain words all are text: NO, 2024 and 1e3 too."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (as the base class has it)


def parse_yaml(text: str, *, texts: bool = False) -> Any:
    """The value of a YAML text without tags, nested at most `DEPTH` deep; "3e-4" is text, as in YAML 1.1.

    With `texts` every word is text, so that who reads it decides what `NO` and `2024` are.

    Raises:
        ValueError: It is not YAML, or goes beyond the bounds.
    """
    try:
        return yaml.load(text, _TextLoader if texts else _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    except (RecursionError, TypeError, OverflowError):  # a key that is a list; a date of the year 99999
        raise ValueError("it holds a key or value that cannot be read, or is nested too deep") from None


def check_parquet(path: Path, *, rows: int | None = None) -> None:
    """Refuses a Parquet file that would unpack beyond the bounds, by what it says of itself, before a page is read.

    Raises:
        ValueError: It is no Parquet file, or unpacks to too much.
        OSError: It cannot be read.
    """
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            facts = file.metadata
            height, width, groups = facts.num_rows, facts.num_columns, facts.num_row_groups
            if rows is not None and height != rows:
                raise ValueError(f"it has {height:,} rows, not {rows:,}")
            if width > MOST_COLUMNS:
                raise ValueError(f"it has {width:,} columns, which no table has; write fewer")
            parts = (facts.row_group(g).column(c) for g in range(groups) for c in range(width))
            # a run of equal values takes next to nothing in the file and a cell each in memory
            size = sum(max(part.total_uncompressed_size, part.num_values * _CELL) for part in parts)
    except (ValueError, MemoryError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # pyarrow raises whatever the broken part makes it raise
        raise ValueError(f"it is no whole Parquet file ({one_line(error, 120)})") from None
    check_growth(path.stat().st_size, max(size, height * width * _CELL))


def read_parquet(path: Path) -> pl.DataFrame:
    """The rows of a Parquet file within the bounds.

    Raises:
        ValueError: It is no Parquet file, is damaged, or unpacks to too much.
        OSError: It cannot be read.
    """
    check_parquet(path)
    import polars

    try:
        return polars.read_parquet(path, use_pyarrow=False)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as error:
        raise ValueError(f"it is no whole Parquet file ({one_line(error, 120)})") from None


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids of a text file, one a line, each once, in the order of the file.

    A byte order mark, blank lines, spaces around an id and any kind of line end are no part of an id. A line that
    begins with "# " is a remark.

    Raises:
        ValueError: The file is too large or not UTF-8, or holds no id.
        OSError: It cannot be read.
    """
    lines = (line.strip() for line in read_document(path).replace("\r", "\n").split("\n"))
    ids = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("# ")))
    if not ids:
        raise ValueError("it holds no id; write one a line")
    return ids
