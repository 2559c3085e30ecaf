"""The core of every study: seeds in, figures with paired intervals out.

A study is data (seeds, a folder) and two functions. `measure` makes the stages that one seed needs, each from its
folder if it is finished, and gives the figures of every side row by row; `answer` makes tables and sentences of all
seeds' rows by the statistics below. Printing and writing are `answer.Answer`'s.

Two kinds of interval answer two questions. Over rows (`Pooled.difference`, `relative`) the trained models are taken
as they are and users are drawn anew: does this model do better with other users? Over seeds (`over_seeds`) a seed is
one observation, as training and, in generated worlds, data differ: does the method do better when trained again?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.dataset.manifest import Repeat
from llmrec.errors import RequestError
from llmrec.evaluation.significance import (
    Interval,
    RelativeBound,
    noninferiority_bound,
    paired_bootstrap,
    t_interval,
)
from llmrec.evaluation.table import Comparison
from llmrec.pipeline.algorithms.reward import run_reward
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.measure import Arena, make_arena
from llmrec.pipeline.result import RERANKED, SFT
from llmrec.pipeline.run import check_config
from llmrec.pipeline.sft import SFTStage, improved_policy, sft_policy, sft_stage
from llmrec.pipeline.simulation import Simulators, simulator_stage
from llmrec.pipeline.systems import Greedy, Policy, Reranked
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.progress import console
from llmrec.rewards import RewardFunction
from llmrec.studies.answer import Answer
from llmrec.types import FloatArray, Ranker


@dataclass(frozen=True)
class SeedRows:
    """What all sides gave under one seed.

    Attributes:
        seed: of training, and of the data where they are generated.
        data_hash: content hash of the data set.
        rows: by side and measure one figure a row, (B,); the rows of a measure are the same for all sides.
        users: by measure the user of each row, for clustered intervals. Rows of one name are one cluster over all
            seeds: seeds of other people need other names. A measure that is not here has rows that are independent.
        facts: by side or name, what else is known: costs, for example.
    """

    seed: int
    data_hash: str
    rows: Mapping[str, Mapping[str, FloatArray]] = field(default_factory=dict)
    users: Mapping[str, Sequence[str]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pooled:
    """The rows of all seeds, S in number."""

    seeds: Sequence[SeedRows]

    @property
    def sides(self) -> list[str]:
        """All sides, in the order in which they appear first."""
        return list(dict.fromkeys(side for one in self.seeds for side in one.rows))

    def measures(self, side: str) -> list[str]:
        """What was measured of a side."""
        return list(self.seeds[0].rows[side])

    def rows(self, side: str, measure: str) -> FloatArray:
        """The rows of all seeds, one after another."""
        return np.concatenate([np.asarray(one.rows[side][measure]) for one in self.seeds])

    def users(self, measure: str) -> list[str] | None:
        """Whose rows they are; None where each row is of its own."""
        if measure not in self.seeds[0].users:
            return None
        return [user for one in self.seeds for user in one.users[measure]]

    def means(self, side: str, measure: str) -> list[float]:
        """The mean of each seed, (S,)."""
        return [float(np.mean(one.rows[side][measure])) for one in self.seeds]

    def difference(self, side: str, base: str, measure: str, **draw: Any) -> Interval:
        """Mean difference of two sides, paired by row, users drawn with all their rows; `draw`: samples, seed."""
        a_B, b_B = self.rows(side, measure), self.rows(base, measure)
        return paired_bootstrap(a_B, b_B, users=self.users(measure), **draw)

    def relative(self, side: str, base: str, measure: str, **draw: Any) -> RelativeBound:
        """mean(side) / mean(base) - 1 over all rows, with its one-sided bound."""
        a_B, b_B = self.rows(side, measure), self.rows(base, measure)
        return noninferiority_bound(a_B, b_B, users=self.users(measure), **draw)

    def closed(self, side: str, base: str, best: str, measure: str) -> list[float]:
        """Share of the headroom between two sides that a third one closes, (V - V_base) / (V_best - V_base): (S,)."""
        value_S, base_S, best_S = (np.array(self.means(one, measure)) for one in (side, base, best))
        return [float(share) for share in (value_S - base_S) / (best_S - base_S)]

    def comparison(
        self,
        title: str,
        measures: Sequence[str],
        reference: str,
        *,
        plain: Mapping[str, Mapping[str, float]] | None = None,
        **options: Any,
    ) -> Comparison:
        """Sides by measures of the same rows, and plain figures by side; `options` as of `Comparison.of`."""
        values: dict[str, dict[str, FloatArray | float]] = {
            side: {**{m: self.rows(side, m) for m in measures}, **(plain or {}).get(side, {})} for side in self.sides
        }
        return Comparison.of(title, values, reference=reference, users=self.users(measures[0]), **options)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """One figure a seed, with Student's t interval of their mean where there are at least two."""
    return {"by_seed": list(values), **(asdict(t_interval(values)) if len(values) > 1 else {})}


