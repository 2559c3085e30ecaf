"""Tables of numbers in public layouts: ids, ratings and times, by the names of their columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from llmrec.dataset.importers.reading.account import Ledger
from llmrec.dataset.importers.reading.dialect import shown_names
from llmrec.dataset.importers.reading.files import read_table
from llmrec.dataset.importers.reading.options import ReadOptions
from llmrec.dataset.importers.reading.raw import RawTable
from llmrec.dataset.schema import DType, first_true, show
from llmrec.errors import DataError


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
