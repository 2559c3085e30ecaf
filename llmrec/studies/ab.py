"""Experiments with the systems of a finished run: what was trained is read from its working folder, nothing is made.

Users are those of the test period as the judge knows them or, in a generated world, as they truly are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmrec.baselines.registry import BASELINES
from llmrec.config import RunConfig
from llmrec.errors import ConfigError, RunError
from llmrec.evaluation.experiment import Design, Experiment, ab_test
from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.pipeline.algorithms.reward import run_reward
from llmrec.pipeline.algorithms.sessions import session_arenas, session_sizes
from llmrec.pipeline.place import work_folder
from llmrec.pipeline.result import Stages
from llmrec.pipeline.run import train_stages
from llmrec.pipeline.sft import improved_policy, sft_policy, targets
from llmrec.pipeline.systems import Greedy, OptimumRanker, Policy, Reranked
from llmrec.pipeline.work import Work
from llmrec.types import Ranker

SYSTEMS = ("sft", "improved", "last", "reranked", "greedy", "optimum", *BASELINES)
"""What an experiment can be asked for; the run's algorithm (ppo) stands for "improved" too."""
CHANGEABLE = (
    "choice",
    "dynamics",
    "session.turns",
    "session.slate",
    "evaluation",
    "reward.click",
    "reward.conversion",
)
"""Keys that decide how users are met and not how anything was trained."""


class Finished(Work):
    """The working folder of a finished run; a stage that is not there is not made."""

    def __init__(self, out: Path) -> None:
        folder = work_folder(out)
        if not folder.is_dir():
            raise RunError(f"{out} has no working folder {folder}, which holds its users; take a run made here.")
        super().__init__(folder)

    def _build(self, name: str, *_: Any, **__: Any) -> None:
        raise RunError(
            f"{self.folder} does not hold the stage {name!r} of this configuration (another version of llmrec may "
            "have made it); run the command of the run again, then compare."
        )


def run_experiment(
    out: Path,
    a: str,
    b: str,
    *,
    users: str | None = None,
    overrides: Sequence[str] = (),
    design: Design | None = None,
) -> tuple[Experiment, dict[str, Any]]:
    """Two systems of the run folder `out` under the users of its test period.

    Args:
        out: the run folder; its working folder lies beside it.
        a: name of the system in use, one of `SYSTEMS` or the run's algorithm.
        b: name of the one that is to replace it; the same name shows what an experiment finds where nothing differs.
        users: "truth" (a generated world's) or "judge"; by default the truth where there is one.
        overrides: KEY=VALUE for the keys of `CHANGEABLE`.
        design: what is decided beforehand; regret is known to the truth alone.

    Returns:
        The experiment, and the facts that its figures stand with.

    Raises:
        RunError: no such run, a stage that is missing, or a system that this run does not have.
        ConfigError: a key that decided the training.
    """
    config = _config(out)
    met = _overridden(out, config, overrides)
    stages = train_stages(config, Finished(out))
    systems = [_system(name, met, stages, out) for name in (a, b)]
    arenas = session_arenas(met, stages.data, stages.simulators.judge)
    chosen = users or ("truth" if "truth" in arenas else "judge")
    if chosen not in arenas:
        raise RunError(f"{out} knows no {chosen} users; choose {' or '.join(arenas)}.")
    arena, design = arenas[chosen], design or Design(regret=True)
    if chosen == "judge":  # the best slate of a model is not the best slate
        design = dataclasses.replace(design, regret=False)
    found = ab_test(
        systems[0],
        systems[1],
        arena.population,
        arena.user_N,
        session_sizes(met),
        names=(a, b if b != a else f"{b} again"),
        choice=arena.choice,
        dynamics=met.dynamics,
        seen=arena.seen,
        design=design,
    )
    return found, _facts(met, stages, chosen)


def sized(out: Path, turns: int | None, slate: int | None) -> list[str]:
    """Overrides for sessions: the run's own sizes, or 5 turns of 10 places where it was a bandit."""
    plain = _config(out).session.plain
    chosen = {"turns": (turns, 5), "slate": (slate, 10)}
    sizes = {key: default if given is None and plain else given for key, (given, default) in chosen.items()}
    return [f"session.{key}={value}" for key, value in sizes.items() if value is not None]


def _config(out: Path) -> RunConfig:
    place = out / "config.yaml"
    if not place.is_file():
        raise RunError(f"{place} does not exist; give the folder of a finished run.")
    return RunConfig.read(place)


def _overridden(out: Path, config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    for text in overrides:
        key = text.split("=", 1)[0].strip()
        if not any(key == known or key.startswith(f"{known}.") for known in CHANGEABLE):
            raise ConfigError(
                f"Key {key!r} decides more than how users are met; an experiment changes {', '.join(CHANGEABLE)}."
            )
    met = RunConfig.read(out / "config.yaml", overrides)
    if min(met.session.turns, met.session.slate, met.evaluation.users) < 1:
        raise ConfigError("Keys 'session.turns', 'session.slate' and 'evaluation.users' must be 1 or more.")
    return dataclasses.replace(met, seed=config.seed)


def _system(name: str, config: RunConfig, stages: Stages, out: Path) -> Ranker:
    """The system called `name`."""
    data, sft, improved = stages.data, stages.sft, stages.improvement
    beams = config.evaluation.beams

    def start() -> Policy:
        return Policy(sft_policy(config, data, sft), beams)

    def checkpoint(place: Path | None) -> Policy:
        if place is None:
            raise RunError(f"{out} promoted no checkpoint: {improved.verdict} Compare 'last' to see why.")
        return Policy(improved_policy(config, data, sft, place), beams)

    def rewarded() -> tuple[Policy, Any]:
        own = start()
        reward = run_reward(config, data, stages.simulators, own.policy, slate_size=config.session.slate)
        return own, reward.for_ranking()

    def optimum() -> OptimumRanker:
        if data.world is None:
            raise RunError(f"{out} is not of a generated world, so nobody knows its optimum; name another system.")
        return OptimumRanker(data.world, config.reward.click, config.reward.conversion)

    known: dict[str, Callable[[], Ranker]] = {
        "sft": start,
        "improved": lambda: checkpoint(improved.promoted),
        config.algorithm: lambda: checkpoint(improved.promoted),
        "last": lambda: checkpoint(improved.last),
        "reranked": lambda: Reranked(*rewarded(), data.dataset.n_items),
        "greedy": lambda: Greedy(rewarded()[1], data.dataset.n_items, data.dataset.manifest.repeat),
        "optimum": optimum,
    }
    if name in BASELINES:
        valid = targets(config, data, "valid", config.gate.events)
        return BASELINES[name].fitted(data.dataset, data.split.train, valid, seed=config.seed)
    if name not in known:
        raise RunError(f"{out} has no system {name!r}; choose among {', '.join((*known, *BASELINES))}.")
    return known[name]()


def _facts(config: RunConfig, stages: Stages, users: str) -> dict[str, Any]:
    manifest, tree = stages.data.dataset.manifest, config.tree()
    return {
        "dataset": {"name": manifest.name, "content_hash": manifest.content_hash, "proxy": manifest.proxy},
        "met_by": users,
        "settings": {key: tree[key] for key in ("session", "choice", "dynamics")},
        "value": {"click": config.reward.click, "conversion": config.reward.conversion},
        "currency": manifest.currency,
        "run_seed": config.seed,
        "machine": machine_facts(),
        "versions": package_versions(),
    }
