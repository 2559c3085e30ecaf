"""What a training looks like when it goes well, and in the three ways in which it goes wrong most often.

One small world, one warm start, four trainings of a minute: as it should be; a reward whose simulator believes in
items that are worth the least (the judge sees it, the reward does not); no KL term and no entropy bonus under a large
learning rate; a reward that most groups of draws earn none of. The curves are drawn as every run draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.evaluation.plots import WATCHED, curve_figure
from llmrec.pipeline.improve import improve_stage
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.report import gate_curve
from llmrec.progress import console
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.study import Pooled, Prepared, SeedRows, Study
from llmrec.studies.trust import exploitable, worst_items

COLUMNS = ("reward", "rollout_kl", "rollout_entropy", "flat_groups", "gate/judge", "ranking/NDCG@5")


@dataclass(frozen=True, slots=True)
class Course:
    """A training: what is set for it, and whether the reward's simulator overrates the worst items."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    exploited: bool = False


COURSES = {
    "sound": Course(),
    "exploited": Course(exploited=True),
    "collapsed": Course(
        {
            "ppo.kl_coefficient": 0.0,
            "ppo.entropy_coefficient": 0.0,
            "ppo.weights": "full",
            "ppo.learning_rate": 3e-3,
            "ppo.iterations": 2,
            "ppo.clip": 0.5,
        }
    ),
    "flat": Course({"reward.click": 0.0, "reward.sampled": True, "ppo.draws": 4}),
}


def run_recipe(
    seeds: Sequence[int], out: Path, overrides: Overrides | None = None, *, json_file: Path | None = None
) -> dict[str, Any]:
    """Trains in all courses on every seed (resuming what is there); the curves are those of the first seed."""

    def measure(seed: int) -> SeedRows:
        facts, data_hash = {}, ""
        for name, course in COURSES.items():
            console.print(f"world {seed}: {name}", style="bold")
            given = {"seed": seed, **(overrides or {}), **course.settings}
            ready = Prepared.of(RunConfig.read(recipes_root() / "trust.yaml", given), out / f"seed-{seed}")
            simulators, data_hash = ready.simulators, ready.data_hash
            if course.exploited and ready.data.world is not None:
                simulators = exploitable(simulators, worst_items(ready.data.world, ready.config), None)
            # a stage of its own: planted beliefs are no setting, so the key alone would not tell them apart
            stage = improve_stage(ready.config, ready.data, ready.sft, simulators, ready.work, name=f"ppo-{name}")
            facts[name] = {"curve": [*stage.curve, *gate_curve(stage.checkpoints)], "verdict": stage.verdict}
        return SeedRows(seed, data_hash, facts=facts)

    return Study(seeds, measure, answer_of, least=1).run(out, json_file)


def answer_of(found: Pooled) -> Answer:
    """First and last figures of each course, means over seeds, and the curves of the first seed."""
    figures: dict[str, Any] = {}
    for name in COURSES:
        ends = [_ends(one.facts[name]["curve"]) for one in found.seeds]
        figures[name] = {key: np.mean([end[key] for end in ends if key in end], axis=0).tolist() for key in ends[0]}
        figures[name] = {key: pair for key, pair in figures[name].items() if not np.isnan(pair).any()}
    rows = [(name, *(_pair(row.get(key)) for key in COLUMNS)) for name, row in figures.items()]
    sheet = Sheet("From the first rollout to the last; judge and NDCG from SFT on", ("course", *COLUMNS), rows)
    first = found.seeds[0].facts
    sentences = [f"{name}: {first[name]['verdict']}" for name in COURSES]
    plots = {name: curve_figure(first[name]["curve"], WATCHED, label=f"{name} training") for name in COURSES}
    return Answer("What trainings look like", {"courses": figures}, (sheet,), sentences, plots)


def _ends(curve: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    values = {key: [row[key] for row in curve if key in row] for key in COLUMNS}
    return {key: (series[0], series[-1]) for key, series in values.items() if series}


def _pair(pair: Sequence[float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}"
