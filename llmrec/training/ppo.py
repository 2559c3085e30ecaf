"""PPO of a warm-started policy against a reward model, on `trl_seam.PPOTrainer`.

Checkpoints are made at rollout boundaries only (in the middle of one, a resumed update would be another update), and
a training that was killed goes on from the last of them to the same result.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from transformers import PrinterCallback

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import PPOSettings
from llmrec.errors import ConfigError, DataError
from llmrec.files import sha256_of
from llmrec.progress import Bar
from llmrec.training.arguments import common_arguments, processes, quiet, world_size
from llmrec.training.callbacks import BarCallback, CheckpointCallback, open_checkpoints, origin_digest
from llmrec.training.critic import Critic
from llmrec.training.lora import make_lora
from llmrec.training.rollout import StateSource
from llmrec.training.trl_seam import CriticInput, PPOConfig, PPOTrainer, forget_patches
from llmrec.types import IntArray, Reward, State

RewardFunction = Callable[..., list[float | None]]


class Rewarder(Protocol):
    """What PPO asks of a reward model; `llmrec.rewards.RewardModel` is one."""

    def __call__(self, states: Sequence[State], items_BK: IntArray, /) -> Reward: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class PPOResult:
    """A trained policy and how it came about.

    Attributes:
        model: PEFT model with the PPO adapter ("default") on the warm-started weights, in evaluation mode; the plain
            model where all weights were trained.
        critic: the value head, apart from the model.
        curve: one dictionary a rollout: step (rollouts so far), reward, reward/<term> (unweighted), kl (to the
            reference, nats an item), entropy (nats an item), clip_fraction, moved_kl, policy_loss, value_loss,
            explained_variance, grad_norm, learning_rate, kl_stop.
        seconds: training time over all resumptions, checkpoints and their judging included.
        stopped_reason: a sentence if `target_kl` cut rollouts short, else None.
    """

    model: Any
    critic: Critic
    curve: list[dict[str, float]]
    seconds: float
    stopped_reason: str | None = None


def train_ppo(
    model: Any,
    tokenizer: Any,
    catalogue: Catalogue,
    renderer: Any,
    states: Sequence[State],
    seen: Sequence[IntArray],
    reward_model: Rewarder,
    settings: PPOSettings,
    *,
    repeat: Literal["allow", "exclude"],
    seed: int,
    out: Path,
    report_to: Sequence[str] = (),
    on_checkpoint: Callable[[int, Any], object] | None = None,
    resume: bool = True,
    reward_funcs: Sequence[RewardFunction] = (),
    critic_input: CriticInput = "reference",
) -> PPOResult:
    """Improves `model` (plain, warm-started; it is also the reference) by PPO.

    Args:
        states: where rollouts start; each is used once before any is used again.
        seen: for each state, item indices that are not drawn if `repeat` is "exclude", beside those in the state.
        reward_model: called with B states and items (B, G).
        out: folder of the checkpoints.
        on_checkpoint: called on the main process with the rollouts done and the model, at every `save_every`
            rollouts and at the end. A checkpoint counts as made when it has returned.
        reward_funcs: further rewards in TRL's signature, weight 1 each.
        critic_input: see `PPOConfig`.

    Raises:
        ConfigError: a setting that cannot be used, by itself or with this number of processes.
        DataError: no state to start from.
        RunError: loss or reward are not finite.
    """
    check_settings(settings, world_size())
    states, excluded = usable_states(states, seen, repeat, len(catalogue.item_ids))
    source = StateSource(states, excluded, renderer, catalogue, tokenizer, seed)
    trained = make_lora(model, settings.lora, seed=seed) if settings.weights == "lora" else model
    rewards: list[RewardFunction] = [GroupedReward(reward_model, states, settings.draws), *reward_funcs]
    with processes().main_process_first():
        parts = (dataclasses.asdict(settings), seed, repeat, critic_input, sha256_of(repr(states), repr(excluded)))
        start, before = open_checkpoints(out, origin_digest(trained, *parts), resume=resume)
    per_rollout = settings.iterations * settings.minibatches
    done = int(start.name.rsplit("-", 1)[1]) // per_rollout if start else 0
    with quiet(), Bar("PPO", settings.steps - done) as bar:
        trainer = make_trainer(
            trained, source, rewards, settings, out=out, report_to=report_to, critic_input=critic_input
        )
        checkpoints = CheckpointCallback(before, _judging(trainer, on_checkpoint, per_rollout))
        trainer.add_callback(BarCallback(bar, every=per_rollout, key="reward"))
        trainer.add_callback(checkpoints)
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    curve = _curve(trainer.state.log_history, per_rollout)
    stops = sum(row.get("kl_stop", 0.0) > 0 for row in curve)
    reason = f"target_kl ended {stops} of {len(curve)} rollouts before all of their steps." if stops else None
    return PPOResult(trained.eval(), _release(trainer), curve, checkpoints.seconds, reason)


def make_trainer(
    model: Any,
    source: StateSource,
    reward_funcs: Sequence[RewardFunction],
    settings: PPOSettings,
    *,
    out: Path,
    report_to: Sequence[str] = (),
    critic_input: CriticInput = "reference",
) -> PPOTrainer:
    """A `PPOTrainer` for `settings`; hangs a fresh critic on the base model of `model`."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    weight = base.get_input_embeddings().weight
    base.critic = Critic(base.config.get_text_config().hidden_size, seed=source.seed).to(weight.device)
    trainer = PPOTrainer(
        model,
        source,
        _arguments(model, settings, source.seed, out, report_to, critic_input),
        reward_funcs=list(reward_funcs),
        train_dataset=source.plan(settings.steps, settings.prompts, settings.minibatches, world_size()),
        processing_class=source.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(
    model: Any, settings: PPOSettings, seed: int, out: Path, report_to: Sequence[str], critic_input: CriticInput
) -> PPOConfig:
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
    same = ("value_clip", "value_coefficient", "entropy_coefficient", "kl_coefficient", "target_kl", "gamma")
    return PPOConfig(
        **common,
        **{key: getattr(settings, key) for key in (*same, "gae_lambda", "whiten", "max_grad_norm")},
        epsilon=settings.clip,
        num_generations=settings.draws,
        num_iterations=settings.iterations,
        steps_per_generation=settings.minibatches,
        per_device_train_batch_size=settings.prompts * settings.draws // (settings.minibatches * world_size()),
        critic_input=critic_input,
        beta=0.0,
        shuffle_dataset=False,
        disable_dropout=True,
    )


def check_settings(settings: PPOSettings, number: int = 1) -> None:
    """Raises `ConfigError` for values that PPO cannot run with; cheap, so it can be called before a model loads."""
    for key in ("steps", "prompts", "draws", "iterations", "minibatches", "save_every", "learning_rate", "clip"):
        if getattr(settings, key) <= 0:
            raise ConfigError(f"Key 'ppo.{key}' is {getattr(settings, key)}; it must be above 0.")
    for key in ("gamma", "gae_lambda"):
        if not 0 <= getattr(settings, key) <= 1:
            raise ConfigError(f"Key 'ppo.{key}' is {getattr(settings, key)}; it must be in [0, 1].")
    share = settings.minibatches * number
    if settings.prompts % share:
        raise ConfigError(
            f"Key 'ppo.prompts' is {settings.prompts}; it must be a multiple of {share} "
            f"(ppo.minibatches {settings.minibatches} x {number} processes)."
        )
    if settings.prompts * settings.draws < 2 * number:
        raise ConfigError(
            "Keys 'ppo.prompts' and 'ppo.draws' give a process fewer than two items; raise one of them."
        )


def usable_states(
    states: Sequence[State], seen: Sequence[IntArray], repeat: str, items: int
) -> tuple[list[State], list[IntArray] | None]:
    """States for which something may be drawn, and what may not (None: nothing is excluded).

    Raises:
        DataError: `seen` does not fit `states`, or no state is left.
    """
    if len(seen) != len(states):
        raise DataError(f"There are {len(states)} states but {len(seen)} lists of seen items; give one a state.")
    excluded = None
    if repeat == "exclude":
        both = [
            np.union1d(np.asarray(s.seen(), dtype=np.int64), np.asarray(more, dtype=np.int64))
            for s, more in zip(states, seen, strict=True)
        ]
        kept = [row for row, taken in enumerate(both) if len(taken) < items]
        states, excluded = [states[row] for row in kept], [both[row] for row in kept]
    if not states:
        raise DataError(
            "There is no state to start a rollout from: the training part holds none, or all items are seen."
        )
    return list(states), excluded


class GroupedReward:
    """A reward model in TRL's signature that is asked once a rollout, with each state's G items as one row.

    Its terms are logged apart, unweighted, as reward/<term>.
    """

    __name__ = "model"

    def __init__(self, model: Rewarder, states: Sequence[State], draws: int) -> None:
        self.model, self.states, self.draws = model, states, draws
        self.takes_step = "step" in _parameters(model)

    def __call__(
        self, *, state: list[int], item: list[int], rollout: list[int], log_metric: Any, **_: Any
    ) -> list[float | None]:
        """One reward an item, in the order of the rows."""
        items_BG = np.array(item, dtype=np.int64).reshape(-1, self.draws)
        asked = [self.states[row] for row in state[:: self.draws]]
        more: dict[str, Any] = {"step": rollout[0]} if self.takes_step else {}
        reward = self.model(asked, items_BG, **more)
        for name, values in reward.terms.items():
            log_metric(f"reward/{name}", float(np.mean(values)))
        return [float(value) for value in reward.total_BK.ravel()]


def _parameters(function: Any) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _judging(
    trainer: PPOTrainer, on_checkpoint: Callable[[int, Any], object] | None, per_rollout: int
) -> Callable[[int], None]:
    def on_saved(step: int) -> None:
        if on_checkpoint is not None and trainer.accelerator.is_main_process:
            model = trainer.accelerator.unwrap_model(trainer.model)
            model.eval()
            on_checkpoint(step // per_rollout, model)
            model.train()
        trainer.accelerator.wait_for_everyone()

    return on_saved


def _release(trainer: PPOTrainer) -> Critic:
    """Takes the critic and the patched forward off the model, which is plain again."""
    critic: Critic = trainer.base.critic
    del trainer.base.critic
    forget_patches(trainer.base)
    return critic.eval()


def _curve(history: Sequence[dict[str, float]], per_rollout: int) -> list[dict[str, float]]:
    left_out = ("step", "epoch", "loss", "step_time", "total_flos")
    return [
        {"step": entry["step"] / per_rollout, **{k: float(v) for k, v in entry.items() if k not in left_out}}
        for entry in history
        if "reward" in entry
    ]
