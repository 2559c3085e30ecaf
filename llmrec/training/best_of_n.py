"""Best-of-n distillation: the best of n draws by the reward becomes the target of one more fine-tuning.

The simplest baseline of learning from a reward (Nakano et al. 2021 call the choice itself best-of-n). Against plain
supervised fine-tuning on the winners: the loss is -log pi(winner | state) under the constrained policy that drew them
and that is deployed, so that nothing is spent on tokens that cannot be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset as HFDataset
from transformers import TrainingArguments

from llmrec.config import BestOfNSettings, StabilitySettings
from llmrec.errors import ConfigError
from llmrec.files import sha256_of
from llmrec.rewards.trl import GroupedReward, Rewarder
from llmrec.training.arguments import world_size
from llmrec.training.controls import Controls
from llmrec.training.improvement import (
    Checkpointing,
    Drawing,
    Improved,
    Plan,
    WarmStart,
    as_json,
    batch_arguments,
    batch_steps,
    check_batches,
    run_trainer,
    trainable,
)
from llmrec.training.obeyed import in_all
from llmrec.training.state_source import StateSource, in_rounds
from llmrec.training.trl_seam.best_of_n import BestOfNTrainer
from llmrec.types import IntArray, State


def train_best_of_n(
    start: WarmStart,
    states: Sequence[State],
    seen: Sequence[IntArray],
    reward_model: Rewarder,
    settings: BestOfNSettings,
    checkpointing: Checkpointing,
) -> Improved:
    """Improves a policy by imitating the best of its own draws.

    The curve has one dictionary per 10 optimiser steps or fewer: step, loss (nats an item), and of the round: round,
    reward and best (mean reward of its draws and of its winners), reward/<term> (of the draws), rollout_kl (of the
    policy that drew to the one before all rounds), rollout_entropy, kl_bound (log n - (n - 1) / n, which one round's
    KL to the policy that drew cannot exceed if the fit is perfect; Beirami et al. 2024, "Theoretical guarantees on
    the best-of-n alignment policy"), skipped, grad_norm, learning_rate.

    Args:
        start: the policy.
        states: where items are drawn; each is used once before any is used again.
        seen: for each state, item indices that are not drawn if repeats are excluded, beside those in the state.
        reward_model: called with B states and items (B, n).
        settings: the section `best_of_n`.
        checkpointing: checkpoints and reports; units are optimiser steps.

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: no state to start from.
        RunError: rewards or gradients that are not finite.
    """
    check_best_of_n(settings, world_size())
    drawing = Drawing.of(start, states, seen)
    source = drawing.source
    model = trainable(start, settings)
    rows = settings.rounds * rows_of_round(settings)
    decides = ("best_of_n", as_json(settings), start.seed, start.repeat, sha256_of(*drawing.told))
    plan = Plan("best_of_n", rows // settings.batch_size, 1, "best", decides)
    ran = run_trainer(
        model, plan, checkpointing, lambda: make_trainer(model, source, reward_model, settings, checkpointing)
    )
    return ran.improved(model, in_all(drawing.without, ran.left_out))


def make_trainer(
    model: Any, source: StateSource, reward_model: Rewarder, settings: BestOfNSettings, checkpointing: Checkpointing
) -> BestOfNTrainer:
    """The trainer that draws for the states of `source`."""
    states_RP = round_states(len(source.states), settings, source.seed)
    rows = plan_rows(states_RP, settings, source.seed)
    steps = len(rows) // settings.batch_size
    arguments = batch_arguments(
        model, settings, steps, "best_of_n.batch_size", seed=source.seed, checkpointing=checkpointing
    )
    return BestOfNTrainer(
        model,
        source,
        TrainingArguments(**arguments),
        Controls(StabilitySettings(), 0.0, 0.0),
        reward=GroupedReward(reward_model, source.states, settings.draws),
        states_RP=states_RP,
        settings=settings,
        train_dataset=rows,
        processing_class=source.tokenizer,
    )


def rows_of_round(settings: BestOfNSettings) -> int:
    """Rows that a round trains on: whole batches, in which each place is used `epochs` times."""
    # whole batches a round: a batch of two rounds would mix targets of two policies
    return settings.batch_size * batch_steps(settings, settings.prompts)


def round_states(states: int, settings: BestOfNSettings, seed: int) -> IntArray:
    """Which state stands at each place of each round: (R, P); a new random order each time all have been used."""
    wanted = settings.rounds * settings.prompts
    return in_rounds(states, wanted, seed, "best_of_n", "states").reshape(settings.rounds, settings.prompts)


def plan_rows(states_RP: IntArray, settings: BestOfNSettings, seed: int) -> Any:
    """The trainer's data set: for each round whole batches of its places, each place once before any comes again."""
    rounds, prompts = states_RP.shape
    many = rows_of_round(settings)
    orders = [in_rounds(prompts, many, seed, "best_of_n", "order", number) for number in range(rounds)]
    place_RX = np.stack(orders)
    state_RX = np.take_along_axis(states_RP, place_RX, axis=1)
    columns = {"state": state_RX, "rollout": np.repeat(np.arange(rounds), many), "place": place_RX}
    return HFDataset.from_dict({name: column.ravel() for name, column in columns.items()})


def check_best_of_n(settings: BestOfNSettings, processes: int = 1) -> None:
    """Raises `ConfigError` for what cannot work."""
    check_batches(settings, "best_of_n", ("prompts", "rounds", "max_grad_norm"), processes)
    if settings.draws < 2:
        raise ConfigError(
            f"Key 'best_of_n.draws' is {settings.draws}; the best of 1 draw is the policy itself, so give 2 or more."
        )
