"""Impressions as the behaviour models read them: checked arrays, and their parts by time or by user."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, FloatArray, IntArray, State

VALID_SHARE = 0.1
OPTIONAL: dict[str, tuple[Callable[[FloatArray], BoolArray], str]] = {
    "value_M": (np.isfinite, "a finite number, or nan where none is known"),
    "propensity_M": (lambda p: (p > 0) & (p <= 1), "above 0 and at most 1, or nan where it is unknown"),
    "position_M": (lambda k: (k >= 0) & (k == np.floor(k)), "a whole number from 0 up, or nan where it is unknown"),
}
"""Columns that a log may have beside those of `ImpressionLog`."""


class ImpressionLog(Protocol):
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
    """Checked impressions: state row, item index, click and conversion (0.0 or 1.0), each of shape (M,).

    Where they are logged also the value (a rating, an amount, seconds watched), the propensity and the position
    (from 0); nan where one is unknown.
    """

    row_M: IntArray
    item_M: IntArray
    click_M: FloatArray
    conversion_M: FloatArray
    value_M: FloatArray | None = None
    propensity_M: FloatArray | None = None
    position_M: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.row_M)

    def part(self, keep_M: BoolArray | IntArray) -> Log:
        """The impressions at `keep_M`."""
        columns = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Log(*(None if column is None else column[keep_M] for column in columns))  # type: ignore[arg-type]

    def joined(self, other: Log) -> Log:
        """These impressions and then `other`; a column that one of them lacks is left out."""
        names = [field.name for field in dataclasses.fields(self)]
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return Log(*(None if one is None or two is None else np.concatenate([one, two]) for one, two in pairs))  # type: ignore[arg-type]

    def later(self, states: int) -> Log:
        """The same impressions of states that stand `states` rows further down."""
        return dataclasses.replace(self, row_M=self.row_M + states)


def read_log(impressions: ImpressionLog, n_items: int) -> Log:
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
    return Log(
        row_M.astype(np.int64),
        item_M.astype(np.int64),
        click_M.astype(float),
        conversion_M.astype(float),
        *(_optional(impressions, name, length) for name in OPTIONAL),
    )


def _optional(impressions: ImpressionLog, name: str, length: int) -> FloatArray | None:
    """A column that a log may lack, nan where a row does; None where no row has it."""
    given = getattr(impressions, name, None)
    if given is None:
        return None
    values = np.asarray(given, dtype=np.float64)
    if len(values) != length:
        raise DataError(f"Impressions hold {length} state rows but {len(values)} values of {name}; align them.")
    known = ~np.isnan(values)
    if not known.any():
        return None
    bad = np.isinf(values) | (known & ~OPTIONAL[name][0](values))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"Impression {row} has {name} = {values[row]}; it must be {OPTIONAL[name][1]}.")
    return values


def require_indices(items: npt.NDArray[Any], count: int) -> None:
    """Raises `DataError` where an item index is outside the catalogue of `count` items; -1 is no item."""
    if items.size and (items.min() < -1 or items.max() >= count):
        bad = items[(items < -1) | (items >= count)][0]
        raise DataError(f"Item index {bad} is outside the catalogue of {count} items.")


def check_probabilities(values: FloatArray, name: str) -> None:
    """Raises `DataError` where a probability is not a finite number in [0, 1]."""
    bad = ~np.isfinite(values) | (values < 0) | (values > 1)
    if bad.any():
        at = tuple(int(k) for k in np.argwhere(bad)[0])
        raise DataError(
            f"The behaviour model predicts {name} = {values[at]} at {list(at)}; a probability lies in 0..1."
        )


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
    # By time, as the model is used on later events. States of one moment stay together, so the cut is a value and not
    # a row.
    cut = np.sort(time_M)[int((1 - share) * (len(time_M) - 1))]
    late_M = time_M > cut
    if not late_M.any():
        late_M = time_M >= cut
    if late_M.all() or not late_M.any():
        every = max(2, round(1 / share))
        late_M = log.row_M % every == every - 1
    return np.asarray(late_M)


def two_parts(impressions: ImpressionLog, valid: ImpressionLog | None, n_items: int) -> tuple[Log, Log, list[State]]:
    """What is fitted, what is held out, and the states that both point to.

    Without `valid`, or where it is empty, the latest `VALID_SHARE` of the impressions is held out.

    Raises:
        DataError: Nothing can be learnt from all of it, or a row is not what it should be.
    """
    log, states = read_log(impressions, n_items), list(impressions.states)
    require_learnable(log, states, n_items)
    if valid is None or not len(valid.item_M):
        late_M = latest(log, states, VALID_SHARE)
        return log.part(~late_M), log.part(late_M), states
    held_out = read_log(valid, n_items).later(len(states))
    return log, held_out, states + list(valid.states)


def user_share(user_ids: Collection[str], share: float, seed: int, *name: object) -> set[str]:
    """A random `share` of the users (at least one and not all), from the stream `name`."""
    ordered = sorted(set(user_ids))
    if len(ordered) < 2:
        raise DataError("Users cannot be shared out between two models: there are fewer than two.")
    count = min(len(ordered) - 1, max(1, round(share * len(ordered))))
    # Drawn from sorted ids: sets of Python have no order that a second run would repeat.
    chosen = numpy_stream(seed, "simulator", "users", *name).choice(len(ordered), size=count, replace=False)
    return {ordered[k] for k in chosen}


def of_users(impressions: ImpressionLog, users: Collection[str | None]) -> Subset:
    """The impressions of `users` only, with the states that are still needed."""
    keep_S = np.array([state.user_id in users for state in impressions.states], dtype=bool)
    place_S = np.cumsum(keep_S) - 1
    row_M = np.asarray(impressions.state_row_M)
    keep_M = keep_S[row_M] if len(row_M) else np.zeros(0, dtype=bool)
    return Subset(
        [state for state, keep in zip(impressions.states, keep_S, strict=True) if keep],
        place_S[row_M[keep_M]],
        *_columns(impressions, keep_M),
    )


def both_logs(one: ImpressionLog, two: ImpressionLog | None) -> Subset:
    """The impressions of two logs, one after the other; a column that one of them lacks is left out."""
    every = slice(None)
    if two is None:
        return Subset(list(one.states), np.asarray(one.state_row_M), *_columns(one, every))
    row_M = np.concatenate([np.asarray(one.state_row_M), np.asarray(two.state_row_M) + len(one.states)])
    columns: list[Any] = [
        None if a is None or b is None else np.concatenate([a, b])
        for a, b in zip(_columns(one, every), _columns(two, every), strict=True)
    ]
    return Subset([*one.states, *two.states], row_M.astype(np.int64), *columns)


def resampled_users(impressions: ImpressionLog, seed: int, *name: object) -> Subset:
    """A bootstrap of the users: each drawn with replacement, with all its impressions as often as it was drawn.

    At least two users stay, so that what was learnable remains so.
    """
    user_S = np.array([str(state.user_id) for state in impressions.states])
    users, place_S = np.unique(user_S, return_inverse=True)
    stream = numpy_stream(seed, "simulator", "bootstrap", *name)
    times_U = np.bincount(stream.integers(0, len(users), len(users)), minlength=len(users))
    if (times_U > 0).sum() < min(2, len(users)):
        times_U = np.ones_like(times_U)
    row_M = np.asarray(impressions.state_row_M)
    # Impressions are repeated, states are not: a user drawn twice counts twice in every loss without being encoded
    # twice.
    at_M = np.repeat(np.arange(len(row_M)), times_U[place_S[row_M]])
    return Subset(list(impressions.states), row_M[at_M], *_columns(impressions, at_M))


def _columns(impressions: ImpressionLog, keep_M: BoolArray | IntArray | slice) -> list[Any]:
    columns = [np.asarray(getattr(impressions, name))[keep_M] for name in ("item_M", "click_M", "conversion_M")]
    given = (getattr(impressions, name, None) for name in OPTIONAL)
    return columns + [None if column is None else np.asarray(column)[keep_M] for column in given]


@dataclass(frozen=True)
class Subset:
    """A part of some impressions (see the protocol `ImpressionLog`)."""

    states: list[State]
    state_row_M: IntArray
    item_M: IntArray
    click_M: Any
    conversion_M: Any
    value_M: Any = None
    propensity_M: Any = None
    position_M: Any = None
