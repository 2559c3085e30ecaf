"""Learning while serving: a month of a world whose demand shifts, what two changes need, and blocks of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from llmrec.config_tree import Overrides
from llmrec.studies.online.blocks import block_study
from llmrec.studies.online.month import Month
from llmrec.studies.online.reading import MONTH, SESSIONS, changes_study
from llmrec.studies.online.world import month_study


def run_online(
    ask: Literal["shift", "changes", "blocks"],
    *,
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
    visits: int | None = None,
    days: int | None = None,
    arms: Sequence[str] | None = None,
    sessions: int = SESSIONS,
    dataset: str = "movielens",
    source: str | None = None,
    blocks: int = 4,
    rows: int = 300,
) -> dict[str, Any]:
    """Asks one of the questions and returns the figures.

    Args:
        ask: shift: a simulated month with a shift of demand in its middle; changes: which of two changes needs an
            update, and which the session; blocks: a data set in blocks of time.
        seeds: of worlds and trainings.
        out: stages and answer are kept here.
        overrides: of the recipe; for changes of `reading.SIZES`.
        json_file: the figures are also written here.
        visits: slates a day of the month; by default as `Month` and `reading.MONTH` say.
        days: of the month, in whose middle (changes: when a third of it is over) demand shifts; as `visits`.
        arms: of the month, for shift; all by default (`month.ARMS`).
        sessions: for changes: that lessons are made of.
        dataset: an importer's name, for blocks.
        source: its folder or file.
        blocks: that are asked, each by what was learnt before it.
        rows: choices of a block that are asked, at most.
    """
    if ask == "blocks":
        return block_study(seeds, out, overrides or {}, dataset, source, blocks, rows, json_file)
    month = MONTH if ask == "changes" else Month()
    month = replace(month, visits=visits or month.visits, days=days or month.days, arms=tuple(arms or month.arms))
    if ask == "changes":
        return changes_study(seeds, out, overrides or {}, month, sessions=sessions, json_file=json_file)
    return month_study(seeds, out, overrides or {}, month, json_file)
