"""One people's gate, and what it makes of trainings under each rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from llmrec.dataset.impressions import Impressions
from llmrec.evaluation.simulated import Simulated
from llmrec.evaluation.witnesses import Witnesses
from llmrec.pipeline.data import RunData
from llmrec.pipeline.measure import make_arena, make_tables, measure_run
from llmrec.pipeline.panel import Panel, PolicyFigures, witnesses_of
from llmrec.pipeline.promotion import Score, promote, settled
from llmrec.pipeline.result import SFT, label
from llmrec.pipeline.run import said_of
from llmrec.pipeline.simulation import Simulators, log_of, met_users
from llmrec.seeding import numpy_stream
from llmrec.simulator.ensemble import shared_out
from llmrec.simulator.judge import with_heads
from llmrec.studies.gate_error.shop import Scored, Shop, people
from llmrec.studies.gate_error.trainings import CHECKPOINTS, PATHS, Planted, Tastes, tilted
from llmrec.types import IntArray

GAINS = (0.05, 0.1, 0.2, 0.4)
PARTS_MET = (0.25, 0.5, 1.0)
"""Shares of the gate's users who are met where power is asked for."""
WITNESSES = 2000


Heard = Literal["nobody", "matched", "weighed"]
"""Which witnesses speak beside the judge: none, those of a log without propensities, those of one with them."""
Figures = Mapping[Heard, PolicyFigures]


@dataclass(frozen=True, slots=True)
class Rule:
    """A gate with parts of it left out, and which witnesses are heard."""

    name: str
    looks: bool = True
    doubt: bool = True
    heard: Heard = "nobody"


RULES = (
    Rule("the gate"),
    Rule("one look at a time", looks=False),
    Rule("without the judge's own error", doubt=False),
    Rule("without either", looks=False, doubt=False),
    Rule("the gate, with witnesses, no propensities", heard="matched"),
    Rule("the gate, with witnesses and propensities", heard="weighed"),
)
SIDES: dict[str, Heard] = {
    "with the judge's own error": "nobody",
    "with witnesses, no propensities": "matched",
    "with witnesses and propensities": "weighed",
}
"""What an interval may hold beside the chance of the users who are met."""


@dataclass(frozen=True)
class Bench:
    """One people's gate: the run's panel with a judge of this people, and what witnesses say of it."""

    shop: Shop
    data: RunData
    simulators: Simulators
    panel: Panel
    witnesses: Mapping[Heard, Witnesses]

    @classmethod
    def of(cls, shop: Shop, number: int) -> Bench:
        """That of people `number`."""
        config, data = shop.config, people(shop.config, shop.world, shop.split, number)
        train, valid = (log_of(config, data, part) for part in ("train", "valid"))
        shares = shared_out(train, valid, config.simulator, config.seed, met_users(config, data).all)
        judge = with_heads(shop.network, shares.calibration, seed=config.seed + number, settings=config.simulator)
        simulators = Simulators(shop.reward, judge, {})
        panel = Panel.of(config, data, simulators, shop.world.dataset.n_items)
        heard = replace(config, gate=replace(config.gate, judged="witnessed"))
        unknown = replace(valid, propensity_M=np.full_like(valid.propensity_M, np.nan))
        witnesses: dict[Heard, Witnesses] = {}
        logs: dict[Heard, Impressions] = {"matched": unknown, "weighed": valid}
        for side, log in logs.items():
            found = witnesses_of(heard, log, judge, met_users(config, data), WITNESSES)
            assert found is not None
            witnesses[side] = found
        return cls(shop, data, simulators, panel, witnesses)

    def measured(self, policy: Scored) -> Figures:
        """A policy's figures by the judge alone, and with witnesses."""
        alone = self.panel.measure(policy)
        assert isinstance(alone.judged, Simulated)
        made: dict[Heard, PolicyFigures] = {"nobody": alone}
        weights = {"click": self.shop.config.reward.click, "conversion": self.shop.config.reward.conversion}
        for side, witnesses in self.witnesses.items():
            error = witnesses.error(witnesses.lists(policy, self.panel.slate))
            made[side] = replace(alone, judged=alone.judged.corrected(error, **weights))
        return made


def some(found: PolicyFigures, rows: IntArray) -> PolicyFigures:
    """The same policy, met by some of the users."""
    judged = found.judged
    assert isinstance(judged, Simulated)
    drawn = judged.replica_3RB
    columns: dict[str, Any] = {
        name: getattr(judged, name)[rows] for name in ("click_B", "conversion_B", "value_B", "shown_B")
    }
    users = tuple(judged.users_B[row] for row in rows)
    kept = Simulated(**columns, users_B=users, replica_3RB=None if drawn is None else drawn[:, :, rows])
    return replace(found, reward_B=found.reward_B[rows], pessimistic_B=found.pessimistic_B[rows], judged=kept)


def sure(found: PolicyFigures) -> PolicyFigures:
    """The same figures by a judge that takes itself for certain."""
    assert isinstance(found.judged, Simulated)
    return replace(found, judged=replace(found.judged, replica_3RB=None))


