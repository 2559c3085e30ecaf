"""What a log of choices says beside a network where nothing was logged as shown, and how much each part counts.

A network that learns from choices knows tastes; what is chosen *right after* what, which texts are near the latest
ones, what one chooses again and what sells of late are counts, cheap and hard to beat. The click's logit of item j in
a state is a sum with one weight a column:

    network   the network's own click logit
    counted   log(0.001 + sum over k of h^k (C[i_k, j] + a T[i_k, j]) + p log(1 + n_j)), co-visitation's score
    again     log(1 + how often j stands in the history, the k-th latest event as 0.95^k), where repeats are allowed
    popular   log(1 + choices of j in the fitted log)
    recent    the same, a choice counting 2^(-age / 30 days)

i_k is the k-th latest item of the history that was not merely shown, C what follows what and n_j a count that forgets
(`covisits`), T the cosine of TF-IDF vectors, 0 for an item itself. C's window, its share of the reverse, h, a, p and
n's half-life are those with the best NDCG@10 on held-out choices, the grid and the search of the baseline
"covisitation". The weights then maximise the likelihood of held-out choices under the softmax over the catalogue (a
conditional logit, McFadden 1974); alternatives are a uniform sample of it, which leaves the estimate consistent
(McFadden 1978). The last three columns are left out, and the network counts less or not at all, where that foresees
held-out choices better (NDCG@10, cross-fitted over users; `chosen_weights`). Fitted on the rows that made the counts
they would trust counts that hold the answer itself. What a user has chosen before is no alternative where the data
set excludes repeats: it was not to be had.
`popular`, `recent` and p stand apart, so that they can be reported and taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from llmrec.covisits import FIXED_GRID, POPULARITIES, CovisitationSettings, fading, following
from llmrec.log_linear import fit_logit
from llmrec.seeding import numpy_stream
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.log import Log
from llmrec.types import BoolArray, FloatArray, IntArray, State
from llmrec.vectors.words import WordSpace, unspaced

COLUMNS = ("network", "counted", "again", "popular", "recent")
POPULAR = ("popular", "recent")
"""Columns that are the same for everybody."""
LEAST = 30
"""Held-out choices below which nothing is weighed: weights of so few would be noise."""
CHOICES, ALTERNATIVES, FOREMOST = 1500, 400, 40
SHARES = (0.5, 0.25)
"""Of the network's likeliest weight, which are tried by how they rank."""
ASKED = 600
"""Held-out choices that settings of co-visitation are chosen by."""
PENALTY = 2e-3
"""Of half the squared weights of standardised columns, a choice."""
HALF_LIFE, EVENTS, TOP = 30.0, 20, 10
FLOOR = 1e-3
"""Added to co-visitation's scores: what the logarithm makes of an item that nothing speaks for."""
_CELLS = 2_000_000
"""Numbers of one column at a time: bounds the memory of large catalogues."""
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
        user_S = _users(states)
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
        late_BN = _decayed(past, n_items, settings.history_decay)
        counted_BN = (late_BN @ traces.after_KK).toarray() + settings.popularity * traces.fading_K
        if settings.text:
            counted_BN += settings.text * self._texts.sum(late_BN)
        found_BNJ = np.empty((len(states), n_items, len(COLUMNS) - 1), dtype=np.float32)
        found_BNJ[..., 0] = np.log(FLOOR + counted_BN)
        found_BNJ[..., 1] = np.log1p(_decayed(past, n_items, 0.95).toarray())
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
        return _parts(count, self.space.n_items)


