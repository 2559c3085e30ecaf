"""How often the gate errs: promotions of policies that gained nothing, power, and coverage of the judged intervals.

Generated shops whose truth is known. In each a reward and a judge's network are fitted on one people; then one people
after another is logged, on whose calibration slice the judge gets its heads and at whose gate policies are judged: by
the run's own panel, scores, max-T, promotion and verdict. Policies are lists by scores that read the state alone, as
a trained policy does; how good they are in truth is asked of the world, over the first validation state of everybody.

A training is six checkpoints on a path away from the start,

    score_k = start + (k / 6) (help + c_k harm_k),

where `help` is what the reward believes (as a KL-bound RL policy has it, Korbak et al. 2022) or what items are worth
on average, and `harm_k` a random walk over checkpoints of tastes that nobody has. c_k is found so that the true gain
is what it shall be: 0 under the null, a share of the start's true value for the power.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.baselines.covisitation import COUNTS_ONLY, Covisitation
from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.split import PARTS, Split, make_split
from llmrec.dataset.world.world import World, generate_world
from llmrec.errors import RequestError
from llmrec.evaluation.significance import wilson_bounds
from llmrec.evaluation.simulated import Simulated
from llmrec.files import read_json, write_json
from llmrec.pipeline.data import RunData
from llmrec.pipeline.measure import make_arena, make_tables, measure_run
from llmrec.pipeline.panel import Panel, PolicyFigures, witnesses_of
from llmrec.pipeline.promotion import Score, promote, settled
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.result import SFT, label
from llmrec.pipeline.run import said_of
from llmrec.pipeline.simulation import Simulators, first_states, log_of, met_users
from llmrec.pipeline.work import Work
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.simulator.behaviour import BehaviourModel
from llmrec.simulator.ensemble import Ensemble, fit_reward_and_judge, shared_out
from llmrec.simulator.judge import with_heads
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import FloatArray, IntArray, Slate, State

CHECKPOINTS = 6
PATHS = ("reward", "items")
"""What helps along a training's path: the reward's belief, or what items are worth on average."""
GAINS = (0.05, 0.1, 0.2, 0.4)
PARTS_MET = (0.25, 0.5, 1.0)
"""Shares of the gate's users who are met where power is asked for."""
PEOPLES = 8
TASTES = 8
WITNESSES = 2000


@dataclass(frozen=True, slots=True)
class Rule:
    """A gate with parts of it left out, and whether witnesses are heard."""

    name: str
    looks: bool = True
    doubt: bool = True
    witnessed: bool = False


RULES = (
    Rule("the gate"),
    Rule("one look at a time", looks=False),
    Rule("without the judge's own error", doubt=False),
    Rule("without either", looks=False, doubt=False),
    Rule("the gate, with witnesses", witnessed=True),
)


