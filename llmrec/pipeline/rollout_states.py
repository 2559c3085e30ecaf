"""Where rollouts start: which states of the training period items are drawn for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.config import RolloutSettings, RunConfig
from llmrec.pipeline.data import RunData
from llmrec.pipeline.policies import targets
from llmrec.pipeline.rewarding import NEXT_ITEM
from llmrec.pipeline.simulation import log_of
from llmrec.seeding import numpy_stream
from llmrec.types import IntArray, State


@dataclass(frozen=True, slots=True)
class RolloutStates:
    """S states, and for each all items that its user had chosen before."""

    states: list[State]
    seen: list[IntArray]


def rollout_states(config: RunConfig, data: RunData, settings: RolloutSettings) -> RolloutStates:
    """A sample of the training period's states, as many as the rollouts use, or all.

    `starts: slates` draws slates uniformly, so that heavy users with long histories are met often. `starts: users`
    lets users take turns, each time at one of their slates whose rank is log-uniform: half of a user's weight lies on
    the first root of their number, so beginnings are met as often as in a population that is always growing. Under a
    reward for the next item the states are those of the training events, whose next item is known.
    """
    known = _known(config, data)
    wanted = settings.steps * settings.prompts
    random = numpy_stream(config.seed, "ppo", "states")
    if settings.starts == "users":
        rows = _by_user(known.states, wanted, random)
    else:
        rows = random.permutation(len(known.states))[: min(wanted, len(known.states))].tolist()
    return RolloutStates([known.states[r] for r in rows], [known.seen[r] for r in rows])


def _known(config: RunConfig, data: RunData) -> RolloutStates:
    if NEXT_ITEM in config.reward.terms:
        examples = targets(config, data, "train", None)
        first: dict[int, int] = {}  # events of one moment share their state
        for row, example in enumerate(examples.rows):
            first.setdefault(id(example.state), row)
        rows = list(first.values())
        return RolloutStates([examples.rows[r].state for r in rows], [examples.seen[r] for r in rows])
    log = log_of(config, data, "train")
    return RolloutStates(log.states, log.seen)


def _by_user(states: list[State], wanted: int, random: np.random.Generator) -> list[int]:
    """Rows of `states`: rounds over all users in a new order, each at a state of log-uniform rank in time."""
    rows_of: dict[str | None, list[int]] = {}
    for row in sorted(range(len(states)), key=lambda r: states[r].time or 0):
        rows_of.setdefault(states[row].user_id, []).append(row)
    lists, rows = list(rows_of.values()), list[int]()
    while lists and len(rows) < wanted:
        for user in random.permutation(len(lists)).tolist():
            own = lists[user]
            rank = int((len(own) + 1) ** random.random()) - 1  # 0..len - 1, P(rank >= r) falls with log r
            rows.append(own[min(rank, len(own) - 1)])
    return rows[:wanted]
