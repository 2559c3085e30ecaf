"""The claim of the demo over several worlds: what share of SFT's headroom the algorithm (PPO) closes, in true value.

closed = (V_PPO - V_SFT) / (V* - V_SFT), per seed; a t-interval over seeds says whether it is above 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from llmrec.config import RunConfig
from llmrec.errors import RequestError
from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.evaluation.significance import noninferiority_bound, t_interval
from llmrec.files import write_json
from llmrec.pipeline.recipes import demo_config
from llmrec.pipeline.result import OPTIMUM, SFT, RunResult, label, last_label
from llmrec.pipeline.run import check_config, evaluate, train_stages
from llmrec.pipeline.work import Work
from llmrec.progress import console
from llmrec.screen import results
from llmrec.types import FloatArray

MEASURES = {"value@1": "top item", "value": "top ten"}
CLICK_ONLY = [  # imitation is near the best that clicks alone can ask for: stay close to it
    "reward.conversion=0",
    "ppo.kl_coefficient=0.03",
    "ppo.entropy_coefficient=0",
    "ppo.steps=60",
    "ppo.save_every=20",
    "gate.ndcg_tolerance=0",
]
NEEDED = 0.15
MARGIN = 0.03


@dataclass
class Claim:
    """Figures by seed: `values[system][measure]` is a list over seeds; `ndcg` pools the test rows of all seeds.

    `name` and `last` are what tables call the algorithm's promoted and last checkpoint.
    """

    name: str = ""
    last: str = ""
    seeds: list[int] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    ndcg: dict[str, list[FloatArray]] = field(default_factory=dict)
    users: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, seed: int, run: RunResult) -> None:
        """Adds one finished world. The deployed policy is the promoted one; SFT itself where none was promoted."""
        self.seeds.append(seed)
        self.hashes.append(run.data.dataset.manifest.content_hash)
        self.seconds.append(sum(run.seconds.values()))
        truth, ranking = dict(run.measured.deployed["truth"]), dict(run.measured.ranking)
        self.name, self.last = label(run.config.algorithm), last_label(run.config.algorithm)
        for rows in (truth, ranking):
            rows.setdefault(self.name, rows[SFT])
            rows.setdefault(self.last, rows[self.name])  # the last checkpoint is the promoted one
        for system, row in truth.items():
            for measure in (*MEASURES, "click_rate", "conversion_rate"):
                self.values.setdefault(system, {}).setdefault(measure, []).append(float(np.mean(row[measure])))
        for system, row in ranking.items():
            self.ndcg.setdefault(system, []).append(np.asarray(row["NDCG@10"]))
        self.users += [f"{seed}/{e.state.user_id}" for e in run.arena.examples]

    def closed(self, system: str, measure: str) -> list[float]:
        """Share of the headroom between SFT and the optimum that `system` closes, by seed."""
        value, start, best = (np.array(self.values[s][measure]) for s in (system, SFT, OPTIMUM))
        return [float(x) for x in (value - start) / (best - start)]


def run_claim(
    seeds: Sequence[int], out: Path, overrides: Sequence[str], *, click_only: bool, json_file: Path | None
) -> dict[str, Any]:
    """Runs the demo's job on every seed (resuming what is there), prints the table and returns its figures."""
    if len(seeds) < 2:
        raise RequestError("An interval over seeds needs at least two of them; give --seeds two or more numbers.")
    claim = Claim()
    for seed in seeds:
        console.print(f"world {seed}", style="bold")
        claim.add(seed, _run(_config(seed, overrides, click_only), out / f"seed-{seed}", click_only))
    figures = _figures(claim, click_only)
    _print(claim, figures, click_only)
    if json_file is not None:
        write_json(json_file, figures)
    return figures


def _config(seed: int, overrides: Sequence[str], click_only: bool) -> RunConfig:
    own = ["evaluation.test_events=1200", "evaluation.users=1000", *(CLICK_ONLY if click_only else [])]
    return demo_config(seed, [*own, *overrides])


def _run(config: RunConfig, folder: Path, click_only: bool) -> RunResult:
    check_config(config)
    work = Work(folder)
    stages = train_stages(config, work, improved_name=f"{config.algorithm}-click" if click_only else config.algorithm)
    return evaluate(stages, work, folder)


def _figures(claim: Claim, click_only: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "seeds": claim.seeds,
        "dataset_hashes": claim.hashes,
        "machine": machine_facts(),
        "versions": package_versions(),
        "seconds": claim.seconds,
        "values": claim.values,
        "ndcg@10": {system: float(np.concatenate(rows).mean()) for system, rows in claim.ndcg.items()},
        "events": len(claim.users),
    }
    both = (claim.name, claim.last)
    systems = both[:1] if claim.values[claim.name] == claim.values[claim.last] else both
    for system in systems:
        closed = {}
        for measure, words in MEASURES.items():
            shares = claim.closed(system, measure)
            closed[words] = {"by_seed": shares, **asdict(t_interval(shares))}
        bound = noninferiority_bound(
            np.concatenate(claim.ndcg[system]), np.concatenate(claim.ndcg[SFT]), users=claim.users
        )
        figures[system] = {"headroom_closed": closed, "ndcg@10_relative": asdict(bound)}
    if click_only:
        figures["holds"] = len(claim.users) >= 5000 and figures[claim.name]["ndcg@10_relative"]["low"] > -MARGIN
    else:
        shares = figures[claim.name]["headroom_closed"].values()
        figures["holds"] = all(c["mean"] >= NEEDED and c["low"] > 0 for c in shares)
    return figures


def _print(claim: Claim, figures: dict[str, Any], click_only: bool) -> None:
    table = Table(title=f"True value of what is deployed, mean of {len(claim.seeds)} worlds", title_justify="left")
    for name in ("system", "V top item", "V top ten", "true clicks", "true conversions", "NDCG@10"):
        table.add_column(name, justify="left" if name == "system" else "right")
    for system, row in claim.values.items():
        if system == claim.last and claim.last not in figures:
            continue
        numbers = [f"{np.mean(row[m]):.4f}" for m in MEASURES]
        rates = [f"{100 * np.mean(row[m]):.2f}%" for m in ("click_rate", "conversion_rate")]
        table.add_row(system, *numbers, *rates, f"{figures['ndcg@10'][system]:.4f}")
    screen = results()
    screen.print(table)
    for system in (s for s in (claim.name, claim.last) if s in figures):
        for words, c in figures[system]["headroom_closed"].items():
            by_seed = ", ".join(f"{x:.3f}" for x in c["by_seed"])
            screen.print(
                f"{system}, {words}: closes {c['mean']:.3f} of the headroom (95% t-interval {c['low']:.3f} to "
                f"{c['high']:.3f}; by seed {by_seed})"
            )
        bound = figures[system]["ndcg@10_relative"]
        screen.print(
            f"{system}: NDCG@10 {100 * bound['relative']:+.1f}% against SFT on {figures['events']} events "
            f"(one-sided 95% bound {100 * bound['low']:+.1f}%)"
        )
    what = (
        "NDCG@10 not inferior (bound above -3%)" if click_only else "at least 0.15 closed on both, interval above 0"
    )
    screen.print(f"Claim ({what}): {'holds' if figures['holds'] else 'DOES NOT HOLD'}")
