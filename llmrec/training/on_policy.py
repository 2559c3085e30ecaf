"""Algorithms that draw items and learn from their rewards: PPO, REINFORCE, GRPO and RLOO.

Checkpoints are made at rollout boundaries only, and a training that was killed goes on from the last of them to the
same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trl

from llmrec.config import GRPOSettings, PPOSettings, ReinforceSettings, RLOOSettings, RolloutSettings
from llmrec.errors import ConfigError
from llmrec.files import sha256_of
from llmrec.policy.modes import base_model, device_of
from llmrec.rewards.trl import GroupedReward, Rewarder, TRLFunction, checked
from llmrec.training.arguments import common_arguments, world_size
from llmrec.training.controls import Controls, check_stability
from llmrec.training.critic import Critic, ScaledCritic
from llmrec.training.improvement import (
    Checkpointing,
    Drawing,
    Improved,
    Plan,
    WarmStart,
    as_json,
    check_update,
    require_above_zero,
    run_trainer,
    trainable,
)
from llmrec.training.obeyed import in_all
from llmrec.training.rehearsal import Rehearsal, check_rehearsal, wanted_rows
from llmrec.training.state_source import StateSource
from llmrec.training.trl_seam import (
    CriticInput,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    RLOOTrainer,
)
from llmrec.types import IntArray, State

GRPO_OPTIONS = (
    "delta",
    "multi_objective_aggregation",
    "off_policy_mask_threshold",
    "reward_weights",
    "sapo_temperature_neg",
    "sapo_temperature_pos",
    "top_entropy_quantile",
    "vespo_k_neg",
    "vespo_k_pos",
    "vespo_lambda_neg",
    "vespo_lambda_pos",
)
"""Fields of `trl.GRPOConfig` that change the loss here and are no key of ours."""


@dataclass(frozen=True, slots=True)
class Method:
    """An algorithm: its name in the configuration, TRL's configuration and the trainer, and what is its own."""

    name: str
    config: type[Any]
    trainer: type[Any]
    own: Callable[[Any], dict[str, Any]]

    @property
    def has_critic(self) -> bool:
        """Whether a critic is trained beside the policy."""
        return issubclass(self.trainer, PPOTrainer)


def method_of(settings: RolloutSettings) -> Method:
    """The algorithm of a settings section."""
    # by `isinstance`, as `RLHFSettings` is a PPO section with more in it
    return next(method for kind, method in _METHODS.items() if isinstance(settings, kind))


def train_on_policy(
    start: WarmStart,
    states: Sequence[State],
    seen: Sequence[IntArray],
    reward_model: Rewarder,
    settings: RolloutSettings,
    checkpointing: Checkpointing,
    *,
    reward_funcs: Sequence[TRLFunction] = (),
    critic_input: CriticInput = "reference",
) -> Improved:
    """Improves a policy by the algorithm whose settings are given.

    The curve has one dictionary a rollout: step, reward, reward/<term> (unweighted), rollout_kl (to the reference)
    and rollout_entropy (nats an item), flat_groups (share of groups without spread), skipped (share of steps left
    out), grad_norm, learning_rate, and what the trainer logs of its losses.

    Args:
        start: the policy.
        states: where rollouts start; each is used once before any is used again.
        seen: for each state, item indices that are not drawn if repeats are excluded, beside those in the state.
        reward_model: called with B states and items (B, G).
        settings: the algorithm's section.
        checkpointing: checkpoints and reports.
        reward_funcs: further rewards in TRL's signature, weight 1 each.
        critic_input: see `PPOConfig`.

    Raises:
        ConfigError: a setting that cannot be used, by itself or with this number of processes.
        DataError: no state to start from, or a reward function whose answer is none.
        RunError: rewards or gradients that are not finite, or rewards without any spread, for too long.
    """
    check_settings(settings, world_size())
    drawing = Drawing.of(start, states, seen)
    source = drawing.source
    model = trainable(start, settings)
    rewards = [GroupedReward(reward_model, source.states, settings.draws), *map(checked, reward_funcs)]
    rehearsal = rehearsal_of(start, settings)
    rehearsed = "" if rehearsal is None else rehearsal.packed.digest
    method, digest = method_of(settings), sha256_of(*drawing.told, rehearsed)
    # all that decides the result: a checkpoint of another of them is not gone on from
    decides = (method.name, as_json(settings), start.seed, start.repeat, critic_input, digest)
    plan = Plan(method.name, settings.steps, settings.iterations * settings.minibatches, "reward", decides)
    ran = run_trainer(
        model,
        plan,
        checkpointing,
        lambda: make_trainer(
            model,
            source,
            rewards,
            settings,
            out=checkpointing.out,
            report_to=checkpointing.report_to,
            critic_input=critic_input,
            rehearsal=rehearsal,
        ),
    )
    more = {"critic": released_critic(ran.trainer.base)} if method.has_critic else {}
    return ran.improved(model, in_all(drawing.without, stop_reason(ran.curve, settings)), more)


