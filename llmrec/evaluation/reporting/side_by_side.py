"""Tables of several runs: one table where data and test rows agree, else tables of their own with the reason.

Systems of different runs are compared in pairs, row by row, where both runs kept their figures by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmrec.evaluation.reporting.reported_run import ReportedRun, ReportSection, listed, parts_of
from llmrec.evaluation.significance import paired_bootstrap
from llmrec.evaluation.table import Cell, Comparison
from llmrec.types import FloatArray


@dataclass(frozen=True)
class Joined:
    """A table of one or several runs: which they are, what it shows, and why other runs stand elsewhere.

    `improved` tells that it holds the runs' improved policies alone, against one another.
    """

    table: Comparison
    runs: tuple[str, ...]
    kind: str = ""
    why: str = ""
    improved: bool = False


def join(runs: Sequence[ReportedRun]) -> list[Joined]:
    """All tables of all runs, those of equal rows as one; a single run's tables are left as they are."""
    if len(runs) == 1:
        return [Joined(part.table, (runs[0].name,), part.kind) for part in parts_of(runs[0])]
    parts = [part for run in runs for part in parts_of(run)]
    found = []
    for kind in dict.fromkeys(part.kind for part in parts):
        groups = _grouped([part for part in parts if part.kind == kind])
        for group in groups:
            names = tuple(part.run.name for part in group)
            why = "" if group is groups[0] else _why(groups[0], group)
            found.append(Joined(_united(group), names, kind, why))
            if (improved := between(group)) is not None:
                found.append(Joined(improved, names, kind, improved=True))
    return found


def main_tables(joined: Sequence[Joined]) -> list[Comparison]:
    """For each set of runs that share tables, the columns that a person looks at first."""
    shown = [found for found in joined if found.kind in _FIRST and not found.improved]
    sets = dict.fromkeys(found.runs for found in shown)
    return [_main([found for found in shown if found.runs == runs], alone=len(sets) == 1) for runs in sets]


_FIRST = {"ranking": "", "judge": "judge: ", "truth": "truth: "}


def _main(tables: Sequence[Joined], *, alone: bool) -> Comparison:
    columns = [(found.kind, metric, found.table) for found in tables for metric in _first_metrics(found)]
    cells: dict[str, dict[str, Cell]] = {}
    for kind, metric, table in columns:
        for system, row in table.cells.items():
            if metric in row:
                cells.setdefault(system, {})[f"{kind} {metric}"] = row[metric]
    first = tables[0]
    title = "Held-out events, and what is shown to users"
    return Comparison(
        title if alone else f"{title} ({listed(first.runs)})",
        cells,
        first.table.reference,
        percent=tuple(f"{kind} {metric}" for kind, metric, table in columns if metric in table.percent),
        labels={f"{kind} {metric}": _FIRST[kind] + table.label(metric) for kind, metric, table in columns},
        note=" ".join(dict.fromkeys(said for found in tables for said in found.table.note.splitlines())),
    )


def _first_metrics(found: Joined) -> list[str]:
    if found.kind == "ranking":
        return [m for m in found.table.metrics if m.startswith("NDCG@")][-1:]
    wanted = ("value@1", "value") if found.kind == "truth" else ("click_rate", "conversion_rate", "value")
    return [m for m in wanted if m in found.table.metrics]


def config_changes_of(runs: Sequence[ReportedRun]) -> dict[str, list[Any]]:
    """Keys that differ from the default in any run: the default, then the value of each run in order."""
    defaults = {key: default for run in runs for key, (default, _) in run.report.changes.items()}
    return {
        key: [default, *(run.report.changes.get(key, (default, default))[1] for run in runs)]
        for key, default in defaults.items()
    }


def config_differences(runs: Sequence[ReportedRun]) -> dict[str, list[Any]]:
    """Configuration keys in which the runs differ, with the value of each run in order."""
    changes = {key: row[1:] for key, row in config_changes_of(runs).items()}
    return {key: row for key, row in changes.items() if any(value != row[0] for value in row)}


def _grouped(parts: Sequence[ReportSection]) -> list[list[ReportSection]]:
    groups: list[list[ReportSection]] = []
    for part in parts:
        # Not recorded is not equal: tables without what they were measured on stand alone.
        same = [group for group in groups if part.rows is not None and group[0].rows == part.rows]
        if same:
            same[0].append(part)
        else:
            groups.append([part])
    return groups


def _why(first: Sequence[ReportSection], group: Sequence[ReportSection]) -> str:
    """Why `group` is not in the table of `first`."""
    names, others = (listed([part.run.name for part in g]) for g in (group, first))
    a, b = first[0].rows, group[0].rows
    if a is None or b is None:
        reason = "what they were measured on was not recorded"
    elif a.data != b.data:
        reason = f"their data differ (content hash {b.data[:12]} and {a.data[:12]})"
    elif a.rows != b.rows:
        reason = "their test rows differ"
    else:
        reason = "the judge, the weights of its value or the places shown differ"
    return f"{names} and {others} are not compared with one another here: {reason}."


def _united(group: Sequence[ReportSection]) -> Comparison:
    """The union of systems: a name alone where all runs agree on a system's figures, else with the run's name."""
    tables, name = [part.table for part in group], group[0].run.name
    if len(group) == 1:
        return replace(tables[0], title=f"{tables[0].title} ({name})")
    shared, reference, note = _shared(group), tables[0].reference, tables[0].note
    if reference not in shared and can_pair(group):
        note = f"{note} Each run has a {reference} of its own; differences are to that of {name}.".strip()
        tables, reference = paired_to_first(group), f"{reference} ({name})"
    elif reference not in shared:
        marks = f"▲ ▼ significantly above or below the {reference} of the same run (paired 95% interval without 0)."
        shared, reference, note = frozenset(), None, f"{marks} {note}".strip()
    cells: dict[str, dict[str, Cell]] = {}
    for system in dict.fromkeys(s for table in tables for s in table.cells):
        for part, table in zip(group, tables, strict=True):
            if system in table.cells:
                cells.setdefault(system if system in shared else f"{system} ({part.run.name})", table.cells[system])
    return replace(tables[0], cells=cells, reference=reference, note=note)


def _shared(group: Sequence[ReportSection]) -> frozenset[str]:
    """Systems with the same means and intervals in all tables whose rows the runs of the group share."""
    shared = set(group[0].table.cells)
    # A system counts as shared only where it has the same figures in every table of equal rows: a baseline of equal
    # settings does, a retrained policy does not.
    for parts in zip(*(parts_of(part.run) for part in group), strict=False):
        if len({part.rows for part in parts}) == 1:
            shared &= {system for system in shared if len({_figures(part.table, system) for part in parts}) == 1}
    return frozenset(shared)


def _figures(table: Comparison, system: str) -> tuple[Any, ...]:
    return tuple((m, cell.mean, cell.interval) for m, cell in table.cells.get(system, {}).items())


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