@dataclass(frozen=True)
class Study:
    """A question that is asked under several seeds.

    Attributes:
        seeds: each once.
        measure: the rows of one seed; prints what it is at.
        answer: what all of them say.
        least: seeds that the answer needs; 2 for an interval over them.
        unit: what a seed stands for, in what is printed.
    """

    seeds: Sequence[int]
    measure: Callable[[int], SeedRows]
    answer: Callable[[Pooled], Answer]
    least: int = 1
    unit: str = "world"

    def run(self, out: Path, json_file: Path | None = None) -> dict[str, Any]:
        """Measures every seed, prints the answer and writes it (see `Answer.finish`); returns its figures.

        Raises:
            RequestError: too few seeds.
        """
        if len(self.seeds) < self.least:
            why = "An interval over seeds needs at least two of them" if self.least > 1 else "A study needs a seed"
            raise RequestError(f"{why}; give --seeds {'two or more numbers' if self.least > 1 else 'a number'}.")
        found = []
        for seed in self.seeds:
            console.print(f"{self.unit} {seed}", style="bold")
            found.append(self.measure(seed))
        hashes = [one.data_hash for one in found]
        return self.answer(Pooled(found)).finish(out, json_file, seeds=list(self.seeds), dataset_hashes=hashes)


@dataclass(frozen=True)
class Prepared:
    """What the sides of one seed share: data, warm start and simulators, each from its stage if that is finished."""

    config: RunConfig
    work: Work
    data: RunData
    sft: SFTStage
    simulators: Simulators

    @classmethod
    def of(cls, config: RunConfig, folder: Path) -> Prepared:
        """Makes in `folder` what is missing."""
        check_config(config)
        work = Work(folder)
        data = open_data(config, work)
        sft = sft_stage(config, data, base_model(config, data, work), work)
        return cls(config, work, data, sft, simulator_stage(config, data, work))

    @property
    def data_hash(self) -> str:
        """Content hash of the data set."""
        return self.data.dataset.manifest.content_hash

    def arena(self) -> Arena:
        """The users and events of the test period."""
        return make_arena(self.config, self.data, self.simulators.judge)

    def policy(self, checkpoint: Path | None = None) -> LanguagePolicy:
        """The warm start, or what an improvement has left in the folder `checkpoint`, freshly loaded."""
        if checkpoint is None:
            return sft_policy(self.config, self.data, self.sft)
        return improved_policy(self.config, self.data, self.sft, checkpoint)

    def ranker(self, checkpoint: Path | None = None) -> Policy:
        """The same as a system of the tables."""
        return Policy(self.policy(checkpoint), self.config.evaluation.beams)

    def starting(self) -> dict[str, Ranker]:
        """What an improvement is held against: the warm start, and its top 20 reranked by the reward."""
        start = self.ranker()
        return {SFT: start, RERANKED: Reranked(start, self._ranking(start.policy), self.data.dataset.n_items)}

    def argmax(self, repeat: Repeat | None = None) -> Ranker:
        """The list that the reward's simulator values most of all, without any policy; the data set's `repeat`."""
        dataset = self.data.dataset
        return Greedy(self._ranking(self.policy()), dataset.n_items, repeat or dataset.manifest.repeat)

    def _ranking(self, policy: LanguagePolicy) -> RewardFunction:
        given = (self.config, self.data, self.simulators, policy)
        return run_reward(*given, slate_size=self.config.session.slate).for_ranking()
