"""The algorithms without rollouts of TRL's: learning from the log, and best-of-n distillation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.config import BestOfNSettings, OffPolicySettings, RolloutSettings, RunConfig
from llmrec.dataset.impressions import Impressions
from llmrec.pipeline.data import RunData
from llmrec.pipeline.rollout_states import rollout_states
from llmrec.pipeline.simulation import log_of
from llmrec.progress import console
from llmrec.rewards import RewardFunction
from llmrec.training.best_of_n import check_best_of_n, train_best_of_n
from llmrec.training.improvement import Checkpointing, Improved, WarmStart, usable_states
from llmrec.training.logged import logged_slates
from llmrec.training.off_policy import check_off_policy, train_off_policy
from llmrec.types import FloatArray, IntArray, Item, Prediction, State


@dataclass(frozen=True, slots=True)
class LoggedFeedback:
    """A behaviour model that knows what users did with M logged impressions, and is asked for just these."""

    click_M: FloatArray
    conversion_M: FloatArray

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """Clicks, and conversions given them: (M, 1)."""
        return Prediction(self.click_M.reshape(items_BK.shape), self.conversion_M.reshape(items_BK.shape))


def improve_off_policy(
    config: RunConfig,
    data: RunData,
    start: WarmStart,
    reward: RewardFunction,
    settings: OffPolicySettings,
    checkpointing: Checkpointing,
) -> Improved:
    """Learns from the training period's impressions; `reward`, fitted on the same log, is the doubly robust part."""
    log = log_of(config, data, "train")
    groups = item_groups(data.dataset.item_list)
    slates = logged_slates(log, rewards_of(log, reward), settings, groups, seed=config.seed)
    console.print(f"  {slates.note}", style="dim")
    return train_off_policy(start, slates, settings, checkpointing, value=reward)


def rewards_of(log: Impressions, reward: RewardFunction) -> FloatArray:
    """What each impression earned: the terms of `reward`, with what happened in place of what is expected."""
    happened = LoggedFeedback(log.click_M.astype(np.float64), log.conversion_M.astype(np.float64))
    settings = dataclasses.replace(reward.settings, sampled=False, pessimism=0.0)
    known = RewardFunction(happened, settings, reward.seed, reward.own_terms)
    return known([log.states[row] for row in log.state_row_M], log.item_M[:, None]).total_BK[:, 0]


def check_logged(config: RunConfig, data: RunData, limit: int | None) -> None:
    """Refuses, before anything is trained, a training period whose impressions (or a sample) teach nothing."""
    settings, log = config.improvement, log_of(config, data, "train", limit)
    if isinstance(settings, OffPolicySettings):
        earned = config.reward.click * log.click_M + config.reward.conversion * log.conversion_M
        if config.reward.terms or config.reward.custom:
            earned = earned + 1.0  # what they give is not known yet
        logged_slates(log, earned, settings, item_groups(data.dataset.item_list), seed=config.seed)
    else:
        usable_states(log.states, log.seen, data.dataset.manifest.repeat, data.dataset.n_items)


def item_groups(items: Sequence[Item]) -> IntArray:
    """Each item's first category, else its brand, as a number from 0: (N,)."""
    names = [item.categories[0] if item.categories else item.brand for item in items]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def improve_best_of_n(
    config: RunConfig,
    data: RunData,
    start: WarmStart,
    reward: RewardFunction,
    settings: BestOfNSettings,
    checkpointing: Checkpointing,
) -> Improved:
    """Imitates the best of its draws at states of the training period."""
    starts = rollout_states(config, data, RolloutSettings(steps=settings.rounds, prompts=settings.prompts))
    return train_best_of_n(start, starts.states, starts.seen, reward, settings, checkpointing)


def check_offline(settings: OffPolicySettings | BestOfNSettings, number: int) -> None:
    """Refuses settings that cannot work, by themselves or with `number` processes."""
    if isinstance(settings, OffPolicySettings):
        check_off_policy(settings, number)
    else:
        check_best_of_n(settings, number)
