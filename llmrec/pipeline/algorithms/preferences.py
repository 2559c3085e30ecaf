"""The algorithms that learn from preferences in the log: DPO, S-DPO, and PPO against a learned reward (RLHF)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from llmrec.config import PreferenceSettings, RewardModelSettings, RLHFSettings, RunConfig
from llmrec.dataset.preferences import Preferences, preferences
from llmrec.dataset.split import Part
from llmrec.errors import DataError
from llmrec.evaluation.significance import bootstrap_interval
from llmrec.files import new_folder, write_json
from llmrec.pipeline.algorithms.rollouts import check_states, rollout_states
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import warm_start
from llmrec.pipeline.simulation import Simulators, log_of
from llmrec.pipeline.work import is_first, say, wait_for_all
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.improvement import Checkpointing, Improved
from llmrec.training.on_policy import check_settings, train_on_policy
from llmrec.training.preferences import check_preferences, train_preferences
from llmrec.training.reward_model import (
    LearnedReward,
    TrainedReward,
    agreement,
    check_reward_model,
    train_reward_model,
)

REWARD_MODEL = "reward_model"


def improve_preferences(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Learns from what the training period's users chose and left; no simulator is asked."""
    del simulators
    settings = config.improvement
    assert isinstance(settings, PreferenceSettings)
    pairs = pairs_of(config, data, "train", settings.negatives, settings.pairs, settings.target)
    start = warm_start(config, data, policy)
    return train_preferences(start, pairs, settings, checkpointing, section=config.algorithm)


def improve_rlhf(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """A reward model of the training period's preferences, then PPO against it. The reward model is kept."""
    del simulators
    settings, start = config.improvement, warm_start(config, data, policy)
    assert isinstance(settings, RLHFSettings)
    own, folder = settings.reward_model, checkpointing.out / REWARD_MODEL
    pairs = pairs_of(config, data, "train", 1, own.pairs, own.target)
    learned = train_reward_model(
        start, pairs, own, dataclasses.replace(checkpointing, out=folder, on_checkpoint=None)
    )
    reward = LearnedReward(learned.model, start.renderer, start.catalogue, start.tokenizer)
    kept = checkpointing.out / f"{REWARD_MODEL}.kept"
    if is_first():
        _keep(kept, learned, start.tokenizer, held_out(config, data, reward, own))
    wait_for_all()
    starts = rollout_states(config, data, settings)
    result = train_on_policy(start, starts.states, starts.seen, reward, settings, checkpointing)
    return dataclasses.replace(result, folders={REWARD_MODEL: kept})


def pairs_of(
    config: RunConfig,
    data: RunData,
    part: Part,
    negatives: int,
    limit: int,
    target: Any,
    states: int | None = None,
) -> Preferences:
    """Preferences of a part of the split, or of a sample of its `states`; raises `DataError` where it has none."""
    return preferences(log_of(config, data, part, states), negatives, limit, config.seed, target=target)


def check_pairs(config: RunConfig, data: RunData, states: int | None) -> None:
    """Refuses, before anything is trained, a log (or a sample of its `states`) without a preference."""
    settings = config.improvement
    assert isinstance(settings, PreferenceSettings)
    pairs_of(config, data, "train", settings.negatives, 1, settings.target, states)


def check_rlhf_data(config: RunConfig, data: RunData, states: int | None) -> None:
    """Refuses, before anything is trained, a log without a preference, or where nothing may be drawn."""
    settings = config.improvement
    assert isinstance(settings, RLHFSettings)
    pairs_of(config, data, "train", 1, 1, settings.reward_model.target, states)
    check_states(config, data, states)


def held_out(
    config: RunConfig, data: RunData, reward: LearnedReward, settings: RewardModelSettings
) -> dict[str, Any] | None:
    """How often the model agrees with users of the validation period: mean with a 95% interval over users.

    None where that period has no preference, or none is asked for. Chance is 1/2.
    """
    if not settings.held_out:
        return None
    try:
        pairs = pairs_of(config, data, "valid", 1, settings.held_out, settings.target)
    except DataError:
        return None
    agreed = agreement(reward, pairs)
    found = bootstrap_interval(
        agreed, users=pairs.user_ids, samples=config.evaluation.bootstrap, seed=config.seed, name=(REWARD_MODEL,)
    )
    return dataclasses.asdict(found) | {"pairs": len(pairs)}


def _keep(place: Path, learned: TrainedReward, tokenizer: Any, agreed: dict[str, Any] | None) -> None:
    with new_folder(place, mark="figures.json") as folder:
        learned.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        figures = {"agreement": agreed, "curve": learned.curve, "seconds": learned.seconds}
        write_json(folder / "figures.json", figures)
    if agreed is not None:
        say(
            f"  reward model: agrees with {agreed['mean']:.1%} ({agreed['low']:.1%} to {agreed['high']:.1%}) of "
            f"{agreed['pairs']} held-out preferences",
            style="dim",
        )


def check_preference_settings(config: RunConfig, processes: int) -> None:
    """Refuses settings that cannot work, by themselves or with so many processes."""
    settings = config.improvement
    assert isinstance(settings, PreferenceSettings)
    check_preferences(settings, processes, config.algorithm)


def check_rlhf_settings(config: RunConfig, processes: int) -> None:
    """Refuses settings that cannot work, by themselves or with so many processes."""
    settings = config.improvement
    assert isinstance(settings, RLHFSettings)
    check_settings(settings, processes, config.algorithm)
    check_reward_model(settings.reward_model, processes, f"{config.algorithm}.{REWARD_MODEL}")
