"""Which states, rewards and logs an algorithm of the configuration is given."""

from __future__ import annotations

from llmrec.config import RolloutSettings, RunConfig
from llmrec.pipeline.data import RunData
from llmrec.pipeline.simulation import Simulators, log_of
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards import RewardModel
from llmrec.seeding import numpy_stream
from llmrec.training.improvement import Improved, Keeping, Start
from llmrec.training.on_policy import train_on_policy
from llmrec.types import IntArray, State


def improve(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, keeping: Keeping
) -> Improved:
    """Improves `policy` (freshly loaded; it is trained in place or under an adapter) by `config.algorithm`."""
    start = Start(
        policy.model, policy.tokenizer, policy.catalogue, policy.renderer, data.dataset.manifest.repeat, config.seed
    )
    settings = config.improvement
    assert isinstance(settings, RolloutSettings)
    states, seen = rollout_states(config, data, settings)
    return train_on_policy(start, states, seen, reward_model(config, simulators), settings, keeping)


def reward_model(config: RunConfig, simulators: Simulators) -> RewardModel:
    """What rewards: the reward's ensemble under the configured terms."""
    return RewardModel(simulators.reward, config.reward, seed=config.seed)


def rollout_states(config: RunConfig, data: RunData, settings: RolloutSettings) -> tuple[list[State], list[IntArray]]:
    """States of the training period that items are drawn for: a sample of what users looked like at their slates."""
    log = log_of(config, data, "train")
    random = numpy_stream(config.seed, "ppo", "states")
    wanted = min(settings.steps * settings.prompts, len(log.states))
    rows = random.permutation(len(log.states))[:wanted].tolist()
    return [log.states[r] for r in rows], [log.seen[r] for r in rows]
