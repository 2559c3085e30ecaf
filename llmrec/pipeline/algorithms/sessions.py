"""Sessions in the main job: who is met in training, and whom deployed systems meet afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.config import ChoiceSettings, EnvironmentSettings, PPOSettings, ReinforceSettings, RunConfig
from llmrec.dataset.split import Part
from llmrec.errors import ConfigError
from llmrec.evaluation.sessions import SessionFigures, simulate_sessions
from llmrec.pipeline.algorithms.reward import run_reward
from llmrec.pipeline.algorithms.rollouts import rollout_states
from llmrec.pipeline.data import RunData
from llmrec.pipeline.ruled import training_rules
from llmrec.pipeline.sft import warm_start
from llmrec.pipeline.simulation import Simulators, log_of
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards import reading_next
from llmrec.rewards.custom import load_custom
from llmrec.seeding import numpy_stream
from llmrec.simulator.behaviour import BehaviourModel
from llmrec.simulator.choice import SlateLog, fit_settings, require_places
from llmrec.simulator.ensemble import Ensemble
from llmrec.simulator.environments.learned_users import LearnedUsers
from llmrec.simulator.environments.population import Population
from llmrec.simulator.environments.world_users import WorldUsers
from llmrec.training.improvement import Checkpointing, Improved
from llmrec.training.session_source import SessionReward, SessionUsers
from llmrec.training.sessions import check_credit, check_sessions, require_room, train_sessions
from llmrec.types import IntArray, Ranker, State


def improve_sessions(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Improves `policy` by PPO or REINFORCE in sessions with the users that the reward's ensemble learned."""
    settings, start = config.improvement, warm_start(config, data, policy)
    assert isinstance(settings, PPOSettings | ReinforceSettings)
    meeting = session_meeting(config, data, policy, simulators)
    return train_sessions(start, meeting, settings, config.session, checkpointing)


def check_session_settings(config: RunConfig, processes: int = 1, items: int | None = None) -> None:
    """Refuses, before anything is made, settings of sessions that cannot work (with so many items, where known).

    Raises:
        ConfigError: a setting of the algorithm, or of sessions.
    """
    settings = config.improvement
    assert isinstance(settings, PPOSettings | ReinforceSettings)
    # Drift moves interests in a space of topics, which only a generated world knows; learned users have histories.
    if config.dynamics.drift.enabled:
        raise ConfigError(
            "Key 'dynamics.drift.enabled' is true, but the interests of learned users are not known; set it to false."
        )
    if config.session.turns > 1 and (known := reading_next(config.reward)):
        raise ConfigError(
            f"The reward {known[0]!r} knows what the log says comes next, which a session of several turns does not "
            "follow; remove the term, or set session.turns to 1."
        )
    if config.choice.fitted:
        require_places(config.choice.model)
    check_sessions(config.session, settings, processes, items, config.algorithm)
    check_credit(config.session, config.choice, [load_custom(spec) for spec in config.reward.custom])


def session_meeting(config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators) -> SessionUsers:
    """Who is met, as the reward's ensemble learned them, and the reward.

    They are the users of the training period at their last state. Under a reward that knows the logged next item a
    user is met at moments of the training period whose next item is known, each of them a row of its own.
    """
    states, seen = session_starts(config, data)
    rewards = run_reward(config, data, simulators, policy, slate_size=config.session.slate)
    weights = config.reward.click, config.reward.conversion
    reward = SessionReward(rewards.terms, config.reward.sampled, config.reward.pessimism, simulators.reward, *weights)
    population = LearnedUsers(simulators.reward, states, data.dataset)
    return SessionUsers(
        population, np.arange(len(states)), seen, reward, session_choice(config, data), config.dynamics
    )


def session_choice(config: RunConfig, data: RunData, limit: int | None = None) -> ChoiceSettings:
    """How users choose within a slate: as configured or, where that is asked for, as the training period's log says.

    With `limit` they are the slates of a uniform sample of this many states.

    Raises:
        ConfigError: a choice model that has nothing to fit.
        DataError: slates without positions, or that teach nothing.
    """
    if not config.choice.fitted:
        return config.choice
    log = log_of(config, data, "train", limit)
    users = np.array(log.user_ids)[log.state_row_M]
    ranks = log.position_M if np.isfinite(log.position_M).all() else None
    slates = SlateLog.of_impressions(log.state_row_M, log.item_M, log.click_M, ranks, user_M=users)
    return fit_settings(config.choice, slates, config.session.slate, seed=config.seed)


