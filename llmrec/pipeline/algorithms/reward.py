"""The reward of a run: the reward's behaviour models, the configured terms, and what those terms read."""

from __future__ import annotations

import dataclasses
from typing import Any

from llmrec.config import RunConfig
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import targets
from llmrec.pipeline.simulation import Simulators, log_of
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards import Behaviour, RewardFunction
from llmrec.rewards.custom import custom_digest
from llmrec.rewards.registry import RewardContext, make_terms, reading_next, reward_function
from llmrec.rewards.shuffled import Shuffled
from llmrec.simulator.values import fit_values, require_values, with_values

VALUED = {"rating", "satisfaction", "watch_time"}
"""Terms that expect the value of an event: its rating, or the seconds that it was watched."""


def run_reward(
    config: RunConfig,
    data: RunData,
    simulators: Simulators,
    policy: LanguagePolicy,
    *,
    slate_size: int = 1,
    behaviour: Behaviour | None = None,
) -> RewardFunction:
    """What rewards draws, and slates where `slate_size` is above 1, by the reward's simulator or another `behaviour`.

    Raises:
        ConfigError: a term that this run cannot have.
        DataError: items or counts from which a term cannot be built.
    """
    more: dict[str, Any] = {"catalogue": policy.catalogue, "slate_size": slate_size}
    if hasattr(policy.renderer, "prompts"):
        more["prompts"] = policy.renderer.prompts
    if reading_next(config.reward):
        # Of the training period alone: a reward that knows validation events would teach the policy what judges it.
        more["targets"] = targets(config, data, "train", None).rows
    if VALUED & set(config.reward.terms):
        more |= _values(config, data)
    context = RewardContext.of(data.dataset, data.split.train, **more)
    return reward_function(config.reward, behaviour or simulators.reward, context, seed=config.seed)


def learned_from(
    config: RunConfig, data: RunData, simulators: Simulators, policy: LanguagePolicy
) -> RewardFunction | Shuffled:
    """What a training by draws is given: the reward of the run, dealt out wrongly where a control asks for that."""
    reward, kind = run_reward(config, data, simulators, policy), config.reward.shuffle
    return reward if kind == "none" else Shuffled(reward, kind, config.seed)


def check_terms(config: RunConfig, data: RunData, limit: int | None) -> None:
    """Builds the reward's terms, before anything is trained, with stand-ins for what only a policy or a fit gives.

    Raises:
        LLMRecError: a term that this run cannot have; see `run_reward`.
    """
    more: dict[str, Any] = {"catalogue": NOTHING, "prompts": NOTHING, "slate_size": config.session.slate}
    if reading_next(config.reward):
        more["targets"] = targets(config, data, "train", 1).rows
    named = _value_name(config, data) if VALUED & set(config.reward.terms) else None
    if named is not None:
        require_values(with_values(data.dataset, log_of(config, data, "train", limit)), data.dataset.n_items)
        more[named] = NOTHING
    make_terms(config.reward, RewardContext.of(data.dataset, data.split.train, **more))


class _Nothing:
    """Stands where a term is given something that it will only ask later."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError

    expected_value = __call__


NOTHING = _Nothing()


def _value_name(config: RunConfig, data: RunData) -> str | None:
    """What the values of events are: "ratings", or "seconds" where a term asks for them; None where nobody asks."""
    events = data.dataset.events
    if bool(((events["kind"] == "rating") & events["value"].is_not_null()).any()):
        return "ratings"
    return "seconds" if "watch_time" in config.reward.terms else None


def _values(config: RunConfig, data: RunData) -> dict[str, Any]:
    """A model of ratings where the data set has them, else of the values that its clicks and conversions carry."""
    name = _value_name(config, data)
    if name is None:
        return {}
    log = with_values(data.dataset, log_of(config, data, "train"))
    return {name: fit_values(data.dataset, log, architecture="mlp", seed=config.seed, settings=_plainly(config))}


def _plainly(config: RunConfig) -> Any:
    """The simulator's settings without corrections that are meant for clicks."""
    # Ratings are given by who chose to give them; a correction for places of a slate has no meaning there.
    return dataclasses.replace(config.simulator, correction="none", objective="funnel")


def reward_key(config: RunConfig) -> list[object]:
    """What decides the reward: the settings, and the source of functions of one's own."""
    tree = dict(config.tree()["reward"])
    if config.reward.shuffle == "none":
        del tree["shuffle"]  # keys are as they were before there was a choice
    if not config.reward.stated:
        del tree["stated"]
    return [tree, custom_digest(config.reward)]
