"""Every system on the same rows: ranking on held-out events, the judge's view of slates, and a world's truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.dataset.examples import Examples
from llmrec.evaluation.ranking import coverage, illegal_share, ranking_metrics
from llmrec.evaluation.simulated import Judge, simulate
from llmrec.evaluation.table import Comparison
from llmrec.pipeline.data import RunData
from llmrec.pipeline.policies import targets
from llmrec.pipeline.simulation import log_of, one_state_per_user
from llmrec.pipeline.systems import System, Truth
from llmrec.progress import console
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray, Slate, State


@dataclass(frozen=True, slots=True)
class Arena:
    """What all systems are measured on: held-out events, and users met at their first held-out state."""

    examples: Examples
    states: list[State]
    seen: list[IntArray]
    judges: dict[str, Judge]
    n_items: int
    repeat: str


Row = dict[str, FloatArray | float]


def make_arena(config: RunConfig, data: RunData, judge: Judge) -> Arena:
    """The test rows of a run; a generated world adds its truth as a second judge."""
    log = log_of(config, data, "test")
    rows = one_state_per_user(log, config.evaluation.users, numpy_stream(config.seed, "evaluation", "users"))
    judges: dict[str, Judge] = {"judge": judge}
    if data.world is not None:
        judges["true"] = Truth(data.world)
    return Arena(
        targets(config, data, "test", config.evaluation.test_events),
        [log.states[r] for r in rows],
        [log.seen[r] for r in rows],
        judges,
        data.dataset.n_items,
        data.dataset.manifest.repeat,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """All systems' figures: `ranking` by test event, `deployed` by user, and the slates of the users."""

    ranking: dict[str, Row]
    deployed: dict[str, Row]
    slates: dict[str, list[Slate]]

    def tables(self, config: RunConfig, reference: str, arena: Arena) -> tuple[Comparison, Comparison]:
        """The ranking table and the table of deployed slates, with intervals paired to `reference`."""
        users = [str(e.state.user_id) for e in arena.examples]
        common: dict[str, Any] = {"samples": config.evaluation.bootstrap, "seed": config.seed}
        ranking = Comparison.of(
            "Ranking of held-out events over the full catalogue",
            self.ranking,
            reference=reference,
            users=users,
            **common,
        )
        deployed = Comparison.of(
            "Deployed slates: expected clicks and conversions per impression",
            self.deployed,
            reference=reference,
            percent=tuple(m for row in self.deployed.values() for m in row if "rate" in m),
            **common,
        )
        return ranking, deployed


def compare(config: RunConfig, arena: Arena, systems: Mapping[str, System]) -> Measured:
    """Measures every system; the illegal share counts places outside the catalogue, excluded or doubled."""
    ranking: dict[str, Row] = {}
    deployed: dict[str, Row] = {}
    slates: dict[str, list[Slate]] = {}
    top = min(max(config.evaluation.k), arena.n_items)
    for name, system in systems.items():
        console.print(f"[dim]  measuring {name}[/dim]")
        found = system.recommend([e.state for e in arena.examples], top, seen=arena.examples.seen)
        ranking[name] = _rank(config, arena, found, top)
        slates[name] = system.recommend(arena.states, top, seen=arena.seen)
        deployed[name] = _deploy(config, arena, slates[name], top)
    return Measured(ranking, deployed, slates)


def _rank(config: RunConfig, arena: Arena, found: Sequence[Slate], top: int) -> Row:
    cutoffs = tuple(k for k in config.evaluation.k if k <= top)
    metrics = ranking_metrics(found, [e.target for e in arena.examples], k=cutoffs)
    excluded = arena.examples.seen if arena.repeat == "exclude" else None
    row: Row = dict(metrics.per_row)
    row[f"coverage@{top}"] = coverage(found, arena.n_items, top)
    row["illegal"] = illegal_share(found, arena.n_items, excluded)
    return row


def _deploy(config: RunConfig, arena: Arena, slates: Sequence[Slate], top: int) -> Row:
    row: Row = {}
    weights = {"click": config.reward.click, "conversion": config.reward.conversion}
    for name, judge in arena.judges.items():
        for k in (1, top):
            seen = simulate(slates, arena.states, judge, k=k, **weights)
            row |= {f"{name} {measure}@{k}": values for measure, values in seen.per_user.items()}
    return row


def plain(measured: Measured) -> dict[str, Any]:
    """Means by system and figure, for metrics.json."""
    return {
        kind: {name: {m: float(np.mean(v)) for m, v in row.items()} for name, row in rows.items()}
        for kind, rows in (("ranking", measured.ranking), ("deployed", measured.deployed))
    }
