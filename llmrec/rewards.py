"""Feedback becomes reward: named terms, their weights, their sum.

reward = click * P(click) + conversion * P(click and conversion), each term kept apart so that a gain in clicks can
be told from a gain in sales. Example: with weights 1 and 3, an item of P(click) = 0.2 and P(conversion | click) =
0.5 is worth 1 * 0.2 + 3 * 0.1 = 0.5.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llmrec.config import RewardSettings
from llmrec.errors import ConfigError, DataError
from llmrec.simulator.ensemble import Disagreement
from llmrec.simulator.environment import common_uniforms, expected_feedback, simulate_feedback
from llmrec.types import Feedback, FloatArray, IntArray, Prediction, Reward, State


class Behaviour(Protocol):
    """What a reward is computed from: a behaviour model, an ensemble, or a world's truth in a test."""

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction: ...  # noqa: D102


class RewardTerm(Protocol):
    """A named, weighted part of the reward; called with states, items (B, K) and feedback, it returns (B, K)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102
    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray: ...  # noqa: D102


@dataclass(frozen=True)
class ClickReward:
    """P(click), or 1 for a drawn click."""

    weight: float = 1.0
    name: str = "click"

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Clicks of shape (B, K)."""
        return feedback.click_BK


@dataclass(frozen=True)
class ConversionReward:
    """P(click and conversion) of an impression, or 1 for a drawn conversion."""

    weight: float = 3.0
    name: str = "conversion"

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Conversions per impression of shape (B, K)."""
        return feedback.conversion_BK


@dataclass(frozen=True)
class CustomReward:
    """A term of one's own: `function(state, items_K) -> one number an item`, called once a state.

    Example: `CustomReward("novelty", 0.1, lambda state, items: [float(i not in state.seen()) for i in items])`.
    """

    name: str
    weight: float
    function: Callable[[State, tuple[int, ...]], Sequence[float]]

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Values of shape (B, K); raises `DataError` for anything but K finite numbers a state."""
        values = np.zeros(items_BK.shape)
        for b, state in enumerate(states):
            values[b] = self._row(self.function(state, tuple(items_BK[b].tolist())), items_BK.shape[1])
        return values

    def _row(self, given: Any, places: int) -> list[float]:
        row = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(row, Sequence) or isinstance(row, str):
            raise DataError(f"Reward {self.name!r} returned {type(given).__name__}; return a list of numbers.")
        if len(row) != places:
            raise DataError(
                f"Reward {self.name!r} returned {len(row)} values for {places} items; return one an item."
            )
        for value in row:
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise DataError(f"Reward {self.name!r} returned {value!r}; every value must be a finite number.")
        return [float(value) for value in row]


