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
from llmrec.config_tree import Overrides
from llmrec.errors import ConfigError, RunError
from llmrec.evaluation.experiment import Design, Experiment, ab_test
from llmrec.pipeline.algorithms.reward import run_reward
from llmrec.pipeline.algorithms.sessions import session_arenas, session_sizes
from llmrec.pipeline.opening import OpenRun, PolicyName, open_run, read_config
from llmrec.pipeline.ruled import RULED, ruled_facts, run_rules, shown
from llmrec.pipeline.sft import targets
from llmrec.pipeline.systems import Greedy, OptimumRanker, Policy, Reranked
from llmrec.studies.answer import Answer, Sheet
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


def ab(
    run: Path,
    *,
    a: str,
    b: str,
    users: str | None = None,
    number: int | None = None,
    turns: int | None = None,
    slate: int | None = None,
    retention: bool = False,
    own_luck: bool = False,
    metrics: Sequence[str] | None = None,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
    **design: Any,
) -> dict[str, Any]:
    """Prints the experiment of `run_experiment` and returns its figures.

    Args:
        run: the run folder.
        a: see `run_experiment`, as b and users.
        b: see a.
        users: see a.
        number: users that are met; those of the run's evaluation by default.
        turns: of a session; the run's, or 5 where it was a bandit.
        slate: places; the run's, or 10 where it was a bandit.
        retention: users lose patience, leave and may come back.
        own_luck: each system meets the users with luck of its own.
        metrics: what is tested; all that can differ by default.
        overrides: values for the keys of `CHANGEABLE`.
        json_file: the figures are also written here.
        design: the other attributes of `Design`.
    """
    met = sized(run, turns, slate) | ({} if number is None else {"evaluation.users": number})
    if retention:
        met |= {"dynamics.patience.enabled": True, "dynamics.comeback.enabled": True}
    met |= overrides or {}
    chosen = Design(regret=True, common=not own_luck, metrics=None if metrics is None else tuple(metrics), **design)
    found, facts = run_experiment(run, a, b, users=users, overrides=met, design=chosen)
    effects, needed = found.effect_rows(), found.size_rows()
    sheets = (Sheet(found.table.title, effects[0], effects[1:]), Sheet("Users needed", needed[0], needed[1:]))
    title = f"{a} and {b} in a simulated A/B experiment"
    said = [found.verdict, *([RULED] if facts["rules_of_all_lists"] else [])]
    return Answer(title, found.to_json() | facts, sheets, said).finish(None, json_file)


def run_experiment(
    out: Path,
    a: str,
    b: str,
    *,
    users: str | None = None,
    overrides: Overrides | None = None,
    design: Design | None = None,
) -> tuple[Experiment, dict[str, Any]]:
    """Two systems of the run folder `out`, under its rules, before the users of its test period.

    Args:
        out: the run folder; its working folder lies beside it.
        a: name of the system in use, one of `SYSTEMS` or the run's algorithm.
        b: name of the one that is to replace it; the same name shows what an experiment finds where nothing differs.
        users: "truth" (a generated world's) or "judge"; by default the truth where there is one.
        overrides: values for the keys of `CHANGEABLE`.
        design: what is decided beforehand; regret is known to the truth alone.

    Returns:
        The experiment, and the facts that its figures stand with.

    Raises:
        RunError: no such run, a stage that is missing, or a system that this run does not have.
        ConfigError: a key that decided the training.
    """
    met = _overridden(out, overrides or {})
    run = dataclasses.replace(open_run(out), config=met)
    rules = run_rules(met, run.data)
    systems = [shown(_system(name, run), rules) for name in (a, b)]
    arenas = session_arenas(met, run.data, run.judge)
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
    return found, _facts(run, chosen) | ruled_facts(rules)


def sized(out: Path, turns: int | None, slate: int | None) -> dict[str, Any]:
    """Overrides for sessions: the run's own sizes; where it was a bandit 5 turns, of 10 places if it drew items."""
    own = read_config(out).session
    chosen = {"turns": (turns, own.turns == 1, 5), "slate": (slate, own.plain, 10)}
    sizes = {key: default if given is None and bandit else given for key, (given, bandit, default) in chosen.items()}
    return {f"session.{key}": value for key, value in sizes.items() if value is not None}


def _overridden(out: Path, overrides: Overrides) -> RunConfig:
    for key in overrides:
        if not any(key == known or key.startswith(f"{known}.") for known in CHANGEABLE):
            raise ConfigError(
                f"Key {key!r} decides more than how users are met; an experiment changes {', '.join(CHANGEABLE)}."
            )
    met = read_config(out, overrides)
    if min(met.session.turns, met.session.slate, met.evaluation.users) < 1:
        raise ConfigError("Keys 'session.turns', 'session.slate' and 'evaluation.users' must be 1 or more.")
    return met


def _system(name: str, run: OpenRun) -> Ranker:
    """The system called `name`."""
    config, data = run.config, run.data

    def policy(name: PolicyName) -> Policy:
        return Policy(run.policy(name), config.evaluation.beams)

    def rewarded() -> tuple[Policy, Any]:
        own = policy("sft")
        reward = run_reward(config, data, run.simulators, own.policy, slate_size=config.session.slate)
        return own, reward.for_ranking()

    def optimum() -> OptimumRanker:
        if data.world is None:
            raise RunError(
                f"{run.folder} is not of a generated world, so nobody knows its optimum; name another system."
            )
        return OptimumRanker(data.world, config.reward.click, config.reward.conversion)

    known: dict[str, Callable[[], Ranker]] = {
        "sft": lambda: policy("sft"),
        "improved": lambda: policy("promoted"),
        config.algorithm: lambda: policy("promoted"),
        "last": lambda: policy("last"),
        "reranked": lambda: Reranked(*rewarded(), data.dataset.n_items),
        "greedy": lambda: Greedy(rewarded()[1], data.dataset.n_items, data.dataset.manifest.repeat),
        "optimum": optimum,
    }
    if name in BASELINES:
        valid = targets(config, data, "valid", config.gate.events)
        return BASELINES[name].fitted(data.dataset, data.split.train, valid, seed=config.seed)
    if name not in known:
        raise RunError(f"{run.folder} has no system {name!r}; choose among {', '.join((*known, *BASELINES))}.")
    return known[name]()


def _facts(run: OpenRun, users: str) -> dict[str, Any]:
    config, manifest, tree = run.config, run.data.dataset.manifest, run.config.tree()
    return {
        "dataset": {"name": manifest.name, "content_hash": manifest.content_hash, "proxy": manifest.proxy},
        "met_by": users,
        "settings": {key: tree[key] for key in ("session", "choice", "dynamics")},
        "value": {"click": config.reward.click, "conversion": config.reward.conversion},
        "currency": manifest.currency,
        "run_seed": config.seed,
    }
