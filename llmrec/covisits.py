"""Co-visitation as arithmetic on arrays: what is chosen after what, and what is popular of late.

    C[i, j] = (sum of decay^(d-1) over j following i at distance d <= window, plus back times the reverse)
              / (count of i + 1)
    popularity log(1 + n_j),  n_j = sum over the choices of j of 2^(-age / half-life)

The baseline (`baselines.covisitation`) and the simulator's blend (`simulator.blend`) score with both.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from llmrec.errors import ConfigError
from llmrec.types import FloatArray, IntArray

DAY = 86400.0
TIE_BREAK = 0.001
"""Weight of log(1 + count) where it only orders what a model leaves at zero."""


@dataclass(frozen=True, kw_only=True)
class CovisitationSettings:
    """Parameters of the formula above, `half_life` in days; `history_decay` and `text` are of scores made with it.

    The defaults are those selected for counts with text, with a popularity that only breaks ties.
    """

    window: int = 1
    decay: float = 0.8
    back: float = 0.0
    history_decay: float = 0.5
    text: float = 0.4
    popularity: float = TIE_BREAK
    half_life: float | None = None

    def __post_init__(self) -> None:
        if self.half_life is not None and not self.half_life > 0:
            raise ConfigError(f"half_life is {self.half_life}; give a number of days above 0, or none.")

    @property
    def without_popularity(self) -> CovisitationSettings:
        """The same with the default popularity."""
        return replace(self, popularity=TIE_BREAK, half_life=None)


FIXED_GRID: tuple[CovisitationSettings, ...] = tuple(
    CovisitationSettings(window=w, back=b, history_decay=h, text=t)
    for w, b, h, t in itertools.product((1, 3, 10), (0.0, 0.5), (0.5, 0.8), (0.0, 0.2, 0.4, 0.8))
)
"""Settings whose popularity only breaks ties."""
POPULARITIES: tuple[tuple[float, float | None], ...] = (
    (TIE_BREAK, None),
    *itertools.product((0.003, 0.01, 0.03, 0.1, 0.3), (None, 365.0, 120.0, 30.0)),
)
"""Weights and half-lives in days."""


def following(
    user_E: IntArray,
    item_E: IntArray,
    time_E: FloatArray | IntArray,
    n_items: int,
    settings: CovisitationSettings,
    weight_E: FloatArray | None = None,
) -> sp.csr_matrix:
    """C of the formula, sparse (N, N).

    A user's choices of equal time have no order: they count in the order of the rows and in its reverse, half each.

    Args:
        user_E: user of each choice, rows of one user side by side, the oldest first.
        item_E: what was chosen.
        time_E: when.
        n_items: N.
        settings: `window`, `decay` and `back`.
        weight_E: how often each choice counts, the same for all of a user; 1 by default.
    """
    count_N = np.bincount(item_E, weight_E, n_items)
    turned = np.lexsort((-np.arange(len(item_E)), time_E, user_E))
    both = [_in_order(user_E, item_E, n_items, settings, weight_E)]
    both.append(
        _in_order(user_E[turned], item_E[turned], n_items, settings, None if weight_E is None else weight_E[turned])
    )
    forward = 0.5 * (both[0] + both[1])
    return sp.csr_matrix(sp.diags(1.0 / (count_N + 1.0)) @ (forward + settings.back * forward.T))


def _in_order(
    user_E: IntArray,
    item_E: IntArray,
    n_items: int,
    settings: CovisitationSettings,
    weight_E: FloatArray | None,
) -> sp.csr_matrix:
    """Sum of decay^(distance - 1) over the pairs in which j follows i, in the order of the rows."""
    total = sp.csr_matrix((n_items, n_items), dtype=np.float64)
    for distance in range(1, min(settings.window, len(item_E) - 1) + 1):
        # Rows stand user by user, so the item d places on is a shift of the column by d, where the user is the same.
        same = user_E[:-distance] == user_E[distance:]
        pair = (item_E[:-distance][same], item_E[distance:][same])
        weight = np.full(int(same.sum()), settings.decay ** (distance - 1))
        if weight_E is not None:
            weight = weight * weight_E[distance:][same]
        total = total + sp.csr_matrix((weight, pair), shape=(n_items, n_items))
    return total


def fading(
    item_E: IntArray,
    time_E: FloatArray | IntArray,
    n_items: int,
    half_life: float | None,
    weight_E: FloatArray | None = None,
) -> FloatArray:
    """log(1 + n) of the formula, (N,); the last choice of all is of age 0, and all are without a half-life (days)."""
    if half_life is not None:
        faded_E = np.exp2((time_E - time_E.max(initial=0)) / (DAY * half_life))
        weight_E = faded_E if weight_E is None else faded_E * weight_E
    return np.asarray(np.log1p(np.bincount(item_E, weight_E, n_items).astype(np.float64)))
