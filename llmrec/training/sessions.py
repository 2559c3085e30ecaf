"""PPO and REINFORCE over sessions of simulated users: slates, turns, and what a slate does to the turns after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import ChoiceSettings, PPOSettings, ReinforceSettings, SessionSettings
from llmrec.errors import ConfigError, DataError
from llmrec.files import sha256_of
from llmrec.policy.modes import base_model
from llmrec.rewards import is_causal
from llmrec.simulator.choice import MODELS
from llmrec.training.arguments import world_size
from llmrec.training.controls import Controls
from llmrec.training.critic import SlateCritic
from llmrec.training.improvement import Checkpointing, Improved, Plan, WarmStart, as_json, run_trainer, trainable
from llmrec.training.obeyed import Closed, Obeyed, closed_to, in_all, left_out_states, places_left
from llmrec.training.on_policy import (
    check_settings,
    hang_critic,
    method_of,
    rehearsal_of,
    released_critic,
    stop_reason,
    trainer_arguments,
)
from llmrec.training.rehearsal import Rehearsal
from llmrec.training.session_source import SessionReward, SessionSource, SessionUsers
from llmrec.training.trl_seam import CriticInput, SessionReinforceTrainer, SessionTrainer
from llmrec.types import IntArray, State

__all__ = [
    "SessionReward",
    "SessionUsers",
    "check_credit",
    "check_sessions",
    "make_session_trainer",
    "train_sessions",
]


def train_sessions(
    start: WarmStart,
    meeting: SessionUsers,
    settings: PPOSettings | ReinforceSettings,
    session: SessionSettings,
    checkpointing: Checkpointing,
    *,
    critic_input: CriticInput = "reference",
) -> Improved:
    """Improves a policy by the rewards of whole sessions.

    The curve has one dictionary a rollout: step, reward and reward/<term> (means a session, not discounted), turns
    (played), left (share of users who left for good), and what `train_on_policy` logs beside; rollout_kl and
    rollout_entropy are nats of a single draw, means over turns.

    Args:
        start: the policy.
        meeting: the users, where their sessions start, and what slates earn.
        settings: the algorithm's section; `prompts` are the sessions of a rollout.
        session: turns, places, discounts.
        checkpointing: checkpoints and reports.
        critic_input: see `PPOConfig`.

    Raises:
        ConfigError: a setting that cannot be used, by itself, with this catalogue or with this number of processes.
        DataError: nobody is left to meet, or a reward that is not finite.
        RunError: gradients that are not finite, for too long.
    """
    check_sessions(session, settings, world_size(), len(start.catalogue))
    # once more here, as functions of one's own are known by now and were only named before
    check_credit(session, meeting.choice, meeting.reward.terms)
    given = len(meeting.users)
    meeting = _with_room(meeting, session, start.repeat, len(start.catalogue), start.rules)
    without = left_out_states(given, len(meeting.users), start.rules)
    source = SessionSource(
        meeting, session, start.repeat, start.renderer, start.catalogue, start.tokenizer, start.seed, start.rules
    )
    model, rehearsal = trainable(start, settings), rehearsal_of(start, settings)
    name = f"{method_of(settings).name} in sessions"
    plan = Plan(
        name,
        settings.steps,
        settings.iterations * settings.minibatches,
        "reward",
        (
            *(name, as_json(settings), as_json(session), start.seed, start.repeat, critic_input),
            *(_digest(meeting, source, start.rules), "" if rehearsal is None else rehearsal.packed.digest),
        ),
    )
    ran = run_trainer(
        model,
        plan,
        checkpointing,
        lambda: make_session_trainer(
            model,
            source,
            settings,
            out=checkpointing.out,
            report_to=checkpointing.report_to,
            critic_input=critic_input,
            rehearsal=rehearsal,
        ),
    )
    more = {"critic": released_critic(ran.trainer.base)}
    return ran.improved(model, in_all(without, stop_reason(ran.curve, settings)), more)


def make_session_trainer(
    model: Any,
    source: SessionSource,
    settings: PPOSettings | ReinforceSettings,
    *,
    out: Path,
    report_to: Sequence[str] = (),
    critic_input: CriticInput = "reference",
    rehearsal: Rehearsal | None = None,
) -> Any:
    """The trainer for `settings`, which hangs a fresh critic on the base model of `model`."""
    method = method_of(settings)
    width = base_model(model).config.get_text_config().hidden_size
    hang_critic(model, SlateCritic(width, source.slate, seed=source.seed))
    arguments = trainer_arguments(model, settings, source.seed, out, report_to) | method.own(settings)
    trainer = SessionReinforceTrainer if isinstance(settings, ReinforceSettings) else SessionTrainer
    return trainer(
        model,
        source,
        method.config(**arguments, critic_input=critic_input),
        Controls(settings.stability, settings.kl_coefficient, settings.entropy_coefficient),
        rehearsal=rehearsal,
        reward_funcs=[source.reward],
        train_dataset=source.plan(settings.steps, settings.prompts, settings.minibatches, world_size()),
        processing_class=source.tokenizer,
    )


def check_sessions(
    session: SessionSettings,
    settings: PPOSettings | ReinforceSettings,
    number: int = 1,
    items: int | None = None,
    section: str | None = None,
) -> None:
    """Raises `ConfigError` for values that cannot work; cheap, so it can be called before a model loads.

    Args:
        session: sizes of a session.
        settings: the algorithm's section.
        number: of processes.
        items: size of the catalogue, where it is known.
        section: the algorithm's name in the configuration.
    """
    section = section or method_of(settings).name
    for key in ("turns", "slate", "remembered_turns"):
        if getattr(session, key) < 1:
            raise ConfigError(f"Key 'session.{key}' is {getattr(session, key)}, but it must be 1 or more.")
    for key in ("gamma", "gae_lambda"):
        if not 0 <= getattr(session, key) <= 1:
            raise ConfigError(f"Key 'session.{key}' is {getattr(session, key)}; it must be in [0, 1].")
    if settings.draws != 1:
        raise ConfigError(
            f"Key '{section}.draws' is {settings.draws}, but a turn of a session shows one slate; set it to 1 and "
            f"raise '{section}.prompts' (sessions a rollout) instead."
        )
    if settings.stability.resample:
        raise ConfigError(
            f"Key '{section}.stability.resample' is {settings.stability.resample}, but sessions have no groups of "
            "draws; set it to 0."
        )
    _check_unread(settings, section)
    if items is not None and session.slate > items:
        raise ConfigError(f"Key 'session.slate' is {session.slate}, but the catalogue has {items} items; lower it.")
    check_settings(settings, number, section)


def _check_unread(settings: PPOSettings | ReinforceSettings, section: str) -> None:
    """Refuses keys of the algorithm that sessions do not read."""
    for key in ("gamma", "gae_lambda", "starts"):
        default, given = (getattr(made, key, None) for made in (type(settings)(), settings))
        if given != default:
            mend = "sessions begin at users" if key == "starts" else f"set 'session.{key}'"
            raise ConfigError(
                f"Key '{section}.{key}' is {given}, which sessions do not read: {mend}, and leave it out."
            )
    if isinstance(settings, PPOSettings) and settings.credit.potential != "none":
        raise ConfigError(
            f"Key '{section}.credit.potential' credits the tokens of an item, but in sessions and slates a whole "
            "item is one step; set it to none."
        )
    normalised = settings.stability.reward_normalisation != "none"
    if normalised and isinstance(settings, ReinforceSettings) and settings.baseline == "running":
        raise ConfigError(
            f"Keys '{section}.baseline' running and '{section}.stability.reward_normalisation' both keep the moments "
            "of rewards in sessions; set the latter to none, or take baseline critic."
        )


def check_credit(session: SessionSettings, choice: ChoiceSettings, marked: Sequence[object] = ()) -> None:
    """Refuses credit by item where what a place earns depends on all of the slate; reads nothing.

    Args:
        session: sizes of a session, and the credit.
        choice: how users choose within a slate.
        marked: reward terms, or functions that will be such, with their marks (`llmrec.rewards.RewardTerm`).

    Raises:
        ConfigError: the credit leaves out what an item takes from places above it.
    """
    if session.credit != "item" or session.slate == 1:
        return
    if not MODELS[choice.model].causal:
        raise ConfigError(
            f"Key 'session.credit' is item, but with choice.model {choice.model} a click depends on all items of "
            "the slate; set session.credit to slate, or take another choice.model."
        )
    for term in marked:
        if not is_causal(term):
            name = getattr(term, "name", getattr(term, "__name__", "custom"))
            raise ConfigError(
                f"Key 'session.credit' is item, but the reward {name!r} depends on the whole slate; set "
                "session.credit to slate, or mark the function causal = True if no place asks for those below it."
            )


def _with_room(
    meeting: SessionUsers, session: SessionSettings, repeat: str, items: int, rules: Obeyed | None
) -> SessionUsers:
    """Without users to whom so many slates cannot be shown."""
    users = np.asarray(meeting.users, dtype=np.int64)
    if len(meeting.seen) != len(users):
        raise DataError(f"There are {len(users)} users but {len(meeting.seen)} lists of seen items; give one a user.")
    states = [meeting.population.state(int(user)) for user in users]
    rows, seen = require_room(states, meeting.seen, session, repeat, items, rules)
    return replace(meeting, users=users[rows], seen=seen)


def require_room(
    states: Sequence[State],
    seen: Sequence[IntArray],
    session: SessionSettings,
    repeat: str,
    items: int,
    rules: Obeyed | None = None,
) -> tuple[list[int], list[IntArray]]:
    """Rows of the users to whom a session's slates can be shown, and what each of them has seen.

    Raises:
        DataError: there is none.
    """
    before = [np.asarray(row, dtype=np.int64) for row in seen]
    closed = closed_to(states, before, repeat, rules, places=session.slate)
    if repeat == "exclude":
        pairs = zip(states, before, strict=True)
        before = [np.union1d(np.asarray(state.seen(), dtype=np.int64), row) for state, row in pairs]
    # who could run out of items in the middle of a session is not met
    wanted = session.turns * session.slate if repeat == "exclude" else session.slate
    rows = np.flatnonzero(places_left(closed, len(states), items) >= wanted).tolist()
    if not rows:
        mend = "lower session.turns or session.slate, or give more users."
        if rules is not None:
            raise DataError(
                f"There is no user to meet whom rules leave {wanted} unseen items of the {items}; loosen them, {mend}"
            )
        raise DataError(f"There is no user to meet who has not seen all but {wanted} of the {items} items; {mend}")
    return rows, [before[row] for row in rows]


def _digest(meeting: SessionUsers, source: SessionSource, rules: Obeyed | None) -> str:
    """All that decides a session beside the policy."""
    known = source.seen.seen_S if isinstance(source.seen, Closed) else source.seen
    seen: list[list[int]] = [] if known is None else [_plain(row) for row in known]
    terms = [(term.name, term.weight) for term in meeting.reward.terms]
    reward = (terms, meeting.reward.sampled, meeting.reward.pessimism)
    settings = (asdict(meeting.choice), asdict(meeting.dynamics), reward)
    ruled = () if rules is None else (rules.digest,)
    return sha256_of(repr((source.states, _plain(meeting.users), seen, settings)), *ruled)


def _plain(row: IntArray) -> list[int]:
    return [int(value) for value in row]
