"""What the tables of a run were measured on: digests that tell whether two runs met the same rows and judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmrec.evaluation.reporting.contents import MeasuredRows
from llmrec.evaluation.reporting.reported_run import RowFigures
from llmrec.files import sha256_of
from llmrec.pipeline.result import RunResult

DIGITS = 16


def test_rows(run: RunResult, work: Path) -> tuple[MeasuredRows, ...]:
    """One entry a table, in the order of the report: the ranking, then what each judge says of deployed slates.

    Args:
        run: the finished run.
        work: its working folder, where the judge's weights lie.
    """
    data = run.data.dataset.manifest.content_hash
    events = [[e.state.user_id, e.state.time, e.target] for e in run.arena.examples]
    users = [[state.user_id, state.time] for state in run.arena.states]
    weights = [run.config.reward.click, run.config.reward.conversion]
    places = min(max(run.config.evaluation.k), run.data.dataset.n_items)
    found = [MeasuredRows(kind="ranking", data=data, rows=_digest(events))]
    for name in run.tables.deployed:
        judge = _folder_digest(work / "simulator" / name) if name == "judge" else ""
        found.append(
            MeasuredRows(kind=name, data=data, rows=_digest(users), measure=_digest([name, judge, weights, places]))
        )
    return tuple(found)


def measurements(run: RunResult) -> RowFigures:
    """The figures of all systems row by row; users are numbered."""
    users = {"ranking": [str(e.state.user_id) for e in run.arena.examples]}
    return RowFigures.of({"ranking": run.measured.ranking, **run.measured.deployed}, users)


def _digest(value: Any) -> str:
    return sha256_of(json.dumps(value))[:DIGITS]


def _folder_digest(folder: Path) -> str:
    """Of all files below `folder`, by name and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [part for path in files for part in (path.relative_to(folder).as_posix(), path.read_bytes())]
    return sha256_of(*parts)