def make_trainer(
    model: Any,
    source: StateSource,
    reward_funcs: Sequence[Any],
    settings: RolloutSettings,
    *,
    out: Path,
    report_to: Sequence[str] = (),
    critic_input: CriticInput = "reference",
    rehearsal: Rehearsal | None = None,
) -> Any:
    """The trainer for `settings`; one with a critic hangs a fresh one on the base model of `model`."""
    method = method_of(settings)
    if method.has_critic:
        hang_critic(model, Critic(base_model(model).config.get_text_config().hidden_size, seed=source.seed))
    arguments = trainer_arguments(model, settings, source.seed, out, report_to)
    more = {"critic_input": critic_input} if method.has_critic else {}
    controls = Controls(settings.stability, settings.kl_coefficient, settings.entropy_coefficient)
    return method.trainer(
        model,
        source,
        method.config(**arguments, **method.own(settings), **more),
        controls,
        rehearsal=rehearsal,
        reward_funcs=list(reward_funcs),
        train_dataset=source.plan(settings.steps, settings.prompts, settings.minibatches, world_size()),
        processing_class=source.tokenizer,
    )


def rehearsal_of(start: WarmStart, settings: RolloutSettings) -> Rehearsal | None:
    """What is rehearsed in the optimiser steps of a training; None for nothing.

    Raises:
        ConfigError: a coefficient, but nobody knows what the warm start learnt, or it learnt next items alone.
    """
    wanted = wanted_rows(settings.rehearsal, settings.steps * settings.iterations * settings.minibatches)
    if not wanted:
        return None
    rows = [] if start.rehearsed is None else start.rehearsed(wanted)
    if not rows:
        raise ConfigError(
            f"Key '{method_of(settings).name}.rehearsal.coefficient' is {settings.rehearsal.coefficient}, but the "
            "warm start learnt nothing beside next items; give 'sft.mixture' another task (item_from_prompt), or set "
            "it to 0."
        )
    return Rehearsal.of(rows, settings.rehearsal, start.catalogue.index)


def trainer_arguments(
    model: Any, settings: RolloutSettings, seed: int, out: Path, report_to: Sequence[str]
) -> dict[str, Any]:
    """Fields of `trl.GRPOConfig` that all of these algorithms set alike."""
    # transformers counts optimiser steps, everything of ours counts rollouts; checkpoints then fall on their borders
    per_rollout = settings.iterations * settings.minibatches
    common = common_arguments(
        model,
        out=out,
        seed=seed,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        steps=settings.steps * per_rollout,
        log_every=per_rollout,
        save_every=settings.save_every * per_rollout,
        report_to=report_to,
    )
    return common | {
        "max_grad_norm": settings.max_grad_norm,
        "num_generations": settings.draws,
        "num_iterations": settings.iterations,
        "steps_per_generation": settings.minibatches,
        "per_device_train_batch_size": settings.prompts * settings.draws // (settings.minibatches * world_size()),
        # KL is ours: TRL's k3 in the loss has another gradient, and no part in what divides the advantages
        "beta": 0.0,
        "shuffle_dataset": False,
        "disable_dropout": True,
    }


def _ppo(settings: PPOSettings) -> dict[str, Any]:
    same = ("value_clip", "value_coefficient", "target_kl", "gamma", "gae_lambda", "whiten")
    known = settings.credit.candidates if settings.credit.potential == "expected" else 0
    return {key: getattr(settings, key) for key in same} | {"epsilon": settings.clip, "candidates": known}


def _reinforce(settings: ReinforceSettings) -> dict[str, Any]:
    value = settings.value_coefficient if settings.baseline == "critic" else 0.0
    # no clip of values: there is one step a rollout, so none moves away from the rollout's
    return {"baseline": settings.baseline, "value_coefficient": value, "value_clip": 1e9, "whiten": settings.whiten}


def _grpo(settings: GRPOSettings) -> dict[str, Any]:
    return {
        "loss_type": settings.loss,
        "epsilon": settings.clip,
        "epsilon_high": settings.clip_high,
        "scale_rewards": settings.scale_rewards,
        "importance_sampling_level": settings.ratio,
        "max_completion_length": 1,  # what "dr_grpo" divides by beside the number of items: a mean over items
        **settings.options,
    }


def _rloo(settings: RLOOSettings) -> dict[str, Any]:
    return {"epsilon": settings.clip, "normalize_advantages": settings.normalise}


_METHODS: dict[type[RolloutSettings], Method] = {
    PPOSettings: Method("ppo", PPOConfig, PPOTrainer, _ppo),
    ReinforceSettings: Method("reinforce", ReinforceConfig, ReinforceTrainer, _reinforce),
    GRPOSettings: Method("grpo", trl.GRPOConfig, GRPOTrainer, _grpo),
    RLOOSettings: Method("rloo", trl.RLOOConfig, RLOOTrainer, _rloo),
}


