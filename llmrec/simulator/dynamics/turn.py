"""One turn of B users, reduced once to what the transitions read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.simulator.dynamics.state import Float32Array, ItemTable
from llmrec.types import BoolArray, IntArray


@dataclass(slots=True)
class Turn:
    """What B users were shown and did; P counts the clicked places of all of them, user by user, rank by rank.

    Attributes:
        items: Facts of the catalogue.
        item_BK: Item indices shown, -1 where a place is empty.
        row_P: The user of each clicked place.
        item_P: Its item index.
        category_P: Its category.
        item_quality_P: Its quality.
        converted_P: Whether it converted too.
        start_B1: Row b owns the clicked places start_B1[b] .. start_B1[b + 1] - 1; shape (B + 1,).
        clicked_B: Clicks of each user.
        quality_B: Mean quality of what the user clicked in this slate, 0 without a click.
        uniforms_B2: Numbers in [0, 1): whether the user leaves, and when they come back.
    """

    items: ItemTable
    item_BK: IntArray
    row_P: IntArray
    item_P: IntArray
    category_P: IntArray
    item_quality_P: Float32Array
    converted_P: BoolArray
    start_B1: IntArray
    clicked_B: IntArray
    quality_B: Float32Array
    uniforms_B2: npt.NDArray[np.floating]

    @classmethod
    def of(
        cls,
        items: ItemTable,
        item_BK: IntArray,
        click_BK: npt.NDArray[np.generic],
        conversion_BK: npt.NDArray[np.generic],
        uniforms_B2: npt.NDArray[np.floating],
    ) -> Turn:
        """Reads a block of slates; clicks and conversions are 0 or 1 (any dtype)."""
        users, places = item_BK.shape
        # In row-major order clicks stand user by user and rank by rank, so start_B1 is the row pointer of a CSR
        # matrix.
        flat_P = np.flatnonzero(click_BK)
        row_P = flat_P // places
        item_P = item_BK.reshape(-1).take(flat_P)
        category_P, item_quality_P = items.category_N.take(item_P), items.quality_N.take(item_P)
        clicked_B = np.bincount(row_P, minlength=users)
        start_B1 = np.zeros(users + 1, dtype=np.int64)
        np.cumsum(clicked_B, out=start_B1[1:])
        total_B = np.bincount(row_P, item_quality_P, minlength=users)
        quality_B = (total_B / np.maximum(clicked_B, 1)).astype(np.float32)
        converted_P = conversion_BK.reshape(-1).take(flat_P).astype(np.bool_)
        return cls(
            items,
            item_BK,
            row_P,
            item_P,
            category_P,
            item_quality_P,
            converted_P,
            start_B1,
            clicked_B,
            quality_B,
            uniforms_B2,
        )

    def mean_of(self, value_P: npt.NDArray[np.floating]) -> Float32Array:
        """Mean over each user's clicked places, 0 without a click: shape (B,)."""
        total_B = np.bincount(self.row_P, value_P, minlength=len(self.clicked_B))
        return np.asarray(total_B / np.maximum(self.clicked_B, 1), dtype=np.float32)