class Scored:
    """Lists by scores that read the state alone."""

    def __init__(self, score: Callable[[Sequence[State]], FloatArray]) -> None:
        self.score = score

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k items of highest score; the shops allow repeats, so nothing is left out."""
        del seen
        scores_BN = self.score(states)
        rows = np.argsort(-scores_BN, axis=1, kind="stable")[:, :k]
        return [Slate(tuple(row.tolist()), tuple(scores_BN[b, row].tolist())) for b, row in enumerate(rows)]


@dataclass(frozen=True)
class Shop:
    """A generated shop with all its peoples, a reward, a judge's network, and the start that policies move from."""

    config: RunConfig
    world: World
    split: Split
    reward: Ensemble
    network: BehaviourModel
    start: Covisitation
    told: dict[str, Told] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig, peoples: int) -> Shop:
        """The shop of the configuration's seed; people 0 is that of the fits."""
        everybody = replace(config.world, users=config.world.users * (peoples + 1))
        world = generate_world(everybody, config.seed)
        data = config.data
        split = make_split(world.dataset, "time", data.valid_fraction, data.test_fraction)
        first = people(config, world, split, 0)
        train, valid = (log_of(config, first, part) for part in ("train", "valid"))
        reward, judge = fit_reward_and_judge(
            world.dataset, train, seed=config.seed, settings=config.simulator, valid=valid
        )
        network = BehaviourModel(
            judge.architecture, judge.space, judge.net, judge.calibrators, judge.facts, judge.scale, judge.blend
        )
        start = Covisitation(COUNTS_ONLY, seed=config.seed).fit(world.dataset, first.split.train)
        return cls(config, world, split, reward, network, start)

    @cached_property
    def pool(self) -> list[State]:
        """The first validation state of everybody but the people of the fits: over them a true gain is a mean."""
        fitted = self.world.dataset.users["user_id"][: self.config.world.users].to_list()
        log = log_of(self.config, RunData(self.world.dataset, self.split, self.world), "valid")
        rows = first_states(log, {str(user) for user in log.user_ids} - set(fitted))
        return [log.states[row] for row in rows]

    @cached_property
    def value_PN(self) -> FloatArray:
        """The true value of every item to everybody of the pool."""
        weights = self.config.reward
        return self.world.value_BN([str(s.user_id) for s in self.pool], weights.click, weights.conversion)

    @cached_property
    def item_N(self) -> FloatArray:
        """What each item is worth on average."""
        return np.asarray(self.value_PN.mean(axis=0))

    def begin(self, states: Sequence[State]) -> FloatArray:
        """Scores of the start, (B, N)."""
        return self._told("start", states, lambda new: standardised(np.log(self.start.score(new) + 1e-3)))

    def help(self, path: str, states: Sequence[State]) -> FloatArray:
        """Scores of what helps along a path, (B, N)."""
        if path == "items":
            return np.tile(standardised(self.item_N[None]), (len(states), 1))
        return self._told(path, states, self._belief)

    def _belief(self, states: Sequence[State]) -> FloatArray:
        found, weights = self.reward.predict_all(states), self.config.reward
        return standardised(np.log(found.click_BK * (weights.click + weights.conversion * found.conversion_BK)))

    def _told(self, name: str, states: Sequence[State], score: Callable[[Sequence[State]], FloatArray]) -> FloatArray:
        # Every checkpoint of every training asks about the same states.
        return self.told.setdefault(name, Told()).of(states, score)

    def true_value(self, scores_PN: FloatArray) -> float:
        """The true value of an impression of the lists by scores over the pool."""
        top_PK = np.argpartition(-scores_PN, self.config.gate.slate, axis=1)[:, : self.config.gate.slate]
        return float(np.take_along_axis(self.value_PN, top_PK, axis=1).mean())


@dataclass
class Told:
    """Scores of states that were asked about before, state by state."""

    row: dict[tuple[str | None, int | None], int] = field(default_factory=dict)
    score_XN: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))

    def of(self, states: Sequence[State], score: Callable[[Sequence[State]], FloatArray]) -> FloatArray:
        """The scores of `states`, (B, N); `score` is asked for the new ones."""
        new = {(s.user_id, s.time): s for s in states if (s.user_id, s.time) not in self.row}
        if new:
            found_bN = score(list(new.values()))
            self.row |= {key: len(self.row) + n for n, key in enumerate(new)}
            self.score_XN = np.concatenate([self.score_XN, found_bN]) if self.score_XN.size else found_bN
        return self.score_XN[[self.row[s.user_id, s.time] for s in states]]


def people(config: RunConfig, world: World, split: Split, number: int) -> RunData:
    """What was logged of one people."""
    users = config.world.users
    theirs = world.dataset.users["user_id"][number * users : (number + 1) * users].implode()
    parts: dict[str, Any] = {part: split.part(part).filter(pl.col("user_id").is_in(theirs)) for part in PARTS}
    return RunData(world.dataset, Split(**parts, name=split.name), world)


def standardised(scores_BN: FloatArray) -> FloatArray:
    """Mean 0 and deviation 1 in each state."""
    apart_BN = scores_BN - scores_BN.mean(axis=1, keepdims=True)
    return np.asarray(apart_BN / np.maximum(apart_BN.std(axis=1, keepdims=True), 1e-9))


