"""What a log of choices says beside a network where nothing was logged as shown, and how much each part counts.

A network that learns from choices and items drawn at random knows tastes; what is chosen *right after* what, which
texts are near the latest ones, what one chooses again and what sells of late are counts, cheap and hard to beat. The
click's logit of item j in a state is a sum with one weight a column:

    network   the network's own click logit
    next      log(1 + 100 sum over k of 0.5^k C[i_k, j]), C[i, j] the share of j among what was chosen right after i
    near      the same with 0.8^k and choices at most ten places apart, in either order
    text      sum over k of 0.5^k cos(text of i_k, text of j), j itself apart
    again     log(1 + how often j stands in the history, the k-th latest event as 0.95^k)
    popular   log(1 + choices of j in the fitted log)
    recent    the same, a choice counting 2^(-age / 30 days)

i_k is the k-th latest item of the history that was not merely shown; texts are TF-IDF vectors. The weights maximise
the likelihood of held-out choices under the softmax over the catalogue (a conditional logit, McFadden 1974);
alternatives are a uniform sample of it, which leaves the estimate consistent (McFadden 1978). Fitted on the rows that
made the counts they would trust counts that hold the answer itself. `popular` and `recent` stand apart, so that they
can be reported and taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from llmrec.log_linear import fit_logit
from llmrec.seeding import numpy_stream
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.log import Log
from llmrec.types import FloatArray, IntArray, State
from llmrec.vectors.words import WordSpace, unspaced

COLUMNS = ("network", "next", "near", "text", "again", "popular", "recent")
POPULAR = ("popular", "recent")
"""Columns that are the same for everybody."""
LEAST = 30
"""Held-out choices below which nothing is weighed: seven weights of so few would be noise."""
CHOICES, ALTERNATIVES = 1500, 400
PENALTY = 2e-3
"""Of half the squared weights of standardised columns, a choice."""
DAY, HALF_LIFE = 86_400.0, 30.0
NEAR, EVENTS = 10, 20
_CELLS = 2_000_000
"""Numbers of one column at a time: bounds the memory of large catalogues."""


@dataclass(frozen=True)
class Traces:
    """Counts of a fitted log over K known items.

    Attributes:
        next_KK: C of "next".
        near_KK: C of "near".
        popular_K: column "popular".
        recent_K: column "recent".
    """

    next_KK: sp.csr_matrix
    near_KK: sp.csr_matrix
    popular_K: FloatArray
    recent_K: FloatArray

    @classmethod
    def of(cls, log: Log, states: Sequence[State], n_items: int) -> Traces:
        """Counts the clicks of a log; `log.row_M` points to `states`."""
        clicked = log.part(log.click_M > 0)
        past = {row: latest_items(states[row]) for row in np.unique(clicked.row_M).tolist()}
        source: list[int] = []
        target: list[int] = []
        place: list[int] = []
        for row, item in zip(clicked.row_M.tolist(), clicked.item_M.tolist(), strict=True):
            before = past[row][:NEAR]
            source += before
            target += [item] * len(before)
            place += range(len(before))
        from_E, to_E, k_E = (np.array(part, dtype=np.int64) for part in (source, target, place))
        shape = (n_items, n_items)
        first = k_E == 0
        left_N1 = sp.diags(1.0 / (np.bincount(from_E[first], minlength=n_items) + 1.0))
        right_after = sp.csr_matrix((np.ones(int(first.sum())), (from_E[first], to_E[first])), shape=shape)
        ahead = sp.csr_matrix((0.8**k_E, (from_E, to_E)), shape=shape)
        time_S = np.array([np.nan if state.time is None else state.time for state in states], dtype=np.float64)
        time_M = time_S[clicked.row_M]
        known = np.isfinite(time_M)
        # Without a time a choice has no age and counts whole, as in "popular".
        age_M = np.where(known, time_M[known].max(initial=0) - np.where(known, time_M, 0.0), 0.0)
        recent_N = np.bincount(clicked.item_M, np.exp2(-age_M / (HALF_LIFE * DAY)), n_items)
        return cls(
            sp.csr_matrix(left_N1 @ right_after),
            sp.csr_matrix(left_N1 @ (ahead + 0.5 * ahead.T)),
            np.log1p(np.bincount(clicked.item_M, minlength=n_items).astype(np.float64)),
            np.log1p(recent_N),
        )

    def at(self, known_N: IntArray) -> Traces:
        """The same for a catalogue whose item n is the known item `known_N[n]`, or K where it is new: no counts."""
        kept = len(self.popular_K)
        pick = sp.csr_matrix(
            (np.ones(int((known_N < kept).sum())), (np.flatnonzero(known_N < kept), known_N[known_N < kept])),
            shape=(len(known_N), kept),
        )
        right_after, near = (sp.csr_matrix(pick @ table @ pick.T) for table in (self.next_KK, self.near_KK))
        return Traces(right_after, near, pick @ self.popular_K, pick @ self.recent_K)

    def arrays(self) -> dict[str, FloatArray]:
        """Plain arrays to save."""
        found: dict[str, Any] = {"popular": self.popular_K, "recent": self.recent_K}
        for name, table in (("next", self.next_KK), ("near", self.near_KK)):
            found |= {f"{name}.{part}": getattr(table, part) for part in ("data", "indices", "indptr")}
        return found

    @classmethod
    def restore(cls, arrays: Mapping[str, FloatArray]) -> Traces:
        """The inverse of `arrays`."""
        known = len(arrays["popular"])
        right_after, near = (
            sp.csr_matrix(tuple(arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr")), (known, known))
            for name in ("next", "near")
        )
        return cls(right_after, near, arrays["popular"], arrays["recent"])


def latest_items(state: State) -> list[int]:
    """Items of history and session that were not merely shown, the latest first, at most `EVENTS`."""
    found = [i.item for i in reversed((*state.history, *state.session)) if i.feedback != "impression"]
    return found[:EVENTS]


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

    def without_popularity(self) -> Blend:
        """The same without the columns that are the same for everybody."""
        return replace(self, weight_J=np.where(np.isin(COLUMNS, POPULAR), 0.0, self.weight_J))

    @cached_property
    def _here(self) -> tuple[Traces, sp.csr_matrix]:
        words = WordSpace.fit(self.space.texts, characters=unspaced(self.space.texts), least=(2, 1))
        return self.traces.at(self.space.known_N), words.rows_NV

    def columns(self, states: Sequence[State]) -> FloatArray:
        """All columns but the network's, of every item: (B, N, 6), float32."""
        traces, words_NV = self._here
        n_items = self.space.n_items
        past = [latest_items(state) for state in states]
        half, wide, again = (_decayed(past, n_items, decay) for decay in (0.5, 0.8, 0.95))
        found_BNJ = np.empty((len(states), n_items, len(COLUMNS) - 1), dtype=np.float32)
        found_BNJ[..., 0] = np.log1p(100 * (half @ traces.next_KK).toarray())
        found_BNJ[..., 1] = np.log1p(100 * (wide @ traces.near_KK).toarray())
        half_BN = half.toarray()
        length_N = np.asarray(words_NV.multiply(words_NV).sum(axis=1)).ravel()  # 1, or 0 of an item without a word
        found_BNJ[..., 2] = ((half @ words_NV) @ words_NV.T).toarray() - half_BN * length_N
        found_BNJ[..., 3] = np.log1p(again.toarray())
        found_BNJ[..., 4] = traces.popular_K
        found_BNJ[..., 5] = traces.recent_K
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
            other_BN = self.columns(states[rows]) @ self.weight_J[1:]
            found_BK[rows] += np.take_along_axis(other_BN, items_BK[rows], axis=1)
        return np.asarray(found_BK)

    def pairs(self, states: Sequence[State], row_M: IntArray, item_M: IntArray, network_M: FloatArray) -> FloatArray:
        """Click logits of pairs (state row, item), (M,), from the network's."""
        found_M = self.weight_J[0] * network_M
        rows_S, place_M = np.unique(row_M, return_inverse=True)
        order = np.argsort(place_M, kind="stable")
        for part in self._parts(len(rows_S)):
            low, high = np.searchsorted(place_M[order], [part.start, min(part.stop, len(rows_S))])
            here = order[low:high]
            other_BN = self.columns([states[row] for row in rows_S[part]]) @ self.weight_J[1:]
            found_M[here] += other_BN[place_M[here] - part.start, item_M[here]]
        return np.asarray(found_M)

    def _parts(self, count: int) -> list[slice]:
        size = max(1, _CELLS // self.space.n_items)
        return [slice(start, start + size) for start in range(0, count, size)]


def _decayed(past: Sequence[Sequence[int]], n_items: int, decay: float) -> sp.csr_matrix:
    """Sum of decay^k over each row's items, k = 0 for the first: (B, N)."""
    row = np.repeat(np.arange(len(past)), [len(items) for items in past])
    item = np.array([i for items in past for i in items], dtype=np.int64)
    weight = np.array([decay**k for items in past for k in range(len(items))], dtype=np.float64)
    return sp.csr_matrix((weight, (row, item)), shape=(len(past), n_items))


def fit_blend(
    log: Log,
    held_out: Log,
    states: Sequence[State],
    space: FeatureSpace,
    network: Callable[[IntArray, IntArray], FloatArray],
    seed: int,
) -> Blend | None:
    """Counts `log` and weighs the columns on the choices of `held_out`; None where these are fewer than `LEAST`.

    Args:
        log: fitted impressions, whose clicks are counted.
        held_out: others, later ones as a rule.
        states: what `row_M` of both points to.
        space: the encoders of the model.
        network: click logits of pairs (state row, item).
        seed: of the samples of choices and alternatives.
    """
    chosen = held_out.part(held_out.click_M > 0)
    stream = numpy_stream(seed, "simulator", "blend")
    if len(chosen) > CHOICES:
        chosen = chosen.part(np.sort(stream.choice(len(chosen), size=CHOICES, replace=False)))
    if len(chosen) < LEAST:
        return None
    blend = Blend(Traces.of(log, states, space.n_items), space, np.eye(len(COLUMNS))[0])
    asked_CA = alternatives(chosen.item_M, space.n_items, ALTERNATIVES, stream)
    row_M = np.repeat(chosen.row_M, asked_CA.shape[1])
    columns_JCA = np.empty((len(COLUMNS), *asked_CA.shape))
    columns_JCA[0] = network(row_M, asked_CA.ravel()).reshape(asked_CA.shape)
    for rows in blend._parts(len(chosen)):
        found_BNJ = blend.columns([states[row] for row in chosen.row_M[rows]])
        found_BAJ = np.take_along_axis(found_BNJ, asked_CA[rows][..., None], axis=1)
        columns_JCA[1:, rows] = np.moveaxis(found_BAJ, 2, 0)
    return replace(blend, weight_J=weights_of(columns_JCA))


def weights_of(columns_JCA: FloatArray, penalty: float = PENALTY) -> FloatArray:
    """Weights (J,) under which the first alternative of each choice is likeliest; those of tastes are not below 0."""
    choices, asked = columns_JCA.shape[1:]
    # A negative weight of taste would turn a ranking round by chance; having had or being popular may repel.
    least_J = [-np.inf if name in ("again", *POPULAR) else 0.0 for name in COLUMNS]
    first_C, all_CA = np.zeros(choices, dtype=np.int64), np.ones((choices, asked), dtype=bool)
    return fit_logit(list(columns_JCA), first_C, all_CA, penalty=penalty * choices, least_F=least_J)


def alternatives(target_C: IntArray, n_items: int, size: int, stream: np.random.Generator) -> IntArray:
    """Each choice and other items beside it, drawn uniformly without it: (C, 1 + size), the choice first."""
    if size >= n_items - 1:
        drawn_CA = np.tile(np.arange(n_items - 1), (len(target_C), 1))
    else:
        drawn_CA = np.stack([stream.choice(n_items - 1, size=size, replace=False) for _ in target_C])
    return np.concatenate([target_C[:, None], drawn_CA + (drawn_CA >= target_C[:, None])], axis=1)
