"""Opens a place for agents: on the stages of a finished run, or on the demo's world without a language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llmrec.agents import StateFeatures, item_embeddings
from llmrec.baselines.base import positives
from llmrec.baselines.popularity import Popularity
from llmrec.baselines.registry import baseline
from llmrec.config import PPOSettings, RunConfig
from llmrec.config_tree import Overrides
from llmrec.pipeline.algorithms import ALGORITHMS
from llmrec.pipeline.algorithms.rollouts import rollout_states
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.opening import open_run
from llmrec.pipeline.recipes import demo_config
from llmrec.pipeline.result import COVISITATION, GREEDY, POPULARITY, SFT, label, last_label
from llmrec.pipeline.run import make_systems
from llmrec.pipeline.sft import targets
from llmrec.pipeline.simulation import Simulators, log_of, simulator_stage
from llmrec.pipeline.systems import Greedy, best_known
from llmrec.pipeline.work import Work
from llmrec.rewards import RewardContext, RewardFunction, reward_function
from llmrec.studies.classic.place import Cost, Place
from llmrec.types import Ranker


def run_place(run: Path, out: Path) -> Place:
    """The place of a finished run, whose language models stand in the tables; agents are kept in `out`.

    Raises:
        RunError: see `open_run`.
    """
    found = open_run(run)
    config, data, simulators = found.config, found.data, found.simulators
    reward, costs = _reward(config, data, simulators), language_costs(config, found.work.seconds)
    return _place(config, data, simulators, reward, Work(out), make_systems(found), costs)


def demo_place(out: Path, seed: int, overrides: Overrides | None = None) -> Place:
    """The place of `llmrec demo`'s world of this seed, without a language model; data are made in `out` too."""
    work, config = Work(out), demo_config(seed, overrides)
    data = open_data(config, work)
    simulators = simulator_stage(config, data, work)
    reward = _reward(config, data, simulators)
    return _place(config, data, simulators, reward, work, plain_systems(config, data, reward), {})


def plain_systems(config: RunConfig, data: RunData, reward: RewardFunction) -> dict[str, Ranker]:
    """The systems of `pipeline.run.make_systems` that need no language model."""
    valid = targets(config, data, "valid", config.gate.events)
    train = data.split.train
    systems: dict[str, Ranker] = {
        POPULARITY: Popularity(seed=config.seed).fit(data.dataset, train),
        COVISITATION: baseline("covisitation").fitted(data.dataset, train, valid, seed=config.seed),
        GREEDY: Greedy(reward, data.dataset.n_items, data.dataset.manifest.repeat),
    }
    return systems | best_known(data.world, config.reward.click, config.reward.conversion)


def language_costs(config: RunConfig, seconds: Mapping[str, float]) -> dict[str, Cost]:
    """Rows that SFT imitated and items that RL drew, with the wall seconds of their stages."""
    drawn = float(ALGORITHMS[config.algorithm].learning.draws(config.improvement))
    both = (drawn, seconds[config.algorithm])
    return {
        SFT: (float(config.sft.examples), seconds["sft"]),
        label(config.algorithm): both,
        last_label(config.algorithm): both,
    }


def _reward(config: RunConfig, data: RunData, simulators: Simulators) -> RewardFunction:
    context = RewardContext.of(data.dataset, data.split.train)
    return reward_function(config.reward, simulators.reward, context, seed=config.seed).for_ranking()


def _place(
    config: RunConfig,
    data: RunData,
    simulators: Simulators,
    reward: RewardFunction,
    work: Work,
    systems: dict[str, Ranker],
    costs: dict[str, Cost],
) -> Place:
    items, seed = data.dataset.item_list, config.seed
    starts = rollout_states(config, data, config.section(PPOSettings))
    shown_N = np.bincount(log_of(config, data, "train").item_M, minlength=data.dataset.n_items)
    features = StateFeatures.fit(items, starts.states, shown_N, seed=seed)
    taken = positives(data.dataset, data.split.train).group_by("user", maintain_order=True).agg("item")
    item_NE = item_embeddings(items, taken["item"].to_list(), seed=seed)
    return Place(config, data, simulators, reward, features, item_NE, starts, work, systems, costs)
