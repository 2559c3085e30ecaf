"""Windows hold every event once as a target, states hold what is strictly earlier, equal times have no order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.baselines.neural.sequences import Sequences, latest
from llmrec.errors import RequestError

START = 9


def make(users: list[list[tuple[int, int]]]) -> Sequences:
    """Sequences of (item, time) pairs over 9 items."""
    rows = [(u, item, time) for u, events in enumerate(users) for item, time in events]
    schema = {"user": pl.Int64, "item": pl.Int64, "time": pl.Int64}
    return Sequences(pl.DataFrame(rows, schema, orient="row"), START)


@given(
    users=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=12), min_size=1, max_size=5),
    length=st.integers(1, 6),
    size=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_every_event_is_a_target_once_behind_what_came_before_it(
    users: list[list[int]], length: int, size: int, seed: int
) -> None:
    # Items are made distinct over all events, so that each target can be looked up in its user's sequence.
    flat, paths = 0, []
    for events in users:
        paths.append([1000, *range(flat, flat + len(events))])
        flat += len(events)
    columns = [(u, item, at) for u, path in enumerate(paths) for at, item in enumerate(path[1:])]
    sequences = Sequences(pl.DataFrame(columns, ["user", "item", "time"], orient="row"), 1000)
    found = []
    for rows in sequences.batches(length, size, np.random.default_rng(seed)):
        assert rows.token_BL.shape[1] <= length
        assert rows.length_B[1:].sum() < size  # the first window of a batch may begin before it
        for tokens, count, targets in zip(rows.token_BL, rows.length_B, rows.target_BL, strict=True):
            assert (targets[:count] >= 0).all()
            assert (targets[count:] == -1).all()
            path = next(p for p in paths if targets[0] in p)
            at = path.index(targets[0])
            assert tokens[:count].tolist() == path[at - 1 : at - 1 + count]
            assert targets[:count].tolist() == path[at : at + count]
            found += targets[:count].tolist()
    assert sorted(found) == list(range(flat))


def test_long_sequences_are_cut_elsewhere_in_every_epoch() -> None:
    sequences = make([[(n % 9, n) for n in range(12)]])
    starts = {tuple(sequences.windows(4, np.random.default_rng(seed))[0].tolist()) for seed in range(40)}
    assert starts == {(0, 4, 8), (0, 1, 5, 9), (0, 2, 6, 10), (0, 3, 7, 11)}


def test_events_of_equal_time_come_in_every_order_equally_often() -> None:
    sequences = make([[(0, 1), (1, 2), (2, 2), (3, 2), (4, 3)], [(5, 2), (6, 2)]])
    orders = Counter(
        tuple(sequences.shuffled_ties(np.random.default_rng(seed)).item_M.tolist()) for seed in range(1200)
    )
    assert len(orders) == 6 * 2
    assert all(o[0] == 0 and set(o[1:4]) == {1, 2, 3} and o[4] == 4 and set(o[5:]) == {5, 6} for o in orders)
    assert min(orders.values()) > 60  # 100 each are expected
    assert sequences.item_M.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_held_out_events_see_what_is_strictly_earlier() -> None:
    sequences = make([[(0, 1), (1, 5), (2, 5), (0, 6)], [(3, 5)], [(4, 1)]])
    held = sequences.held_out(5, 10, 100, np.random.default_rng(0), repeats=True)
    rows = [tuple(t[:n].tolist()) for t, n in zip(held.rows.token_BL, held.rows.length_B, strict=True)]
    assert list(zip(rows, held.target_V.tolist(), strict=True)) == [
        ((START, 0), 1),
        ((START, 0), 2),
        ((START, 0, 1, 2), 0),
        ((START,), 3),
    ]
    assert [past.tolist() for past in held.seen] == [[0], [0], [0, 1, 2], []]
    # Where nobody may be recommended what he has had, the return of item 0 is no target; two tokens see two events.
    short = sequences.held_out(5, 2, 100, np.random.default_rng(0), repeats=False)
    assert short.target_V.tolist() == [1, 2, 3]
    assert sequences.held_out(6, 2, 9, np.random.default_rng(0), repeats=True).rows.token_BL.tolist() == [[1, 2]]
    assert len(sequences.held_out(5, 10, 2, np.random.default_rng(0), repeats=True)) == 2


def test_the_cut_leaves_the_latest_share_and_never_everything() -> None:
    sequences = make([[(n % 9, n) for n in range(10)]])
    assert sequences.cut(0.2) == 8
    assert sequences.before(8).item_M.tolist() == list(range(8))
    assert sequences.cut(0.0) is None
    assert make([[(0, 7), (1, 7)]]).cut(0.5) is None


def test_rows_of_lists_of_items() -> None:
    rows = latest([[], [5, 5, 5], [1, 2]], START, 3)
    assert rows.token_BL.tolist() == [[START, START, START], [5, 5, 5], [START, 1, 2]]
    assert rows.length_B.tolist() == [1, 3, 3]
    with pytest.raises(RequestError, match="State 1 holds item index 9; use indices from 0 to 8"):
        latest([[0], [9]], START, 3)
