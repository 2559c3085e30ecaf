"""What is logged of a bandit: a state, the item shown, the probability with which it was, and what it earned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import DataError
from llmrec.types import FloatArray, IntArray

Policy = FloatArray | Callable[[IntArray], FloatArray]
"""pi: an array (M, N); or (M,), only of the logged items; or a function of row numbers (R,) that returns (R, N)."""
_ROUNDING = 1e-4


@dataclass(frozen=True)
class BanditLog:
    """M logged rows over N items; rows of one user are not independent.

    Attributes:
        item_M: item shown, 0..N-1.
        propensity_M: probability with which the logging policy showed it there, in (0, 1].
        reward_M: what it earned.
        n_items: N.
        states_MF: numbers that describe the state before the item was chosen, for outcome models.
        items_ND: numbers that describe the items, for outcome models.
        users: user of each row; by default every row is independent.
        logging_MN: the whole logging policy, where it is known: then missing support is seen exactly.

    Raises:
        DataError: shapes that do not fit, an item outside 0..N-1, a propensity that is missing, 0, negative or above
            1, or a number that is not finite; with the row and the mend.
    """

    item_M: IntArray
    propensity_M: FloatArray
    reward_M: FloatArray
    n_items: int
    states_MF: FloatArray | None = None
    items_ND: FloatArray | None = None
    users: Sequence[object] | None = None
    logging_MN: FloatArray | None = None

    def __post_init__(self) -> None:
        self._check_shapes()
        for name, values in (("reward", self.reward_M), ("state", self.states_MF)):
            if values is not None:
                bad = ~np.isfinite(values if values.ndim == 1 else values.sum(axis=1))
                _refuse(bad, f"a {name} that is not a finite number; mend it or leave the row out")
        if self.items_ND is not None and not np.isfinite(self.items_ND).all():
            raise DataError("The numbers that describe the items (items_ND) must be finite; mend or leave them out.")
        outside_M = (self.item_M < 0) | (self.item_M >= self.n_items)
        _refuse(outside_M, f"an item outside 0..{self.n_items - 1}; mend it or leave the row out")
        check_propensities(self.propensity_M)
        if self.logging_MN is not None:
            check_distribution(self.logging_MN, "The logging policy")
            # The propensity must be the logging policy's own probability of what was shown, up to rounding in the
            # log's file.
            off_M = np.abs(self.logging_MN[np.arange(len(self)), self.item_M] - self.propensity_M) > _ROUNDING
            _refuse(off_M, "a propensity that differs from logging_MN; mend the one or the other")

    def __len__(self) -> int:
        return len(self.item_M)

    def _check_shapes(self) -> None:
        rows = len(self.item_M)
        if not rows:
            raise DataError("The log is empty; an off-policy value needs logged rows.")
        wanted = {
            "propensity_M": (self.propensity_M, (rows,)),
            "reward_M": (self.reward_M, (rows,)),
            "states_MF": (self.states_MF, (rows, None)),
            "items_ND": (self.items_ND, (self.n_items, None)),
            "logging_MN": (self.logging_MN, (rows, self.n_items)),
        }
        for name, (values, shape) in wanted.items():
            fits = values is None or (
                len(values.shape) == len(shape)
                and all(b is None or a == b for a, b in zip(values.shape, shape, strict=True))
            )
            if values is not None and not fits:
                raise DataError(
                    f"{name} has the shape {values.shape}, which does not fit {rows} rows of {self.n_items} items."
                )
        if self.users is not None and len(self.users) != rows:
            raise DataError(f"{rows} logged rows need {rows} users, but {len(self.users)} were given.")


def check_propensities(propensity_M: FloatArray) -> None:
    """Refuses a propensity outside (0, 1] or missing, with its row.

    Raises:
        DataError: see above.
    """
    bad_M = ~((propensity_M > 0) & (propensity_M <= 1))
    if bad_M.any():
        row = int(bad_M.argmax())
        raise DataError(
            f"Impression {row} has the propensity {propensity_M[row]}; an off-policy value needs a number above 0 "
            "and at most 1 for each: leave such impressions out."
        )


def check_distribution(chance_RN: FloatArray, what: str, first: int = 0) -> None:
    """Refuses rows that are not probabilities which sum to 1; `first` is the number of row 0.

    Raises:
        DataError: see above.
    """
    # nan compares as false and is refused below with its row.
    with np.errstate(invalid="ignore"):
        bad_R = ~((chance_RN >= 0).all(axis=1) & (np.abs(chance_RN.sum(axis=1) - 1) <= _ROUNDING))
    if bad_R.any():
        row = int(bad_R.argmax())
        raise DataError(
            f"{what} must give row {first + row} probabilities that sum to 1, but they sum to "
            f"{float(chance_RN[row].sum()):.6g} (least {float(chance_RN[row].min()):.3g}); divide them by their sum."
        )


def policy_rows(policy: Policy, log: BanditLog, rows: IntArray) -> FloatArray:
    """pi of all items in these rows, checked: (R, N).

    Raises:
        DataError: the policy does not fit the log, or a row is no distribution.
    """
    found = policy(rows) if callable(policy) else policy[rows]
    chance_RN = np.asarray(found, dtype=np.float64)
    if chance_RN.shape != (len(rows), log.n_items):
        raise DataError(
            f"The policy gave {chance_RN.shape} probabilities for {len(rows)} rows of {log.n_items} items; "
            "give one for each row and item."
        )
    check_distribution(chance_RN, "The policy", int(rows[0]) if len(rows) else 0)
    return chance_RN


def _refuse(bad_M: np.ndarray, what: str) -> None:
    if bad_M.any():
        raise DataError(f"Impression {int(bad_M.argmax())} of the log has {what}.")
