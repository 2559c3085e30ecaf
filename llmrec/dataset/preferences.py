"""Preferences that a log reveals: within one slate, what was chosen against what was shown and not clicked.

Position matters. In a log with position bias an item further down was perhaps never looked at, so that being left
unclicked there says less, and chosen items come from the top more often than they deserve; pairs carry that bias.
Where a data set logs no impressions, `impressions` has drawn the unclicked items, and pairs tell chosen from random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrec.dataset.impressions import Float32Array, Impressions
from llmrec.errors import DataError
from llmrec.seeding import numpy_stream
from llmrec.types import IntArray, State


@dataclass(frozen=True)
class Preferences:
    """R preferred items, each with up to N items of the same state that were shown and not clicked.

    Attributes:
        states: the log's states.
        state_row_R: the state of each preference.
        chosen_R: item index of the preferred item.
        rejected_RN: distinct item indices; -1 on the right where a state has fewer than N. Each row has at least one.
    """

    states: Sequence[State]
    state_row_R: IntArray
    chosen_R: IntArray
    rejected_RN: IntArray

    def __len__(self) -> int:
        return len(self.chosen_R)

    @property
    def user_ids(self) -> list[str | None]:
        """The user of each preference."""
        return [self.states[row].user_id for row in self.state_row_R]


def preferences(
    log: Impressions,
    negatives: int,
    limit: int | None,
    seed: int,
    *,
    target: Literal["click", "conversion"] = "click",
) -> Preferences:
    """Preferences of a log, in a random order that the seed decides.

    An item that was clicked in a state is never a negative there, whatever the target. Of a state with more unclicked
    items than `negatives` a new sample is drawn, without replacement, for each of its preferred items; a state with
    fewer gives what it has (an item drawn twice would count twice in a loss over several), and one without any none.

    Args:
        log: impressions with feedback.
        negatives: N.
        limit: a uniform sample of at most this many preferred items.
        seed: the run's seed.
        target: what makes an item the preferred one.

    Raises:
        DataError: no state has both.
    """
    start_S = np.searchsorted(log.state_row_M, np.arange(len(log.states) + 1))
    assert (np.diff(log.state_row_M) >= 0).all()
    liked_M = (log.click_M if target == "click" else log.conversion_M) > 0
    # An item clicked twice in one state is one preference.
    pair_M = np.unique(np.stack([log.state_row_M[liked_M], log.item_M[liked_M]]), axis=1)
    random = numpy_stream(seed, "preferences", target)
    states, chosen, rejected = [], [], []
    # Drawn in random order until the limit is reached: a uniform sample without looking at all of them.
    for place in random.permutation(pair_M.shape[1]):
        row, item = (int(value) for value in pair_M[:, place])
        shown = slice(start_S[row], start_S[row + 1])
        free = _unclicked(log.item_M[shown], log.click_M[shown], item)
        if not len(free):
            continue
        drawn = random.choice(free, min(negatives, len(free)), replace=False)
        states.append(row)
        chosen.append(item)
        rejected.append(np.pad(drawn, (0, negatives - len(drawn)), constant_values=-1))
        if len(chosen) == limit:
            break
    if not chosen:
        raise DataError(
            f"No state of the log has an item with a {target} beside one that was shown and not clicked, so there is "
            "no preference to learn from; log impressions, or raise simulator.negatives."
        )
    return Preferences(log.states, np.array(states), np.array(chosen), np.stack(rejected).astype(np.int64))


def _unclicked(items: IntArray, click: Float32Array, chosen: int) -> IntArray:
    """Distinct items of a state that were shown and never clicked in it."""
    return np.setdiff1d(items[click == 0], [*items[click > 0], chosen])
