"""Runs on data: items matched by ids, in states, in what is hidden, and in lists."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.studies.held_out import Matched, held_out
from llmrec.types import Interaction, Slate, State


def shop(ids):
    events = [(f"u{u}", ids[(u + day) % len(ids)], "click", 86_400 * day + u) for u in range(12) for day in range(10)]
    items = pl.DataFrame({"item_id": ids, "title": [f"thing {name}" for name in ids]})
    table = pl.DataFrame(events, ["user_id", "item_id", "kind", "time"], orient="row")
    rule = {"click": "click", "conversion": "click", "repeat": "allow"}
    return Dataset.build(items, None, table, name="shop", domain="shop", **rule)


class Own:
    """Recommends its items 0, 1, ... but for those that are hidden, and notes what it was told."""

    def __init__(self, n_items):
        self.n_items, self.told = n_items, []

    def recommend(self, states, k, *, seen=None):
        found = []
        for row, state in enumerate(states):
            self.told.append([e.item for e in state.history])
            items = [i for i in range(self.n_items) if i not in set(seen[row].tolist())][:k]
            found.append(Slate(tuple(items), tuple(-float(i) for i in items)))
        return found


def test_items_are_matched_by_their_ids():
    """The run knows a, b, x, c in that order; the data have c, b, a and d."""
    own = Own(4)
    matched = Matched(own, ["a", "b", "x", "c"], shop(["c", "b", "a", "d"]))
    assert matched.unknown == 1
    assert not matched.same
    history = tuple(Interaction(item, "click", time) for time, item in enumerate([3, 0, 2]))  # d, c, a
    (slate,) = matched.recommend([State("u", history=history)], 4, seen=[np.array([1, 3])])
    assert own.told == [[3, 0]]  # c and a, as the run numbers them; d is not told
    assert slate.items_K == (2, 0)  # a, c: b was hidden, x is not in the data, d not in the run
    assert slate.log_probs_K == (0.0, -3.0)
    assert Matched(own, ["c", "b", "a", "d"], shop(["c", "b", "a", "d"])).same


def test_a_policy_that_shows_what_it_was_not_to_is_cut():
    class Stubborn(Own):
        def recommend(self, states, k, *, seen=None):
            return [Slate((2, 0), (-1.0, -2.0))] * len(states)

    matched = Matched(Stubborn(4), ["a", "b", "x", "c"], shop(["c", "b", "a", "d"]))
    assert matched.recommend([State("u")], 2)[0] == Slate((2,), (-2.0,))


def test_the_test_begins_where_it_is_asked_to(tmp_path):
    data = shop([f"i{n}" for n in range(8)])
    found = held_out(data, data=tmp_path, since=8 * 86_400, defaults=True)
    assert found.facts["split"]["test_events"] == 24
    assert found.facts["split"]["train_events"] + found.facts["split"]["valid_events"] == 96
    assert found.table.cells["covisitation"]["HR@1"].mean == 1.0
    with pytest.raises(DataError, match="no event from then on"):
        held_out(data, data=tmp_path, since=10**9, defaults=True)
    with pytest.raises(DataError, match="no event before"):
        held_out(data, data=tmp_path, since=0, defaults=True)
    with pytest.raises(RequestError, match="no system of this table"):
        held_out(data, data=tmp_path, reference="nobody")
