"""Held-out choices: what could be chosen at each, and the settings of co-visitation that rank them best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from llmrec.covisits import FIXED_GRID, POPULARITIES, CovisitationSettings, fading, following
from llmrec.simulator.blend.counts import Choices, Likeness, decayed, latest_items, users_of
from llmrec.simulator.log import Log
from llmrec.types import BoolArray, FloatArray, IntArray, State

CHOICES, TOP = 1500, 10


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
    choices, user_S = Choices.of(log, states), users_of(states)
    low_C, high_C = (np.searchsorted(choices.user_E, user_S[row_C], side) for side in ("left", "right"))
    for row, low, high in zip(row_C.tolist(), low_C.tolist(), high_C.tolist(), strict=True):
        state = states[row]
        before = choices.time_E[low:high] < (row if state.time is None else state.time)
        yield np.union1d(choices.item_E[low:high][before], np.array(latest_items(state), dtype=np.int64))


def best_settings(choices: Choices, asked: Asked, likeness: Likeness) -> CovisitationSettings:
    """The settings of co-visitation with the best NDCG@10 on held-out choices.

    As the baseline does: first all that have the default popularity, then popularities beside the best of them.
    """
    n_items = asked.open_CN.shape[1]
    past = [latest_items(state) for state in asked.states]
    late = {decay: decayed(past, n_items, decay) for decay in dict.fromkeys(s.history_decay for s in FIXED_GRID)}
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
        found = ndcg_of(found_CN + base_N, asked)
        if found > most:
            best, most, score_CN = settings, found, found_CN
    chosen = best
    for popularity, half_life in POPULARITIES:
        fading_N = fading(choices.item_E, choices.aged_E, n_items, half_life, choices.weight_E)
        found = ndcg_of(score_CN + popularity * fading_N, asked)
        if found > most:
            chosen, most = replace(best, popularity=popularity, half_life=half_life), found
    return chosen


def _following(choices: Choices, n_items: int, settings: CovisitationSettings) -> sp.csr_matrix:
    return following(choices.user_E, choices.item_E, choices.time_E, n_items, settings, choices.weight_E)


def ndcg_of(score_CN: FloatArray, asked: Asked) -> float:
    """The mean `gain` of the choices, among what could be chosen."""
    return float(gain(score_CN, asked.target_C, asked.open_CN).mean())


def gain(score_CN: FloatArray, target_C: IntArray, open_CN: BoolArray) -> FloatArray:
    """NDCG@10 of each choice among what is open, (C,); equal scores share the middle of their places."""
    own_C1 = np.take_along_axis(score_CN, target_C[:, None], axis=1)
    above_C = ((score_CN > own_C1) & open_CN).sum(axis=1)
    place_C = above_C + (((score_CN == own_C1) & open_CN).sum(axis=1) - 1) / 2
    return np.asarray(np.where(place_C < TOP, 1 / np.log2(place_C + 2), 0.0))


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
