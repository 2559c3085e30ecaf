"""What is counted of a log, and how alike texts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import scipy.sparse as sp

from llmrec.covisits import CovisitationSettings, fading, following
from llmrec.simulator.log import Log
from llmrec.types import FloatArray, IntArray, State
from llmrec.vectors.words import WordSpace, unspaced

HALF_LIFE, EVENTS = 30.0, 20
_DENSE = 5000
"""Up to this catalogue size all likenesses of texts are kept."""


@dataclass(frozen=True)
class Choices:
    """The choices of a log, user by user and the oldest first: each (E,).

    Attributes:
        user_E: number of the user.
        item_E: what was chosen.
        time_E: seconds; without a time the place in the log, which keeps its order.
        aged_E: seconds for ages; without a time the latest one, so that a choice counts whole.
        weight_E: how often the log holds it, as a resampled one may.
    """

    user_E: IntArray
    item_E: IntArray
    time_E: FloatArray
    aged_E: FloatArray
    weight_E: FloatArray

    @classmethod
    def of(cls, log: Log, states: Sequence[State]) -> Choices:
        """The clicks of `log`, whose `row_M` points to `states`."""
        clicked = log.part(log.click_M > 0)
        pairs, first, times = np.unique(
            np.stack([clicked.row_M, clicked.item_M]), axis=1, return_index=True, return_counts=True
        )
        row_E, item_E = pairs
        user_S = users_of(states)
        time_S = np.array([np.nan if state.time is None else state.time for state in states], dtype=np.float64)
        known_E = np.isfinite(time_S[row_E])
        time_E = np.where(known_E, time_S[row_E], row_E.astype(np.float64))
        latest = time_S[row_E][known_E].max(initial=0)
        order = np.lexsort((first, time_E, user_S[row_E]))
        aged_E = np.where(known_E, time_E, latest)
        return cls(user_S[row_E][order], item_E[order], time_E[order], aged_E[order], times.astype(np.float64)[order])


@dataclass(frozen=True)
class Traces:
    """Counts of a fitted log over K known items.

    Attributes:
        settings: of co-visitation.
        after_KK: C.
        fading_K: log(1 + n).
        popular_K: column "popular".
        recent_K: column "recent".
    """

    settings: CovisitationSettings
    after_KK: sp.csr_matrix
    fading_K: FloatArray
    popular_K: FloatArray
    recent_K: FloatArray

    @classmethod
    def of(cls, choices: Choices, n_items: int, settings: CovisitationSettings) -> Traces:
        """Counts the choices of a log."""
        user_E, item_E, weight_E = choices.user_E, choices.item_E, choices.weight_E
        fade = (item_E, choices.aged_E, n_items)
        return cls(
            settings,
            following(user_E, item_E, choices.time_E, n_items, settings, weight_E),
            fading(*fade, settings.half_life, weight_E),
            fading(*fade, None, weight_E),
            fading(*fade, HALF_LIFE, weight_E),
        )

    def at(self, known_N: IntArray) -> Traces:
        """The same for a catalogue whose item n is the known item `known_N[n]`, or K where it is new: no counts."""
        kept = len(self.popular_K)
        pick = sp.csr_matrix(
            (np.ones(int((known_N < kept).sum())), (np.flatnonzero(known_N < kept), known_N[known_N < kept])),
            shape=(len(known_N), kept),
        )
        after = sp.csr_matrix(pick @ self.after_KK @ pick.T)
        popular = (pick @ column_K for column_K in (self.fading_K, self.popular_K, self.recent_K))
        return Traces(self.settings, after, *popular)

    def arrays(self) -> dict[str, FloatArray]:
        """Plain arrays to save."""
        numbers = [np.nan if value is None else float(value) for value in asdict(self.settings).values()]
        found: dict[str, Any] = {"fading": self.fading_K, "popular": self.popular_K, "recent": self.recent_K}
        found |= {f"after.{part}": getattr(self.after_KK, part) for part in ("data", "indices", "indptr")}
        return found | {"settings": np.array(numbers)}

    @classmethod
    def restore(cls, arrays: Mapping[str, FloatArray]) -> Traces:
        """The inverse of `arrays`."""
        known = len(arrays["popular"])
        named = zip((field.name for field in fields(CovisitationSettings)), arrays["settings"].tolist(), strict=True)
        given: dict[str, Any] = {name: None if np.isnan(value) else value for name, value in named}
        after = sp.csr_matrix(
            tuple(arrays[f"after.{part}"] for part in ("data", "indices", "indptr")), (known, known)
        )
        settings = CovisitationSettings(**given | {"window": int(given["window"])})
        return cls(settings, after, arrays["fading"], arrays["popular"], arrays["recent"])


def latest_items(state: State) -> list[int]:
    """Items of history and session that were not merely shown, the latest first, at most `EVENTS`."""
    found = [i.item for i in reversed((*state.history, *state.session)) if i.feedback != "impression"]
    return found[:EVENTS]


class Likeness:
    """T: how alike the items' texts are, 0 for an item and itself."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.words_NV = WordSpace.fit(texts, characters=unspaced(texts), least=(2, 1)).rows_NV.astype(np.float32)
        # 1, or 0 of an item without a word
        self._own_N = np.asarray(self.words_NV.multiply(self.words_NV).sum(axis=1)).ravel()
        self._all_NN: FloatArray | None = None
        if len(texts) <= _DENSE:
            self._all_NN = (self.words_NV @ self.words_NV.T).toarray()
            np.fill_diagonal(self._all_NN, 0.0)

    def sum(self, weight_BN: sp.csr_matrix) -> FloatArray:
        """The weighted sum of T's rows, (B, N)."""
        if self._all_NN is not None:
            return np.asarray(weight_BN.astype(np.float32) @ self._all_NN)
        sum_BN = ((weight_BN @ self.words_NV) @ self.words_NV.T).toarray()
        own_BN = weight_BN.multiply(self._own_N).tocoo()
        sum_BN[own_BN.row, own_BN.col] -= own_BN.data
        return np.asarray(sum_BN)


def users_of(states: Sequence[State]) -> IntArray:
    """A number for each user, (S,); a state without one is a user of its own."""
    names = [f"?{row}" if state.user_id is None else f"u{state.user_id}" for row, state in enumerate(states)]
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def decayed(past: Sequence[Sequence[int]], n_items: int, decay: float) -> sp.csr_matrix:
    """Sum of decay^k over each row's items, k = 0 for the first: (B, N)."""
    row = np.repeat(np.arange(len(past)), [len(items) for items in past])
    item = np.array([i for items in past for i in items], dtype=np.int64)
    weight = np.array([decay**k for items in past for k in range(len(items))], dtype=np.float64)
    return sp.csr_matrix((weight, (row, item)), shape=(len(past), n_items))
