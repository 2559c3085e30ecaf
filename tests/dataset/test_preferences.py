"""Which pairs a log gives: by hand, slate by slate."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.dataset.preferences import preferences
from llmrec.errors import DataError
from llmrec.types import State
from tests.training.clicks import log_of

STATES = [State(name) for name in "abcd"]
LOG = log_of(
    STATES,
    [[5, 6, 7, 8], [1, 2, 3, 4], [9, 9, 1, 2], [3, 4, 5, 6]],
    [[0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]],
    [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]],
)


def as_sets(pairs):
    rows = zip(pairs.state_row_R, pairs.chosen_R, pairs.rejected_RN, strict=True)
    return {(int(state), int(chosen)): {int(r) for r in rejected} for state, chosen, rejected in rows}


def test_clicked_items_stand_against_those_of_their_slate_that_were_not():
    """State d has nothing unclicked; of c item 9 was shown twice and clicked once, so it is no negative."""
    pairs = preferences(LOG, 4, None, seed=0)
    assert as_sets(pairs) == {(0, 6): {5, 7, 8, -1}, (1, 1): {3, 4, -1}, (1, 2): {3, 4, -1}, (2, 9): {1, 2, -1}}
    assert (np.sort(pairs.rejected_RN >= 0, axis=1)[:, ::-1] == (pairs.rejected_RN >= 0)).all()
    assert sorted(pairs.user_ids) == ["a", "b", "b", "c"]


def test_the_target_may_be_conversions():
    """A clicked item that was not bought is neither preferred nor rejected."""
    assert as_sets(preferences(LOG, 2, None, seed=0, target="conversion")) == {(1, 2): {3, 4}}


def test_negatives_are_a_uniform_sample_without_replacement():
    drawn = [as_sets(preferences(LOG, 2, None, seed=seed))[0, 6] for seed in range(600)]
    assert all(len(found) == 2 for found in drawn)
    for item in (5, 7, 8):  # each in two of three samples: 400, standard deviation 11.5
        assert abs(sum(item in found for found in drawn) - 400) < 50


def test_a_limit_takes_a_sample_and_the_seed_decides():
    pairs = preferences(LOG, 1, 2, seed=3)
    assert len(pairs) == 2
    again = preferences(LOG, 1, 2, seed=3)
    assert all((getattr(pairs, n) == getattr(again, n)).all() for n in ("state_row_R", "chosen_R", "rejected_RN"))
    assert len({tuple(preferences(LOG, 1, 2, seed=s).chosen_R) for s in range(20)}) > 2


def test_a_log_without_a_pair_is_refused():
    nothing = log_of(STATES[:2], [[1, 2], [3, 4]], [[1, 1], [0, 0]])
    with pytest.raises(DataError, match="an item with a click beside one that was shown and not clicked"):
        preferences(nothing, 1, None, seed=0)
    with pytest.raises(DataError, match="an item with a conversion beside"):
        preferences(log_of(STATES[:1], [[1, 2]], [[1, 0]]), 1, None, seed=0, target="conversion")
