"""A table as it was read: cells, and the line that each row stood in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec.dataset.importers.reading.account import EXAMPLES, Ledger


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A table before its values are understood.

    Attributes:
        frame: Columns as in the file: text for text formats (an empty cell is null), own types for Parquet and JSON.
        path: The file, or the folder of its parts.
        line: The line (the row for Parquet) of each row in its file, from 1.
        rows_in: How many rows the files hold, bad ones included.
        table: What it is to become: "events", "items", ...
        decimal: The decimal sign of numbers in text, "." or ",".
        first_line: What the first line of a text table holds: "names", "data", "guessed names" (nothing but words
            stands there and below), or what was "said".
        parts: Of a folder, each file and its number of rows in `frame`'s first state; else empty.
        part: Of a folder, the index in `parts` of each row; else None.
    """

    frame: pl.DataFrame
    path: Path
    line: pl.Series
    rows_in: int
    table: str = "events"
    decimal: str = "."
    first_line: str = "said"
    parts: tuple[Path, ...] = ()
    part: pl.Series | None = None

    def place(self, row: int) -> str:
        """Where a row stands, for example "line 12", or "line 3 of part-0001.csv" in a folder."""
        line = f"line {self.line[row]}"
        return line if self.part is None else f"{line} of {self.parts[self.part[row]].name}"

    def where(self, row: int) -> str:
        """A row's file and line for a message, for example "log.csv, line 12"."""
        return f"{self.path}, {self.place(row)}"

    def filter(self, keep: pl.Series) -> RawTable:
        """The rows where `keep` is true; the account is the caller's (see `drop_bad`, `leave_out`)."""
        part = None if self.part is None else self.part.filter(keep)
        return dataclasses.replace(self, frame=self.frame.filter(keep), line=self.line.filter(keep), part=part)

    def drop_bad(self, bad: pl.Series, rule: str, ledger: Ledger, why: Callable[[int], str] | str) -> RawTable:
        """Without the rows where `bad` is true (null counts as false).

        Args:
            bad: Which rows.
            rule: Why, the same for all: "time is no time".
            ledger: Where they are counted.
            why: What is wrong with one row (a function of its index), for the message, without place and full stop.

        Raises:
            DataError: There is one, and bad rows are not to be skipped; names the first by file and line.
        """
        bad = bad.fill_null(False)
        if not bad.any():
            return self
        rows = bad.arg_true()
        first = int(rows[0])
        sentence = f"{self.where(first)}: {why if isinstance(why, str) else why(first)}"
        ledger.bad(rule, self.table, [self.place(int(row)) for row in rows.head(EXAMPLES)], sentence, len(rows))
        return self.filter(~bad)

    def leave_out(self, out: pl.Series, rule: str, ledger: Ledger) -> RawTable:
        """Without the rows where `out` is true, counted by rule: rows that are no fault, such as ignored kinds."""
        out = out.fill_null(False)
        if not out.any():
            return self
        rows = out.arg_true()
        ledger.remove(rule, self.table, [self.place(int(row)) for row in rows.head(EXAMPLES)], len(rows))
        return self.filter(~out)
