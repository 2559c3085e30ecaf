"""Learning while serving: a month of a world whose demand shifts, and real data cut into blocks of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from llmrec.config_tree import Overrides
from llmrec.studies.online.blocks import block_study
from llmrec.studies.online.month import Month
from llmrec.studies.online.world import month_study

MONTH = Month()


def run_online(
    ask: Literal["shift", "blocks"],
    *,
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
    visits: int = MONTH.visits,
    days: int = MONTH.days,
    dataset: str = "movielens",
    source: str | None = None,
    blocks: int = 4,
    rows: int = 300,
) -> dict[str, Any]:
    """Asks one of the two questions and returns the figures.

    Args:
        ask: shift: a simulated month with a shift of demand in its middle; blocks: a data set in blocks of time.
        seeds: of worlds and trainings.
        out: stages and answer are kept here.
        overrides: of the recipe.
        json_file: the figures are also written here.
        visits: slates a day of the month.
        days: of the month; demand shifts in its middle.
        dataset: an importer's name, for blocks.
        source: its folder or file.
        blocks: that are asked, each by what was learnt before it.
        rows: choices of a block that are asked, at most.
    """
    if ask == "shift":
        return month_study(seeds, out, overrides or {}, Month(visits=visits, days=days), json_file)
    return block_study(seeds, out, overrides or {}, dataset, source, blocks, rows, json_file)
