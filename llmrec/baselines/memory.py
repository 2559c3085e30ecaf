"""What is known of a user at a state: the items of the state and, before them, the user's training items.

A state keeps a bounded history. A model fitted on the training events may also remember what they say of the state's
user, as long as it happened before the state: otherwise matrix methods would know less than they were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import scipy.sparse as sp

from llmrec.dataset.history import Timeline
from llmrec.dataset.manifest import Signal
from llmrec.types import Interaction, State


class Memory:
    """The training items of every user.

    Args:
        events: `positives` rows (user_id, user, item, time).
        n_items: catalogue size.
        click: the manifest's rule for a click: items of a state that do not meet it are no sign of taste.
    """

    def __init__(self, events: pl.DataFrame, n_items: int, click: str) -> None:
        self.n_items, self.signal = n_items, Signal.parse(click)
        self.user_ids = events["user_id"].unique(maintain_order=True).to_list()
        self._timeline = Timeline(events)
        self._row = {user_id: row for row, user_id in enumerate(self.user_ids)}
        pair = (events["user"].to_numpy() - 1, events["item"].to_numpy())  # codes count from 1
        counts_UN = sp.csr_matrix((np.ones(events.height), pair), shape=(len(self.user_ids), n_items))
        self.matrix_UN = counts_UN.sign()

    def row(self, state: State) -> int:
        """The state's user as a row of `matrix_UN` (0 or 1: clicked in training), -1 for an unknown user."""
        return -1 if state.user_id is None else self._row.get(state.user_id, -1)

    def items(self, state: State) -> list[int]:
        """Item indices, oldest first: training items from before the state's time, then those of the state.

        A training item that the state holds too stands where the state has it. A state without a time does not say
        what came before it, so it is taken at its word and nothing is added.
        """
        own = [i.item for i in (*state.history, *state.session) if self._is_click(i)]
        if state.user_id is None or state.time is None:
            return own
        low, high = self._timeline.rows(state.user_id, state.time)
        # An item in both counts once, and at its later place.
        held = set(own)
        return [i for i in self._timeline.items[low:high].tolist() if i not in held] + own

    def weights(self, states: Sequence[State], decay: float) -> sp.csr_matrix:
        """Sparse (B, N): the sum of decay^k over a state's `items`, k = 0 for the latest."""
        return decayed([self.items(state) for state in states], self.n_items, decay)

    def profiles(self, states: Sequence[State]) -> sp.csr_matrix:
        """Sparse (B, N): 1 at a state's `items`."""
        return self.weights(states, 1.0).sign()

    def _is_click(self, interaction: Interaction) -> bool:
        if interaction.feedback == "impression":
            return False
        if self.signal.at_least is None or interaction.feedback != self.signal.kind:
            return True
        return interaction.value is not None and interaction.value >= self.signal.at_least


def decayed(items: Sequence[Sequence[int]], n_items: int, decay: float) -> sp.csr_matrix:
    """Sparse (B, N): the sum of decay^k over each row's items, oldest first, k = 0 for the latest."""
    count_B = np.array([len(row) for row in items], dtype=np.int64)
    rows = np.repeat(np.arange(len(items)), count_B)
    columns = [item for row in items for item in row]
    weights = [decay**k for count in count_B.tolist() for k in range(count - 1, -1, -1)]
    return sp.csr_matrix((weights, (rows, columns)), shape=(len(items), n_items), dtype=np.float64)
