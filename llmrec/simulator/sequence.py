"""Histories as padded arrays, oldest event first: what the sequence networks read.

An event is an item and a *feedback code* (see `CODES`), so a network can be fed one event at a time by an environment
just as it is fed a whole history here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import DataError
from llmrec.types import IntArray, Interaction, State

CODES = {"none": 0, "impression": 1, "click": 2, "disliked": 3, "liked": 4, "conversion": 5}
"""0 is no event at all; a rating is disliked below the mean rating of the fitted log, else liked."""


@dataclass(frozen=True)
class Histories:
    """S histories of at most L events: items and feedback codes (S, L; code 0 is padding at the end), length (S,)."""

    item_SL: IntArray
    code_SL: IntArray
    length_S: IntArray

    @classmethod
    def of(cls, states: Sequence[State], n_items: int, value_mean: float, window: int | None = None) -> Histories:
        """Histories and then sessions of `states`, the latest `window` events of each, or all.

        Raises:
            DataError: An item outside the catalogue, or a rating that is not finite; named with the user.
        """
        kept = [
            (*state.history, *state.session)[slice(None if window is None else -window, None)] for state in states
        ]
        length_S = np.array([len(events) for events in kept], dtype=np.int64)
        item_SL = np.zeros((len(states), max(1, int(length_S.max(initial=0)))), dtype=np.int64)
        code_SL = np.zeros_like(item_SL)
        for s, events in enumerate(kept):
            for at, event in enumerate(events):
                if not 0 <= event.item < n_items or (event.value is not None and not np.isfinite(event.value)):
                    raise DataError(
                        f"The state of user {states[s].user_id!r} holds item index {event.item} with value "
                        f"{event.value}; use indices from 0 to {n_items - 1} and finite values."
                    )
                item_SL[s, at], code_SL[s, at] = event.item, feedback_code(event, value_mean)
        return cls(item_SL, code_SL, length_S)

    def last(self, window: int) -> Histories:
        """The latest `window` events of each history, padded to exactly that many."""
        # Place of the w-th kept event in the full history: the window's start plus w; beyond the history it points
        # nowhere.
        column_SW = self.length_S[:, None] - np.minimum(self.length_S, window)[:, None] + np.arange(window)
        inside_SW = column_SW < self.length_S[:, None]
        at_SW = np.where(inside_SW, column_SW, 0)
        item_SW = np.take_along_axis(self.item_SL, at_SW, axis=1) * inside_SW
        code_SW = np.take_along_axis(self.code_SL, at_SW, axis=1) * inside_SW
        return Histories(item_SW, code_SW, np.minimum(self.length_S, window))


def feedback_code(event: Interaction, value_mean: float) -> int:
    """The code of one interaction."""
    if event.feedback == "rating":
        return CODES["liked"] if event.value is None or event.value >= value_mean else CODES["disliked"]
    return CODES["click" if event.feedback == "cart" else event.feedback]
