"""States and items put into groups, so that a table can hold their values."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from llmrec.agents.features import Float32Array
from llmrec.agents.meeting import Meeting
from llmrec.errors import DataError, RequestError
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.types import BoolArray, FloatArray, IntArray

_SAMPLE = 5_000  # states that centres are fitted on
_TRIES = 3


class Discretiser(Protocol):
    """Features of states to one of a number of rows of a table."""

    @property
    def rows(self) -> int: ...  # noqa: D102
    def __call__(self, feature_BD: Float32Array) -> IntArray: ...  # noqa: D102


class Centres:
    """The nearest of C centres, by Euclidean distance; of equals the first.

    Args:
        centre_CD: the centres.
    """

    def __init__(self, centre_CD: npt.ArrayLike) -> None:
        self.centre_CD = np.asarray(centre_CD, dtype=np.float64)
        self._half_C = 0.5 * (self.centre_CD**2).sum(axis=1)

    @classmethod
    def fit(cls, rows_SD: npt.ArrayLike, clusters: int, seed: int, *name: object) -> Centres:
        """K-means (Lloyd 1982, k-means++ starts) of the rows; at most as many centres as there are distinct rows."""
        from sklearn.cluster import KMeans

        rows = np.asarray(rows_SD, dtype=np.float64)
        if rows.ndim != 2 or not len(rows):
            raise DataError(f"Clusters need rows of numbers, at least one, not an array of shape {rows.shape}.")
        # scikit-learn warns, and leaves centres empty, where there are more clusters than distinct rows
        distinct = len(np.unique(rows.astype(np.float32), axis=0))
        state = stream_seed(seed, "agents", "clusters", *name) % 2**32
        found = KMeans(min(clusters, distinct), n_init=_TRIES, random_state=state).fit(rows)
        return cls(found.cluster_centers_)

    @property
    def rows(self) -> int:
        """C."""
        return len(self.centre_CD)

    def __call__(self, feature_BD: npt.ArrayLike) -> IntArray:
        """Which centre each row is nearest to, (B,)."""
        feature = np.asarray(feature_BD, dtype=np.float64)
        # |x - c|^2 / 2 less |x|^2 / 2, which is the same for all centres
        nearest_B: IntArray = (self._half_C - feature @ self.centre_CD.T).argmin(axis=1)
        return nearest_B


def visited(meeting: Meeting, seed: int, rows: int = _SAMPLE) -> Float32Array:
    """Features of at least `rows` states that are met when items are drawn at random."""
    random = numpy_stream(seed, "agents", "sample")
    observed = meeting.begin(stream_seed(seed, "agents", "sample"))
    parts = [observed.feature_BD]
    while sum(len(part) for part in parts) < rows:
        observed = meeting.turn(draw_legal(observed.legal_BN(meeting.n_items), random)).next
        parts.append(observed.feature_BD)
    return np.concatenate(parts)


class Actions:
    """Items, or groups of items from which one is drawn.

    Args:
        group_N: the group of each item; its own number where every item is an action.
    """

    def __init__(self, group_N: IntArray) -> None:
        self.group_N = np.asarray(group_N, dtype=np.int64)
        self.count = int(self.group_N.max()) + 1
        self.single = self.count == len(self.group_N)
        self._member_NG = self.group_N[:, None] == np.arange(self.count)

    @classmethod
    def items(cls, n_items: int) -> Actions:
        """Every item is an action."""
        return cls(np.arange(n_items))

    @classmethod
    def groups(cls, item_NE: npt.ArrayLike, clusters: int, seed: int) -> Actions:
        """K-means over the items' vectors."""
        centres = Centres.fit(item_NE, clusters, seed, "items")
        _, group_N = np.unique(centres(item_NE), return_inverse=True)  # a centre may have lost all of its items
        return cls(group_N.reshape(-1))

    def legal_BA(self, legal_BN: BoolArray) -> BoolArray:
        """Which actions have an item that may be shown."""
        if self.single:
            return legal_BN
        some_BA: BoolArray = (legal_BN.astype(np.float32) @ self._member_NG.astype(np.float32)) > 0
        return some_BA

    def items_B(self, action_B: IntArray, legal_BN: BoolArray, random: np.random.Generator) -> IntArray:
        """The item of each action, or one drawn from its legal ones."""
        if self.single:
            return action_B
        return draw_legal(legal_BN & (self.group_N == action_B[:, None]), random)


def draw_legal(legal_BA: BoolArray, random: np.random.Generator) -> IntArray:
    """One of each row's True columns, all equally likely; raises `RequestError` where a row has none."""
    require_legal(legal_BA)
    # the greatest of equal uniforms falls on each with equal chance; every row uses up as many numbers as any other
    drawn_B: IntArray = np.where(legal_BA, random.random(legal_BA.shape), -1.0).argmax(axis=1)
    return drawn_B


def best_legal(value_BA: FloatArray, legal_BA: BoolArray, random: np.random.Generator) -> IntArray:
    """Each row's legal column of highest value, of equals one drawn; raises `RequestError` where there is none."""
    require_legal(legal_BA)
    value_BA = np.where(legal_BA, value_BA, -np.inf)
    return draw_legal(value_BA == value_BA.max(axis=1, keepdims=True), random)


def require_legal(legal_BA: BoolArray) -> None:
    """Raises `RequestError` where a user has seen everything."""
    some_B = legal_BA.any(axis=1)
    if not some_B.all():
        raise RequestError(
            f"User {int(np.argmin(some_B))} has seen the whole catalogue; allow repeats or shorten the sessions."
        )