def _parts(count: int, n_items: int) -> list[slice]:
    size = max(1, _CELLS // n_items)
    return [slice(start, start + size) for start in range(0, count, size)]


def _users(states: Sequence[State]) -> IntArray:
    """A number for each user, (S,); a state without one is a user of its own."""
    names = [f"?{row}" if state.user_id is None else f"u{state.user_id}" for row, state in enumerate(states)]
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def _decayed(past: Sequence[Sequence[int]], n_items: int, decay: float) -> sp.csr_matrix:
    """Sum of decay^k over each row's items, k = 0 for the first: (B, N)."""
    row = np.repeat(np.arange(len(past)), [len(items) for items in past])
    item = np.array([i for items in past for i in items], dtype=np.int64)
    weight = np.array([decay**k for items in past for k in range(len(items))], dtype=np.float64)
    return sp.csr_matrix((weight, (row, item)), shape=(len(past), n_items))


@dataclass(frozen=True)
class Asked:
    """Held-out choices, C in number.

    Attributes:
        states: of each choice.
        target_C: what was chosen.
        open_CN: what could be chosen.
    """

    states: Sequence[State]
    target_C: IntArray
    open_CN: BoolArray

    def part(self, rows: IntArray) -> Asked:
        """The choices at `rows`."""
        return Asked([self.states[row] for row in rows], self.target_C[rows], self.open_CN[rows])


def choices_asked(
    log: Log, held_out: Log, states: Sequence[State], n_items: int, repeats: bool, stream: np.random.Generator
) -> tuple[Asked, IntArray]:
    """At most `CHOICES` of the held-out choices and their state rows; see `fit_blend` for the arguments."""
    chosen = held_out.part(held_out.click_M > 0)
    if len(chosen) > CHOICES:
        chosen = chosen.part(np.sort(stream.choice(len(chosen), size=CHOICES, replace=False)))
    open_CN = np.ones((len(chosen), n_items), dtype=bool)
    if not repeats:
        for place, had in enumerate(_had(log.joined(held_out), states, chosen.row_M)):
            open_CN[place, had] = False
        open_CN[np.arange(len(chosen)), chosen.item_M] = True
    return Asked([states[row] for row in chosen.row_M], chosen.item_M, open_CN), chosen.row_M


def _had(log: Log, states: Sequence[State], row_C: IntArray) -> Iterator[IntArray]:
    """What the user of each state had chosen before it: by the state's own history, and by the log."""
    choices, user_S = Choices.of(log, states), _users(states)
    low_C, high_C = (np.searchsorted(choices.user_E, user_S[row_C], side) for side in ("left", "right"))
    for row, low, high in zip(row_C.tolist(), low_C.tolist(), high_C.tolist(), strict=True):
        state = states[row]
        before = choices.time_E[low:high] < (row if state.time is None else state.time)
        yield np.union1d(choices.item_E[low:high][before], np.array(latest_items(state), dtype=np.int64))


def fit_blend(
    log: Log,
    held_out: Log,
    states: Sequence[State],
    space: FeatureSpace,
    network: Callable[[IntArray, IntArray], FloatArray],
    seed: int,
    *,
    repeats: bool = True,
) -> Blend | None:
    """Counts `log` and weighs the columns on the choices of `held_out`; None where these are fewer than `LEAST`.

    Args:
        log: fitted impressions, whose clicks are counted.
        held_out: others, later ones as a rule.
        states: what `row_M` of both points to.
        space: the encoders of the model.
        network: click logits of pairs (state row, item).
        seed: of the samples of choices and alternatives.
        repeats: whether a user may choose an item again.
    """
    stream = numpy_stream(seed, "simulator", "blend")
    asked, row_C = choices_asked(log, held_out, states, space.n_items, repeats, stream)
    if len(row_C) < LEAST:
        return None
    few = np.sort(stream.permutation(len(row_C))[:ASKED])
    choices, likeness = Choices.of(log, states), Likeness(space.texts)
    settings = best_settings(choices, asked.part(few), likeness)
    blend = Blend(Traces.of(choices, space.n_items, settings), space, np.eye(len(COLUMNS))[0])
    vars(blend)["_texts"] = likeness  # the same texts
    drawn_CA = alternatives(asked, ALTERNATIVES, stream)
    drawn_JCA, best_CA, best_JCA = np.empty((len(COLUMNS), *drawn_CA.shape)), [], []
    for rows in _parts(len(row_C), space.n_items):
        found_BNJ = blend.columns(asked.states[rows])
        if not repeats:
            found_BNJ[..., COLUMNS.index("again") - 1] = 0.0
        best_BA = _foremost(found_BNJ, asked, rows)
        drawn_JCA[1:, rows] = _picked(found_BNJ, drawn_CA[rows])
        best_CA.append(best_BA)
        best_JCA.append(_picked(found_BNJ, best_BA))

    def by_network(item_CA: IntArray) -> FloatArray:
        row_M = np.repeat(row_C, item_CA.shape[1])
        return np.asarray(network(row_M, item_CA.clip(min=0).ravel()).reshape(item_CA.shape))

    drawn_JCA[0] = by_network(drawn_CA)
    foremost_CA = np.concatenate(best_CA)
    foremost_JCA = np.concatenate([by_network(foremost_CA)[None], np.concatenate(best_JCA, axis=1)])
    rivals = Rivals(drawn_JCA, drawn_CA >= 0), Rivals(foremost_JCA, foremost_CA >= 0)
    weight_J = chosen_weights(*rivals, _users(states)[row_C])
    return replace(blend, weight_J=weight_J)


def _picked(column_BNJ: FloatArray, item_BA: IntArray) -> FloatArray:
    """The columns of the items `item_BA` (-1 as item 0): (J, B, A)."""
    return np.moveaxis(np.take_along_axis(column_BNJ, item_BA.clip(min=0)[..., None], axis=1), 2, 0)


def _foremost(column_BNJ: FloatArray, asked: Asked, rows: slice) -> IntArray:
    """The choices `rows`, then the items that any column puts among its first `FOREMOST`: (B, A), -1 padding.

    Whatever the weights, what a sum of the columns puts first is hardly elsewhere.
    """
    open_BN, target_B = asked.open_CN[rows].copy(), asked.target_C[rows]
    open_BN[np.arange(len(target_B)), target_B] = False
    many = min(FOREMOST, open_BN.shape[1] - 1)
    taken_BN = np.zeros_like(open_BN)
    for place in range(column_BNJ.shape[2]):
        score_BN = np.where(open_BN, column_BNJ[..., place], -np.inf)
        np.put_along_axis(taken_BN, np.argpartition(-score_BN, many - 1, axis=1)[:, :many], True, axis=1)
    taken_BN &= open_BN
    found_BA = np.full((len(target_B), 1 + FOREMOST * column_BNJ.shape[2]), -1, dtype=np.int64)
    found_BA[:, 0] = target_B
    for place, taken_N in enumerate(taken_BN):
        items = np.flatnonzero(taken_N)
        found_BA[place, 1 : 1 + len(items)] = items
    return found_BA


@dataclass(frozen=True)
class Rivals:
    """Choices among alternatives, the choice first: columns (J, C, A), and which alternatives are real (C, A)."""

    column_JCA: FloatArray
    real_CA: BoolArray

    def weights(self, kept_J: BoolArray, rows: BoolArray | slice = slice(None)) -> FloatArray:
        """Weights of the columns `kept_J`, 0 of the others, fitted on the choices `rows`."""
        column_JCA = np.where(kept_J[:, None, None], self.column_JCA[:, rows], 0.0)
        return np.where(kept_J, weights_of(column_JCA, self.real_CA[rows]), 0.0)

    def ndcg(self, weight_J: FloatArray) -> FloatArray:
        """NDCG@10 of each choice, (C,)."""
        score_CA = np.where(self.real_CA, np.tensordot(weight_J, self.column_JCA, axes=1), -np.inf)
        return _gain(score_CA, np.zeros(len(score_CA), dtype=np.int64), self.real_CA)


def chosen_weights(drawn: Rivals, foremost: Rivals, user_C: IntArray) -> FloatArray:
    """Weights of greatest likelihood, of the columns and with the share of the network that rank best.

    The likelihood is about all of the catalogue, and most of it is what nothing speaks for: there popularity and a
    network's opinion tell much, and may do harm among the first ten. So sets of columns are weighed on one half of
    the users and compared by NDCG@10 on the other: all or network and co-visitation alone, each with the network's
    weight as fitted, at `SHARES` of it, and fitted without it. The first of equals wins.

    Args:
        drawn: choices among alternatives that were drawn uniformly, for the likelihood.
        foremost: the same choices among all that may stand first, for the ranking.
        user_C: number of the user of each choice.
    """
    half_C = np.unique(user_C, return_inverse=True)[1] % 2
    network_J = np.isin(COLUMNS, ("network",))
    best, most = (np.ones(len(COLUMNS), dtype=bool), 1.0), -1.0
    for kept_J in (np.ones(len(COLUMNS), dtype=bool), np.isin(COLUMNS, ("network", "counted"))):
        for with_J, shares in ((kept_J, (1.0, *SHARES)), (kept_J & ~network_J, (1.0,))):
            weight_HJ = np.stack([drawn.weights(with_J, _rows(half_C != half)) for half in (0, 1)])
            for share in shares:
                scaled_HJ = np.where(network_J, share * weight_HJ, weight_HJ)
                ndcg_HC = np.stack([foremost.ndcg(weight_J) for weight_J in scaled_HJ])
                found = float(ndcg_HC[half_C, np.arange(len(half_C))].mean())
                if found > most:
                    best, most = (with_J, share), found
    weight_J = drawn.weights(best[0])
    return np.where(network_J, best[1] * weight_J, weight_J)


def _rows(wanted_C: BoolArray) -> BoolArray:
    """The choices that are wanted; all where there is none, as with a single user."""
    return wanted_C if wanted_C.any() else ~wanted_C


def best_settings(choices: Choices, asked: Asked, likeness: Likeness) -> CovisitationSettings:
    """The settings of co-visitation with the best NDCG@10 on held-out choices.

    As the baseline does: first all that have the default popularity, then popularities beside the best of them.
    """
    n_items = asked.open_CN.shape[1]
    past = [latest_items(state) for state in asked.states]
    late = {decay: _decayed(past, n_items, decay) for decay in dict.fromkeys(s.history_decay for s in FIXED_GRID)}
    text = {decay: likeness.sum(late_CN) for decay, late_CN in late.items()}
    base_N = FIXED_GRID[0].popularity * fading(choices.item_E, choices.aged_E, n_items, None, choices.weight_E)
    counts: dict[tuple[int, float], sp.csr_matrix] = {}
    best, most, score_CN = FIXED_GRID[0], -1.0, np.zeros((len(past), n_items))
    for settings in FIXED_GRID:
        key = (settings.window, settings.back)
        if key not in counts:
            counts[key] = _following(choices, n_items, settings)
        decay = settings.history_decay
        found_CN = (late[decay] @ counts[key]).toarray() + settings.text * text[decay]
        found = _ndcg(found_CN + base_N, asked)
        if found > most:
            best, most, score_CN = settings, found, found_CN
    chosen = best
    for popularity, half_life in POPULARITIES:
        fading_N = fading(choices.item_E, choices.aged_E, n_items, half_life, choices.weight_E)
        found = _ndcg(score_CN + popularity * fading_N, asked)
        if found > most:
            chosen, most = replace(best, popularity=popularity, half_life=half_life), found
    return chosen


def _following(choices: Choices, n_items: int, settings: CovisitationSettings) -> sp.csr_matrix:
    return following(choices.user_E, choices.item_E, choices.time_E, n_items, settings, choices.weight_E)


def _ndcg(score_CN: FloatArray, asked: Asked) -> float:
    """Mean NDCG@10 of the choices, among what could be chosen; equal scores share the middle of their places."""
    return float(_gain(score_CN, asked.target_C, asked.open_CN).mean())


def _gain(score_CN: FloatArray, target_C: IntArray, open_CN: BoolArray) -> FloatArray:
    own_C1 = np.take_along_axis(score_CN, target_C[:, None], axis=1)
    above_C = ((score_CN > own_C1) & open_CN).sum(axis=1)
    place_C = above_C + (((score_CN == own_C1) & open_CN).sum(axis=1) - 1) / 2
    return np.asarray(np.where(place_C < TOP, 1 / np.log2(place_C + 2), 0.0))


def weights_of(columns_JCA: FloatArray, real_CA: BoolArray | None = None, penalty: float = PENALTY) -> FloatArray:
    """Weights (J,) under which the first alternative of each choice is likeliest; those of tastes are not below 0."""
    choices, asked = columns_JCA.shape[1:]
    # A negative weight of taste would turn a ranking round by chance; having had or being popular may repel.
    least_J = [-np.inf if name in ("again", *POPULAR) else 0.0 for name in COLUMNS]
    first_C = np.zeros(choices, dtype=np.int64)
    real_CA = np.ones((choices, asked), dtype=bool) if real_CA is None else real_CA
    return fit_logit(list(columns_JCA), first_C, real_CA, penalty=penalty * choices, least_F=least_J)


def alternatives(asked: Asked, size: int, stream: np.random.Generator) -> IntArray:
    """Each choice and others that could be chosen, drawn uniformly without it: (C, 1 + size), the choice first.

    -1 where there are fewer.
    """
    found_CA = np.full((len(asked.target_C), 1 + min(size, asked.open_CN.shape[1] - 1)), -1, dtype=np.int64)
    found_CA[:, 0] = asked.target_C
    for place, target in enumerate(asked.target_C.tolist()):
        free = np.flatnonzero(asked.open_CN[place])
        free = free[free != target]
        drawn = free if len(free) <= size else stream.choice(free, size=size, replace=False)
        found_CA[place, 1 : 1 + len(drawn)] = drawn
    return found_CA
