"""Interpolation: a mixture of what cheap recommenders say, with weights that depend on how long the user was away.

    p(j | state) = sum over k of w_k(band) p_k(j | state)

The parts p_k are co-visitation's scores to the powers 1, 1.5, 2 and 3, counts that forget with half-lives of 30 and
120 days, plain counts, the history itself and the even distribution, each normalised over what may be recommended.
`band` says how long before the state's moment the latest choice was (less than a day, two weeks, two months, longer):
within a visit the latest item decides, after months what is bought these days. The weights of a band maximise the
likelihood of the training period's last tenth, by expectation maximisation (Jelinek and Mercer 1980, "Interpolated
estimation of Markov source parameters from sparse data") with the pooled weights as prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import polars as pl

from llmrec.baselines.base import BATCH, ScoreRecommender, history_weights, item_counts, positives
from llmrec.baselines.covisitation import FIXED_GRID, Covisitation, CovisitationSettings
from llmrec.baselines.selection import select
from llmrec.dataset.store import Dataset
from llmrec.seeding import numpy_stream
from llmrec.text.templates import ELAPSED_DAYS
from llmrec.text.wording import SECONDS_A_DAY, elapsed_band
from llmrec.types import Example, FloatArray, IntArray, Interaction, State

POWERS = (1.0, 1.5, 2.0, 3.0)
HALF_LIVES = (30.0, 120.0)
HELD_OUT, ROWS, HISTORY = 0.1, 2000, 20
PRIOR = 30.0
"""Rows that the pooled weights count for in each band."""
STEPS = 200
BANDS = len(ELAPSED_DAYS) + 1


class Interpolation(ScoreRecommender):
    """The mixture above; `score` gives probabilities, each row with the sum 1.

    Attributes:
        weights_RK: weight of each part in each band, then (last row) pooled, for states without a moment.

    Args:
        settings: of co-visitation; None chooses them on the training period's last tenth, too.
        timed: whether a state's time is read; else all states have the pooled weights.
        seed: run seed, for the sample of rows and the order of items of equal score.
    """

    name = "interpolation"

    def __init__(self, settings: CovisitationSettings | None = None, *, timed: bool = True, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings, self.timed = settings, timed

    def fit(self, dataset: Dataset, events: pl.DataFrame) -> Self:
        """Learns weights with what is known before the last tenth of `events`, then the parts from all of them."""
        # Weights are learnt on a tenth that the parts have not seen: on their own events counts would look better
        # than they are (deleted interpolation).
        inner, late = _cut(events)
        rows = _examples(positives(dataset, events), late, dataset.manifest.repeat, self.seed) if inner.height else []
        chosen = self.settings or CovisitationSettings()
        if rows and self.settings is None:
            chosen = select(Covisitation, FIXED_GRID, dataset, inner, rows).settings
        self.covisitation = Covisitation(chosen, seed=self.seed)
        even_K = np.full(len(POWERS) + len(HALF_LIVES) + 3, 1.0 / (len(POWERS) + len(HALF_LIVES) + 3))
        self.weights_RK = np.tile(even_K, (BANDS + 1, 1))
        if rows:
            self._know(dataset, inner)
            self.weights_RK = self._weights(rows)
        self._know(dataset, events)
        return self

    def _know(self, dataset: Dataset, events: pl.DataFrame) -> None:
        super().fit(dataset, events)
        self.covisitation.fit(dataset, events)

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        time_E, item_E = events["time"].to_numpy(), events["item"].to_numpy()
        days_E = (time_E.max(initial=0) - time_E) / SECONDS_A_DAY
        recent = [np.bincount(item_E, 0.5 ** (days_E / half), minlength=dataset.n_items) for half in HALF_LIVES]
        self.still_KN = np.stack([*recent, item_counts(events, dataset.n_items), np.ones(dataset.n_items)])

    def score(self, states: Sequence[State]) -> FloatArray:
        """p of every item: (B, N)."""
        band_B = np.array(
            [elapsed_band(s) if self.timed and s.time is not None and s.history else BANDS for s in states]
        )
        total_BN = np.zeros((len(states), self.n_items))
        for weight_R, part_BN in zip(self.weights_RK.T, self._parts(states), strict=True):
            total_BN += weight_R[band_B][:, None] * part_BN
        return _normalised(total_BN, np.ones_like(total_BN))

    def _parts(self, states: Sequence[State]) -> list[FloatArray]:
        """The parts' distributions, (B, N) each."""
        allowed_BN = np.ones((len(states), self.n_items))
        if self.repeat == "exclude":
            for row, state in enumerate(states):
                allowed_BN[row, list(state.seen())] = 0.0
        score_BN = self.covisitation.score(states) * allowed_BN
        # Powers of small numbers would be lost; a factor in front is normalised away.
        score_BN /= np.maximum(score_BN.max(axis=1, keepdims=True), 1e-300)
        own_BN = history_weights(states, self.n_items, 0.9).toarray()
        raw = [score_BN**power for power in POWERS]
        raw += [np.broadcast_to(still_N, allowed_BN.shape) for still_N in self.still_KN[:-1]]
        return [_normalised(part_BN * allowed_BN, allowed_BN) for part_BN in (*raw, own_BN, self.still_KN[-1:])]

    def _weights(self, rows: Sequence[Example]) -> FloatArray:
        p_EK = np.concatenate([self._at(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)])
        band_E = np.array([elapsed_band(e.state) for e in rows])
        pooled_K = _maximised(p_EK, np.full(p_EK.shape[1], 1.0 / p_EK.shape[1]), 0.0)
        # A band of few rows stays near the pooled weights, from which it starts too.
        bands = [_maximised(p_EK[band_E == band], pooled_K, PRIOR) for band in range(BANDS)]
        return np.stack([*bands, pooled_K])

    def _at(self, rows: Sequence[Example]) -> FloatArray:
        """What each part gives each row's target: (E, K)."""
        target_E = [e.target for e in rows]
        return np.stack([p_EN[np.arange(len(rows)), target_E] for p_EN in self._parts([e.state for e in rows])], 1)


