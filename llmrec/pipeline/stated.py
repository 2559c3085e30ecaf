"""Does a policy follow the weights that a state's text asks for? (`reward.stated`)

Each stated term's weight is moved from none to all while the others stay as they were drawn for each person, and the
judge says what that term's lists are worth then: a policy that follows shows more of it at every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.dataset.store import Dataset
from llmrec.evaluation.ranking import slates_to_items
from llmrec.evaluation.significance import Interval, bootstrap_interval
from llmrec.pipeline.wording import run_language
from llmrec.rewards import RewardFunction
from llmrec.seeding import numpy_stream
from llmrec.text.objectives import LEVELS, preferring
from llmrec.types import FloatArray, IntArray, Ranker, State


@dataclass(frozen=True, slots=True)
class Followed:
    """What a term is judged to be worth in lists that ask for it with each weight.

    Attributes:
        mean_OL: a place's mean by term and level, (O, L).
        whole: of each term, at the highest level less at none; paired, 95% over people.
    """

    names: tuple[str, ...]
    mean_OL: FloatArray
    whole: tuple[Interval, ...]

    @property
    def rises(self) -> tuple[bool, ...]:
        """Of each term, whether its mean rises at every step of its weight."""
        return tuple(bool((np.diff(mean_L) > 0).all()) for mean_L in self.mean_OL)

    @property
    def sentence(self) -> str:
        """For the report."""
        told = [
            f"{name} {mean_L[0]:.4g} to {mean_L[-1]:.4g} ({gap.mean:+.2g}, 95% {gap.low:+.2g} to {gap.high:+.2g})"
            for name, mean_L, gap in zip(self.names, self.mean_OL, self.whole, strict=True)
        ]
        shown = sum(gap.low > 0 for gap in self.whole)
        return (
            f"Asked for by a state's text (weight 0 to {LEVELS - 1}, the others as drawn), a place is judged to be "
            f"worth: {'; '.join(told)}. {shown} of {len(self.names)} are shown to follow."
        )

    def facts(self) -> dict[str, Any]:
        """For metrics.json."""
        rows = zip(self.names, self.mean_OL, self.whole, self.rises, strict=True)
        return {
            name: {"means": mean_L.tolist(), "difference": dataclasses.asdict(gap), "rises": rises}
            for name, mean_L, gap, rises in rows
        }


def followed(
    config: RunConfig,
    dataset: Dataset,
    judged: Callable[[], RewardFunction],
    ranker: Ranker,
    states: Sequence[State],
    seen: Sequence[IntArray],
) -> Followed | None:
    """Asks a policy with each weight of each stated term; None where the reward states none.

    Args:
        config: the run's.
        dataset: whose language the line is in.
        judged: makes the reward by the judge; list-level terms and those that know what comes next are left out.
        ranker: who is asked.
        states: of people whom nothing was trained on.
        seen: what each of them had chosen.
    """
    stated = config.reward.stated
    if not stated:
        return None
    reward, language = judged().for_ranking(), run_language(config, dataset)
    names = tuple(name for name in stated if name in {term.name for term in reward.terms})
    drawn_BO = numpy_stream(config.seed, "stated", "evaluation").integers(0, LEVELS, (len(states), len(stated)))
    k = min(max(config.evaluation.k), dataset.n_items)
    value_OLB = np.zeros((len(names), LEVELS, len(states)))
    for o, name in enumerate(names):
        for level in range(LEVELS):
            level_BO = drawn_BO.copy()
            level_BO[:, stated.index(name)] = level
            asking = [
                preferring(state, dict(zip(stated, levels, strict=True)), language, stated)
                for state, levels in zip(states, level_BO.tolist(), strict=True)
            ]
            items_BK = slates_to_items(ranker.recommend(asking, k, seen=seen))
            value_OLB[o, level] = reward(states, items_BK).terms[name].sum(1) / k
    people = [str(state.user_id) for state in states]
    whole = tuple(
        bootstrap_interval(value_LB[-1] - value_LB[0], users=people, seed=config.seed) for value_LB in value_OLB
    )
    return Followed(names, value_OLB.mean(2), whole)