def combine(terms: Sequence[RewardTerm], states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> Reward:
    """The weighted sum of `terms` and each of them unweighted; a missing item (-1) is worth 0 in all."""
    real_BK = items_BK >= 0
    total_BK = np.zeros(items_BK.shape)
    named: dict[str, FloatArray] = {}
    for term in terms:
        value_BK = np.where(real_BK, term(states, items_BK, feedback), 0.0)
        if not np.isfinite(value_BK).all():
            raise DataError(f"Reward {term.name!r} is not finite; check the function that computes it.")
        named[term.name] = value_BK
        total_BK = total_BK + term.weight * value_BK
    return Reward(total_BK, named)


class RewardModel:
    """Reward of slates under a behaviour model.

    Args:
        behaviour: Predicts clicks and conversions; with `settings.pessimism` it must have `disagreement` too.
        settings: Weights; `sampled` draws 0 or 1 in place of probabilities; `pessimism` takes so many standard
            deviations of the members off the expected click and conversion, never below 0.
        seed: Seed of the draws: common random numbers by user, step and place.
        terms: Further terms beside click and conversion.
    """

    def __init__(
        self, behaviour: Behaviour, settings: RewardSettings, seed: int = 0, terms: Sequence[RewardTerm] = ()
    ) -> None:
        if settings.pessimism < 0:
            raise ConfigError(f"Key 'reward.pessimism' is {settings.pessimism}, but it must be 0 or more.")
        if settings.pessimism and not hasattr(behaviour, "disagreement"):
            raise ConfigError("Key 'reward.pessimism' needs an ensemble; set simulator.members to 2 or more.")
        if settings.pessimism and settings.sampled:
            raise ConfigError("Keys 'reward.pessimism' and 'reward.sampled' exclude each other; unset one.")
        self.behaviour, self.settings, self.seed = behaviour, settings, seed
        self.terms: tuple[RewardTerm, ...] = (
            ClickReward(settings.click),
            ConversionReward(settings.conversion),
            *terms,
        )
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ConfigError(f"Two reward terms share a name ({', '.join(names)}); name each apart.")

    def __call__(self, states: Sequence[State], items_BK: IntArray, step: int = 0) -> Reward:
        """Rewards of the items `items_BK` (-1: none, worth 0); `step` names the draw where `sampled` is set."""
        items_BK = np.asarray(items_BK)
        return combine(self.terms, states, items_BK, self._feedback(states, items_BK, step))

    def _feedback(self, states: Sequence[State], items_BK: IntArray, step: int) -> Feedback:
        prediction = self.behaviour.predict(states, items_BK)
        if prediction.click_BK.shape != items_BK.shape:
            raise DataError(
                f"The behaviour model predicts shape {prediction.click_BK.shape} for items of shape {items_BK.shape}."
            )
        if self.settings.sampled:
            users = [state.user_id for state in states]
            return simulate_feedback(prediction, common_uniforms(self.seed, users, step, items_BK.shape[1]))
        feedback = expected_feedback(prediction)
        if not self.settings.pessimism:
            return feedback
        spread: Disagreement = self.behaviour.disagreement(states, items_BK)  # type: ignore[attr-defined]
        kappa = self.settings.pessimism
        return Feedback(
            np.maximum(feedback.click_BK - kappa * spread.click_BK, 0.0),
            np.maximum(feedback.conversion_BK - kappa * spread.joint_BK, 0.0),
        )


class TRLReward:
    """A `RewardModel` in the signature of TRL's reward functions.

    Each row of the trainer's data set names its state by a field (an index into `states`), and `item_of` reads the
    item off the completion's token ids (-1: no item, worth 0). The values that were last computed stay in
    `last_terms` for logging.
    """

    def __init__(
        self,
        model: RewardModel,
        states: Sequence[State],
        item_of: Callable[[Sequence[int]], int],
        *,
        field: str = "state",
        name: str = "reward",
    ) -> None:
        self.model, self.states, self.item_of, self.field = model, states, item_of, field
        self.__name__ = name
        self.last_terms: Mapping[str, FloatArray] = {}

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **fields: Any,
    ) -> list[float]:
        """One reward a completion."""
        rows = fields.get(self.field)
        if rows is None or len(rows) != len(completion_ids):
            raise DataError(
                f"The reward {self.__name__!r} needs the field {self.field!r} (index of the state) in every row."
            )
        states = [self.states[int(row)] for row in rows]
        items_B1 = np.array([[self.item_of(ids)] for ids in completion_ids], dtype=np.int64).reshape(-1, 1)
        reward = self.model(states, items_B1, step=int(getattr(fields.get("trainer_state"), "global_step", 0)))
        self.last_terms = {name: value_B1[:, 0] for name, value_B1 in reward.terms.items()}
        return [float(value) for value in reward.total_BK[:, 0]]


def as_trl_reward(
    model: RewardModel,
    states: Sequence[State],
    item_of: Callable[[Sequence[int]], int],
    *,
    field: str = "state",
    name: str = "reward",
) -> TRLReward:
    """Wraps `model` for a TRL trainer's `reward_funcs`; see `TRLReward`."""
    return TRLReward(model, states, item_of, field=field, name=name)
