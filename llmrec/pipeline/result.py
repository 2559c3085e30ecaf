"""What a finished run is: its stages, its figures, and the names that systems have in every table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import Algorithm, RunConfig
from llmrec.evaluation.verdict import Verdict
from llmrec.pipeline.algorithms import ALGORITHMS
from llmrec.pipeline.base_model import Base
from llmrec.pipeline.controls import CONTROLS, Against, ControlStage, against, plain_figures
from llmrec.pipeline.data import RunData, funnels
from llmrec.pipeline.gate import who_judges
from llmrec.pipeline.improve import ImprovedStage
from llmrec.pipeline.measure import Arena, SystemFigures, Tables, change, varieties
from llmrec.pipeline.pilot import PilotStage
from llmrec.pipeline.ruled import ruled_facts
from llmrec.pipeline.sft import SFTStage
from llmrec.pipeline.simulation import Simulators
from llmrec.pipeline.stated import Followed

SFT = "SFT"
RERANKED, GREEDY = "SFT top 20, reranked", "simulator's argmax"
POPULARITY, COVISITATION = "popularity", "covisitation"
BEFORE_SFT = "before SFT"


def label(algorithm: Algorithm) -> str:
    """The name of an algorithm's promoted checkpoint in every table."""
    return ALGORITHMS[algorithm].label


def last_label(algorithm: Algorithm) -> str:
    """The name of its last checkpoint, which is what would be handed on without a gate."""
    return f"{label(algorithm)} (last)"


@dataclass(frozen=True, slots=True)
class Stages:
    """What a run is made of, once all of it is finished, and the configuration that decided it."""

    config: RunConfig
    data: RunData
    base: Base
    sft: SFTStage
    simulators: Simulators
    improvement: ImprovedStage
    controls: dict[str, ControlStage]
    """What the improvement is held against, by label."""
    pilot: PilotStage | None
    """What was found out before it; None where nothing was asked."""


@dataclass(frozen=True, slots=True)
class RunResult(Stages):
    """All stages of a run and what was measured at its end."""

    arena: Arena
    measured: SystemFigures
    tables: Tables
    verdict: Verdict
    seconds: dict[str, float]
    out: Path
    followed: Followed | None = None
    """How the policy follows weights that states ask for; None where the reward takes none from them."""

    @property
    def improved(self) -> bool:
        """Whether the run may be called improved: promoted, and confirmed on the test period."""
        return self.deployed is not None

    @property
    def deployed(self) -> Path | None:
        """The checkpoint that the run folder holds; None: SFT, as the run is not improved."""
        return self.improvement.promoted if self.verdict.outcome == "gain" else None

    @property
    def promotion(self) -> str:
        """What the gate promoted, and whether the test period confirmed it."""
        refuted = self.improvement.promoted is not None and not self.improved
        return self.improvement.verdict + (f" The test period did not confirm it, so {SFT} is handed on." * refuted)

    @property
    def after(self) -> str:
        """The system that is held against SFT: the promoted checkpoint, or the last where none was promoted."""
        name = label if self.improvement.promoted is not None else last_label
        return name(self.config.algorithm)

    @property
    def changed(self) -> str:
        """What the improvement changed for people, in a sentence."""
        found = change(self.config, self.data, self.arena, self.measured, before=SFT, after=self.after)
        said = found.sentence(SFT, self.after)
        return said if self.followed is None else f"{said} {self.followed.sentence}"

    def against_controls(self) -> list[Against]:
        """That system less each control, by the judge and on held-out events."""
        metric, evaluation = self.ranking_metric, self.config.evaluation
        names = [RERANKED, *self.controls]
        return against(
            self.after,
            names,
            {n: np.asarray(self.measured.deployed["judge"][n]["value"]) for n in (self.after, *names)},
            {n: np.asarray(self.measured.ranking[n][metric]) for n in (self.after, *names)},
            people=[str(state.user_id) for state in self.arena.states],
            users=[str(example.state.user_id) for example in self.arena.examples],
            samples=evaluation.bootstrap,
            seed=self.config.seed,
        )

    @property
    def ranking_metric(self) -> str:
        """The ranking metric that decides."""
        return next(metric for metric in reversed(self.tables.ranking.metrics) if metric.startswith("NDCG@"))


def control_sentences(run: RunResult) -> list[str]:
    """What the improvement is worth beside each control; nothing where no control was asked for."""
    if not run.controls:
        return []
    asks = {label_: CONTROLS[one.name].asks for label_, one in run.controls.items()}
    return [one.sentence(run.after, run.ranking_metric, asks.get(one.control, "")) for one in run.against_controls()]


def controls_facts(run: RunResult) -> dict[str, Any]:
    """Of metrics.json: what each control cost, what its gate said, and the improvement less it."""
    if not run.controls:
        return {}
    facts: dict[str, Any] = plain_figures(run.against_controls())
    for name, one in run.controls.items():
        facts[name] |= {
            "name": one.name,
            "cpu_seconds": one.stage.cpu_seconds,
            "promotion": one.stage.verdict,
            "promoted": one.stage.promoted is not None,
        }
    return facts | {"cpu_seconds": {SFT: run.sft.cpu_seconds, run.after: run.improvement.cpu_seconds}}


def pilot_facts(pilot: PilotStage | None) -> dict[str, Any] | None:
    """Of metrics.json: what the pilot found; None where there was none."""
    if pilot is None:
        return None
    return {
        "sentence": pilot.sentence,
        "kl_coefficient": pilot.kl_coefficient,
        "flat_groups": pilot.flat_groups,
        "lists": pilot.scores,
    }


def metrics_of(run: RunResult) -> dict[str, Any]:
    """metrics.json: every figure by plain names, with its intervals, and what they were measured on."""
    manifest = run.data.dataset.manifest
    return {
        "dataset": {"name": manifest.name, "content_hash": manifest.content_hash, "proxy": manifest.proxy},
        **({} if run.data.withheld is None else {"withheld": run.data.withheld.facts()}),
        "funnel": {
            part: dataclasses.asdict(found) | {"conversion_rate": found.conversion_rate}
            for part, found in funnels(run.config, run.data.dataset, run.data.split).items()
        },
        "seed": run.config.seed,
        "precision": run.sft.precision,
        "algorithm": run.config.algorithm,
        "improved": run.improved,
        "why_not_improved": list(run.verdict.reasons),
        "traded": bool(run.improved and run.verdict.trade),
        "deployed": label(run.config.algorithm) if run.improved else SFT,
        "test_events": len(run.arena.examples),
        "test_users": len(run.arena.states),
        "means": run.measured.means(),
        "tables": {
            "ranking": run.tables.ranking.to_json(),
            **{name: table.to_json() for name, table in run.tables.judged.items()},
        },
        "simulator": run.simulators.fit,
        "exam": run.simulators.exam,
        "checkpoints": run.improvement.checkpoints,
        "judge": who_judges(run.config, run.simulators),
        "promotion": run.promotion,
        "pilot": pilot_facts(run.pilot),
        "changed": run.changed,
        "controls": controls_facts(run),
        **({} if run.followed is None else {"stated": run.followed.facts()}),
        "verdict": {
            "outcome": run.verdict.outcome,
            "sentence": run.verdict.sentence,
            "caveats": list(run.verdict.caveats),
        },
        "variety": {
            name: dataclasses.asdict(found) | {"one_for_all": found.one_for_all}
            for name, found in varieties(run.config, run.arena, run.measured).items()
        },
        "rates_note": run.arena.rates,
        **ruled_facts(run.arena.rules),
    }
