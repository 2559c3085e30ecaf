"""Who is met in an environment: one interface for users of known truth and for users learned from a log."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.simulator.dynamics import ItemTable
from llmrec.types import IntArray, State

Float32Array = npt.NDArray[np.float32]


class Population(Protocol):
    """U users and N items. Axis letters: P numbers of a profile, F features of an item, D interest dimensions.

    Only `profile_UP`, `feature_NF`, `past` and `state` may be observed. Everything else is hidden from a policy.

    Attributes:
        items: What the dynamics need to know of the items.
        profile_UP: Numbers that tell what a profile's text tells, shape (U, P).
        feature_NF: Numbers that tell what an item's text tells, shape (N, F).
        start: Moment at which every episode begins (seconds).
    """

    items: ItemTable
    profile_UP: Float32Array
    feature_NF: Float32Array
    start: int

    def begin(self, user_B: IntArray) -> Any:
        """The hidden state of the users at rows `user_B`: None or an object with arrays of B rows.

        It has `take(rows)` (views for a slice) and `put(rows, other)`, like `dynamics.UserState`.
        """

    def home_BD(self, user_B: IntArray) -> Float32Array | None:
        """Interests at home for interest drift, in the space of `items.vector_ND`; None where there are none."""

    def respond(self, hidden: Any, user_B: IntArray, items_BK: IntArray, time_B: IntArray) -> Any:
        """P(click | looked at) and P(conversion | click) of the items shown (-1: anything), both (B, K)."""

    def observe(self, hidden: Any, items_BK: IntArray, click_BK: Any, conversion_BK: Any) -> None:
        """Lets the hidden state, in place, take in what a turn brought."""

    def past(self, user_B: IntArray) -> tuple[Float32Array, Float32Array]:
        """Sum of the features of what each user clicked before the episode (B, F), and how much that was (B,)."""

    def state(self, user: int) -> State:
        """What is known of a user before the episode, in words."""


def check_features(rows: npt.ArrayLike, count: int, name: str) -> Float32Array:
    """`rows` as float32 of shape (count, at least one); raises `DataError`, one sentence naming the first bad row."""
    array = np.ascontiguousarray(rows, dtype=np.float32)
    if array.ndim != 2 or len(array) != count or array.shape[1] == 0:
        raise DataError(f"{name} has shape {array.shape}; give {count} rows of one number or more.")
    # Checked once at the start: a nan in one item's features would spread through means to every user.
    good = np.isfinite(array).all(axis=1)
    if not good.all():
        raise DataError(f"Row {int(np.argmin(good))} of {name} holds a number that is not finite; mend or drop it.")
    return array


def check_response(click_BK: Any, conversion_BK: Any, shape: tuple[int, ...]) -> None:
    """Raises `DataError` where the answer of a population is no pair of probabilities for every place."""
    for name, values in (("P(click)", click_BK), ("P(conversion | click)", conversion_BK)):
        if values.shape != shape:
            raise DataError(f"The users' model gives {name} of shape {values.shape} for slates of shape {shape}.")
        # A nan fails both comparisons, and two reductions are cheap at every turn.
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            at = tuple(int(k) for k in np.argwhere(~((values >= 0) & (values <= 1)))[0])
            raise DataError(
                f"The users' model gives {name} = {values[at]} for row {at[0]}, place {at[1]}; probabilities are "
                "finite numbers in 0..1."
            )
