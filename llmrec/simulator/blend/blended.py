"""Click logits by weighted columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from llmrec.simulator.blend.counts import Likeness, Traces, decayed, latest_items
from llmrec.simulator.blend.weights import COLUMNS, POPULAR
from llmrec.simulator.features import FeatureSpace
from llmrec.types import FloatArray, IntArray, State

FLOOR = 1e-3
"""Added to co-visitation's scores: what the logarithm makes of an item that nothing speaks for."""
_CELLS = 2_000_000
"""Numbers of one column at a time: bounds the memory of large catalogues."""


@dataclass(frozen=True)
class Blend:
    """Weights of the columns, for one catalogue.

    Attributes:
        traces: the counts, of the known items.
        space: the encoders, which hold the texts and tell which item is which known one.
        weight_J: by `COLUMNS`, of the columns as they are.
    """

    traces: Traces
    space: FeatureSpace
    weight_J: FloatArray

    @property
    def weights(self) -> dict[str, float]:
        """The weights by name."""
        return dict(zip(COLUMNS, self.weight_J.tolist(), strict=True))

    @property
    def facts(self) -> dict[str, Any]:
        """What a report should say: the weights, and the settings of co-visitation."""
        return {"blend": self.weights, "covisitation": asdict(self.traces.settings)}

    def without_popularity(self) -> Blend:
        """The same without what is the same for everybody: two columns, and co-visitation's own popularity."""
        traces = replace(self.traces, settings=replace(self.traces.settings, popularity=0.0))
        return replace(self, traces=traces, weight_J=np.where(np.isin(COLUMNS, POPULAR), 0.0, self.weight_J))

    @cached_property
    def _here(self) -> Traces:
        return self.traces.at(self.space.known_N)

    @cached_property
    def _texts(self) -> Likeness:
        return Likeness(self.space.texts)

    def columns(self, states: Sequence[State]) -> FloatArray:
        """All columns but the network's, of every item: (B, N, 4), float32."""
        traces, n_items = self._here, self.space.n_items
        settings = traces.settings
        past = [latest_items(state) for state in states]
        late_BN = decayed(past, n_items, settings.history_decay)
        counted_BN = (late_BN @ traces.after_KK).toarray() + settings.popularity * traces.fading_K
        if settings.text:
            counted_BN += settings.text * self._texts.sum(late_BN)
        found_BNJ = np.empty((len(states), n_items, len(COLUMNS) - 1), dtype=np.float32)
        found_BNJ[..., 0] = np.log(FLOOR + counted_BN)
        found_BNJ[..., 1] = np.log1p(decayed(past, n_items, 0.95).toarray())
        found_BNJ[..., 2] = traces.popular_K
        found_BNJ[..., 3] = traces.recent_K
        return found_BNJ

    def grid(self, states: Sequence[State], network_BN: FloatArray) -> FloatArray:
        """Click logits of every item, (B, N), from the network's."""
        found_BN = self.weight_J[0] * network_BN
        for rows in self._parts(len(states)):
            found_BN[rows] += self.columns(states[rows]) @ self.weight_J[1:]
        return np.asarray(found_BN)

    def at(self, states: Sequence[State], items_BK: IntArray, network_BK: FloatArray) -> FloatArray:
        """Click logits of the items `items_BK`, (B, K), from the network's."""
        found_BK = self.weight_J[0] * network_BK
        for rows in self._parts(len(states)):
            other_BKJ = np.take_along_axis(self.columns(states[rows]), items_BK[rows][..., None], axis=1)
            found_BK[rows] += other_BKJ @ self.weight_J[1:]
        return np.asarray(found_BK)

    def pairs(self, states: Sequence[State], row_M: IntArray, item_M: IntArray, network_M: FloatArray) -> FloatArray:
        """Click logits of pairs (state row, item), (M,), from the network's."""
        found_M = self.weight_J[0] * network_M
        rows_S, place_M = np.unique(row_M, return_inverse=True)
        order = np.argsort(place_M, kind="stable")
        for part in self._parts(len(rows_S)):
            low, high = np.searchsorted(place_M[order], [part.start, min(part.stop, len(rows_S))])
            here = order[low:high]
            other_BNJ = self.columns([states[row] for row in rows_S[part]])
            found_M[here] += other_BNJ[place_M[here] - part.start, item_M[here]] @ self.weight_J[1:]
        return np.asarray(found_M)

    def _parts(self, count: int) -> list[slice]:
        return parts_of(count, self.space.n_items)


def parts_of(count: int, n_items: int) -> list[slice]:
    """Rows that are asked about at once."""
    size = max(1, _CELLS // n_items)
    return [slice(start, start + size) for start in range(0, count, size)]
