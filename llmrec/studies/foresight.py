"""How much can looking beyond the next turn gain where users win and lose trust? By exact dynamic programming.

A small catalogue, one item a turn, users who change by trust alone, through the world's own rules (`Dynamics`).
Trust moves with clicks alone, so a session of T turns reaches finitely many levels of it: all of them are followed,
and nothing is rounded to a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import DynamicsSettings, RewardSettings, RunConfig, TrustSettings
from llmrec.config_tree import Overrides
from llmrec.dataset.world.truth import WorldParameters, draw_truth
from llmrec.evaluation.significance import t_interval
from llmrec.simulator.dynamics import DRAWS, Dynamics, ItemTable
from llmrec.simulator.environments import WorldUsers
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import FloatArray

STRENGTHS = (1.0, 2.0, 4.0, 8.0)
"""Times the weights of trust in the log-odds of clicks and conversions."""
_WORLD_ITEMS = 200


@dataclass(frozen=True, slots=True)
class Foresight:
    """Expected reward of a session, undiscounted, from the start.

    Attributes:
        greedy: the item of the highest immediate reward at each level of trust (gamma 0).
        sighted: optimal for the discounted sum.
        optimum: the most that any policy is worth.
    """

    greedy: float
    sighted: float
    optimum: float


def foresight(
    trust: TrustSettings,
    click_N: FloatArray,
    conversion_N: FloatArray,
    quality_N: FloatArray,
    *,
    turns: int,
    gamma: float,
    reward: RewardSettings,
) -> Foresight:
    """Backward induction over every level of trust that can be reached.

    Args:
        trust: the rule of change.
        click_N: P(click) of each item at the starting trust.
        conversion_N: P(conversion | click) likewise.
        quality_N: quality of each item in [0, 1].
        turns: T, of one item each.
        gamma: discount of the planner; values are not discounted.
        reward: weights of clicks and conversions.
    """
    items = len(click_N)
    settings = DynamicsSettings(trust=replace(trust, enabled=True))
    dynamics = Dynamics(settings, ItemTable.of(np.zeros(items, dtype=np.int64), quality_N=quality_N))
    reached = [np.array([trust.initial], dtype=np.float32)]
    after: list[tuple[Any, Any]] = []
    for _ in range(turns - 1):
        here = reached[-1]
        users, item_B1 = _everything(dynamics, here, items)
        clicked_B1 = np.ones_like(item_B1)
        dynamics.step(users, item_B1, clicked_B1, np.zeros_like(item_B1), np.zeros((len(users), DRAWS)))
        # without a click trust stays, so the levels of this turn are among those of the next
        levels, place = np.unique(np.concatenate([here, users.trust_B]), return_inverse=True)
        after.append((place[: len(here)], place[len(here) :].reshape(-1, items)))
        reached.append(levels)
    greedy_S = sighted_S = optimum_S = planned_S = np.zeros(0)
    for turn in reversed(range(turns)):
        here = reached[turn]
        users, item_B1 = _everything(dynamics, here, items)
        base = (np.asarray(row_N)[item_B1] for row_N in (click_N, conversion_N))
        click_B1, conversion_B1 = dynamics.modulate(users, item_B1, *base)
        click_SN, conversion_SN = (
            np.asarray(p, dtype=np.float64).reshape(-1, items) for p in (click_B1, conversion_B1)
        )
        now_SN = click_SN * (reward.click + reward.conversion * conversion_SN)
        all_SN = [now_SN] * 4
        if turn < turns - 1:
            same_S, moved_SN = after[turn]
            later = (greedy_S, sighted_S, optimum_S, planned_S)
            all_SN = [
                now_SN + d * (click_SN * v[moved_SN] + (1 - click_SN) * v[same_S][:, None])
                for v, d in zip(later, (1.0, 1.0, 1.0, gamma), strict=True)
            ]
        row_S = np.arange(len(here))
        greedy_S = all_SN[0][row_S, now_SN.argmax(1)]
        sighted_S = all_SN[1][row_S, all_SN[3].argmax(1)]
        optimum_S, planned_S = all_SN[2].max(1), all_SN[3].max(1)
    return Foresight(float(greedy_S[0]), float(sighted_S[0]), float(optimum_S[0]))


def _everything(dynamics: Dynamics, trust_S: Any, items: int) -> tuple[Any, Any]:
    """Users at each level of trust, one for each item that they can be shown, and these items, (S * N, 1)."""
    users = dynamics.fresh(len(trust_S) * items, trust_B=np.repeat(trust_S, items))
    return users, np.tile(np.arange(items), len(trust_S))[:, None]


def small_catalogue(value_N: FloatArray, quality_N: FloatArray, size: int) -> Any:
    """The item of the highest immediate value, and then the best of those of higher quality, `size` at most."""
    kept: list[int] = []
    for item in np.argsort(-value_N, kind="stable"):
        if len(kept) < size and (not kept or quality_N[item] > quality_N[kept[-1]]):
            kept.append(int(item))
    return np.array(kept)


def run_foresight(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    *,
    users: int = 40,
    size: int = 4,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Asks users of generated worlds at each of `STRENGTHS`, for the configuration's turns and gamma of sessions."""
    config = RunConfig.read(None, {"session.turns": 5, "session.gamma": 0.95, **(overrides or {})})

    def measure(seed: int) -> SeedRows:
        people = WorldUsers(draw_truth(users, _WORLD_ITEMS, WorldParameters(), seed))
        rows = np.arange(users)
        item_BN = np.tile(np.arange(_WORLD_ITEMS), (users, 1))
        click_BN, conversion_BN = people.respond(people.begin(rows), rows, item_BN, np.zeros(users, dtype=np.int64))
        quality_N = people.items.quality_N.astype(np.float64)
        found: dict[str, list[Foresight]] = {f"{strength:g}": [] for strength in STRENGTHS}
        for click_N, conversion_N in zip(click_BN, conversion_BN, strict=True):
            value_N = click_N * (config.reward.click + config.reward.conversion * conversion_N)
            few = small_catalogue(value_N, quality_N, size)
            for strength in STRENGTHS:
                rule = config.dynamics.trust
                rule = replace(
                    rule, weight=strength * rule.weight, conversion_weight=strength * rule.conversion_weight
                )
                found[f"{strength:g}"].append(
                    foresight(
                        rule,
                        click_N[few],
                        conversion_N[few],
                        quality_N[few],
                        turns=config.session.turns,
                        gamma=config.session.gamma,
                        reward=config.reward,
                    )
                )
        sides = {
            name: {key: np.array([getattr(one, key) for one in each]) for key in Foresight.__slots__}
            for name, each in found.items()
        }
        return SeedRows(seed, "", rows=sides)

    return Study(seeds, measure, answer_of, least=2).run(out, json_file)


def answer_of(found: Pooled) -> Answer:
    """What foresight and the optimum gain over greed, in percent of greed's value, with t-intervals over worlds."""
    figures: dict[str, Any] = {}
    rows = []
    for side in found.sides:
        greedy_S = np.array(found.means(side, "greedy"))
        gains = {
            name: t_interval([float(g) for g in 100 * (np.array(found.means(side, name)) / greedy_S - 1)])
            for name in ("sighted", "optimum")
        }
        figures[side] = {"greedy": float(greedy_S.mean())} | {
            name: {"mean": one.mean, "low": one.low, "high": one.high} for name, one in gains.items()
        }
        told = (f"{one.mean:+.2f}% ({one.low:+.2f} to {one.high:+.2f})" for one in gains.values())
        rows.append((f"{side} times", f"{greedy_S.mean():.3f}", *told))
    heads = ("weight of trust", "greed", "foresight gains", "the optimum gains")
    title = "What looking ahead can gain where trust is won and lost"
    return Answer(
        title,
        {"strengths": figures},
        [
            Sheet(
                title,
                heads,
                rows,
                "exact; small catalogues, one item a turn, trust alone; 95% t-intervals over worlds",
            )
        ],
    )
