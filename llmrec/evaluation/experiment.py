"""A simulated A/B experiment: two systems meet the same users, and what differs is said with its uncertainty.

    found = ab_test(a, b, population, user_N, sizes, names=("SFT", "PPO"), dynamics=dynamics)
    print(found.verdict)

The design (what decides, the effect of interest, the level) is fixed before anybody is met, and so is the number of
users: an experiment that is looked at until it turns significant shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings
from llmrec.errors import RequestError
from llmrec.evaluation.effect import Effect
from llmrec.evaluation.experiment_result import LABELS, LOWER, PERCENT, Design, Experiment
from llmrec.evaluation.multiple import paired_holm
from llmrec.evaluation.sessions import SessionFigures, simulate_sessions
from llmrec.evaluation.significance import Interval, bootstrap_interval, linearised
from llmrec.evaluation.table import Cell, Comparison
from llmrec.seeding import stream_seed
from llmrec.simulator.environments.population import Population
from llmrec.types import FloatArray, IntArray, Ranker

__all__ = ["Design", "Experiment", "ab_test", "compare_figures", "measures"]


def ab_test(
    a: Ranker,
    b: Ranker,
    population: Population,
    user_N: IntArray,
    sizes: EnvironmentSettings,
    *,
    names: tuple[str, str] = ("A", "B"),
    choice: ChoiceSettings | None = None,
    dynamics: DynamicsSettings | None = None,
    seen: Sequence[IntArray] | None = None,
    design: Design | None = None,
    batch: int = 512,
) -> Experiment:
    """Plays one session of each user with either system and compares what they came to.

    Args:
        a: the system in use; b: the one that is to replace it. Arguments not named here: `simulate_sessions`.
        b: see a.
        population: who is met; not the users that a system was trained on.
        user_N: rows of the population.
        sizes: places, turns, and the weights of the value.
        names: of the two systems.
        choice: how users choose within a slate.
        dynamics: how they change, leave and come back.
        seen: what each user has seen beside the state.
        design: what is decided beforehand.
        batch: sessions played side by side.

    Raises:
        RequestError: users or a design that cannot work.
    """
    design = design or Design()
    _check(design, names)
    seeds = (design.seed, design.seed if design.common else stream_seed(design.seed, "experiment", "luck of B"))
    figures = [
        simulate_sessions(
            system,
            population,
            user_N,
            sizes,
            choice=choice,
            dynamics=dynamics,
            seen=seen,
            seed=seed,
            gamma=design.gamma,
            sampled=design.sampled,
            regret=design.regret,
            batch=batch,
        )
        for system, seed in zip((a, b), seeds, strict=True)
    ]
    return compare_figures(figures[0], figures[1], names=names, design=design)


def compare_figures(
    a: SessionFigures, b: SessionFigures, *, names: tuple[str, str] = ("A", "B"), design: Design | None = None
) -> Experiment:
    """The experiment of sessions that were played already, with the same users in the same order.

    Raises:
        RequestError: other users, fewer than two, or a design that cannot work.
    """
    design = design or Design()
    _check(design, names)
    if a.users_B != b.users_B:
        raise RequestError("An experiment needs the same users in the same order for both systems.")
    number = len(set(a.users_B))
    if number < 2:
        raise RequestError("An experiment needs two users at least; meet more of them.")
    arms = _chosen(measures(a), measures(b), design)
    draw: dict[str, Any] = {"users": a.users_B, "samples": design.samples, "level": design.level, "seed": design.seed}
    tested = paired_holm({metric: y - x for metric, (x, y) in arms.items()}, **draw)
    effects = {
        metric: Effect.of(metric, x, y, tested[metric], a.users_B, _settled(design, len(arms), metric))
        for metric, (x, y) in arms.items()
    }
    cells: dict[str, dict[str, Cell]] = {name: {} for name in names}
    for metric, pair in arms.items():
        for name, values_B in zip(names, pair, strict=True):
            corrected = None if name == names[0] else tested[metric].corrected
            cells[name][metric] = Cell(
                float(values_B.mean()), bootstrap_interval(values_B, name=(metric,), **draw), corrected
            )
    lost = {name: _curve(own, draw) for name, own in zip(names, (a, b), strict=True) if own.regret_BT is not None}
    return Experiment(names, design, number, effects, _table(names, cells, number, design), lost)


def measures(figures: SessionFigures) -> dict[str, FloatArray]:
    """The metrics by name, (B,) each, their means being the metric; rates of impressions are linearised."""
    found = {
        "value": figures.value_B,
        "click_rate": linearised(figures.click_B, figures.shown_B),
        "conversion_rate": linearised(figures.conversion_B, figures.shown_B),
        "turns": figures.turns_B,
        "retained": figures.retained_B,
        "visits": figures.visits_B,
    }
    if figures.revenue_B is not None:
        found["revenue"] = figures.revenue_B
    if figures.regret_BT is not None:
        found["regret"] = figures.regret_BT.sum(axis=1)
    return {metric: found[metric] for metric in LABELS if metric in found}


def _chosen(
    a: dict[str, FloatArray], b: dict[str, FloatArray], design: Design
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """What is tested: the design's metrics, by default those in which any two sessions differ."""
    both = {metric: (a[metric], b[metric]) for metric in a if metric in b}
    if design.metrics is None:
        chosen = [m for m, pair in both.items() if m == design.primary or np.ptp(np.concatenate(pair)) > 0]
    else:
        chosen = list(design.metrics)
    for metric in (*chosen, design.primary):
        if metric not in both:
            raise RequestError(
                f"The metric {metric!r} is not measured in this experiment; choose among {', '.join(both)}."
            )
    return {metric: both[metric] for metric in both if metric in chosen}


def _settled(design: Design, tests: int, metric: str) -> dict[str, Any]:
    """Arguments of `Effect.of`: alpha is Holm's first step, so that the power holds whatever other metrics do."""
    alpha = (1 - design.level) / tests
    return {"effect": design.effect, "alpha": alpha, "power": design.power, "lower_is_better": metric in LOWER}


def _table(names: tuple[str, str], cells: dict[str, dict[str, Cell]], users: int, design: Design) -> Comparison:
    how = "what they did" if design.sampled else "what was to be expected of them"
    luck = "the same luck" if design.common else "luck of its own"
    title = f"{names[1]} against {names[0]}: one session of {users} users with each, {luck}, by {how}"
    tests = max(len(row) for row in cells.values())
    note = f"Intervals behind ▲ ▼ are widened by Holm's method over {tests} metrics." if tests > 1 else ""
    return Comparison(title, cells, names[0], percent=PERCENT, lower_is_better=LOWER, note=note, labels=dict(LABELS))


def _curve(figures: SessionFigures, draw: dict[str, Any]) -> list[Interval]:
    assert figures.regret_BT is not None
    return [bootstrap_interval(sum_B, name=("regret",), **draw) for sum_B in figures.regret_BT.cumsum(axis=1).T]


def _check(design: Design, names: tuple[str, str]) -> None:
    if names[0] == names[1]:
        raise RequestError(f"Both systems are called {names[0]!r}; give them two names.")
    if not 0 < design.level < 1 or not 0 < design.power < 1 or not design.effect > 0 or design.samples < 100:
        raise RequestError(
            f"A design needs a level and a power between 0 and 1, an effect above 0 and 100 samples or more, not "
            f"level {design.level:g}, power {design.power:g}, effect {design.effect:g}, {design.samples} samples."
        )
    if design.metrics is not None and design.primary not in design.metrics:
        raise RequestError(f"The primary metric {design.primary!r} must be among the metrics that are tested.")
