"""Parquet, bounded by what its own description says before a page is unpacked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from llmrec import bounded
from llmrec.dataset.importers.reading.account import Ledger
from llmrec.dataset.importers.reading.delimited import FIELD_LIMIT
from llmrec.dataset.importers.reading.encoding import BROKEN
from llmrec.dataset.importers.reading.raw import RawTable
from llmrec.errors import DataError

_SMALL = 16 << 20  # bytes of a file that is read twice to be sure of its pages


def check_parquet(path: Path) -> None:
    """Refuses a Parquet file that would unpack beyond the bounds of `llmrec.bounded`, by a `DataError`."""
    try:
        bounded.check_parquet(path)
        if path.stat().st_size <= _SMALL:  # polars reports a broken page on the terminal, over our sentence
            _try_pages(path)
    except (ValueError, OSError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {_short(error)}; write it anew.") from None


def _try_pages(path: Path) -> None:
    """Unpacks all pages, a few rows at a time and texts as codes."""
    with pq.ParquetFile(path) as file:
        texts = [field.name for field in file.schema_arrow if str(field.type) in ("string", "large_string", "binary")]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for _ in file.iter_batches(batch_size=256, use_threads=False):
            pass


def read_parquet(path: Path, ledger: Ledger, table: str) -> RawTable:
    """The table of a Parquet file in its own types; categories and bytes become text.

    Raises:
        DataError: It is no Parquet file, unpacks beyond all measure, or a cell is too long, holds NUL bytes or is
            not UTF-8 and bad rows are not skipped.
    """
    check_parquet(path)
    try:
        frame = pl.read_parquet(path, use_pyarrow=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({_short(error)}); write it anew.") from None
    line = pl.int_range(1, frame.height + 1, dtype=pl.UInt32, eager=True).alias("line")
    raw = RawTable(frame=frame, path=path, line=line, rows_in=frame.height, table=table)
    ledger.assume(f"{path.name}: Parquet, {frame.height:,} rows.")
    return _as_text(raw, ledger)


def _as_text(raw: RawTable, ledger: Ledger) -> RawTable:
    size = 0
    for name, dtype in raw.frame.schema.items():
        column = raw.frame[name]
        if dtype in (pl.Categorical, pl.Enum):
            counts = column.drop_nulls().value_counts(name="\0rows")
            size += _affordable(
                raw.path, size, int((counts[name].cast(pl.String).str.len_bytes() * counts["\0rows"]).sum())
            )
            column = column.cast(pl.String)
        elif dtype == pl.Binary:
            raw = raw.drop_bad(
                column.bin.size() > FIELD_LIMIT, "a field that is too long", ledger, f"{name[:40]!r} is too long"
            )
            texts = [None if b is None else b.decode("utf-8", "surrogateescape") for b in raw.frame[name]]
            wrong = pl.Series([t is not None and BROKEN.search(t) is not None for t in texts], dtype=pl.Boolean)
            raw = raw.drop_bad(wrong, "broken encoding", ledger, f"{name[:40]!r} holds bytes that are not UTF-8")
            column = pl.Series(name, [t for t, bad in zip(texts, wrong, strict=True) if not bad], pl.String)
            ledger.assume(f"{raw.path.name}: the bytes of column {name[:40]!r} are read as UTF-8 text.")
        if column.dtype != pl.String:
            continue
        if dtype == pl.String:
            size += _affordable(raw.path, size, int(column.str.len_bytes().sum()))
        raw = _with(raw, column)
        long = column.str.len_bytes() > FIELD_LIMIT
        raw = raw.drop_bad(long, "a field that is too long", ledger, f"{name[:40]!r} is too long to be a value")
        column = raw.frame[name]
        nul = column.str.contains("\0", literal=True)
        raw = raw.drop_bad(nul, "NUL bytes", ledger, f"{name[:40]!r} holds a NUL byte, which is no text")
        column = raw.frame[name]
        raw = _with(raw, raw.frame.select(pl.when(pl.col(name) != "").then(pl.col(name)).alias(name))[name])
    return raw


def _affordable(path: Path, before: int, size: int) -> int:
    """`size`, the bytes of a column's texts; a `DataError` if a dictionary repeats a long one too often."""
    try:
        bounded.check_growth(path.stat().st_size, before + size)
    except ValueError as error:
        raise DataError(f"{path} is too large: {error}.") from None
    return size


def _with(raw: RawTable, column: pl.Series) -> RawTable:
    return dataclasses.replace(raw, frame=raw.frame.with_columns(column))


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