def check_settings(settings: RolloutSettings, number: int = 1, section: str | None = None) -> None:
    """Raises `ConfigError` for values that cannot work; cheap, so it can be called before a model loads.

    Args:
        settings: the section of an algorithm.
        number: of processes.
        section: its name in the configuration, by default that of the algorithm.
    """
    section = section or method_of(settings).name
    counts = ("steps", "prompts", "draws", "iterations", "minibatches", "save_every", "learning_rate")
    require_above_zero(
        settings, section, (*counts, *(key for key in ("clip", "value_clip") if hasattr(settings, key)))
    )
    for key in ("gamma", "gae_lambda"):
        if not 0 <= getattr(settings, key, 0.0) <= 1:
            raise ConfigError(f"Key '{section}.{key}' is {getattr(settings, key)}; it must be in [0, 1].")
    check_update(settings, section)
    for key in ("kl_coefficient", "entropy_coefficient", "value_coefficient", "max_grad_norm"):
        if getattr(settings, key, 0) < 0:
            raise ConfigError(f"Key '{section}.{key}' is {getattr(settings, key)}; it must be 0 or more.")
    check_stability(settings.stability, f"{section}.stability")
    check_rehearsal(settings.rehearsal, f"{section}.rehearsal")
    share = settings.minibatches * number
    if settings.prompts % share:
        raise ConfigError(
            f"Key '{section}.prompts' is {settings.prompts}; it must be a multiple of {share} "
            f"({section}.minibatches {settings.minibatches} x {number} processes)."
        )
    _check_own(settings, section)
    _check_together(settings, section)
    if settings.prompts * settings.draws < 2 * number:
        raise ConfigError(
            f"Keys '{section}.prompts' and '{section}.draws' give a process fewer than two items; raise one of them."
        )


def _check_together(settings: RolloutSettings, section: str) -> None:
    """Refuses settings that would be without effect beside others."""
    stability = settings.stability
    if stability.kl_target is not None and settings.kl_coefficient == 0:
        raise ConfigError(
            f"Key '{section}.stability.kl_target' moves '{section}.kl_coefficient' by factors, which is 0 and would "
            "stay so; give a coefficient above 0 to start from."
        )
    if stability.entropy_floor is not None and stability.entropy_most < settings.entropy_coefficient:
        raise ConfigError(
            f"Key '{section}.stability.entropy_most' is {stability.entropy_most}, below '{section}."
            f"entropy_coefficient' ({settings.entropy_coefficient}), which the bonus never falls below; raise it."
        )
    if stability.resample and settings.draws == 1:
        raise ConfigError(
            f"Key '{section}.stability.resample' is {stability.resample}, but with '{section}.draws' 1 there are no "
            "groups whose draws could differ; set it to 0, or draws to 2 or more."
        )


def _check_own(settings: RolloutSettings, section: str) -> None:
    if isinstance(settings, PPOSettings) and settings.credit.candidates < 1:
        raise ConfigError(
            f"Key '{section}.credit.candidates' is {settings.credit.candidates}; give 1 item or more, or set "
            f"'{section}.credit.potential' to none."
        )
    if isinstance(settings, GRPOSettings | RLOOSettings) and settings.draws < 2:
        raise ConfigError(
            f"Key '{section}.draws' is {settings.draws}; {section} compares the draws of a state, so give 2 or more."
        )
    if isinstance(settings, ReinforceSettings) and (settings.iterations, settings.minibatches) != (1, 1):
        raise ConfigError(
            f"Keys '{section}.iterations' and '{section}.minibatches' must be 1: REINFORCE has no ratio that would "
            "correct a second step on the same draws; take ppo for more."
        )
    if isinstance(settings, GRPOSettings):
        for key in settings.options:
            if key not in GRPO_OPTIONS:
                raise ConfigError(
                    f"Key '{section}.options.{key}' is none of trl.GRPOConfig that changes the loss here, or set by "
                    f"another key; choose among {', '.join(GRPO_OPTIONS)}."
                )


def hang_critic(model: Any, critic: ScaledCritic) -> None:
    """Puts a critic onto the base model: what wraps that (DDP, FSDP2) then averages its gradients with the others."""
    base_model(model).critic = critic.to(device_of(model))


def released_critic(base: Any) -> ScaledCritic:
    """Takes the critic off the model."""
    critic: ScaledCritic = base.critic
    # the model is handed on and must be the plain one again
    del base.critic
    return critic.eval()


def stop_reason(curve: Sequence[dict[str, float]], settings: RolloutSettings) -> str | None:
    """What cut rollouts or steps short."""
    stops, skipped = sum(row.get("kl_stop", 0.0) > 0 for row in curve), sum(row.get("skipped", 0.0) for row in curve)
    said = []
    if stops:
        said.append(f"target_kl ended {stops} of {len(curve)} rollouts before all of their steps.")
    if skipped:
        steps = settings.iterations * settings.minibatches
        said.append(
            f"{round(skipped * steps)} optimiser steps were left out: their gradient was too large or not finite."
        )
    return " ".join(said) or None