@dataclass(frozen=True)
class Tastes:
    """A random walk over checkpoints of tastes that nobody has: of items, and of users for items."""

    item_CN: FloatArray
    vector_CVN: FloatArray
    seed: int
    own: dict[str | None, FloatArray] = field(default_factory=dict)

    @classmethod
    def drawn(cls, random: np.random.Generator, items: int) -> Tastes:
        """Half of what each step adds to the first one's."""
        steps = np.concatenate([[1.0], np.full(CHECKPOINTS - 1, 0.5)])

        def walk(*shape: int) -> FloatArray:
            made = random.standard_normal((CHECKPOINTS, *shape))
            return np.cumsum(made * steps.reshape(-1, *[1] * len(shape)), axis=0)

        return cls(walk(items), walk(TASTES, items), int(random.integers(2**31)))

    def of(self, states: Sequence[State], step: int) -> FloatArray:
        """At checkpoint `step`, (B, N)."""
        for user in {state.user_id for state in states} - self.own.keys():
            self.own[user] = numpy_stream(self.seed, "tastes", user).standard_normal(TASTES)
        own_BV = np.stack([self.own[state.user_id] for state in states])
        return standardised(self.item_CN[step] + own_BV @ self.vector_CVN[step] / np.sqrt(TASTES))


@dataclass(frozen=True)
class Planted:
    """A training whose checkpoints have the true gains that they shall have."""

    shop: Shop
    path: str
    tastes: Tastes
    harm_C: tuple[float, ...]
    """How much of what harms is in each checkpoint."""
    gain_C: tuple[float, ...]
    """The true gains that came of it, as shares of the start's true value."""

    @classmethod
    def of(cls, shop: Shop, path: str, tastes: Tastes, gain: float) -> Planted | None:
        """A training that ends with a true gain of `gain`, reached evenly; None where even help alone gains less."""
        begin_PN, help_PN = shop.begin(shop.pool), shop.help(path, shop.pool)
        base = shop.true_value(begin_PN)
        found: list[tuple[float, float]] = []
        for step in range(CHECKPOINTS):
            share = (step + 1) / CHECKPOINTS
            harm_PN = tastes.of(shop.pool, step)

            def reached(much: float, harm_PN: FloatArray = harm_PN, share: float = share) -> float:
                return shop.true_value(begin_PN + share * (help_PN + much * harm_PN)) / base - 1

            wanted = gain * share
            if reached(0.0) < wanted:
                return None
            found.append(root(reached, wanted))
        return cls(shop, path, tastes, tuple(c for c, _ in found), tuple(g for _, g in found))

    def checkpoint(self, step: int) -> Scored:
        """The policy of a checkpoint."""
        share = (step + 1) / CHECKPOINTS

        def score(states: Sequence[State]) -> FloatArray:
            away_BN = self.shop.help(self.path, states) + self.harm_C[step] * self.tastes.of(states, step)
            return self.shop.begin(states) + share * away_BN

        return Scored(score)


def root(reached: Callable[[float], float], wanted: float, within: float = 2e-4) -> tuple[float, float]:
    """How much harm brings a falling gain down to `wanted`, and the gain there."""
    low, high, top = 0.0, 1.0, reached(1.0)
    while top > wanted and high < 1000:
        low, high, top = high, 2 * high, reached(2 * high)
    for _ in range(14):
        middle = (low + high) / 2
        found = reached(middle)
        if abs(found - wanted) < within:
            break
        low, high = (middle, high) if found > wanted else (low, middle)
    return middle, found


@dataclass(frozen=True)
class Bench:
    """One people's gate: the run's panel with a judge of this people, and the same with witnesses."""

    shop: Shop
    data: RunData
    simulators: Simulators
    panel: Panel

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
        witnesses = witnesses_of(heard, valid, judge, met_users(config, data), WITNESSES)
        return cls(shop, data, simulators, replace(panel, witnesses=witnesses))

    def measured(self, policy: Scored) -> tuple[PolicyFigures, PolicyFigures]:
        """A policy's figures by the judge alone, and with witnesses."""
        alone = replace(self.panel, witnesses=None).measure(policy)
        witnesses, weights = self.panel.witnesses, self.shop.config.reward
        assert witnesses is not None
        error = witnesses.error(witnesses.lists(policy, self.panel.slate))
        assert isinstance(alone.judged, Simulated)
        judged = alone.judged.corrected(error, click=weights.click, conversion=weights.conversion)
        return alone, replace(alone, judged=judged)


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


