"""A teacher: a distribution over the catalogue for each state, from the scores of a recommender that learns fast.

    p(i | state) = (1 - popularity) s(i | state)^sharpness / sum + popularity (count of i + 1) / sum

Small language models learn item transitions slowly from a few thousand events; what counts and texts say of them is
cheap to have (`llmrec.baselines.covisitation`), and a state may be invented where none was logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from llmrec.config import TeacherSettings
from llmrec.errors import ConfigError, DataError
from llmrec.text.wording import SECONDS_A_DAY
from llmrec.types import EventKind, Example, FloatArray, Interaction, State

Scorer = Callable[[Sequence[State]], FloatArray]
LONGEST = 3
"""Items of an invented history, at most."""
AWAY = (0.25, 7.0, 30.0, 180.0)
"""Days since the latest item of an invented history: one of each of `text.elapsed`'s words."""


class Teacher:
    """Distributions over N items.

    Args:
        scorer: scores of all items for each state, (B, N), finite and at least 0.
        count_N: how often each item was chosen in the training period.
        settings: sharpness and the share of popularity.
        repeat: where "exclude", items of the state have probability 0.

    Raises:
        ConfigError: settings that cannot be used.
    """

    def __init__(self, scorer: Scorer, count_N: FloatArray, settings: TeacherSettings, repeat: str) -> None:
        check_teacher(settings)
        self.scorer, self.settings, self.repeat = scorer, settings, repeat
        self.popular_N = (count_N + 1.0) / (count_N + 1.0).sum()

    def probabilities(self, states: Sequence[State]) -> FloatArray:
        """p of every item, (B, N), each row with the sum 1.

        Raises:
            DataError: scores that are negative or not finite.
        """
        score_BN = np.asarray(self.scorer(states), dtype=np.float64)
        if not np.isfinite(score_BN).all() or (score_BN < 0).any():
            raise DataError("The teacher's scores are negative or not finite; give scores of at least 0.")
        # by the greatest first: a power of large counts would overflow, of small scores vanish
        sharp_BN = (score_BN / np.maximum(score_BN.max(axis=1, keepdims=True), 1e-300)) ** self.settings.sharpness
        share = self.settings.popularity
        if self.settings.kind == "interpolation":
            return _normalised(score_BN, self.popular_N)
        p_BN = (1 - share) * _normalised(sharp_BN, self.popular_N) + share * self.popular_N
        if self.repeat == "exclude":
            for p_N, state in zip(p_BN, states, strict=True):
                p_N[list(state.seen())] = 0.0
        return _normalised(p_BN, self.popular_N)

    def targets(self, examples: Sequence[Example]) -> FloatArray:
        """q of every item, (B, N): the item chosen mixed with p; p alone where the target is negative (invented)."""
        q_BN = self.probabilities([example.state for example in examples])
        for q_N, example in zip(q_BN, examples, strict=True):
            if example.target >= 0:
                # the item chosen keeps its share also where the teacher has excluded it
                q_N *= self.settings.weight
                q_N[example.target] += 1.0 - self.settings.weight
        return q_BN

    def invented(self, rng: np.random.Generator, kind: EventKind) -> Example:
        """A history of one to three items, drawn evenly or by their counts (half and half), without a target."""
        # by counts alone rare items would never stand in an invented history; evenly alone, histories would be
        # unlikely ones
        even = rng.random() < 0.5
        items = rng.choice(len(self.popular_N), int(rng.integers(1, LONGEST + 1)), p=None if even else self.popular_N)
        history = tuple(Interaction(int(item), kind, number) for number, item in enumerate(items))
        away = AWAY[int(rng.integers(len(AWAY)))]
        return Example(State(history=history, time=len(items) - 1 + round(away * SECONDS_A_DAY)), -1)


def cut(example: Example, share: float, dropout: float, rng: np.random.Generator) -> Example:
    """The example with interactions dropped at random and, now and then, a history that begins later."""
    history = example.state.history
    keep = rng.random(len(history)) >= dropout
    history = tuple(h for h, kept in zip(history, keep, strict=True) if kept)
    if len(history) > 1 and rng.random() < share:
        # the latest are kept: they tell most of what comes next
        history = history[-int(rng.integers(1, len(history))) :]
    return dataclasses.replace(example, state=dataclasses.replace(example.state, history=history))


def check_teacher(settings: TeacherSettings) -> None:
    """Raises `ConfigError` for a setting that cannot be used."""
    for key in ("weight", "popularity", "history_cut"):
        value = getattr(settings, key)
        if not 0 <= value <= 1:
            raise ConfigError(f"Key 'sft.teacher.{key}' is {value}; it must be from 0 to 1.")
    for key in ("invented", "weight_decay"):
        if getattr(settings, key) < 0:
            raise ConfigError(f"Key 'sft.teacher.{key}' is {getattr(settings, key)}; it must be 0 or more.")
    for key in ("sharpness", "epochs", "batch_size", "learning_rate", "paths"):
        if getattr(settings, key) <= 0:
            raise ConfigError(f"Key 'sft.teacher.{key}' is {getattr(settings, key)}; it must be above 0.")


def _normalised(weights_BN: FloatArray, otherwise_N: FloatArray) -> FloatArray:
    total_B1 = weights_BN.sum(axis=1, keepdims=True)
    made: FloatArray = np.where(total_B1 > 0, weights_BN / np.maximum(total_B1, 1e-300), otherwise_N)
    return made
