"""Generated shops whose truth is known: one people after another, a reward, a judge's network and a start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from llmrec.baselines.covisitation import COUNTS_ONLY, Covisitation
from llmrec.config import RunConfig
from llmrec.dataset.split import PARTS, Split, make_split
from llmrec.dataset.world.world import World, generate_world
from llmrec.pipeline.data import RunData
from llmrec.pipeline.simulation import first_states, log_of
from llmrec.simulator.behaviour import BehaviourModel
from llmrec.simulator.ensemble import Ensemble, fit_reward_and_judge
from llmrec.types import FloatArray, IntArray, Slate, State


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
