"""Simulated comparison: what a judge expects of the slates that would be deployed.

Every figure is an expectation, not a draw, so that two systems differ by their slates alone. Rates are per
impression: an empty place of a slate is neither an impression nor a click.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from llmrec.errors import RequestError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.evaluation.significance import UserFigures
from llmrec.progress import Bar
from llmrec.types import FloatArray, IntArray, Prediction, Slate, State

BATCH = 512
"""States judged at a time."""


class Judge(Protocol):
    """Anything that predicts what users do: a behaviour model, an ensemble, or a generated world's truth."""

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """P(click) and P(conversion | click), each (B, K)."""
        ...


class Doubt(Protocol):
    """What R replicates of a judge expect: P(click) and P(click and conversion)."""

    @property
    def click_RBK(self) -> FloatArray: ...  # noqa: D102
    @property
    def joint_RBK(self) -> FloatArray: ...  # noqa: D102


@runtime_checkable
class Replicated(Protocol):
    """A judge that knows its own error, such as `llmrec.simulator.judge.Judge`."""

    def with_replicates(self, states: Sequence[State], items_BK: IntArray) -> tuple[Prediction, Doubt]:
        """`Judge.predict`, and what its replicates expect, each (R, B, K); 0 for both where there is no item."""
        ...


@dataclass(frozen=True, slots=True)
class JudgeError:
    """How far a judge is off on lists of a kind: clicks and conversions an impression.

    Attributes:
        mean_2: what is to be added to both.
        mean_2R: the same by each replicate of the judge.
        impressions: how many it was found on; both are 0 where these are too few.
    """

    mean_2: FloatArray
    mean_2R: FloatArray
    impressions: int

    @property
    def found(self) -> bool:
        """Whether anything could be said."""
        return bool(self.mean_2.any() or self.mean_2R.any())


@dataclass(frozen=True, slots=True)
class Simulated(UserFigures):
    """Expected behaviour of each user, averaged over the impressions of the slate shown: shapes (B,).

    `conversion_B` is P(click and conversion); `value_B` the weighted sum of both; `shown_B` counts impressions
    (a user without any has 0 in the other arrays). `users_B` names the user of each row, for clustered intervals.
    `replica_3RB` holds the first three of these measures as each replicate of the judge sees them, (3, R, B); None
    for a judge that has none, such as a world's truth.
    """

    click_B: FloatArray
    conversion_B: FloatArray
    value_B: FloatArray
    shown_B: IntArray
    users_B: tuple[str, ...]
    replica_3RB: FloatArray | None = None

    @property
    def per_user(self) -> dict[str, FloatArray]:
        """The three measures by their names in tables and JSON."""
        return {"click_rate": self.click_B, "conversion_rate": self.conversion_B, "value": self.value_B}

    @property
    def replicas(self) -> dict[str, FloatArray]:
        """The three measures by each replicate of the judge, (R, B); empty for a judge without any."""
        return {} if self.replica_3RB is None else dict(zip(self.per_user, self.replica_3RB, strict=True))

    def corrected(self, error: JudgeError, *, click: float, conversion: float) -> Simulated:
        """The same with the judge's error on these lists added to every user who was shown something.

        The weights are those of `simulate`. Means are estimates of rates; a single user's figure may leave 0..1.
        """
        weights_2 = np.array([click, conversion])
        shown_B = self.shown_B > 0
        click_B, conversion_B = (
            rate_B + shift * shown_B
            for rate_B, shift in zip((self.click_B, self.conversion_B), error.mean_2, strict=True)
        )
        replica_3RB = self.replica_3RB
        if replica_3RB is not None:
            shift_3R = np.concatenate([error.mean_2R, (weights_2 @ error.mean_2R)[None]])
            # As many of them as there are replicates of the judge, one and the same in both.
            replica_3RB = replica_3RB + shift_3R[:, :, None] * shown_B
        value_B = self.value_B + float(weights_2 @ error.mean_2) * shown_B
        return replace(self, click_B=click_B, conversion_B=conversion_B, value_B=value_B, replica_3RB=replica_3RB)


