"""Systems on held-out events: figures by hand, repeats by the manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from llmrec.dataset.examples import Examples
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.evaluation.offline import rank_systems
from llmrec.types import Example, IntArray, Slate, State


class Always:
    def __init__(self, *items: int) -> None:
        self.items = items

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        return [Slate(self.items[:k], (0.0,) * len(self.items[:k]))] * len(states)


def make(repeat: str) -> Dataset:
    items = pl.DataFrame({"item_id": list("abcd"), "title": list("abcd")})
    events = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "kind": ["click"], "time": [1]})
    rule = {"click": "click", "conversion": "click", "repeat": repeat}
    return Dataset.build(items, None, events, name="n", domain="shop", **rule)  # type: ignore[arg-type]


EXAMPLES = Examples([Example(State("u"), 1), Example(State("v"), 2)], [np.array([0]), np.array([], dtype=np.int64)])


def test_figures_by_hand() -> None:
    found = rank_systems(
        {"x": Always(1, 0), "y": Always(2, 1, 3)}, EXAMPLES, make("exclude"), k=(1, 2, 9), reference="x"
    )
    x = {metric: cell.mean for metric, cell in found.cells["x"].items()}
    assert x["HR@1"] == x["HR@2"] == 0.5
    assert x["coverage@2"] == 0.5
    assert x["illegal"] == 0.25  # item 0 was seen by the first user
    assert "HR@9" not in x
    assert found.cells["y"]["NDCG@2"].mean == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert found.cells["y"]["NDCG@2"].difference is not None


def test_repeats_are_legal_where_the_manifest_allows_them() -> None:
    assert rank_systems({"x": Always(1, 0)}, EXAMPLES, make("allow"), k=(2,)).cells["x"]["illegal"].mean == 0


def test_no_held_out_event() -> None:
    with pytest.raises(DataError, match="held-out"):
        rank_systems({"x": Always(1)}, Examples([], []), make("allow"))
