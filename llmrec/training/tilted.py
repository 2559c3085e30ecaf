"""Distillation of the tilted warm start: the optimum that learning from a reward moves towards, as a target.

J = E[r] - beta KL(pi || pi_SFT) + c H(pi) has the optimum pi* ~ (pi_SFT^beta exp(r))^(1 / (beta + c)) (Korbak et al.
2022, "RL with KL penalties is better viewed as Bayesian inference"). Where an item is chosen from a closed catalogue
it need not be searched for by draws: the warm start's best items, which decoding lists, with what the reward expects
of each, *are* pi* among themselves, and what lies beside the list keeps the share that it had. The loss is
KL(pi* || pi) over this partition, whose gradient has no noise but that of the states (as in Khalifa et al. 2021, "A
distributional approach to controlled text generation", where the target has to be sampled). It cannot find what the
warm start does not list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TrainingArguments

from llmrec.config import StabilitySettings, TiltedSettings
from llmrec.errors import ConfigError
from llmrec.files import sha256_of
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
from llmrec.training.state_source import StateSource
from llmrec.training.trl_seam.tilted import TiltedTrainer, Worth
from llmrec.types import IntArray, State


def train_tilted(
    start: WarmStart,
    states: Sequence[State],
    seen: Sequence[IntArray],
    worth: Worth,
    settings: TiltedSettings,
    checkpointing: Checkpointing,
) -> Improved:
    """Improves a policy towards the optimum of reward, KL and entropy term.

    The curve has one dictionary per 10 optimiser steps or fewer: step, loss and target_kl (KL(target || pi), nats),
    reward and best (what the items of the lists earn in the policy's proportions, and in the target's), skipped,
    grad_norm, learning_rate.

    Args:
        start: the policy.
        states: where it is asked; each is used once before any is used again.
        seen: for each state, item indices that are not listed if repeats are excluded, beside those in the state.
        worth: what items are expected to earn.
        settings: the section `tilted`.
        checkpointing: checkpoints and reports; units are optimiser steps.

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: no state to start from.
        RunError: rewards or gradients that are not finite.
    """
    check_tilted(settings, world_size())
    drawing = Drawing.of(start, states, seen)
    source = drawing.source
    model = trainable(start, settings)
    decides = ("tilted", as_json(settings), start.seed, start.repeat, sha256_of(*drawing.told))
    plan = Plan("tilted", batch_steps(settings, len(source.states)), 1, "reward", decides)
    ran = run_trainer(model, plan, checkpointing, lambda: make_trainer(model, source, worth, settings, checkpointing))
    return ran.improved(model, in_all(drawing.without, ran.left_out))


def make_trainer(
    model: Any, source: StateSource, worth: Worth, settings: TiltedSettings, checkpointing: Checkpointing
) -> TiltedTrainer:
    """The trainer for the states of `source`."""
    steps = batch_steps(settings, len(source.states))
    arguments = batch_arguments(
        model, settings, steps, "tilted.batch_size", seed=source.seed, checkpointing=checkpointing
    )
    return TiltedTrainer(
        model,
        source,
        TrainingArguments(**arguments),
        Controls(StabilitySettings(), 0.0, 0.0),
        worth=worth,
        settings=settings,
        train_dataset=source.plan(steps, settings.batch_size, 1, world_size()),
        processing_class=source.tokenizer,
    )


def check_tilted(settings: TiltedSettings, processes: int = 1) -> None:
    """Raises `ConfigError` for what cannot work."""
    check_batches(settings, "tilted", ("states", "depth", "kl_coefficient", "max_grad_norm"), processes)
    # below 0 the optimum is sharper than the warm start, and still one: J is concave while beta + c is above 0
    if settings.kl_coefficient + settings.entropy_coefficient <= 0:
        raise ConfigError(
            f"Key 'tilted.entropy_coefficient' is {settings.entropy_coefficient}; with tilted.kl_coefficient "
            f"({settings.kl_coefficient}) together it must be above 0."
        )
    if settings.depth < 2:
        raise ConfigError("Key 'tilted.depth' is 1; a list of one item has one order, so give 2 or more.")
