"""Learning from logged slates alone: REINFORCE with the top-K correction, and doubly robust learning."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from llmrec.config import OffPolicySettings, StabilitySettings
from llmrec.errors import ConfigError, DataError
from llmrec.rewards.trl import Rewarder
from llmrec.training.arguments import world_size
from llmrec.training.controls import Controls
from llmrec.training.improvement import (
    Checkpointing,
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
from llmrec.training.logged import LoggedSlates
from llmrec.training.obeyed import in_all, left_out_states, require_no_floor
from llmrec.training.state_source import StateSource
from llmrec.training.trl_seam.off_policy import OffPolicyTrainer


def train_off_policy(
    start: WarmStart,
    slates: LoggedSlates,
    settings: OffPolicySettings,
    checkpointing: Checkpointing,
    *,
    value: Rewarder | None = None,
) -> Improved:
    """Improves a policy from what was shown and what it earned.

    The curve has one dictionary per 10 optimiser steps or fewer: step, loss, value (the self-normalised estimate of
    what an item of the policy earns), weight (mean importance weight, about 1), effective and capped (shares of
    rows), kl and entropy (nats an item), fitted_reward (doubly robust), skipped, grad_norm, learning_rate.

    Args:
        start: the policy.
        slates: what was logged (`llmrec.training.logged.logged_slates`). Where repeats are excluded, rows whose item
            its user had seen are left out, and so are those that rules forbid: the policy never shows them.
        settings: the section `off_policy`.
        checkpointing: checkpoints and reports; units are optimiser steps.
        value: the fitted reward of states and items, for `estimator: doubly-robust`.

    Raises:
        ConfigError: a setting that cannot be used, or no fitted reward for the doubly robust estimator.
        DataError: no row is left to learn from.
        RunError: gradients, or fitted rewards, that are not finite.
    """
    check_off_policy(settings, world_size())
    robust = settings.estimator == "doubly-robust"
    if robust and value is None:
        raise ConfigError("Key 'off_policy.estimator' is doubly-robust, which needs a fitted reward; give value.")
    if start.rules is not None:
        require_no_floor(start.rules.book.rules, "off_policy")
    given = len(slates)
    slates, excluded = slates.open(start.repeat, start.rules)
    without = left_out_states(given, len(slates), start.rules)
    # a log without any reward has the gradient 0, and a training on it would end well and mean nothing
    if not len(slates) or not slates.reward_BK[slates.share_BK > 0].any():
        raise DataError(
            "No logged row with a reward shows an item that its user had not seen and that no rule forbids; set the "
            "data set's repeat to allow, or import a log with more feedback."
        )
    source = StateSource(slates.states, excluded, start.renderer, start.catalogue, start.tokenizer, start.seed)
    model, steps = trainable(start, settings), batch_steps(settings, len(slates))
    decides = ("off_policy", as_json(settings), start.seed, start.repeat, slates.digest())
    ruled = () if start.rules is None else (start.rules.digest,)
    plan = Plan("off_policy", steps, 1, "value", (*decides, *ruled))
    fitted = value if robust else None
    ran = run_trainer(
        model, plan, checkpointing, lambda: make_trainer(model, source, slates, settings, checkpointing, fitted)
    )
    return ran.improved(model, in_all(without, ran.left_out))


def make_trainer(
    model: Any,
    source: StateSource,
    slates: LoggedSlates,
    settings: OffPolicySettings,
    checkpointing: Checkpointing,
    value: Rewarder | None = None,
) -> OffPolicyTrainer:
    """The trainer for `slates`, whose states are those of `source`; doubly robust with a fitted reward."""
    steps = batch_steps(settings, len(slates))
    arguments = batch_arguments(
        model, settings, steps, "off_policy.batch_size", seed=source.seed, checkpointing=checkpointing
    )
    return OffPolicyTrainer(
        model,
        source,
        TrainingArguments(**arguments),
        Controls(StabilitySettings(), settings.kl_coefficient, settings.entropy_coefficient),
        slates=slates,
        settings=settings,
        value=value,
        train_dataset=source.plan(steps, settings.batch_size, 1, world_size()),
        processing_class=source.tokenizer,
    )


def check_off_policy(settings: OffPolicySettings, processes: int = 1) -> None:
    """Raises `ConfigError` for what cannot work."""
    check_batches(settings, "off_policy", ("weight_cap", "examples", "max_grad_norm"), processes)
    for key, why in (("slate", "K places"), ("draws", "draws of a state"), ("folds", "of users")):
        if getattr(settings, key) < 1:
            raise ConfigError(f"Key 'off_policy.{key}' is {getattr(settings, key)} ({why}); it must be 1 or more.")
    for key in ("kl_coefficient", "entropy_coefficient"):
        if getattr(settings, key) < 0:
            raise ConfigError(f"Key 'off_policy.{key}' is {getattr(settings, key)}; it must be 0 or more.")
