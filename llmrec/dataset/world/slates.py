"""Slates drawn from the logging policy, in order and without replacement, with exact propensities.

P(i at k | earlier) = mu_i / (1 - sum of earlier mu) (Plackett-Luce). In a small catalogue mu is written out for each
user. In a large one mu is never written out: its softmax part depends on the user through the item's topic and style
alone, so an item is drawn by its cell (topic, style), then within the cell, at a cost free of the catalogue's size.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.dataset.world.truth import STYLES, TOPICS, WorldParameters, WorldTruth, logged_affinity, logging_policy_BN
from llmrec.types import FloatArray, IntArray

DENSE_ITEMS = 20_000
"""Catalogues of more items are drawn by cells."""
CELLS = TOPICS * STYLES


Draw = Callable[[IntArray], IntArray]


class SlateSampler:
    """Draws slates from the logging policy of one period of the log.

    Args:
        truth: The world's hidden variables.
        parameters: Its scales.
        tilt_N: What the period adds to the policy's logits (-inf: not on offer), or None.
        dense: Whether mu is written out for every user; by default in catalogues of up to `DENSE_ITEMS` items.
    """

    def __init__(
        self,
        truth: WorldTruth,
        parameters: WorldParameters,
        tilt_N: FloatArray | None = None,
        dense: bool | None = None,
    ) -> None:
        self.truth, self.parameters, self.tilt_N = truth, parameters, tilt_N
        dense = truth.topic_N.size <= DENSE_ITEMS if dense is None else dense
        self.cells = None if dense else CellPolicy.of(truth, parameters, tilt_N)

    @property
    def width(self) -> int:
        """Numbers that are held for a user."""
        return self.truth.topic_N.size if self.cells is None else CELLS

    def draw(self, stream: np.random.Generator, users_M: IntArray, slate_size: int) -> tuple[IntArray, FloatArray]:
        """Items and propensities (M, K) of one slate for each of `users_M` (user rows; repeats are cheap)."""
        user_B, row_M = np.unique(users_M, return_inverse=True)
        if self.cells is None:
            policy_BN = logging_policy_BN(self.truth, self.parameters, user_B, self.tilt_N)
            items_MK = without_replacement(stream, policy_BN, row_M, slate_size)
            return items_MK, sequential_propensity(policy_BN, row_M, items_MK)
        cells, cell_BC = self.cells, self.cells.of_users(self.truth, self.parameters, user_B)
        items_MK = _distinct(lambda slate: cells.draw(stream, cell_BC, row_M[slate]), row_M.size, slate_size)
        return items_MK, _in_order(cells.mass(cell_BC, row_M[:, None], items_MK))


def without_replacement(
    stream: np.random.Generator, policy_BN: FloatArray, row_M: IntArray, slate_size: int
) -> IntArray:
    """Draws M ordered slates (M, K) of distinct items, slate m from row `row_M[m]` of the policy."""
    return _distinct(drawer(stream, policy_BN, row_M), row_M.size, slate_size)


def drawer(stream: np.random.Generator, mass_BN: FloatArray, row_M: IntArray) -> Draw:
    """Draws an item for each of some slates, slate m by the masses of row `row_M[m]`."""
    # One ascending sequence for all rows (row b lies in [b, b + 1)) lets one search serve every draw.
    cumulative_BN = np.cumsum(mass_BN, axis=1)
    ladder = (cumulative_BN / cumulative_BN[:, -1:] + np.arange(len(mass_BN))[:, None]).ravel()
    n = mass_BN.shape[1]

    def draw(slate: IntArray) -> IntArray:
        rung = np.searchsorted(ladder, row_M[slate] + stream.random(slate.size), side="right")
        item: IntArray = np.minimum(rung - row_M[slate] * n, n - 1)
        return item

    return draw


def _distinct(draw: Draw, count: int, slate_size: int) -> IntArray:
    """Fills `count` empty slates, see `fill`."""
    return fill(draw, np.full((count, slate_size), -1, dtype=np.int64), np.zeros(count, dtype=np.int64))


def fill(draw: Draw, items_MK: IntArray, filled_M: IntArray) -> IntArray:
    """Fills slates behind their first `filled_M` items by `draw(slates) -> items`; both arrays are written to.

    An item drawn a second time is dropped and drawn anew, which is exactly renormalising over the items left.
    """
    slate_size = items_MK.shape[1]
    open_M = np.flatnonzero(filled_M < slate_size)
    while open_M.size:
        drawn = draw(open_M)
        fresh = ~(items_MK[open_M] == drawn[:, None]).any(axis=1)
        slate = open_M[fresh]
        items_MK[slate, filled_M[slate]] = drawn[fresh]
        filled_M[slate] += 1
        open_M = open_M[filled_M[open_M] < slate_size]
    return items_MK


def sequential_propensity(policy_BN: FloatArray, row_M: IntArray, items_MK: IntArray) -> FloatArray:
    """P(item at k | items at earlier positions), shape (M, K)."""
    return _in_order(policy_BN[row_M[:, None], items_MK])


def _in_order(mass_MK: FloatArray) -> FloatArray:
    # Plackett-Luce: each place is drawn from what is left, so its chance is renormalised by what stands above.
    earlier_MK = np.cumsum(mass_MK, axis=1) - mass_MK
    return np.minimum(mass_MK / (1.0 - earlier_MK), 1.0)  # rounding, where the last item left is certain


@dataclass(frozen=True)
class CellPolicy:
    """mu by cells c = topic * 8 + style: P(i | u) = (1 - e) P(c | u) w_i / W_c + e / (items on offer).

    Attributes:
        cell_N: Cell of each item; `order_N` lists the items cell by cell.
        weight_N: w_i, the item's share of its cell's weight.
        ladder_N: c + cumulative share within cell c, along `order_N`: one search draws an item of a given cell.
        weight_C: log W_c (-inf for a cell with nothing on offer).
        offered: The items on offer.
        uniform: e, the share of uniform draws.
    """

    cell_N: IntArray
    order_N: IntArray
    weight_N: FloatArray
    ladder_N: FloatArray
    weight_C: FloatArray
    offered: IntArray
    uniform: float

    @classmethod
    def of(cls, truth: WorldTruth, parameters: WorldParameters, tilt_N: FloatArray | None) -> CellPolicy:
        """The cells of a world's logging policy."""
        logit_N = parameters.logging_appeal * truth.appeal_N
        logit_N = logit_N if tilt_N is None else logit_N + tilt_N
        top = logit_N.max()
        raw_N = np.exp(logit_N - top)
        cell_N = truth.topic_N * STYLES + truth.style_N
        sum_C = np.bincount(cell_N, weights=raw_N, minlength=CELLS)
        weight_N = raw_N / np.where(sum_C > 0, sum_C, 1.0)[cell_N]
        order_N = np.argsort(cell_N, kind="stable")
        running = np.cumsum(weight_N[order_N])
        start_C = np.searchsorted(cell_N[order_N], np.arange(CELLS))
        before_C = np.concatenate([[0.0], running])[start_C]
        within_N = running - before_C[cell_N[order_N]]
        with np.errstate(divide="ignore"):
            weight_C = np.log(sum_C)
        return cls(
            cell_N=cell_N,
            order_N=order_N,
            weight_N=weight_N,
            ladder_N=cell_N[order_N] + np.minimum(within_N, 1.0),
            weight_C=weight_C,
            offered=np.flatnonzero(np.isfinite(logit_N)),
            uniform=parameters.uniform_share,
        )

    def of_users(self, truth: WorldTruth, parameters: WorldParameters, user_B: IntArray) -> FloatArray:
        """P(cell | user) of the softmax part, shape (B, C)."""
        first_C = np.zeros(CELLS, dtype=np.int64)
        first_C[self.cell_N[self.order_N[::-1]]] = self.order_N[::-1]  # any item of a cell stands for it
        logit = parameters.logging_affinity * logged_affinity(truth, user_B[:, None], first_C) + self.weight_C
        weight = np.exp(logit - logit.max(axis=1, keepdims=True))
        cell_BC: FloatArray = weight / weight.sum(axis=1, keepdims=True)
        return cell_BC

    def draw(self, stream: np.random.Generator, cell_BC: FloatArray, row: IntArray) -> IntArray:
        """One item for each of `row` (rows of `cell_BC`)."""
        kind, first, second = stream.random((3, row.size))
        # Row b takes [b, b + 1), so one sorted search draws for all rows.
        ladder = (np.cumsum(cell_BC, axis=1) + np.arange(len(cell_BC))[:, None]).ravel()
        cell = np.minimum(np.searchsorted(ladder, row + first, side="right") - row * CELLS, CELLS - 1)
        rung = np.searchsorted(self.ladder_N, cell + second, side="right")
        item = self.order_N[np.minimum(rung, self.order_N.size - 1)]
        plain = self.offered[(second * self.offered.size).astype(np.int64)]
        drawn: IntArray = np.where(kind < self.uniform, plain, item)
        return drawn

    def mass(self, cell_BC: FloatArray, row: IntArray, items: IntArray) -> FloatArray:
        """mu(item | user) at rows `row` of `cell_BC` and `items`, which broadcast."""
        softmax = cell_BC[row, self.cell_N[items]] * self.weight_N[items]
        offered = np.isin(items, self.offered) if self.offered.size < self.cell_N.size else np.ones(items.shape)
        mass: FloatArray = (1 - self.uniform) * softmax + self.uniform * offered / self.offered.size
        return mass


def contenders(truth: WorldTruth, k: int) -> IntArray:
    """Items (ascending) that can be among the k best of some user, whoever that is and whatever the weights.

    Within a cell users value items alike but for appeal and quality, and never less for more of either. An item
    that k others of its cell beat in both is out.
    """
    cell_N = truth.topic_N * STYLES + truth.style_N
    # By falling appeal within a cell: those before an item beat it in appeal, so only their qualities are left to
    # compare, and the k best of those suffice.
    order_N = np.lexsort((-truth.quality_N, -truth.appeal_N, cell_N))
    kept, best, cell = [], list[float](), -1
    columns = (order_N.tolist(), cell_N[order_N].tolist(), truth.quality_N[order_N].tolist())
    for item, own, quality in zip(*columns, strict=True):
        if own != cell:
            cell, best = own, []
        if len(best) < k:
            heapq.heappush(best, quality)
        elif quality > best[0]:
            heapq.heapreplace(best, quality)
        else:
            continue
        kept.append(item)
    return np.sort(np.array(kept, dtype=np.int64))
