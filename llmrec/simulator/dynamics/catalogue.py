"""What the dynamics need to know of items: category, quality, price and place in interest space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.simulator.dynamics.state import Float32Array
from llmrec.types import IntArray


@dataclass(frozen=True, slots=True)
class ItemTable:
    """N items by item index; build it with `ItemTable.of`, which checks.

    Attributes:
        category_N: Category of each item in 0 .. C - 1.
        quality_N: How well the item satisfies once it is consumed, in [0, 1]; clickbait is low.
        price_N: Price in the data set's currency, 0 and up.
        vector_ND: Place in the space of interests.
        categories: C.
    """

    category_N: IntArray
    quality_N: Float32Array
    price_N: Float32Array
    vector_ND: Float32Array
    categories: int

    def __len__(self) -> int:
        return len(self.category_N)

    @classmethod
    def of(
        cls,
        category_N: npt.ArrayLike,
        *,
        quality_N: npt.ArrayLike | None = None,
        price_N: npt.ArrayLike | None = None,
        vector_ND: npt.ArrayLike | None = None,
        categories: int | None = None,
    ) -> ItemTable:
        """A checked table; quality is 1, the price 0 and the vector the category's one-hot where not given.

        Raises:
            DataError: Lengths that differ, a category below 0, a quality outside [0, 1], a negative price, or a
                number that is not finite.
        """
        category = np.array(category_N, dtype=np.int64)
        count = len(category)
        if count == 0:
            raise DataError("The catalogue of the simulated world is empty; give one item at least.")
        total = int(category.max()) + 1 if categories is None else categories
        if category.min() < 0 or category.max() >= total:
            row = int(np.argmax((category < 0) | (category >= total)))
            raise DataError(f"Item {row} has category {category[row]}; it must be one of 0..{total - 1}.")
        vector = np.eye(total, dtype=np.float32)[category] if vector_ND is None else vector_ND
        return cls(
            category,
            _checked(np.ones(count) if quality_N is None else quality_N, count, "quality", 0.0, 1.0),
            _checked(np.zeros(count) if price_N is None else price_N, count, "price", 0.0, np.inf),
            _checked(vector, count, "vector", -np.inf, np.inf),
            total,
        )


def _checked(values: npt.ArrayLike, count: int, name: str, low: float, high: float) -> Float32Array:
    array = np.ascontiguousarray(values, dtype=np.float32)
    if len(array) != count:
        raise DataError(f"There are {count} items but {len(array)} values of {name}; give one an item.")
    good = np.isfinite(array) & (array >= low) & (array <= high)
    if not good.all():
        at = tuple(int(k) for k in np.argwhere(~good)[0])
        raise DataError(f"Item {at[0]} has {name} = {array[at]}; it must be a finite number in {low:g}..{high:g}.")
    return array
