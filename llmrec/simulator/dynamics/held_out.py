"""What a learned transition is worth: held-out log-likelihood beside simpler beliefs, by user."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.simulator.dynamics.learned import LearnedTransition, TransitionLog
from llmrec.simulator.metrics import paired_interval

BASELINES = ("no_change", "marginal", "state_only")


def baseline_log_probabilities(
    name: str, train: TransitionLog, log: TransitionLog, count: int, smoothing: float = 1.0
) -> npt.NDArray[np.float64]:
    """log P(next state) of each step of `log` by a belief counted on `train`, in nats: shape (M,).

    no_change: the state stays with the share of steps in which it stayed (the others are equally likely), since
    certainty would be worth minus infinity. marginal: how often each state came next. state_only: how often it came
    next in the present state (a Markov chain without actions). Counts start at `smoothing`.
    """
    if name == "no_change":
        stays = (train.state_M == train.next_M).sum()
        stay = (stays + smoothing) / (len(train) + 2 * smoothing)
        return np.asarray(np.where(log.state_M == log.next_M, np.log(stay), np.log((1 - stay) / (count - 1))))
    table_KK = np.full((count, count), smoothing)
    np.add.at(table_KK, (train.state_M, train.next_M), 1.0)
    if name == "marginal":
        table_KK[:] = np.bincount(train.next_M, minlength=count) + smoothing
    table_KK /= table_KK.sum(axis=1, keepdims=True)
    return np.asarray(np.log(table_KK[log.state_M, log.next_M]))


def compare_transition(
    model: LearnedTransition, train: TransitionLog, held_out: TransitionLog, *, seed: int, draws: int = 1000
) -> dict[str, Any]:
    """Held-out log-likelihood of a learned transition and of `BASELINES`, as plain values for JSON.

    Args:
        model: Fitted on `train`.
        train: What the baselines are counted on.
        held_out: Steps of users that are not in `train`.
        seed: Of the bootstrap.
        draws: Bootstrap samples.

    Returns:
        "steps", "users"; "log_likelihood" of the model and of each baseline, mean nats a step; for each baseline
        "gain_over_NAME": mean gain a step with its paired 95% interval, users drawn whole ("mean", "low", "high").

    Raises:
        DataError: A user in both parts, or nothing held out.
    """
    if not len(held_out):
        raise DataError("There is no held-out step to judge a transition on; hold out more users.")
    shared = np.intersect1d(train.user_M, held_out.user_M)
    if len(shared):
        raise DataError(f"User {shared[0]} is in the fitted and in the held-out part; split by user.")
    rows, user_M = np.arange(len(held_out)), np.unique(held_out.user_M, return_inverse=True)[1]
    model_M = model.log_probabilities(held_out.state_M, held_out.action_MA)[rows, held_out.next_M]
    report: dict[str, Any] = {"steps": len(held_out), "users": len(np.unique(held_out.user_M))}
    report["log_likelihood"] = {"model": float(model_M.mean())}
    for name in BASELINES:
        base_M = baseline_log_probabilities(name, train, held_out, model.states)
        report["log_likelihood"][name] = float(base_M.mean())
        mean, low, high = paired_interval(model_M - base_M, user_M, draws=draws, seed=seed)
        report[f"gain_over_{name}"] = {"mean": mean, "low": low, "high": high}
    return report
