"""What changes in simulated users, as a struct of arrays (one row a user, one array a quantity), and facts of items.

Only the arrays of transitions that are switched on exist; the others are None, and cost nothing. All are float32 so
that a million users with 16 interests and 20 categories take 325 MB with everything on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.config import DynamicsSettings
from llmrec.errors import DataError
from llmrec.types import BoolArray, IntArray

Float32Array = npt.NDArray[np.float32]


@dataclass(slots=True)
class UserState:
    """B users. Axis letters: D interest dimensions, C categories.

    Attributes:
        active_B: In the world; a user who is not active does not change any more.
        turn_B: Turns lived through (int32), over all visits.
        visit_B: Visits begun, from 1 (int32).
        days_B: Days since the user's first visit (float32).
        last_item_B: Item index of the last consumed item, -1 before the first (int32).
        interest_BD: Present interests; `home_BD` where they decay back to (drift).
        satiation_BC: Boredom by category, 0 and up (satiation).
        familiarity_BC: Familiarity with each category in [0, 1]; `appetite_B` for new ones in [0, 1] (novelty).
        trust_B: Trust in [0, 1] (trust).
        budget_B: Money left, 0 and up (budget).
        patience_B: Patience in [0, 1] (patience).
        satisfaction_B: Running satisfaction with slates in [0, 1] (comeback).
    """

    active_B: BoolArray
    turn_B: npt.NDArray[np.int32]
    visit_B: npt.NDArray[np.int32]
    days_B: Float32Array
    last_item_B: npt.NDArray[np.int32]
    interest_BD: Float32Array | None = None
    home_BD: Float32Array | None = None
    satiation_BC: Float32Array | None = None
    familiarity_BC: Float32Array | None = None
    appetite_B: Float32Array | None = None
    trust_B: Float32Array | None = None
    budget_B: Float32Array | None = None
    patience_B: Float32Array | None = None
    satisfaction_B: Float32Array | None = None

    def __len__(self) -> int:
        return len(self.active_B)

    def take(self, rows: slice | IntArray | BoolArray) -> UserState:
        """The users at `rows`: views for a slice, copies for indices or a mask."""
        own = self.arrays().values()
        if isinstance(rows, slice):
            return UserState(*(None if a is None else a[rows] for a in own))  # type: ignore[arg-type]
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        # take(axis=0) copies rows whole and is several times faster than a[index]
        return UserState(*(None if a is None else a.take(index, axis=0) for a in own))  # type: ignore[arg-type]

    def put(self, rows: slice | IntArray | BoolArray, users: UserState) -> None:
        """Overwrites the users at `rows` with `users`, which must carry the same arrays."""
        theirs = users.arrays()
        for name, own in self.arrays().items():
            if own is not None:
                own[rows] = theirs[name]

    def arrays(self) -> dict[str, Any]:
        """All arrays by name, None where a switch is off."""
        return {name: getattr(self, name) for name in UserState.__slots__}

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes."""
        return sum(a.nbytes for a in self.arrays().values() if a is not None)


def fresh_users(
    count: int,
    settings: DynamicsSettings,
    *,
    categories: int,
    interest_BD: npt.ArrayLike | None = None,
    budget_B: npt.ArrayLike | None = None,
    trust_B: npt.ArrayLike | None = None,
    patience_B: npt.ArrayLike | None = None,
) -> UserState:
    """`count` users at the start of their first visit.

    Args:
        count: B, the number of users.
        settings: Which arrays there are, and the starting values.
        categories: C, for satiation and familiarity.
        interest_BD: Interests at home, shape (B, D); needed where drift is on.
        budget_B: Own starting budgets instead of the settings' (so also `trust_B`, `patience_B`).

    Raises:
        DataError: A shape that does not fit, a number that is not finite, or one outside its range.
    """
    users = UserState(
        active_B=np.ones(count, dtype=np.bool_),
        turn_B=np.zeros(count, dtype=np.int32),
        visit_B=np.ones(count, dtype=np.int32),
        days_B=np.zeros(count, dtype=np.float32),
        last_item_B=np.full(count, -1, dtype=np.int32),
    )
    if settings.drift.enabled:
        users.home_BD = _interests(interest_BD, count)
        # Two arrays: home stays where interests go back to.
        users.interest_BD = users.home_BD.copy()
    if settings.satiation.enabled:
        users.satiation_BC = np.zeros((count, categories), dtype=np.float32)
    if settings.novelty.enabled:
        users.familiarity_BC = np.zeros((count, categories), dtype=np.float32)
        users.appetite_B = np.full(count, settings.novelty.initial, dtype=np.float32)
    if settings.trust.enabled:
        users.trust_B = _column(trust_B, settings.trust.initial, count, "trust", 1.0)
    if settings.budget.enabled:
        users.budget_B = _column(budget_B, settings.budget.initial, count, "budget", np.inf)
    if settings.patience.enabled:
        users.patience_B = _column(patience_B, settings.patience.initial, count, "patience", 1.0)
    if settings.comeback.enabled:
        users.satisfaction_B = np.full(count, settings.comeback.initial, dtype=np.float32)
    return users


def _interests(interest_BD: npt.ArrayLike | None, count: int) -> Float32Array:
    if interest_BD is None:
        raise DataError("dynamics.drift is on, but users have no interests; give interest_BD or switch drift off.")
    array = np.array(interest_BD, dtype=np.float32)
    if array.ndim != 2 or len(array) != count:
        raise DataError(f"Interests of shape {array.shape} do not fit {count} users; give one row a user.")
    if not np.isfinite(array).all():
        raise DataError(f"The interests of user {int(np.argmin(np.isfinite(array).all(axis=1)))} are not finite.")
    return array


def _column(given_B: npt.ArrayLike | None, initial: float, count: int, name: str, high: float) -> Float32Array:
    if given_B is None:
        return np.full(count, initial, dtype=np.float32)
    array = np.array(given_B, dtype=np.float32)
    if array.shape != (count,):
        raise DataError(f"A starting {name} of shape {array.shape} does not fit {count} users; give one number each.")
    good_B = np.isfinite(array) & (array >= 0) & (array <= high)
    if not good_B.all():
        row = int(np.argmin(good_B))
        raise DataError(f"User {row} starts with {name} = {array[row]}; it must be a finite number in 0..{high:g}.")
    return array


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
