"""Runs as their folders tell them: the report, and figures row by row so that systems of several runs can be paired.

The rows lie in the working folder and not in the run folder, which is made to be handed on. Users stand as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.bounded import read_parquet
from llmrec.errors import RunError
from llmrec.evaluation.reporting.contents import MeasuredRows, RunReport
from llmrec.evaluation.significance import unit_codes
from llmrec.evaluation.table import Comparison
from llmrec.printing import one_line
from llmrec.types import FloatArray, IntArray

MEASUREMENTS = "rows.parquet"
_USERS = ("", "user")
_SCHEMA: dict[str, Any] = {"kind": pl.String, "system": pl.String, "metric": pl.String, "values": pl.List(pl.Float64)}


@dataclass(frozen=True)
class RowFigures:
    """Per-row figures by kind ("ranking", "judge", ...), system and metric: arrays (B,) over the kind's test rows.

    `users` holds, for kinds whose rows are clustered, the number of each row's user.
    """

    values: Mapping[str, Mapping[str, Mapping[str, FloatArray]]]
    users: Mapping[str, IntArray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        kinds: Mapping[str, Mapping[str, Mapping[str, FloatArray | float]]],
        users: Mapping[str, Sequence[str]] | None = None,
    ) -> RowFigures:
        """Keeps the arrays and leaves plain numbers out; users are numbered in order of first appearance."""
        values = {
            kind: {
                system: {m: np.asarray(v, np.float64) for m, v in row.items() if isinstance(v, np.ndarray)}
                for system, row in systems.items()
            }
            for kind, systems in kinds.items()
        }
        return cls(values, {kind: unit_codes(names) for kind, names in (users or {}).items()})

    def save(self, path: Path) -> None:
        """Writes one Parquet file."""
        found = [
            (k, s, m, v.tolist()) for k, rows in self.values.items() for s, r in rows.items() for m, v in r.items()
        ]
        # Users stand in the same table, under a system without a name that no real one has.
        found += [(kind, *_USERS, users.astype(np.float64).tolist()) for kind, users in self.users.items()]
        pl.DataFrame(found, schema=_SCHEMA, orient="row").write_parquet(path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> RowFigures:
        """Reads what `save` wrote.

        Raises:
            RunError: the file is missing, broken or of other columns.
        """
        try:
            frame = read_parquet(path)
        except (ValueError, OSError) as error:
            raise RunError(
                f"{path} cannot be read as Parquet ({one_line(error, 120)}); run the run's command again."
            ) from None
        if dict(frame.schema) != _SCHEMA or frame.null_count().sum_horizontal()[0]:
            raise RunError(f"{path} does not hold the rows of a report; run the run's command again.")
        values: dict[str, dict[str, dict[str, FloatArray]]] = {}
        users: dict[str, IntArray] = {}
        for kind, system, metric, row in frame.iter_rows():
            array = np.array(row, dtype=np.float64)
            if (system, metric) == _USERS:
                users[kind] = array.astype(np.int64)
            else:
                values.setdefault(kind, {}).setdefault(system, {})[metric] = array
        return cls(values, users)


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
