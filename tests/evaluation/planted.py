"""Runs with planted figures, row by row, for pages of several runs."""

from __future__ import annotations

import numpy as np

from llmrec.evaluation.reporting.contents import DataFacts, MeasuredRows, RunReport
from llmrec.evaluation.reporting.reported_run import ReportedRun, RowFigures
from llmrec.evaluation.table import Comparison

USERS = [f"u{row // 2}" for row in range(60)]
"""Two rows a user."""


def planted(
    name: str,
    *,
    sft: int = 0,
    ppo: int = 1,
    data: str = "d" * 64,
    rows: str = "r",
    judge: str = "j",
    changes: dict[str, tuple[object, object]] | None = None,
    kept: bool = True,
) -> ReportedRun:
    """A run whose systems' figures are drawn from streams `sft` and `ppo`: equal numbers, equal figures."""
    figures = {"popularity": _rows(99, better=0.5), "SFT": _rows(sft), "PPO": _rows(ppo)}
    judged = {system: {"value": row["NDCG@10"] / 2} for system, row in figures.items()}
    draw = {"reference": "SFT", "samples": 200, "seed": 7}
    report = RunReport(
        title=f"llmrec run {name}",
        date="2030-01-02",
        command=f"llmrec demo --out {name}",
        data=DataFacts(
            name="world",
            counts={"items": 3},
            content_hash=data,
            click="click",
            conversion="conversion",
            split="time",
            repeat="allow",
        ),
        tables=[
            Comparison.of("Ranking", figures, users=USERS, **draw),
            Comparison.of("Judged", judged, **draw),
        ],
        rows=[
            MeasuredRows(kind="ranking", data=data, rows=rows),
            MeasuredRows(kind="judge", data=data, rows=rows, measure=judge),
        ],
        samples=200,
        seeds={"run": 7},
        changes=changes or {},
        reproduce=[f"llmrec demo --out {name}"],
    )
    measured = RowFigures.of({"ranking": figures, "judge": judged}, {"ranking": USERS})
    return ReportedRun(name, report, measured if kept else None)


def _rows(stream: int, better: float = 0.0) -> dict[str, np.ndarray | float]:
    values = np.random.default_rng(stream).random(60) + better
    return {"HR@10": (values > 0.5).astype(np.float64), "NDCG@10": values, "coverage@10": 0.1 + stream / 1000}
