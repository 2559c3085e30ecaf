"""Which states, rewards and logs an algorithm of the configuration is given."""

from __future__ import annotations

import os
from dataclasses import replace

from llmrec.config import (
    BestOfNSettings,
    OffPolicySettings,
    PreferenceSettings,
    RLHFSettings,
    RolloutSettings,
    RunConfig,
)
from llmrec.config.reward import check_reward
from llmrec.pipeline.data import RunData
from llmrec.pipeline.offline import check_logged, check_offline, improve_best_of_n, improve_off_policy
from llmrec.pipeline.preferences import check_pairs, check_preference_config, improve_preferences, improve_rlhf
from llmrec.pipeline.rewarding import run_reward
from llmrec.pipeline.rollout_states import rollout_states
from llmrec.pipeline.sessions import check_session_config, check_session_data, improve_sessions
from llmrec.pipeline.simulation import Simulators
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards.custom import load_custom
from llmrec.training.improvement import Checkpointing, Improved, WarmStart
from llmrec.training.on_policy import check_settings, train_on_policy


def improve(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Improves `policy` (freshly loaded; it is trained in place or under an adapter) by `config.algorithm`."""
    if config.improvement_seed is not None:
        config = replace(config, seed=config.improvement_seed)
    if not config.session.plain:
        return improve_sessions(config, data, policy, simulators, checkpointing)
    start = WarmStart(
        policy.model, policy.tokenizer, policy.catalogue, policy.renderer, data.dataset.manifest.repeat, config.seed
    )
    settings = config.improvement
    if isinstance(settings, PreferenceSettings):
        return improve_preferences(config, data, start, settings, checkpointing)
    if isinstance(settings, RLHFSettings):
        return improve_rlhf(config, data, start, settings, checkpointing)
    if isinstance(settings, OffPolicySettings):
        reward = run_reward(config, data, simulators, policy)
        return improve_off_policy(config, data, start, reward, settings, checkpointing)
    if isinstance(settings, BestOfNSettings):
        reward = run_reward(config, data, simulators, policy)
        return improve_best_of_n(config, data, start, reward, settings, checkpointing)
    assert isinstance(settings, RolloutSettings)
    starts = rollout_states(config, data, settings)
    reward = run_reward(config, data, simulators, policy)
    return train_on_policy(start, starts.states, starts.seen, reward, settings, checkpointing)


def check_algorithm_on(config: RunConfig, data: RunData, limit: int | None) -> None:
    """Refuses, before anything is trained, data (or a sample of `limit` states) that the algorithm cannot use.

    Raises:
        LLMRecError: there is nothing to learn from, or slates are larger than the catalogue.
    """
    if not config.session.plain:
        check_session_data(config, data, limit)
    elif isinstance(config.improvement, PreferenceSettings):
        check_pairs(config, data, limit)
    else:
        if isinstance(config.improvement, RLHFSettings):
            check_pairs(config, data, limit)
        check_logged(config, data, limit)


def check_algorithm(config: RunConfig) -> None:
    """Refuses, before anything is made, settings of the algorithm that cannot work.

    Raises:
        ConfigError: a setting, by itself or with the processes that the launcher announced.
    """
    settings = config.improvement
    check_reward(config.reward, config.session.slate)
    for function in config.reward.custom:
        load_custom(function)
    if not config.session.plain:
        check_session_config(config, int(os.environ.get("WORLD_SIZE", "1")))
    elif isinstance(settings, PreferenceSettings | RLHFSettings):
        check_preference_config(config, int(os.environ.get("WORLD_SIZE", "1")))
    elif isinstance(settings, RolloutSettings):
        check_settings(settings, int(os.environ.get("WORLD_SIZE", "1")), config.algorithm)
    elif isinstance(settings, OffPolicySettings | BestOfNSettings):
        check_offline(settings, int(os.environ.get("WORLD_SIZE", "1")))
