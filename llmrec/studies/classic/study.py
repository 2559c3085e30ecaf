"""What a language model adds over classic RL recommenders: one world, one reward, one judge, two tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrec.evaluation.table import Comparison
from llmrec.studies.answer import Answer, signed
from llmrec.studies.classic.opening import demo_place, run_place
from llmrec.studies.classic.place import Place
from llmrec.studies.classic.tables import one_step_table, session_tables

PARTS = ("one-step", "sessions")
QUICK = {
    "world.users": 80,
    "world.items": 60,
    "ppo.steps": 20,
    "simulator.epochs": 2,
    "evaluation.users": 60,
    "evaluation.test_events": 60,
}
FEW = 2_000
"""Transitions of a smoke run."""


def run_classic(
    out: Path,
    *,
    run: Path | None = None,
    part: Sequence[str] = PARTS,
    seed: int = 0,
    transitions: int = 100_000,
    session_transitions: int = 30_000,
    quick: bool = False,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains the agents that are not finished in `out`, prints the tables and returns their figures.

    Args:
        out: agents, the data where there is no run, and the answer are kept here.
        run: run folder whose language models stand in the tables.
        part: of `PARTS`.
        seed: of the world, where there is no run.
        transitions: training budget of every agent.
        session_transitions: the same in sessions.
        quick: a smoke run in a small world.
        json_file: the figures are also written here.
    """
    place = demo_place(out, seed, QUICK if quick else None) if run is None else run_place(run, out)
    figures: dict[str, Any] = {}
    tables: dict[str, Comparison] = {}
    sentences: list[str] = []
    if "one-step" in part:
        tables["one-step"] = table = one_step_table(place, FEW if quick else transitions)
        figures["one-step"] = table.to_json()
        sentences += [*_costs(place), *_differences(table, ("true@1", "true"))]
    if "sessions" in part:
        smaller: dict[str, int] = {"turns": 3, "users": 20} if quick else {}
        found = session_tables(place, FEW if quick else session_transitions, **smaller)
        tables |= {f"sessions, {who}": table for who, table in found.items()}
        figures["sessions"] = {who: table.to_json() for who, table in found.items()}
        sentences += [f"sessions, {who}: {said}" for who, t in found.items() for said in _differences(t, ("value",))]
    facts = {"seed": place.config.seed, "dataset_hash": place.data.dataset.manifest.content_hash}
    answer = Answer(
        "Classic agents beside a language model",
        {"costs": place.costs, **figures},
        list(tables.values()),
        sentences,
        dict(tables),
    )
    return answer.finish(out, json_file, **facts)


def _costs(place: Place) -> list[str]:
    return [f"{name}: {drawn:,.0f} transitions, {seconds:.1f} s" for name, (drawn, seconds) in place.costs.items()]


def _differences(table: Comparison, metrics: Sequence[str]) -> list[str]:
    """The paired differences to the reference."""
    return [
        f"{name} less {table.reference}, {table.label(metric)}: {signed(difference)}"
        for metric in metrics
        for name, row in table.cells.items()
        if (difference := row[metric].difference) is not None
    ]
