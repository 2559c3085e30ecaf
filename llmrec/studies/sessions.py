"""Does a policy that was trained in sessions beat one-step reranking in sessions? Asked on several generated worlds.

Users satiate and win or lose trust. Systems: SFT, SFT's top 20 reranked by the reward simulator (which sees one
step), the list that it values most of all, with and without what was seen before, and PPO in sessions with learned
users under the same settings of dynamics; all meet the same users of the world's truth, and the judge's, with the
same luck. A second training with another gamma tells what looking beyond the slate at hand is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.evaluation.sessions import SessionFigures
from llmrec.files import read_json, write_json
from llmrec.pipeline.algorithms.reward import reward_key
from llmrec.pipeline.algorithms.sessions import improve_sessions, session_arenas
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.result import GREEDY
from llmrec.pipeline.sft import save_improved
from llmrec.pipeline.work import stage_key
from llmrec.studies.answer import Answer, Sheet, forest, signed
from llmrec.studies.study import Pooled, Prepared, SeedRows, Study, over_seeds
from llmrec.training.improvement import Checkpointing

SESSIONS, NEW = "PPO in sessions", f"{GREEDY}, nothing twice"
WHO = ("truth", "judge")


def session_config(seed: int, overrides: Overrides | None = None) -> RunConfig:
    """The configuration of train/recipes/session.yaml."""
    return RunConfig.read(recipes_root() / "session.yaml", {"seed": seed, **(overrides or {})})


def run_sessions(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    *,
    gamma: float | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains and plays on every seed (resuming what is there), prints the table and returns its figures.

    With `gamma` a second policy is trained, with this discount between turns.
    """

    def measure(seed: int) -> SeedRows:
        ready = Prepared.of(session_config(seed, overrides), out / f"seed-{seed}")
        return SeedRows(seed, ready.data_hash, facts=run_world(ready, gamma=gamma))

    return Study(seeds, measure, answer_of).run(out, json_file)


def run_world(ready: Prepared, *, gamma: float | None = None) -> dict[str, Any]:
    """One world: training, and the sessions of all systems with truth and judge."""
    config = ready.config
    trained = session_stage(ready)
    systems = ready.starting() | {
        GREEDY: ready.argmax(),
        NEW: ready.argmax("exclude"),
        SESSIONS: ready.ranker(trained),
    }
    if gamma is not None:
        other = replace(ready, config=replace(config, session=replace(config.session, gamma=gamma)))
        name = f"{SESSIONS}, gamma {gamma:g}"
        systems[name] = ready.ranker(session_stage(other, name=f"sessions-gamma-{gamma:g}"))
    found: dict[str, Any] = {
        "seed": config.seed,
        "dataset_hash": ready.data_hash,
        "settings": {key: config.tree()[key] for key in ("session", "dynamics", "choice", config.algorithm)},
        "training": read_json(trained / "trained.json"),
    }
    for name, arena in session_arenas(config, ready.data, ready.simulators.judge).items():
        figures = {system: arena.play(shown, config) for system, shown in systems.items()}
        found[name] = {
            "users": len(arena.user_N),
            "means": {system: own.means for system, own in figures.items()},
            "differences": {o: _difference(config, figures, o) for o in figures if o != SESSIONS},
        }
    return found


def session_stage(ready: Prepared, *, name: str = "sessions") -> Path:
    """The last policy of the training, without a gate: folder with its checkpoint and `trained.json`."""
    config, data, sft = ready.config, ready.data, ready.sft
    tree = config.tree()
    key = {
        "sft": stage_key(sft.folder),
        "reward": reward_key(config),
        "config": [tree[k] for k in ("simulator", config.algorithm, "session", "choice", "dynamics")] + [config.seed],
    }

    def build(out: Path, scratch: Path) -> None:
        policy = ready.policy()
        result = improve_sessions(config, data, policy, ready.simulators, Checkpointing(scratch / "trainer"))
        save_improved(result.model, policy.tokenizer, out)
        stopped = result.stopped_reason or ""
        write_json(out / "trained.json", {"curve": result.curve, "seconds": result.seconds, "stopped": stopped})

    return ready.work.stage(name, key, build, together=True)


def _difference(config: RunConfig, figures: Mapping[str, SessionFigures], other: str) -> dict[str, Any]:
    """PPO in sessions less `other`, paired by user."""
    samples = config.evaluation.bootstrap
    found = figures[SESSIONS].minus(figures[other], samples=samples, seed=config.seed)
    return {measure: asdict(interval) for measure, interval in found.items()}


def answer_of(found: Pooled) -> Answer:
    """Means of all worlds, the paired differences of each, and t-intervals over worlds of those in session value."""
    worlds = [one.facts for one in found.seeds]
    differences = {who: _over(worlds, who) for who in WHO} if len(worlds) > 1 else {}
    sentences = [sentence for who in WHO for sentence in _sentences(worlds, who, differences.get(who, {}))]
    figures = {"worlds": worlds, "over_worlds": differences}
    plots = {} if not differences else {"differences": forest(f"{SESSIONS} less", _by_other(differences))}
    return Answer(
        "Learning in sessions against one-step reranking",
        figures,
        [_sheet(worlds, who) for who in WHO],
        sentences,
        plots,
    )


def _over(worlds: Sequence[Mapping[str, Any]], who: str) -> dict[str, Any]:
    """By the system that SESSIONS is compared with."""
    return {
        other: over_seeds([world[who]["differences"][other]["value"]["mean"] for world in worlds])
        for other in worlds[0][who]["differences"]
    }


def _by_other(differences: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    others = next(iter(differences.values()))
    return {other: {f"{who} users": row[other] for who, row in differences.items()} for other in others}


def _sheet(worlds: Sequence[Mapping[str, Any]], who: str) -> Sheet:
    names = ("value", "first_turn", "clicks", "conversions", "turns")
    rows = [
        (system, *(f"{np.mean([world[who]['means'][system][name] for world in worlds]):.3f}" for name in names))
        for system in worlds[0][who]["means"]
    ]
    heads = ("system", *(name.replace("_", " ") for name in names))
    return Sheet(f"Sessions with {who} users, means of {len(worlds)} worlds", heads, rows)


def _sentences(worlds: Sequence[Mapping[str, Any]], who: str, over: Mapping[str, Any]) -> list[str]:
    of_worlds = [
        f"{who} users, world {world['seed']}: {SESSIONS} less {other}: {signed(found['value'], 3)} (paired, 95%)"
        for world in worlds
        for other, found in world[who]["differences"].items()
    ]
    of_all = [
        f"{who} users, over worlds: {SESSIONS} less {other}: {signed(value, 3)} (95% t-interval)"
        for other, value in over.items()
    ]
    return of_worlds + of_all