def check_session_data(config: RunConfig, data: RunData, limit: int | None) -> None:
    """Refuses, before anything is trained, users of the training period (or a sample) to whom nothing can be shown.

    Raises:
        ConfigError: slates that are larger than the catalogue.
        DataError: all users have seen too much, or see `session_choice`.
    """
    check_session_settings(config, items=data.dataset.n_items)
    states, seen = session_starts(config, data, limit)
    manifest, rules = data.dataset.manifest, training_rules(config, data)
    require_room(states, seen, config.session, manifest.repeat, data.dataset.n_items, rules)
    session_choice(config, data, limit)


def session_starts(config: RunConfig, data: RunData, limit: int | None = None) -> tuple[list[State], list[IntArray]]:
    """Where the sessions of a training begin (or those of a sample), and what each user has seen."""
    if not reading_next(config.reward):
        return last_states(config, data, "train", limit)
    settings = config.improvement
    assert isinstance(settings, PPOSettings | ReinforceSettings)
    found = rollout_states(config, data, settings, limit)
    return found.states, found.seen


def last_states(
    config: RunConfig, data: RunData, part: Part, limit: int | None = None
) -> tuple[list[State], list[IntArray]]:
    """The last state of each user in a part of the split (or in a sample), and what each has seen."""
    log = log_of(config, data, part, limit)
    # Rows are in order of time, so the last one of each user wins.
    last = {user: row for row, user in enumerate(log.user_ids)}
    rows = sorted(last.values())
    return [log.states[row] for row in rows], [log.seen[row] for row in rows]


def session_sizes(config: RunConfig) -> EnvironmentSettings:
    """The sizes of a session and the weights of its value."""
    session, reward = config.session, config.reward
    return EnvironmentSettings(
        slate_size=session.slate,
        turns=session.turns,
        remembered_turns=session.remembered_turns,
        click=reward.click,
        conversion=reward.conversion,
    )


@dataclass(frozen=True, slots=True)
class SessionArena:
    """Whom deployed systems meet: users of the test period, as one population sees them."""

    population: Population
    user_N: IntArray
    seen: list[IntArray]
    choice: ChoiceSettings

    def play(self, system: Ranker, config: RunConfig, *, doubt: bool = False) -> SessionFigures:
        """Sessions of all users with `system`, under the luck of the run's seed, with `doubt` where asked for."""
        return simulate_sessions(
            system,
            self.population,
            self.user_N,
            session_sizes(config),
            choice=self.choice,
            dynamics=config.dynamics,
            seen=self.seen,
            seed=config.seed,
            doubt=doubt,
        )


def judged_sessions(
    config: RunConfig, data: RunData, judge: BehaviourModel, states: Sequence[State], seen: Sequence[IntArray]
) -> SessionArena:
    """Sessions of these users, who behave as the judge expects."""
    learned = LearnedUsers(judge, states, data.dataset)
    return SessionArena(learned, np.arange(len(states)), list(seen), session_choice(config, data))


def session_arenas(config: RunConfig, data: RunData, judge: BehaviourModel | Ensemble) -> dict[str, SessionArena]:
    """`evaluation.users` of the test period, met by the judge's behaviour and, in a generated world, by the truth."""
    states, seen = last_states(config, data, "test")
    chosen = _chosen(config, len(states))
    some, their = [states[row] for row in chosen], [seen[row] for row in chosen]
    # The same users, the same luck and the same choice within a slate for both, so that judge and truth differ in
    # what they think of items and in nothing else.
    choice, learned = session_choice(config, data), LearnedUsers(judge, some, data.dataset)
    arenas = {"judge": SessionArena(learned, np.arange(len(some)), their, choice)}
    if data.world is not None:
        row_of = data.dataset.user_index
        users = np.array([row_of[str(state.user_id)] for state in some], dtype=np.int64)
        arenas["truth"] = SessionArena(WorldUsers.of(data.world), users, their, choice)
    return arenas


def _chosen(config: RunConfig, users: int) -> Sequence[int]:
    limit = min(config.evaluation.users, users)
    random = numpy_stream(config.seed, "evaluation", "session users")
    rows: list[int] = sorted(random.choice(users, size=limit, replace=False).tolist())
    return rows