def decided(
    panel: Panel,
    scores: Sequence[Score],
    checkpoints: Sequence[PolicyFigures],
    base: PolicyFigures,
    *,
    looks: bool = True,
) -> Score | None:
    """The checkpoint that the gate promotes; without `looks` each is tested as if it were the only one.

    `scores` are the panel's of these checkpoints, in which the judge's figures are those of `checkpoints`.
    """
    draws = [panel.draws(found, base) for found in checkpoints]
    scores = [_judged(score, found, base) for score, found in zip(scores, checkpoints, strict=True)]
    if looks:
        scores = settled(scores, draws, panel.config.gate)
    else:
        scores = [settled([s], [d], panel.config.gate)[0] for s, d in zip(scores, draws, strict=True)]
    return promote(scores)[0]


def _judged(score: Score, found: PolicyFigures, base: PolicyFigures) -> Score:
    value, before = found.judged.means["value"], base.judged.means["value"]
    # The interval is made by `settled`, from draws.
    gain = {"mean": value - before, "low": -np.inf, "high": np.inf, "level": 0.95}
    return score | {"judge_value": value, "judge_gain": gain}


def scored(bench: Bench, training: Planted) -> list[Figures]:
    """The figures of all checkpoints of a training."""
    return [bench.measured(training.checkpoint(step)) for step in range(CHECKPOINTS)]


def scores_of(bench: Bench, found: Sequence[Figures], base: Figures) -> list[Score]:
    """The panel's scores of checkpoints."""
    return [bench.panel.score(step + 1, one["nobody"], base["nobody"]) for step, one in enumerate(found)]


def judge_training(bench: Bench, training: Planted, base: Figures) -> dict[str, Any]:
    """What each rule promotes of a training, and whether the run would be called improved on the test period."""
    found = scored(bench, training)
    scores = scores_of(bench, found, base)
    promoted: dict[str, int | None] = {}
    for rule in RULES:
        sides = [figures[rule.heard] for figures in (*found, base)]
        *after, before = sides if rule.doubt else [sure(side) for side in sides]
        best = decided(bench.panel, scores, after, before, looks=rule.looks)
        promoted[rule.name] = None if best is None else int(best["step"])
    made = {"path": training.path, "gains": list(training.gain_C), "promoted": promoted}
    chosen = promoted[RULES[0].name]
    return made | {"improved": chosen is not None and improved(bench, training.checkpoint(chosen - 1))}


def improved(bench: Bench, policy: Scored) -> bool:
    """Whether a run that promoted this policy is called improved on the test period."""
    config = bench.shop.config
    arena = make_arena(config, bench.data, bench.simulators.judge)
    measured = measure_run(config, arena, {SFT: Scored(bench.shop.begin), label(config.algorithm): policy})
    tables = make_tables(config, arena, measured, SFT)
    return said_of(config, arena, measured, tables, promoted=True, promotion="").outcome == "gain"


def power(bench: Bench, training: Planted, base: Figures) -> list[dict[str, Any]]:
    """What the gate promotes where only some users are met."""
    found = scored(bench, training)
    scores = scores_of(bench, found, base)
    rows = []
    for part in PARTS_MET:
        met = len(bench.panel.states)
        some_U = np.sort(numpy_stream(0, "gate error", "users").permutation(met)[: max(1, round(part * met))])
        for rule in (RULES[0], *RULES[-2:]):
            *after, before = (some(figures[rule.heard], some_U) for figures in (*found, base))
            best = decided(bench.panel, scores, after, before)
            row = {"rule": rule.name, "part": part, "users": len(some_U), "promoted": best is not None}
            rows.append(row)
    return rows


def covered(bench: Bench, base: Figures, policies: Mapping[str, Scored]) -> dict[str, Any]:
    """By policy the true gain, and of its judged ones mean, then mean, deviation and 95% limits of their draws."""
    shop, made = bench.shop, {}
    start = shop.true_value(shop.begin(shop.pool))
    for name, policy in policies.items():
        true, after = shop.true_value(policy.score(shop.pool)) - start, bench.measured(policy)
        sides = {"users alone": (sure(after["nobody"]), sure(base["nobody"]))}
        sides |= {side: (after[heard], base[heard]) for side, heard in SIDES.items()}
        found = {}
        for side, (new, old) in sides.items():
            mean = new.judged.means["value"] - old.judged.means["value"]
            draws_S = bench.panel.draws(new, old)
            low, high = np.quantile(draws_S, (0.025, 0.975))
            all_of = (mean, draws_S.mean(), draws_S.std(ddof=1), low, high)
            found[side] = [float(one / start) for one in all_of]
        made[name] = {"true": true / start, "judged": found}
    return made


def ask(bench: Bench, number: int, with_power: bool) -> dict[str, Any]:
    """Everything that is asked of one people."""
    shop = bench.shop
    base, items = bench.measured(Scored(shop.begin)), shop.world.dataset.n_items
    nulls, powers, policies = [], [], {}
    for path in PATHS:
        random = numpy_stream(shop.config.seed, "gate error", path, number)
        training = Planted.of(shop, path, Tastes.drawn(random, items), 0.0)
        if training is not None:
            nulls.append(judge_training(bench, training, base))
            policies[f"nothing gained, {path}"] = training.checkpoint(CHECKPOINTS - 1)
        for share in (0.3, 1.0):
            policies[f"{share:g} x {path}"] = tilted(shop, path, share)
        for gain in GAINS if with_power else ():
            training = Planted.of(shop, path, Tastes.drawn(random, items), gain)
            if training is not None:
                rows = power(bench, training, base)
                powers += [{"path": path, "gain": gain, **row} for row in rows]
    return {"nulls": nulls, "power": powers, "coverage": covered(bench, base, policies)}