def scored(bench: Bench, training: Planted) -> list[tuple[PolicyFigures, PolicyFigures]]:
    """The figures of all checkpoints of a training."""
    return [bench.measured(training.checkpoint(step)) for step in range(CHECKPOINTS)]


def judge_training(bench: Bench, training: Planted, base: tuple[PolicyFigures, PolicyFigures]) -> dict[str, Any]:
    """What each rule promotes of a training, and whether the run would be called improved on the test period."""
    found = scored(bench, training)
    scores = [bench.panel.score(step + 1, alone, base[0]) for step, (alone, _) in enumerate(found)]
    promoted: dict[str, int | None] = {}
    for rule in RULES:
        sides = [pair[rule.witnessed] for pair in (*found, base)]
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


def power(bench: Bench, training: Planted, base: tuple[PolicyFigures, PolicyFigures]) -> list[dict[str, Any]]:
    """What the gate promotes where only some users are met."""
    found = scored(bench, training)
    scores = [bench.panel.score(step + 1, alone, base[0]) for step, (alone, _) in enumerate(found)]
    rows = []
    for part in PARTS_MET:
        met = len(bench.panel.states)
        some_U = np.sort(numpy_stream(0, "gate error", "users").permutation(met)[: max(1, round(part * met))])
        for rule in (RULES[0], RULES[-1]):
            *after, before = (some(pair[rule.witnessed], some_U) for pair in (*found, base))
            best = decided(bench.panel, scores, after, before)
            row = {"rule": rule.name, "part": part, "users": len(some_U), "promoted": best is not None}
            rows.append(row)
    return rows


def covered(
    bench: Bench, base: tuple[PolicyFigures, PolicyFigures], policies: Mapping[str, Scored]
) -> dict[str, Any]:
    """By policy the true gain, and of its judged ones mean, then mean, deviation and 95% limits of their draws."""
    shop, made = bench.shop, {}
    start = shop.true_value(shop.begin(shop.pool))
    for name, policy in policies.items():
        true, pair = shop.true_value(policy.score(shop.pool)) - start, bench.measured(policy)
        sides = {
            "users alone": (sure(pair[0]), sure(base[0])),
            "with the judge's own error": (pair[0], base[0]),
            "with witnesses": (pair[1], base[1]),
        }
        found = {}
        for side, (after, before) in sides.items():
            mean = after.judged.means["value"] - before.judged.means["value"]
            draws_S = bench.panel.draws(after, before)
            low, high = np.quantile(draws_S, (0.025, 0.975))
            all_of = (mean, draws_S.mean(), draws_S.std(ddof=1), low, high)
            found[side] = [float(one / start) for one in all_of]
        made[name] = {"true": true / start, "judged": found}
    return made


def tilted(shop: Shop, path: str, share: float) -> Scored:
    """The start with some of what helps."""
    return Scored(lambda states: shop.begin(states) + share * shop.help(path, states))


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


