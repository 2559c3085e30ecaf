"""A reward model from preferences (Bradley and Terry 1952), and what it says to reinforcement learning.

P(a is preferred to b | state) = sigma(r(state, a) - r(state, b)). Rewards are therefore known up to a constant a
state; `centre` keeps them around 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trl
from peft import LoraConfig, PeftModel, get_peft_model

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import LoraSettings, RewardModelSettings
from llmrec.dataset.preferences import Preferences
from llmrec.errors import ConfigError, DataError
from llmrec.policy.modes import device_of
from llmrec.seeding import stream_seed
from llmrec.training.arguments import quiet, world_size
from llmrec.training.improvement import Checkpointing, Plan, WarmStart, as_json, check_batches, run_trainer
from llmrec.training.item_values import HEAD, value_items, valuing_model
from llmrec.training.lora import merge
from llmrec.training.preferences import pair_arguments
from llmrec.training.state_source import PairSource, ScoreRequest, StateSource
from llmrec.training.trl_seam import RewardTrainer
from llmrec.types import FloatArray, IntArray, Reward, State

TERM = "preference"


@dataclass(frozen=True, slots=True)
class TrainedReward:
    """A reward model: a plain sequence classification model in evaluation mode, its curve and the seconds it took."""

    model: Any
    curve: list[dict[str, float]]
    seconds: float


def train_reward_model(
    start: WarmStart,
    pairs: Preferences,
    settings: RewardModelSettings,
    checkpointing: Checkpointing,
    *,
    section: str = "rlhf.reward_model",
) -> TrainedReward:
    """Learns from preferences how much a user likes an item, on a copy of the policy's backbone.

    The curve has a dictionary for every 10 steps or fewer: step, loss (nats a pair), accuracy and margin on the
    training pairs, mean_reward, min_reward, max_reward, skipped, grad_norm, learning_rate.

    Args:
        start: the policy whose backbone is copied; it is left as it is.
        pairs: preferences of a log with one negative each.
        settings: the section.
        checkpointing: checkpoints and reports; units are optimiser steps.
        section: its name in the configuration.

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: preferences with several negatives.
        RunError: no such model for this architecture, or gradients that are not finite for too long.
    """
    check_reward_model(settings, world_size(), section)
    if pairs.rejected_RN.shape[1] != 1:
        number = pairs.rejected_RN.shape[1] + 1
        raise DataError(f"A reward model compares two items, not {number}; make preferences with one negative.")
    source = PairSource(pairs, start.renderer, start.catalogue, start.tokenizer, start.seed)
    # on a copy of the warm-started backbone: it reads states and titles already
    model = valuing_model(start.model, start.seed)
    if settings.weights == "lora":
        model = _adapted(model, settings.lora, start.seed)
    plan = Plan(
        "reward model",
        source.steps(settings.epochs, settings.batch_size),
        1,
        "loss",
        ("reward model", as_json(settings), start.seed, source.digest()),
    )
    ran = run_trainer(model, plan, checkpointing, lambda: make_reward_trainer(model, source, settings, checkpointing))
    return TrainedReward(merge(model) if isinstance(model, PeftModel) else model, ran.curve, ran.seconds)


def make_reward_trainer(
    model: Any, source: PairSource, settings: RewardModelSettings, checkpointing: Checkpointing
) -> Any:
    """The trainer for `settings`."""
    common = pair_arguments(model, source, settings, checkpointing)
    return RewardTrainer(
        model,
        source,
        trl.RewardConfig(**common, center_rewards_coefficient=settings.centre, disable_dropout=True),
        train_dataset=source.plan(settings.epochs, settings.batch_size),
        processing_class=source.tokenizer,
    )


def _adapted(model: Any, settings: LoraSettings, seed: int) -> PeftModel:
    """A fresh adapter on the backbone from a named stream; the head trains whole."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        # a head drawn at random has nothing to be adapted: it trains whole and is saved with the adapter
        modules_to_save=[HEAD],
        task_type="SEQ_CLS",
    )
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(stream_seed(seed, "lora", "reward model"))
        return get_peft_model(model, config)


def check_reward_model(settings: RewardModelSettings, number: int = 1, section: str = "rlhf.reward_model") -> None:
    """Refuses what cannot work; cheap, so it can be called before a model loads.

    Raises:
        ConfigError: the first setting that cannot work.
    """
    check_batches(settings, section, ("pairs",), number)
    for key in ("centre", "held_out"):
        if getattr(settings, key) < 0:
            raise ConfigError(f"Key '{section}.{key}' is {getattr(settings, key)}; it must be 0 or more.")


class LearnedReward:
    """A trained reward model as what PPO asks (`llmrec.rewards.trl.Rewarder`).

    A prompt is read once for all items of its state, and an item that was drawn several times once.

    Args:
        model: of `train_reward_model`.
        renderer: state to prompt.
        catalogue: the items.
        tokenizer: gives the padding token.
        batch: states a forward.
    """

    def __init__(self, model: Any, renderer: Any, catalogue: Catalogue, tokenizer: Any, batch: int = 64) -> None:
        self.model, self.batch = model, batch
        self._parts = (renderer, catalogue, tokenizer)
        self._index = catalogue.index.to(device_of(model))

    def __call__(self, states: Sequence[State], items_BK: IntArray) -> Reward:
        """The rewards, which are their only term: "preference"."""
        renderer, catalogue, tokenizer = self._parts
        source, device = StateSource(states, None, renderer, catalogue, tokenizer, 0), device_of(self.model)
        values = []
        for first in range(0, len(states), self.batch):
            rows = [{"state": row} for row in range(first, min(first + self.batch, len(states)))]
            ids, mask = source.prompts(rows, device)
            items = torch.from_numpy(np.asarray(items_BK[first : first + len(rows)], dtype=np.int64)).to(device)
            with torch.no_grad():
                values.append(value_items(self.model, ScoreRequest(ids, mask, items, self._index)).double().cpu())
        total_BK = torch.cat(values).numpy() if values else np.zeros(np.shape(items_BK))
        return Reward(total_BK, {TERM: total_BK})


def agreement(reward: LearnedReward, pairs: Preferences) -> FloatArray:
    """For each preference 1 where the preferred item earns more than the other, 1/2 where as much, else 0: (R,)."""
    states = [pairs.states[row] for row in pairs.state_row_R]
    total = reward(states, np.stack([pairs.chosen_R, pairs.rejected_RN[:, 0]], axis=1)).total_BK
    # a tie counts half, as a coin would decide it
    agreed: FloatArray = (np.sign(total[:, 0] - total[:, 1]) + 1) / 2
    return agreed
