"""Learning from a reward: the states that items are asked for; rollouts, and what is distilled from the reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.config import BestOfNSettings, RolloutSettings, RunConfig, TiltedSettings
from llmrec.pipeline.algorithms.reward import learned_from
from llmrec.pipeline.data import RunData
from llmrec.pipeline.ruled import training_rules
from llmrec.pipeline.sft import targets, warm_start
from llmrec.pipeline.simulation import Simulators, log_of
from llmrec.pipeline.wording import told_preferences
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards import reading_next
from llmrec.seeding import numpy_stream
from llmrec.training.best_of_n import check_best_of_n, train_best_of_n
from llmrec.training.improvement import Checkpointing, Improved, usable_states
from llmrec.training.on_policy import check_settings, train_on_policy
from llmrec.training.tilted import check_tilted, train_tilted
from llmrec.types import FloatArray, IntArray, State


def improve_rollouts(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Draws items at states of the training period and learns from their rewards."""
    settings = config.improvement
    assert isinstance(settings, RolloutSettings)
    starts = rollout_states(config, data, settings)
    reward, start = learned_from(config, data, simulators, policy), warm_start(config, data, policy)
    return train_on_policy(start, starts.states, starts.seen, reward, settings, checkpointing)


def check_rollout_settings(config: RunConfig, processes: int) -> None:
    """Refuses settings that cannot work, by themselves or with so many processes."""
    settings = config.improvement
    assert isinstance(settings, RolloutSettings)
    check_settings(settings, processes, config.algorithm)


def improve_best_of_n(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Imitates the best of its draws at states of the training period."""
    settings = config.improvement
    assert isinstance(settings, BestOfNSettings)
    starts = rollout_states(config, data, RolloutSettings(steps=settings.rounds, prompts=settings.prompts))
    reward, start = learned_from(config, data, simulators, policy), warm_start(config, data, policy)
    return train_best_of_n(start, starts.states, starts.seen, reward, settings, checkpointing)


def check_best_of_n_settings(config: RunConfig, processes: int) -> None:
    """Refuses settings that cannot work, by themselves or with so many processes."""
    settings = config.improvement
    assert isinstance(settings, BestOfNSettings)
    check_best_of_n(settings, processes)


def improve_tilted(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Learns the optimum of reward and KL term at states of the training period."""
    settings = config.improvement
    assert isinstance(settings, TiltedSettings)
    starts = rollout_states(config, data, RolloutSettings(steps=1, prompts=settings.states, starts=settings.starts))
    reward, start = learned_from(config, data, simulators, policy), warm_start(config, data, policy)

    def worth(states: Sequence[State], items_BK: IntArray) -> FloatArray:
        # nobody expects anything of rewards that were dealt out wrongly; they are asked as draws are
        if config.reward.shuffle == "rewards":
            return reward(states, items_BK).total_BK
        return reward.candidates(states, items_BK)

    return train_tilted(start, starts.states, starts.seen, worth, settings, checkpointing)


def check_tilted_settings(config: RunConfig, processes: int) -> None:
    """Refuses settings that cannot work, by themselves or with so many processes."""
    settings = config.improvement
    assert isinstance(settings, TiltedSettings)
    check_tilted(settings, processes)


def check_states(config: RunConfig, data: RunData, limit: int | None) -> None:
    """Refuses, before anything is trained, a training period (or a sample of it) where nothing may be drawn."""
    log = log_of(config, data, "train", limit)
    manifest, rules = data.dataset.manifest, training_rules(config, data)
    usable_states(log.states, log.seen, manifest.repeat, data.dataset.n_items, rules)


@dataclass(frozen=True, slots=True)
class RolloutStates:
    """S states, and for each all items that its user had chosen before."""

    states: list[State]
    seen: list[IntArray]


def rollout_states(
    config: RunConfig, data: RunData, settings: RolloutSettings, limit: int | None = None
) -> RolloutStates:
    """A sample of the training period's states, as many as the rollouts use, or all; with `limit` of so many states.

    `starts: slates` draws slates uniformly, so that heavy users with long histories are met often. `starts: users`
    lets users take turns, each time at one of their slates whose rank is log-uniform: half of a user's weight lies on
    the first root of their number, so beginnings are met as often as in a population that is always growing. Under a
    reward for the next item the states are those of the training events, whose next item is known.
    """
    known = _known(config, data, limit)
    wanted = settings.steps * settings.prompts
    random = numpy_stream(config.seed, "ppo", "states")
    if settings.starts == "users":
        rows = _by_user(known.states, wanted, random)
    else:
        rows = random.permutation(len(known.states))[: min(wanted, len(known.states))].tolist()
    states = told_preferences(config, data.dataset, [known.states[r] for r in rows], "rollouts")
    return RolloutStates(states, [known.seen[r] for r in rows])


def _known(config: RunConfig, data: RunData, limit: int | None = None) -> RolloutStates:
    if reading_next(config.reward):
        examples = targets(config, data, "train", limit)
        first: dict[int, int] = {}  # events of one moment share their state
        for row, example in enumerate(examples.rows):
            first.setdefault(id(example.state), row)
        rows = list(first.values())
        return RolloutStates([examples.rows[r].state for r in rows], [examples.seen[r] for r in rows])
    log = log_of(config, data, "train", limit)
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
