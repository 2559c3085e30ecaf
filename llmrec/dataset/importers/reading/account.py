"""The account of an import: what was assumed, and where every row went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from llmrec.dataset.importers.reading.options import SKIP_FEW, SKIP_LIMIT
from llmrec.dataset.manifest import account_lines
from llmrec.errors import DataError

EXAMPLES = 5
_LINE = 400  # characters of an assumption; untrusted text is cut by who writes it, this is the last bound


@dataclass
class LeftOut:
    """Rows that a rule left out: `count` of them, the first few named in `examples` (for example "line 7")."""

    rule: str
    table: str
    count: int = 0
    examples: list[str] = field(default_factory=list)
    bad: bool = False


class Ledger:
    """What an import assumed, and rows in = rows out + removed (+ added) for each table.

    Attributes:
        skip_bad: The share of bad rows of a table that may be dropped; None stops at the first.
        assumptions: One sentence each.
    """

    def __init__(self, skip_bad: float | None = None, *, skippable: bool = True) -> None:
        """Takes the share of bad rows that may be dropped, and whether a person could ask for it at all."""
        self.skip_bad = skip_bad
        self._mend = "mend it, or add --skip-bad to drop such rows and count them" if skippable else "mend it"
        self.assumptions: list[str] = []
        self._removals: dict[tuple[str, str], LeftOut] = {}
        self._added: dict[tuple[str, str], int] = {}
        self._rows: dict[str, tuple[int, int]] = {}

    def assume(self, text: str) -> None:
        """Notes one assumption; the same sentence counts once."""
        text = " ".join(text.split())[:_LINE]
        if text not in self.assumptions:
            self.assumptions.append(text)

    def remove(
        self, rule: str, table: str, lines: Iterable[object], count: int | None = None, *, bad: bool = False
    ) -> None:
        """Counts rows that a rule left out.

        Args:
            rule: Why, in a few words that are the same for all rows of this kind: "without a user".
            table: The table they were in: "events".
            lines: Where they stood: line numbers, or texts as `RawTable.where` gives them; the first few are kept.
            count: How many, where `lines` names only the first ones.
            bad: Whether they are bad rows, which `skip_bad` limits.
        """
        if count is None:
            lines = list(lines)
            count = len(lines)
        if not count:
            return
        found = self._removals.setdefault((table, rule), LeftOut(rule, table))
        found.count += count
        found.bad |= bad
        for line in lines:
            if len(found.examples) >= EXAMPLES:
                break
            found.examples.append(f"line {line}" if isinstance(line, int) else str(line))

    def bad(self, rule: str, table: str, lines: Iterable[object], sentence: str, count: int | None = None) -> None:
        """Bad rows: the first stops the import, or all are counted where `skip_bad` is given.

        Args:
            rule: As for `remove`.
            table: The table they are in.
            lines: As for `remove`.
            sentence: What is wrong with the first of them, with file and line, without a full stop.
            count: As for `remove`.

        Raises:
            DataError: There is one, and bad rows are not to be skipped.
        """
        if self.skip_bad is None:
            raise DataError(f"{sentence}; {self._mend}.")
        self.remove(rule, table, lines, count, bad=True)

    def add(self, rule: str, table: str, count: int) -> None:
        """Counts rows that came to a table beyond those read: a list of clicks in one cell is many events."""
        if count:
            self._added[table, rule] = self._added.get((table, rule), 0) + count

    def removed(self, table: str, *, bad: bool = False) -> int:
        """How many rows of a table were left out; with `bad` only bad ones."""
        return sum(r.count for r in self._removals.values() if r.table == table and (r.bad or not bad))

    def rows(self, table: str, rows_in: int, rows_out: int) -> None:
        """Closes the account of a table.

        Raises:
            DataError: More rows are bad than may be skipped, or rows are missing that no rule names (a fault of
                llmrec, not of the data).
        """
        added = sum(count for (name, _), count in self._added.items() if name == table)
        # Every row is somewhere: an importer that loses one without a word is at fault, and must not hide it.
        if rows_in + added != rows_out + self.removed(table):
            raise DataError(
                f"The account of the {table} does not come out: {rows_in:,} rows read and {added:,} added, but "
                f"{rows_out:,} kept and {self.removed(table):,} left out; this is a fault of llmrec, "
                "please report it."
            )
        self._rows[table] = (rows_in, rows_out)
        self.limit(table, rows_in)

    def limit(self, table: str, rows_in: int) -> None:
        """Refuses a table of which more rows were bad than may be skipped, by a `DataError`."""
        bad = self.removed(table, bad=True)
        if self.skip_bad is not None and bad > self.most(rows_in):
            worst = max((r for r in self._removals.values() if r.table == table and r.bad), key=lambda r: r.count)
            raise DataError(
                f"{bad:,} of {rows_in:,} rows of the {table} are bad ({bad / max(rows_in, 1):.1%}; most of them: "
                f"{worst.rule}, first {worst.examples[0]}), and at most {self.skip_bad:.1%} are skipped; mend the "
                "file, or name a larger share as --skip-bad=SHARE."
            )

    def most(self, rows_in: int) -> float:
        """The most bad rows of a table that are skipped; of a small one a few, unless a person named a share."""
        share = self.skip_bad or 0.0
        return max(share * rows_in, SKIP_FEW if share == SKIP_LIMIT else 0)

    def lines(self) -> list[str]:
        """The account as sentences, one a line."""
        return account_lines(self.tree())

    def tree(self) -> dict[str, Any]:
        """The account as the manifest keeps it: assumed, rows, removed, added."""
        return {
            "assumed": list(self.assumptions),
            "rows": {table: {"in": rows[0], "out": rows[1]} for table, rows in self._rows.items()},
            "removed": [
                {"table": r.table, "rule": r.rule, "count": r.count, "first": list(r.examples)}
                for r in self._removals.values()
            ],
            "added": [{"table": table, "rule": rule, "count": count} for (table, rule), count in self._added.items()],
        }


def skip_share(text: str | None) -> float | None:
    """The share that `--skip-bad[=SHARE]` names: 5% if it names none, and "0.2" or "20%" else.

    Raises:
        ValueError: It is no share from 0 to 1.
    """
    if text is None:
        return None
    if not text.strip():
        return SKIP_LIMIT
    share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is no share from 0 to 1")
    return share
