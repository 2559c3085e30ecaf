"""Impressions as the behaviour models read them: checked arrays, and their parts by time or by user."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llmrec.errors import DataError
from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, FloatArray, IntArray, State


class Impressions(Protocol):
    """M impressions of S states: what `llmrec.dataset.impressions` makes, or anything of the same attributes."""

    @property
    def states(self) -> Sequence[State]: ...  # noqa: D102
    @property
    def state_row_M(self) -> Any: ...  # noqa: D102
    @property
    def item_M(self) -> Any: ...  # noqa: D102
    @property
    def click_M(self) -> Any: ...  # noqa: D102
    @property
    def conversion_M(self) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class Log:
    """Checked impressions: state row, item index, click and conversion (0.0 or 1.0), each of shape (M,)."""

    row_M: IntArray
    item_M: IntArray
    click_M: FloatArray
    conversion_M: FloatArray

    def __len__(self) -> int:
        return len(self.row_M)

    def part(self, keep_M: BoolArray | IntArray) -> Log:
        """The impressions at `keep_M`."""
        return Log(self.row_M[keep_M], self.item_M[keep_M], self.click_M[keep_M], self.conversion_M[keep_M])


def read_log(impressions: Impressions, n_items: int) -> Log:
    """Checks and converts impressions; raises `DataError` with the first bad row."""
    columns = {
        name: np.asarray(getattr(impressions, name)) for name in ("state_row_M", "item_M", "click_M", "conversion_M")
    }
    length = len(columns["state_row_M"])
    for name, values in columns.items():
        if len(values) != length:
            raise DataError(f"Impressions hold {length} state rows but {len(values)} values of {name}; align them.")
        if not np.isfinite(values.astype(np.float64)).all():
            row = int(np.argmin(np.isfinite(values.astype(np.float64))))
            raise DataError(f"Impression {row} has {name} = {values[row]}; only finite numbers can be used.")
    bounds = {"state_row_M": len(impressions.states), "item_M": n_items, "click_M": 2, "conversion_M": 2}
    for name, bound in bounds.items():
        bad_M = (columns[name] < 0) | (columns[name] >= bound) | (columns[name] != np.floor(columns[name]))
        if bad_M.any():
            row = int(np.argmax(bad_M))
            raise DataError(f"Impression {row} has {name} = {columns[name][row]}; it must be one of 0..{bound - 1}.")
    if (columns["conversion_M"] > columns["click_M"]).any():
        row = int(np.argmax(columns["conversion_M"] > columns["click_M"]))
        raise DataError(f"Impression {row} converts without a click; a conversion counts only where a click is.")
    row_M, item_M, click_M, conversion_M = columns.values()
    return Log(row_M.astype(np.int64), item_M.astype(np.int64), click_M.astype(float), conversion_M.astype(float))


def require_learnable(log: Log, states: Sequence[State], n_items: int) -> None:
    """Raises `DataError` where nothing can be learnt: no or one-sided clicks, one user, one item."""
    if n_items < 2:
        raise DataError("The catalogue has one item, so there is nothing to choose between; add items.")
    if len(log) == 0:
        raise DataError("There is no impression to fit a behaviour model on; widen the training period.")
    if log.click_M.all():
        raise DataError(
            "Every impression is clicked, so nothing tells what a user leaves; add impressions without a click "
            "or let them be sampled (simulator.negatives of 1 or more)."
        )
    if not log.click_M.any():
        raise DataError("No impression is clicked; check the rule of the manifest's 'click' and the training period.")
    if len({states[row].user_id for row in np.unique(log.row_M)}) < 2:
        raise DataError("The impressions are of one user only; a behaviour model needs at least two.")


def latest(log: Log, states: Sequence[State], share: float) -> BoolArray:
    """Mask (M,) of the impressions in the latest `share` of the time; states of equal time stay together.

    States without a time keep their order and count as earliest. Never all and never none of the impressions,
    unless all have one time: then every tenth state is taken.
    """
    time_S = np.array([-1 if state.time is None else state.time for state in states], dtype=np.int64)
    time_M = time_S[log.row_M]
    cut = np.sort(time_M)[int((1 - share) * (len(time_M) - 1))]
    late_M = time_M > cut
    if not late_M.any():
        late_M = time_M >= cut
    if late_M.all() or not late_M.any():
        every = max(2, round(1 / share))
        late_M = log.row_M % every == every - 1
    return np.asarray(late_M)


def user_share(user_ids: Collection[str], share: float, seed: int, *name: object) -> set[str]:
    """A random `share` of the users (at least one and not all), from the stream `name`."""
    ordered = sorted(set(user_ids))
    if len(ordered) < 2:
        raise DataError("Users cannot be shared out between two models: there are fewer than two.")
    count = min(len(ordered) - 1, max(1, round(share * len(ordered))))
    chosen = numpy_stream(seed, "simulator", "users", *name).choice(len(ordered), size=count, replace=False)
    return {ordered[k] for k in chosen}


def of_users(impressions: Impressions, users: Collection[str | None]) -> Subset:
    """The impressions of `users` only, with the states that are still needed."""
    keep_S = np.array([state.user_id in users for state in impressions.states], dtype=bool)
    place_S = np.cumsum(keep_S) - 1
    row_M = np.asarray(impressions.state_row_M)
    keep_M = keep_S[row_M] if len(row_M) else np.zeros(0, dtype=bool)
    return Subset(
        [state for state, keep in zip(impressions.states, keep_S, strict=True) if keep],
        place_S[row_M[keep_M]],
        *(np.asarray(getattr(impressions, name))[keep_M] for name in ("item_M", "click_M", "conversion_M")),
    )


@dataclass(frozen=True)
class Subset:
    """A part of some impressions (see the protocol `Impressions`)."""

    states: list[State]
    state_row_M: IntArray
    item_M: IntArray
    click_M: Any
    conversion_M: Any
