"""One reader for the tables of every importer: by the ending of a file, or a folder of parts.

Tables of numbers in public layouts (ids, ratings, times) are read by the names of their columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from llmrec.bounded import read_bytes
from llmrec.dataset.importers.reading.account import Ledger
from llmrec.dataset.importers.reading.columnar import read_parquet
from llmrec.dataset.importers.reading.delimited import read_delimited
from llmrec.dataset.importers.reading.dialect import shown_names
from llmrec.dataset.importers.reading.options import ReadOptions
from llmrec.dataset.importers.reading.raw import RawTable
from llmrec.dataset.importers.reading.records import read_records
from llmrec.dataset.schema import DType, first_true, show
from llmrec.errors import DataError

TEXT = (".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".item", ".user")
RECORDS = (".json", ".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
ENDINGS = (*PARQUET, *TEXT, *RECORDS)
"""What `read_table` reads; text and JSON also with .gz."""
_MOST_PARTS = 10_000


def read_table(
    path: Path,
    options: ReadOptions | None = None,
    ledger: Ledger | None = None,
    table: str = "events",
    types: Mapping[str, DType] | None = None,
) -> RawTable:
    """The table in a file, or in a folder of parts of one kind (Parquet, CSV, ...), taken in order of names.

    Args:
        path: The file or folder, or a pattern for the names of parts, such as part-*.csv.
        options: How it is written; what is not said is detected.
        ledger: Takes the assumptions and the bad rows.
        table: What it is to become, for the account and for messages.
        types: Of a text file, types of columns that are tried first; where they do not fit, all is text.

    Returns:
        Columns as in the file. In text formats all cells are text; an empty cell is null. Who reads on closes the
        account with `ledger.rows(table, raw.rows_in, rows_out)`.

    Raises:
        DataError: The file is missing, too large or cannot be read; or a row is bad and bad rows are not skipped.
    """
    options = options or ReadOptions()
    ledger = Ledger(options.skip_bad) if ledger is None else ledger
    if path.is_dir():
        paths = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(("_", "."))]
        return _read_parts(path, paths, options, ledger, table)
    if not path.exists() and any(sign in path.name for sign in "*?"):
        return _read_parts(path, sorted(path.parent.glob(path.name)), options, ledger, table)
    if not path.is_file():
        raise DataError(f"{path} does not exist; mend the mapping or its place.")
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending not in ENDINGS:
        raise DataError(f"{path} ends in {ending or 'nothing'}; known are {', '.join(ENDINGS)}, also with .gz.")
    if ending in PARQUET:
        return read_parquet(path, ledger, table)
    try:
        data = read_bytes(path)
    except ValueError as error:
        raise DataError(f"{path}: {error}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if ending in RECORDS:
        return read_records(data, path, options, ledger, table)
    return read_delimited(data, path, options, ledger, table, ending, types)


def _read_parts(folder: Path, paths: list[Path], options: ReadOptions, ledger: Ledger, table: str) -> RawTable:
    """The files of a folder or pattern as one table, one after the other; all have the same columns."""
    paths = [p for p in paths if Path(p.name.lower().removesuffix(".gz")).suffix in ENDINGS][: _MOST_PARTS + 1]
    endings = sorted({Path(p.name.lower().removesuffix(".gz")).suffix for p in paths})
    if not paths:
        raise DataError(f"{folder} holds no file that can be read ({', '.join(ENDINGS)}); give the parts' folder.")
    if len(endings) > 1:
        raise DataError(f"{folder} holds files of several kinds ({', '.join(endings)}); give one file, or one kind.")
    if options.header is None and endings[0] in TEXT:
        options = dataclasses.replace(options, header=_parts_have_names(paths, options))
    raws = [read_table(path, options, ledger, table) for path in paths]
    first = raws[0].frame
    for raw in raws[1:]:
        if set(raw.frame.columns) != set(first.columns):
            other = sorted(set(raw.frame.columns) ^ set(first.columns))[0]
            raise DataError(
                f"{raw.path} and {raws[0].path} have different columns (look at {other[:40]!r}); parts of one table "
                "have the same."
            )
    frame = _stacked([raw.frame.select(first.columns) for raw in raws], folder)
    part = pl.concat([pl.Series([n], dtype=pl.UInt32).new_from_index(0, r.frame.height) for n, r in enumerate(raws)])
    ledger.assume(
        f"{folder.name}: {len(paths):,} parts, from {paths[0].name} to {paths[-1].name}, one after the other."
    )
    return dataclasses.replace(
        raws[0],
        frame=frame,
        path=folder,
        line=pl.concat([raw.line for raw in raws]),
        rows_in=sum(raw.rows_in for raw in raws),
        decimal="," if any(raw.decimal == "," for raw in raws) else ".",
        parts=tuple(paths),
        part=part,
    )


def _parts_have_names(paths: list[Path], options: ReadOptions) -> bool | None:
    """Whether parts begin with names, as a part says in which numbers or shapes tell; None where none does."""
    for path in paths:
        found = read_table(path, options, Ledger(1.0)).first_line if path.stat().st_size else "guessed names"
        if found != "guessed names":
            return found == "names"
    return None


def _stacked(frames: list[pl.DataFrame], folder: Path) -> pl.DataFrame:
    try:
        return pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"The parts in {folder} have columns of different types ({reason}); write them alike."
        ) from None


def read_numbers(path: Path, columns: Mapping[str, str], options: ReadOptions) -> pl.DataFrame:
    """A table whose columns are numbers: "value" a finite Float64, every other a whole number, none of them empty.

    Args:
        path: The file.
        columns: The name of each column in the file, by the name it gets here.
        options: How the file is written. Without a header its columns are called 1, 2, …, and it may have no others.

    Raises:
        DataError: A column is missing, or a line holds something else; named with its number.
    """
    types: dict[str, DType] = {
        theirs: pl.Float64 if ours == "value" else pl.Int64 for ours, theirs in columns.items()
    }
    raw = read_table(path, options, Ledger(skippable=False), types=types)
    if options.header is False and raw.frame.width != len(columns):
        raise DataError(f"{path}, line 1 has {raw.frame.width} fields where {len(columns)} numbers are expected.")
    for theirs in columns.values():
        if theirs not in raw.frame.columns:
            raise DataError(f"{path} lacks the column {theirs!r} (it has: {shown_names(raw.frame.columns)}).")
    if not raw.frame.height:
        raise DataError(f"{path} holds no rows of the numbers {', '.join(columns.values())}.")
    return pl.DataFrame([_numbers(raw, name, types[name], ours).alias(ours) for ours, name in columns.items()])


def _numbers(raw: RawTable, name: str, dtype: DType, ours: str) -> pl.Series:
    column = raw.frame[name]
    found = column.cast(dtype, strict=False)
    row = first_true(found.is_null() | (~found.is_finite() if dtype == pl.Float64 else False))
    if row is not None:
        kind = "a number" if dtype == pl.Float64 else "a whole number"
        said = ours if name.isdigit() else name
        raise DataError(f"{raw.where(row)}: {said} is {show(column[row])}, but it must be {kind}; mend that line.")
    return found