def run_gate_error(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    *,
    peoples: int = PEOPLES,
    power_peoples: int = 1,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Asks every people of every shop (resuming what is there), prints the tables and returns their figures."""
    if peoples < 1:
        raise RequestError("The gate's errors need a people to judge; give --peoples 1 or more.")

    def measure(seed: int) -> SeedRows:
        config = RunConfig.read(recipes_root() / "gate_error.yaml", {"seed": seed, **(overrides or {})})
        work = Work(out / f"shop-{seed}")

        def build(folder: Path, _: Path) -> None:
            shop = Shop.of(config, peoples)
            answers = []
            with Bar("Peoples at the gate", peoples) as bar:
                for number in range(1, peoples + 1):
                    answers.append(ask(Bench.of(shop, number), number, number <= power_peoples))
                    bar.advance()
            hashed = shop.world.dataset.manifest.content_hash
            write_json(folder / "answers.json", {"hash": hashed, "peoples": answers})

        key = {"config": config.tree(), "peoples": [peoples, power_peoples], "asked": [GAINS, CHECKPOINTS, PATHS]}
        found = read_json(work.stage("answers", key, build) / "answers.json")
        return SeedRows(seed, found["hash"], facts={"peoples": found["peoples"]})

    return Study(seeds, measure, answer_of, unit="shop").run(out, json_file)


def answer_of(found: Pooled) -> Answer:
    """Shares with Wilson's intervals, each people a world of its own."""
    asked = [one for shop in found.seeds for one in shop.facts["peoples"]]
    nulls = [null for one in asked for null in one["nulls"]]
    if not nulls:
        raise RequestError("No training gained nothing here; give more shops or larger ones.")
    groups = {"all": nulls} | {path: [null for null in nulls if null["path"] == path] for path in PATHS}
    ruled = {
        rule.name: {
            group: _share([null["promoted"][rule.name] is not None for null in own])
            for group, own in groups.items()
            if own
        }
        for rule in RULES
    }
    called = _share([null["improved"] for null in nulls])
    powers, coverage = _powers([row for one in asked for row in one["power"]], ruled), _coverage(asked)
    figures = {
        "worlds": len(asked),
        "nulls": {"trainings": len(nulls), "promoted": ruled, "called_improved": called},
        "power": powers,
        "coverage": coverage,
    }
    sentences = [
        f"Of {len(nulls)} trainings that gained nothing, called improved on the test period: {_percents(called)}."
    ]
    sheets = [_null_sheet(ruled, len(nulls)), *_power_sheets(powers), _coverage_sheet(coverage, len(asked))]
    plots = {"power": _power_plot(powers), "coverage": _coverage_plot(asked)}
    return Answer("How often the gate errs", figures, sheets, sentences, plots={k: v for k, v in plots.items() if v})


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    """A share with Wilson's interval."""
    rate, count = np.array([np.mean(hits)]), np.array([float(len(hits))])
    low, high = wilson_bounds(rate, count)
    return {"mean": float(rate[0]), "low": float(low[0]), "high": float(high[0]), "of": len(hits)}


def _percents(share: Mapping[str, Any]) -> str:
    return "{:.1f}% ({:.1f} to {:.1f})".format(*(100 * share[name] for name in ("mean", "low", "high")))


def _powers(rows: Sequence[Mapping[str, Any]], ruled: Mapping[str, Any]) -> list[dict[str, Any]]:
    cases = dict.fromkeys((row["path"], row["rule"], row["part"], row["gain"]) for row in rows)
    made = []
    for case in cases:
        own = [row for row in rows if (row["path"], row["rule"], row["part"], row["gain"]) == case]
        path, rule, part, gain = case
        share = _share([row["promoted"] for row in own])
        users = float(np.mean([row["users"] for row in own]))
        made.append({"path": path, "rule": rule, "part": part, "users": users, "gain": gain, "promoted": share})
    whole = max((row["part"] for row in made), default=1.0)
    nulls = [
        {"path": row[0], "rule": row[1], "part": whole, "gain": 0.0, "promoted": ruled[row[1]][row[0]]}
        for row in dict.fromkeys((row["path"], row["rule"]) for row in made)
        if row[0] in ruled[row[1]]
    ]
    return [*nulls, *made]


def _coverage(asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By policy and by what the interval holds: how often the true gain lies in it, and how far off its middle is."""
    made: dict[str, Any] = {}
    for name in dict.fromkeys(policy for one in asked for policy in one["coverage"]):
        own = [one["coverage"][name] for one in asked if name in one["coverage"]]
        true_W = np.array([row["true"] for row in own])
        made[name] = {"true": float(true_W.mean()), "sides": {}}
        for side in own[0]["judged"]:
            mean_W, _, spread_W, low_W, high_W = np.array([row["judged"][side] for row in own]).T
            made[name]["sides"][side] = {
                "covered": _share(((low_W <= true_W) & (true_W <= high_W)).tolist()),
                "symmetric": _share((np.abs(mean_W - true_W) <= 1.96 * spread_W).tolist()),
                "below": float((high_W < true_W).mean()),
                "above": float((low_W > true_W).mean()),
                "judged": float(mean_W.mean()),
                "error": float(np.sqrt(((mean_W - true_W) ** 2).mean())),
                "width": float((high_W - low_W).mean()),
            }
    return made


def _null_sheet(ruled: Mapping[str, Any], trainings: int) -> Sheet:
    rows = [(rule, *(_percents(share) for share in own.values())) for rule, own in ruled.items()]
    title = f"Promotions in {trainings} trainings of {CHECKPOINTS} checkpoints that gained nothing (Wilson's 95%)"
    groups = next(iter(ruled.values()))
    return Sheet(title, ("rule", *(name if name == "all" else f"helped by {name}" for name in groups)), rows)


def _power_sheets(powers: Sequence[Mapping[str, Any]]) -> list[Sheet]:
    sheets = []
    for path, rule in dict.fromkeys((row["path"], row["rule"]) for row in powers):
        own = [row for row in powers if (row["path"], row["rule"]) == (path, rule)]
        parts = sorted({row["part"] for row in own})
        users = {row["part"]: row["users"] for row in own if "users" in row}
        cell = {(row["gain"], row["part"]): _percents(row["promoted"]) for row in own}
        rows = [
            (f"{100 * gain:g}%", *(cell.get((gain, part), "") for part in parts))
            for gain in sorted({row["gain"] for row in own})
        ]
        heads = ("true gain", *(f"{users[part]:.0f} users" for part in parts))
        sheets.append(Sheet(f"Promoted: {rule}, helped by {path}", heads, rows))
    return sheets


def _coverage_sheet(coverage: Mapping[str, Any], worlds: int) -> Sheet:
    rows = []
    for name, own in coverage.items():
        cells = [f"{100 * own['true']:+.1f}%"]
        for found in own["sides"].values():
            cells.append(f"{100 * found['judged']:+.1f}% ± {50 * found['width']:.1f}: {_percents(found['covered'])}")
        rows.append((name, *cells))
    sides = next(iter(coverage.values()))["sides"] if coverage else ()
    note = "Mean judged gain, half the interval's mean width, and how often the true gain lies in it (Wilson's 95%)."
    title = f"Coverage of 95% intervals of the gain, {worlds} worlds, in percent of the start's true value"
    return Sheet(title, ("policy", "true gain", *sides), rows, note)


def _power_plot(powers: Sequence[Mapping[str, Any]]) -> str:
    from llmrec.evaluation.plots import curve_figure

    parts = sorted({row["part"] for row in powers})
    wanted, points = [], []
    for path, rule in dict.fromkeys((row["path"], row["rule"]) for row in powers):
        own = [row for row in powers if (row["path"], row["rule"]) == (path, rule)]
        users = {row["part"]: f"{row['users']:.0f} users" for row in own if "users" in row}
        names = {part: f"{path}, {rule}/{users[part]}" for part in parts if part in users}
        wanted.append((f"{rule}: {path}", tuple(names.values())))
        points += [
            {"step": 100 * row["gain"], names[row["part"]]: row["promoted"]["mean"]}
            for row in sorted(own, key=lambda row: float(row["gain"]))
        ]
    return curve_figure(points, wanted, label="Share promoted", xlabel="true gain, %")


def _coverage_plot(asked: Sequence[Mapping[str, Any]]) -> str:
    from llmrec.evaluation.plots import coverage_figure

    shown = {}
    for name in dict.fromkeys(policy for one in asked for policy in one["coverage"]):
        own = [one["coverage"][name] for one in asked if name in one["coverage"]]
        for side in ("with the judge's own error", "with witnesses"):
            limits = np.array([[row["judged"][side][3], row["judged"][side][4], row["true"]] for row in own])
            shown[f"{name}, {side}"] = 100 * (limits[:, :2] - limits[:, 2:])
    return coverage_figure(shown, xlabel="judged less true gain, %")
