"""What a finished run is: its stages, its figures, and the names that systems have in every table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.evaluation.verdict import Verdict
from llmrec.pipeline.base_model import Base
from llmrec.pipeline.compare import Arena, Measured, Tables
from llmrec.pipeline.data import RunData
from llmrec.pipeline.improve import ImprovedStage
from llmrec.pipeline.policies import SFTStage
from llmrec.pipeline.simulation import Simulators

SFT, PPO, PPO_LAST = "SFT", "PPO", "PPO (last)"
RERANKED, GREEDY, OPTIMUM = "SFT top 20, reranked", "simulator's argmax", "true optimum"
POPULARITY, COVISITATION = "popularity", "covisitation"


Stages = tuple[RunData, Base, SFTStage, Simulators, ImprovedStage]


@dataclass(frozen=True, slots=True)
class Finished:
    """All stages of a run and what was measured at its end."""

    config: RunConfig
    data: RunData
    base: Base
    sft: SFTStage
    simulators: Simulators
    ppo: ImprovedStage
    arena: Arena
    measured: Measured
    tables: Tables
    verdict: Verdict
    seconds: dict[str, float]
    out: Path


def metrics_of(run: Finished) -> dict[str, Any]:
    """metrics.json: every figure by plain names, with its intervals, and what they were measured on."""
    manifest = run.data.dataset.manifest
    return {
        "dataset": {"name": manifest.name, "content_hash": manifest.content_hash, "proxy": manifest.proxy},
        "seed": run.config.seed,
        "test_events": len(run.arena.examples),
        "test_users": len(run.arena.states),
        "means": run.measured.means(),
        "tables": {
            "ranking": run.tables.ranking.to_json(),
            **{name: table.to_json() for name, table in run.tables.deployed.items()},
        },
        "simulator": run.simulators.fit,
        "checkpoints": run.ppo.checkpoints,
        "promotion": run.ppo.verdict,
        "verdict": {"outcome": run.verdict.outcome, "sentence": run.verdict.sentence},
    }
