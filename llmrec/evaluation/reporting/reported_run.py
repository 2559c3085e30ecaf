"""Runs as their folders tell them, and their tables with what each was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmrec.evaluation.reporting.contents import MeasuredRows, RunReport
from llmrec.evaluation.reporting.measurements import RowFigures
from llmrec.evaluation.table import Comparison
from llmrec.types import FloatArray


@dataclass(frozen=True)
class ReportedRun:
    """A run: the name that it has on the page, its report and, where kept, its figures by row.

    `absent` says in sentences what the folder does not hold and the page therefore does not show.
    """

    name: str
    report: RunReport
    measured: RowFigures | None = None
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportSection:
    """One table of one run."""

    run: ReportedRun
    table: Comparison
    rows: MeasuredRows | None

    @property
    def kind(self) -> str:
        """What the table shows, such as "ranking"; its title where that was not recorded."""
        return self.rows.kind if self.rows is not None else self.table.title

    @property
    def arrays(self) -> Mapping[str, Mapping[str, FloatArray]] | None:
        """Figures by row of each system and metric, None where they were not kept."""
        return self.run.measured.values.get(self.kind) if self.run.measured is not None else None


def parts_of(run: ReportedRun) -> list[ReportSection]:
    """The tables of a run, in its order."""
    rows = run.report.rows
    return [
        ReportSection(run, table, rows[n] if n < len(rows) else None) for n, table in enumerate(run.report.tables)
    ]


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
