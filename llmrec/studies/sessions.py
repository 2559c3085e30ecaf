"""Does a policy that was trained in sessions beat one-step reranking in sessions? Asked on several generated worlds.

Users satiate and win or lose trust. Systems: SFT, SFT's top 20 reranked by the reward simulator (which sees one
step), and PPO in sessions with learned users under the same settings of dynamics; all meet the same users of the
world's truth, and the judge's, with the same luck. Asked for it, a second training with gamma 0 tells how much of
the gain comes from looking beyond the slate at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from llmrec.config import RunConfig
from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.evaluation.sessions import SessionFigures
from llmrec.evaluation.significance import t_interval
from llmrec.files import read_json, write_json
from llmrec.pipeline.algorithms.reward import reward_key, run_reward
from llmrec.pipeline.algorithms.sessions import improve_sessions, session_arenas
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.result import RERANKED, SFT
from llmrec.pipeline.sft import SFTStage, improved_policy, sft_policy, sft_stage
from llmrec.pipeline.simulation import Simulators, simulator_stage
from llmrec.pipeline.systems import Policy, Reranked
from llmrec.pipeline.work import Work
from llmrec.progress import console
from llmrec.screen import results
from llmrec.training.improvement import Checkpointing
from llmrec.training.lora import adapter_of
from llmrec.types import Ranker

SESSIONS, GREEDY = "PPO in sessions", "PPO in sessions, gamma 0"


def session_config(seed: int, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of train/recipes/session.yaml."""
    return RunConfig.read(recipes_root() / "session.yaml", [f"seed={seed}", *overrides])


def run_session_study(
    seeds: Sequence[int],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    greedy: bool = False,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains and plays on every seed (resuming what is there), prints the table and returns its figures.

    With `greedy` a second policy is trained with gamma 0.
    """
    worlds = []
    for seed in seeds:
        console.print(f"world {seed}", style="bold")
        worlds.append(run_world(session_config(seed, overrides), Work(out / f"seed-{seed}"), greedy=greedy))
    figures = {
        "worlds": worlds,
        "over_worlds": _over(worlds) if len(worlds) > 1 else {},
        "machine": machine_facts(),
        "versions": package_versions(),
    }
    _print(figures)
    if json_file is not None:
        write_json(json_file, figures)
    return figures


def run_world(config: RunConfig, work: Work, *, greedy: bool = False) -> dict[str, Any]:
    """One world: stages, training, and the sessions of all systems with truth and judge."""
    data = open_data(config, work)
    sft = sft_stage(config, data, base_model(config, data, work), work)
    simulators = simulator_stage(config, data, work)
    trained = session_stage(config, data, sft, simulators, work)
    systems = _systems(config, data, sft, simulators, trained)
    if greedy:
        blind = replace(config, session=replace(config.session, gamma=0.0))
        other = session_stage(blind, data, sft, simulators, work, name="sessions-greedy")
        systems[GREEDY] = Policy(improved_policy(config, data, sft, other), config.evaluation.beams)
    found: dict[str, Any] = {
        "seed": config.seed,
        "dataset_hash": data.dataset.manifest.content_hash,
        "settings": {key: config.tree()[key] for key in ("session", "dynamics", "choice", config.algorithm)},
        "training": read_json(trained / "trained.json"),
    }
    for name, arena in session_arenas(config, data, simulators.judge).items():
        figures = {system: arena.play(deployed, config) for system, deployed in systems.items()}
        found[name] = {
            "users": len(arena.user_N),
            "means": {system: own.means for system, own in figures.items()},
            "differences": {o: _difference(config, figures, o) for o in figures if o != SESSIONS},
        }
    return found


def session_stage(
    config: RunConfig, data: RunData, sft: SFTStage, simulators: Simulators, work: Work, *, name: str = "sessions"
) -> Path:
    """The last policy of the training, without a gate: folder with its adapter and `trained.json`."""
    tree = config.tree()
    key = {
        "sft": read_json(sft.folder / "stage.json")["key"],
        "reward": reward_key(config),
        "config": [tree[k] for k in ("simulator", config.algorithm, "session", "choice", "dynamics")] + [config.seed],
    }

    def build(out: Path, scratch: Path) -> None:
        policy = sft_policy(config, data, sft)
        result = improve_sessions(config, data, policy, simulators, Checkpointing(scratch / "trainer"))
        adapter_of(result.model).save(out / "adapter")
        stopped = result.stopped_reason or ""
        write_json(out / "trained.json", {"curve": result.curve, "seconds": result.seconds, "stopped": stopped})

    return work.stage(name, key, build, together=True)


def _systems(
    config: RunConfig, data: RunData, sft: SFTStage, simulators: Simulators, trained: Path
) -> dict[str, Ranker]:
    beams = config.evaluation.beams
    policy = sft_policy(config, data, sft)
    start = Policy(policy, beams)
    reward = run_reward(config, data, simulators, policy, slate_size=config.session.slate).for_ranking()
    better = Policy(improved_policy(config, data, sft, trained), beams)
    return {SFT: start, RERANKED: Reranked(start, reward, data.dataset.n_items), SESSIONS: better}


def _difference(config: RunConfig, figures: Mapping[str, SessionFigures], other: str) -> dict[str, Any]:
    """PPO in sessions less `other`, paired by user."""
    samples = config.evaluation.bootstrap
    found = figures[SESSIONS].minus(figures[other], samples=samples, seed=config.seed)
    return {measure: asdict(interval) for measure, interval in found.items()}


def _over(worlds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """t-intervals over worlds of the mean differences in session value."""
    found: dict[str, Any] = {}
    for arena in ("truth", "judge"):
        for other in worlds[0][arena]["differences"]:
            values = [world[arena]["differences"][other]["value"]["mean"] for world in worlds]
            found.setdefault(arena, {})[other] = asdict(t_interval(values))
    return found


def _print(figures: Mapping[str, Any]) -> None:
    screen = results()
    worlds = figures["worlds"]
    for arena in ("truth", "judge"):
        table = Table(title=f"Sessions with {arena} users, means of {len(worlds)} worlds", title_justify="left")
        for name in ("system", "value", "first turn", "clicks", "conversions", "turns"):
            table.add_column(name, justify="left" if name == "system" else "right")
        for system in worlds[0][arena]["means"]:
            rows = [world[arena]["means"][system] for world in worlds]
            names = ("value", "first_turn", "clicks", "conversions", "turns")
            table.add_row(system, *(f"{np.mean([row[m] for row in rows]):.3f}" for m in names))
        screen.print(table)
        for world in worlds:
            for other, found in world[arena]["differences"].items():
                value = found["value"]
                screen.print(
                    f"world {world['seed']}: {SESSIONS} less {other}: {value['mean']:+.3f} "
                    f"(paired 95% interval {value['low']:+.3f} to {value['high']:+.3f})"
                )
        for other, value in figures["over_worlds"].get(arena, {}).items():
            screen.print(
                f"over worlds: {SESSIONS} less {other}: {value['mean']:+.3f} "
                f"(95% t-interval {value['low']:+.3f} to {value['high']:+.3f})"
            )
