"""Paired differences between systems of different runs, from their figures row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmrec.evaluation.reporting.reported_run import ReportSection
from llmrec.evaluation.significance import paired_bootstrap
from llmrec.evaluation.table import Cell, Comparison
from llmrec.types import FloatArray


def can_pair(group: Sequence[ReportSection]) -> bool:
    """Whether all runs of the group kept their figures by row, over equally many rows, with the reference's own."""
    found = [part.arrays for part in group]
    lengths = {len(v) for kind in found for row in (kind or {}).values() for v in row.values()}
    reference = group[0].table.reference
    return all(found) and len(lengths) == 1 and found[0] is not None and reference in found[0]


def paired_to_first(group: Sequence[ReportSection]) -> list[Comparison]:
    """The tables of a group that `can_pair`, with differences to the first run's reference.

    The first run's own differences come out as they were: seed, samples and clusters are its own.
    """
    first, name = group[0], str(group[0].table.reference)
    base = (first.arrays or {})[name]
    tables = []
    for part in group:
        arrays = part.arrays or {}
        cells = {
            system: row
            if part is first and system == name
            else {m: _against(first, m, cell, arrays.get(system, {}), base) for m, cell in row.items()}
            for system, row in part.table.cells.items()
        }
        tables.append(replace(part.table, cells=cells))
    return tables


def between(group: Sequence[ReportSection]) -> Comparison | None:
    """Each run's improved policy against that of the first run; None where nothing can be paired."""
    improved = [(part, part.run.report.slate_names[1]) for part in group]
    if len(group) < 2 or not can_pair(group) or any(name not in (p.arrays or {}) for p, name in improved):
        return None
    first, start = improved[0]
    base = (first.arrays or {})[start]
    cells = {
        f"{name} ({part.run.name})": {
            m: replace(cell, difference=None)
            if part is first
            else _against(first, m, cell, (part.arrays or {})[name], base)
            for m, cell in part.table.cells[name].items()
        }
        for part, name in improved
    }
    title = f"Improved policies against one another. {first.table.title}"
    return replace(first.table, title=title, cells=cells, reference=next(iter(cells)), note="")


def _against(
    first: ReportSection, metric: str, cell: Cell, values: Mapping[str, FloatArray], base: Mapping[str, FloatArray]
) -> Cell:
    """The cell with its difference to `base`; none where a figure is not by row."""
    if metric not in values or metric not in base:
        return replace(cell, difference=None)
    report, measured = first.run.report, first.run.measured
    users = measured.users.get(first.kind) if measured is not None else None
    draw: dict[str, Any] = {
        "users": None if users is None else users.tolist(),
        "samples": report.samples,
        "seed": report.seeds.get("run", 0),
        "name": (metric,),
    }
    return replace(cell, difference=paired_bootstrap(values[metric], base[metric], **draw))