def _maximised(p_EK: FloatArray, prior_K: FloatArray, strength: float) -> FloatArray:
    """Weights of the parts by expectation maximisation, with a Dirichlet prior around `prior_K`."""
    weight_K = prior_K.copy()
    for _ in range(STEPS if len(p_EK) else 0):
        # E step: which part gave the target, by the weights so far. M step: the mean of that, with `strength` rows of
        # the prior beside the real ones.
        share_EK = p_EK * weight_K
        share_EK /= np.maximum(share_EK.sum(axis=1, keepdims=True), 1e-300)
        weight_K = (share_EK.sum(axis=0) + strength * prior_K) / (len(p_EK) + strength)
    whole_K: FloatArray = weight_K / weight_K.sum()
    return whole_K


def _normalised(part_BN: FloatArray, otherwise_BN: FloatArray) -> FloatArray:
    total_B1 = part_BN.sum(axis=1, keepdims=True)
    spare_B1 = np.maximum(otherwise_BN.sum(axis=1, keepdims=True), 1e-300)
    found: FloatArray = np.where(total_B1 > 0, part_BN / np.maximum(total_B1, 1e-300), otherwise_BN / spare_B1)
    return found


def _cut(events: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The events before the last tenth, and the moment at which that begins."""
    times = np.sort(events["time"].to_numpy())
    if not len(times):
        return events, 0
    late = int(times[min(len(times) - 1, round((1 - HELD_OUT) * len(times)))])
    return events.filter(pl.col("time") < late), late


def _examples(events: pl.DataFrame, late: int, repeat: str, seed: int) -> list[Example]:
    """A sample of the choices from `late` on, each after all that its user chose strictly earlier."""
    user_E, item_E, time_E = (events[name].to_numpy() for name in ("user", "item", "time"))
    found_E: IntArray = np.flatnonzero(time_E >= late)
    if len(found_E) > ROWS:
        found_E = np.sort(numpy_stream(seed, "interpolation", "rows").choice(found_E, ROWS, replace=False))
    rows = []
    for row in found_E.tolist():
        first = int(np.searchsorted(user_E, user_E[row]))
        before = first + int(np.searchsorted(time_E[first : row + 1], time_E[row]))
        past = range(max(first, before - HISTORY), before)
        history = tuple(Interaction(int(item_E[e]), "click", int(time_E[e])) for e in past)
        known = set(item_E[first:before].tolist()) if repeat == "exclude" else ()
        if history and item_E[row] not in known:
            rows.append(Example(State(history=history, time=int(time_E[row])), int(item_E[row])))
    return rows