def simulate(
    slates: Sequence[Slate],
    states: Sequence[State],
    judge: Judge,
    *,
    k: int | None = None,
    click: float = 1.0,
    conversion: float = 3.0,
) -> Simulated:
    """Judges the deployed slate of each user.

    Args:
        slates: one a state, best first.
        states: what was known of the user; a state without a user id counts as a user of its own.
        judge: predicts behaviour; must not be the model that gave the reward.
        k: places shown; by default the longest slate.
        click: weight of a click in `value_B`.
        conversion: weight of a conversion in `value_B`.

    Raises:
        RequestError: no states, slates that do not fit, or a judge that answers with no probability.
    """
    if not states or len(slates) != len(states):
        raise RequestError(f"{len(states)} states need {len(states)} slates (at least one), not {len(slates)}.")
    items_BK = slates_to_items(slates, k)
    shown_BK = items_BK >= 0
    click_BK, conversion_BK, replica_2RB = _judged(states, items_BK, judge)
    click_BK, conversion_BK = click_BK * shown_BK, conversion_BK * click_BK * shown_BK
    shown_B = shown_BK.sum(axis=1)
    # Per impression and not per slate: a system that leaves places empty gains nothing and loses nothing by it.
    per_B = np.maximum(shown_B, 1)
    click_B, conversion_B = click_BK.sum(axis=1) / per_B, conversion_BK.sum(axis=1) / per_B
    replica_3RB = None
    if replica_2RB is not None:
        replica_2RB = replica_2RB / per_B
        replica_3RB = np.stack([*replica_2RB, click * replica_2RB[0] + conversion * replica_2RB[1]])
    # "\0" stands in no id, so users without one stay apart from those with one, and from one another.
    users_B = tuple(s.user_id if s.user_id is not None else f"\0{row}" for row, s in enumerate(states))
    value_B = click * click_B + conversion * conversion_B
    return Simulated(click_B, conversion_B, value_B, shown_B, users_B, replica_3RB)


def _judged(
    states: Sequence[State], items_BK: IntArray, judge: Judge
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """P(click) and P(conversion | click) of all rows, batch by batch, and what replicates expect of each slate.

    The latter are clicks and conversions, summed over places, (2, R, B); None for a judge without any.
    """
    clicks, conversions, replicas = [], [], []
    with Bar("Judging slates", len(states)) as bar:
        for start in range(0, len(states), BATCH):
            part, items_bK = states[start : start + BATCH], items_BK[start : start + BATCH]
            if isinstance(judge, Replicated):
                prediction, doubt = judge.with_replicates(part, items_bK)
                replicas.append(np.stack([doubt.click_RBK.sum(axis=2), doubt.joint_RBK.sum(axis=2)]))
            else:
                # Empty places are asked about as item 0, since a judge takes a whole array; `simulate` masks them.
                prediction = judge.predict(part, np.maximum(items_bK, 0))
            clicks.append(_probabilities(prediction.click_BK, items_bK, "click"))
            conversions.append(_probabilities(prediction.conversion_BK, items_bK, "conversion"))
            bar.advance(len(items_bK))
    both = np.concatenate(clicks), np.concatenate(conversions)
    return *both, np.concatenate(replicas, axis=2) if replicas else None


def _probabilities(values_BK: FloatArray, items_BK: IntArray, what: str) -> FloatArray:
    array_BK = np.asarray(values_BK, dtype=np.float64)
    if array_BK.shape != items_BK.shape:
        raise RequestError(f"The judge answers {what} with shape {array_BK.shape} for items of {items_BK.shape}.")
    if not ((array_BK >= 0) & (array_BK <= 1)).all():
        raise RequestError(f"The judge's {what} probabilities must be numbers from 0 to 1.")
    return array_BK
