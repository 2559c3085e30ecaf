"""DPO and S-DPO: learning from logged preferences alone, without a simulator and without draws."""

from __future__ import annotations

from typing import Any

import trl

from llmrec.config import PreferenceSettings, RewardModelSettings
from llmrec.dataset.preferences import Preferences
from llmrec.errors import ConfigError
from llmrec.training.arguments import world_size
from llmrec.training.improvement import (
    Checkpointing,
    Improved,
    Plan,
    WarmStart,
    as_json,
    batch_arguments,
    check_batches,
    run_trainer,
    trainable,
)
from llmrec.training.state_source import PairSource
from llmrec.training.trl_seam import DPOTrainer, SoftmaxDPOTrainer

SOFTMAX = "softmax"
LOSSES = (
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
)
"""Those of TRL. `aot` and `aot_unpaired` compare the pairs of a process, `sft` weighs its tokens, so that these
change with the number of processes."""
OPTIONS = (
    "label_smoothing",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "discopop_tau",
    "use_weighting",
    "ld_alpha",
    "loss_weights",
)


def train_preferences(
    start: WarmStart,
    pairs: Preferences,
    settings: PreferenceSettings,
    checkpointing: Checkpointing,
    *,
    section: str = "dpo",
) -> Improved:
    """Improves a policy by DPO, or by S-DPO where `loss` is softmax.

    The curve has a dictionary for every 10 steps or fewer: step, loss, rewards/chosen, rewards/rejected,
    rewards/margins (nats times beta), rewards/accuracies, logps/chosen, logps/rejected, skipped, grad_norm,
    learning_rate, and what TRL logs besides.

    Args:
        start: the policy, which is also the reference.
        pairs: preferences of a log.
        settings: the section of the algorithm.
        checkpointing: checkpoints and reports; units are optimiser steps.
        section: its name in the configuration.

    Raises:
        ConfigError: a setting that cannot be used, by itself or with this number of processes.
        RunError: gradients that are not finite for too long.
    """
    check_preferences(settings, world_size(), section)
    source = PairSource(pairs, start.renderer, start.catalogue, start.tokenizer, start.seed)
    model = trainable(start, settings)
    steps = source.steps(settings.epochs, settings.batch_size)
    decides = (section, as_json(settings), start.seed, source.digest())
    ran = run_trainer(
        model,
        Plan(section, steps, 1, "loss", decides),
        checkpointing,
        lambda: make_preference_trainer(model, source, settings, checkpointing),
    )
    return ran.improved(model, ran.left_out)


def make_preference_trainer(
    model: Any, source: PairSource, settings: PreferenceSettings, checkpointing: Checkpointing
) -> Any:
    """The trainer for `settings`."""
    common = pair_arguments(model, source, settings, checkpointing)
    kind = SoftmaxDPOTrainer if settings.loss == SOFTMAX else DPOTrainer
    # S-DPO is no loss of TRL's: any known name will do, since our trainer computes its own
    names = ["sigmoid"] if settings.loss == SOFTMAX else settings.loss.split("+")
    return kind(
        model,
        source,
        trl.DPOConfig(**common, beta=settings.beta, loss_type=names, disable_dropout=True, **settings.options),
        train_dataset=source.plan(settings.epochs, settings.batch_size),
        processing_class=source.tokenizer,
    )


def pair_arguments(
    model: Any, source: PairSource, settings: PreferenceSettings | RewardModelSettings, checkpointing: Checkpointing
) -> dict[str, Any]:
    """The arguments of a trainer that goes over preferences."""
    steps = source.steps(settings.epochs, settings.batch_size)
    common = batch_arguments(model, settings, steps, "batch_size", seed=source.seed, checkpointing=checkpointing)
    # TRL would cut rows, which hold no tokens yet; prompts keep within text.max_tokens
    return common | {"max_length": None}


def check_preferences(settings: PreferenceSettings, number: int = 1, section: str = "dpo") -> None:
    """Refuses what cannot work; cheap, so it can be called before a model loads.

    Args:
        settings: the section of the algorithm.
        number: of processes.
        section: its name in the configuration.

    Raises:
        ConfigError: the first setting that cannot work.
    """
    check_batches(settings, section, ("pairs", "beta", "negatives"), number)
    if settings.loss == SOFTMAX:
        if settings.options:
            raise ConfigError(f"Key '{section}.options' is for losses of TRL; remove it, or take another loss.")
        return
    for name in settings.loss.split("+"):
        if name not in LOSSES:
            raise ConfigError(
                f"Key '{section}.loss' is {name!r}; it must be {SOFTMAX}, or one or several (joined by +) of "
                f"{', '.join(LOSSES)}."
            )
    if settings.negatives != 1:
        raise ConfigError(
            f"Key '{section}.negatives' is {settings.negatives}, but {settings.loss} compares two items; set "
            f"it to 1, or '{section}.loss' to {SOFTMAX}."
        )
    _check_options(settings, section)


def _check_options(settings: PreferenceSettings, section: str) -> None:
    options, names = settings.options, settings.loss.split("+")
    for key in options:
        if key not in OPTIONS:
            raise ConfigError(f"Key '{section}.options.{key}' is none of {', '.join(OPTIONS)}; remove it.")
    weights = options.get("loss_weights")
    if weights is not None and len(weights) != len(names):
        raise ConfigError(
            f"Key '{section}.options.loss_weights' has {len(weights)} weights for {len(names)} losses; give one each."
        )
    if "exo_pair" in names and not 0 < options.get("label_smoothing", 0) < 1:
        raise ConfigError(f"The loss exo_pair needs '{section}.options.label_smoothing' between 0 and 1, say 0.001.")
    if "robust" in names and not 0 <= options.get("label_smoothing", 0) < 0.5:
        raise ConfigError(f"The loss robust needs '{section}.options.label_smoothing' in [0, 0.5).")
    divergence = options.get("f_divergence_type", "reverse_kl")
    kinds = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
    if divergence not in kinds:
        raise ConfigError(
            f"Key '{section}.options.f_divergence_type' is {divergence!r}; take one of {', '.join(kinds)}."
        )
    if divergence != "reverse_kl" and not set(names) <= _ANY_DIVERGENCE:
        raise ConfigError(
            f"Key '{section}.options.f_divergence_type' is {divergence}, for which only the losses "
            f"{', '.join(sorted(_ANY_DIVERGENCE))} are defined."
        )
    if options.get("use_weighting") and {"aot", "aot_unpaired"} & set(names):
        raise ConfigError(
            f"Key '{section}.options.use_weighting' has no meaning for aot, which sorts the pairs; remove it."
        )


_ANY_DIVERGENCE = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
