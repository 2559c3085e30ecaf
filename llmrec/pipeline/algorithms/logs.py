"""Learning from logged slates: what each impression earned, and what a log must hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.config import OffPolicySettings, RunConfig
from llmrec.dataset.impressions import Impressions
from llmrec.pipeline.algorithms.reward import run_reward
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import warm_start
from llmrec.pipeline.simulation import Simulators, log_of
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.progress import Bar, console
from llmrec.rewards import RewardFunction
from llmrec.simulator.cross_fitted import CrossFitted
from llmrec.simulator.ensemble import Predictor, fit_ensemble
from llmrec.simulator.log import Subset
from llmrec.training.improvement import Checkpointing, Improved
from llmrec.training.logged import logged_slates
from llmrec.training.off_policy import check_off_policy, train_off_policy
from llmrec.training.propensities import item_groups
from llmrec.types import FloatArray, IntArray, Prediction, State


@dataclass(frozen=True, slots=True)
class LoggedFeedback:
    """A behaviour model that knows what users did with M logged impressions, and is asked for just these."""

    click_M: FloatArray
    conversion_M: FloatArray

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """Clicks, and conversions given them: (M, 1)."""
        return Prediction(self.click_M.reshape(items_BK.shape), self.conversion_M.reshape(items_BK.shape))


def improve_from_log(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Learns from the training period's impressions; the doubly robust part is a reward fitted on other users."""
    settings, reward = config.improvement, run_reward(config, data, simulators, policy)
    assert isinstance(settings, OffPolicySettings)
    log, groups = log_of(config, data, "train"), item_groups(data.dataset.item_list)
    slates = logged_slates(log, rewards_of(log, reward), settings, groups, seed=config.seed)
    console.print(f"  {slates.note}", style="dim")
    folds, value = min(settings.folds, len(set(log.user_ids))), reward
    if settings.estimator == "doubly-robust" and folds > 1:
        value = fitted_on_others(config, data, reward, log, folds)
    return train_off_policy(warm_start(config, data, policy), slates, settings, checkpointing, value=value)


def fitted_on_others(
    config: RunConfig, data: RunData, reward: RewardFunction, log: Impressions, folds: int
) -> RewardFunction:
    """`reward` with behaviour models that never saw the user they are asked about, one of them a fold.

    They are single models without pessimism: what is wanted is an expectation.
    """
    simulator = dataclasses.replace(config.simulator, members=1)
    with Bar("Fitting rewards on other users", folds) as bar:

        def fit(train: Subset, valid: Subset | None) -> Predictor:
            architecture = simulator.reward_architecture
            found = fit_ensemble(
                data.dataset, train, architecture=architecture, seed=config.seed, settings=simulator, valid=valid
            )
            bar.advance()
            return found

        model = CrossFitted.of(log, log_of(config, data, "valid"), fit, folds=folds, seed=config.seed)
    return RewardFunction(
        model, dataclasses.replace(reward.settings, pessimism=0.0), reward.seed, reward.own_terms, slate=reward.slate
    )


def check_log_settings(config: RunConfig, processes: int) -> None:
    """Refuses settings that cannot work, by themselves or with so many processes."""
    settings = config.improvement
    assert isinstance(settings, OffPolicySettings)
    check_off_policy(settings, processes)


def simulator_of_log(settings: Any) -> str:
    """What a simulator is to an algorithm that learns from the log."""
    if getattr(settings, "estimator", None) == "doubly-robust":
        return "It learned from logged feedback, with a simulator ({simulator}) as its control variate."
    return "It learned from logged feedback alone; a simulator ({simulator}) only values its checkpoints."


def rewards_of(log: Impressions, reward: RewardFunction) -> FloatArray:
    """What each impression earned: the terms of `reward`, with what happened in place of what is expected."""
    happened = LoggedFeedback(log.click_M.astype(np.float64), log.conversion_M.astype(np.float64))
    # What happened is no opinion: nothing is drawn from it, and no ensemble disagrees about it.
    settings = dataclasses.replace(reward.settings, sampled=False, pessimism=0.0)
    known = RewardFunction(happened, settings, reward.seed, reward.own_terms)
    return known([log.states[row] for row in log.state_row_M], log.item_M[:, None]).total_BK[:, 0]


def check_logged(config: RunConfig, data: RunData, limit: int | None) -> None:
    """Refuses, before anything is trained, a training period whose impressions (or a sample) teach nothing."""
    settings, log = config.improvement, log_of(config, data, "train", limit)
    assert isinstance(settings, OffPolicySettings)
    earned = config.reward.click * log.click_M + config.reward.conversion * log.conversion_M
    if config.reward.terms or config.reward.custom:
        earned = earned + 1.0  # what they give is not known yet
    logged_slates(log, earned, settings, item_groups(data.dataset.item_list), seed=config.seed)
